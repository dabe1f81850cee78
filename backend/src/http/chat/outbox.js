// Messages that are not acknowledged yet. They are kept over a reload of the page and sent again under the same id until the
// server has answered, so that nothing is lost and nothing is there twice.

const KEY = "warbler.outbox";

export class Outbox {
  /** Of one user; another user's messages are never sent in the name of this one. */
  constructor(user) {
    this.user = user;
    this.messages = read().filter((message) => message.user === user);
  }

  /** A new message, with the id that it keeps. */
  add(conv, body) {
    const id = crypto.getRandomValues(new Uint8Array(16));
    const client_msg_id = Array.from(id, (byte) => byte.toString(16).padStart(2, "0")).join("");
    const message = { user: this.user, conv, client_msg_id, body, sent_at: Date.now() };
    this.messages.push(message);
    this.#keep();
    return message;
  }

  of(conv) {
    return this.messages.filter((message) => message.conv === conv);
  }

  find(id) {
    return this.messages.find((message) => message.client_msg_id === id);
  }

  /** The server has it, or never will. */
  remove(id) {
    if (!this.find(id)) return;
    this.messages = this.messages.filter((message) => message.client_msg_id !== id);
    this.#keep();
  }

  #keep() {
    const others = read().filter((message) => message.user !== this.user);
    try {
      sessionStorage.setItem(KEY, JSON.stringify([...others, ...this.messages]));
    } catch {
      // No room or not allowed: they are still sent as long as the page lives.
    }
  }
}

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? [];
  } catch {
    return [];
  }
}
