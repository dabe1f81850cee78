// What is known of conversations. Messages are kept in the order of `seq` without a hole: a push that does not follow the
// last one is not taken, and what is missing is asked for. So nothing is there twice and nothing is missing, whatever was
// pushed, repeated or lost.

import { directConv, eventOf, isGroup, peerOf } from "./words.js";

/** Messages that are asked for at once. */
const PAGE = 40;
/** So long after a message it is said that it has been delivered; several are said at once. */
const ACK_AFTER = 150;
/** So many conversations are loaded at once, of those that nobody has opened yet. */
const LOADED_AT_ONCE = 8;
/** Most users that a session may watch. */
const WATCHED = 256;

export class Talks {
  /** Conversations by name. */
  all = new Map();
  presence = new Map();
  /** Requests for pages that are not answered, in their order, each with its conversation as `talk`. */
  #asked = [];
  /** Conversations of which nothing is here yet. */
  #toLoad = new Set();
  #timers = new Map();

  /**
   * @param {string} me
   * @param {import("./outbox.js").Outbox} outbox
   * @param {object} out `say(frame)` to the server; `changed(conv)` and `groupChanged(conv)` to the page
   */
  constructor(me, outbox, out) {
    this.me = me;
    this.outbox = outbox;
    this.out = out;
  }

  /** A conversation, which begins here if it was not known. */
  talk(conv) {
    let talk = this.all.get(conv);
    if (!talk) {
      talk = this.#blank(conv);
      this.all.set(conv, talk);
      if (talk.peer) this.#soon("watch", 0, () => this.#watch());
    }
    return talk;
  }

  #blank(conv) {
    return {
      conv, peer: peerOf(conv, this.me), name: undefined, members: undefined, role: undefined,
      messages: [], tail: 0, head: 0, more: false, known: false, loading: false,
      lastSeq: 0, readSeq: 0, ackedSeq: 0, receipts: new Map(), begun: Date.now(),
    };
  }

  with(user) {
    return this.talk(directConv(this.me, user));
  }

  forget(conv) {
    if (this.all.delete(conv)) this.out.changed(conv);
  }

  unread(talk) {
    return Math.max(0, talk.lastSeq - talk.readSeq);
  }

  /** The newest conversation first. */
  inOrder() {
    const at = (talk) => talk.messages.at(-1)?.time ?? (talk.lastSeq ? 0 : talk.begun);
    return Array.from(this.all.values()).sort((a, b) => at(b) - at(a) || (a.conv < b.conv ? -1 : 1));
  }

  /** A new connection: what was asked is lost, what was missed is asked for, what may not have arrived is said again. */
  loggedIn() {
    this.#asked = [];
    this.#toLoad.clear();
    this.all.forEach((talk) => {
      Object.assign(talk, { loading: false, ackedSeq: 0 });
      if (talk.known) this.#sync(talk);
      // Only numbers are here, which are told again, as they are in a store that may have been restored.
      else Object.assign(talk, { lastSeq: 0, readSeq: 0 });
    });
    this.askUnread();
    this.#watch();
    this.#acknowledgeSoon();
    this.outbox.messages.filter((message) => !message.refused).forEach((message) => this.#send(message));
  }

  askUnread(after) {
    this.out.say({ type: "unread", after });
  }

  send(conv, body) {
    this.#send(this.outbox.add(conv, body));
    this.out.changed(conv);
  }

  #send(message) {
    const { conv, client_msg_id, body, sent_at } = message;
    message.stored = undefined;
    this.out.say({ type: "send", conv, client_msg_id, body, sent_at });
  }

  /** Asks for what is before the first message that is known. */
  loadOlder(talk) {
    if (talk.loading || (talk.known && !talk.more)) return;
    talk.loading = this.#ask(talk, { type: "history", conv: talk.conv, before_seq: talk.known ? talk.head : 0, limit: PAGE });
    if (talk.loading) this.out.changed(talk.conv);
  }

  /** Everything that is known of it has been seen. */
  markRead(talk) {
    if (talk.tail <= talk.readSeq) return;
    if (this.out.say({ type: "read", conv: talk.conv, seq: talk.tail })) {
      talk.readSeq = talk.tail;
      talk.ackedSeq = talk.tail;
      this.out.changed(talk.conv);
    }
  }

  heard(frame) {
    switch (frame.type) {
      case "msg": return this.#pushed(frame);
      case "sync_page": return this.#page(frame);
      case "sync_err": return this.#noPage(frame);
      case "send_ack": return this.#stored(frame);
      case "send_err": return this.#notSent(frame);
      case "receipt": return this.receipt(frame.conv, frame.user, frame.delivered_seq, frame.read_seq);
      case "unread_list": return this.#listed(frame);
      case "refused": return this.#refused(frame);
      case "presence":
        this.presence.set(frame.user, frame);
        return this.out.changed(directConv(this.me, frame.user));
      default: return undefined;
    }
  }

  receipt(conv, user, delivered, read) {
    const talk = this.all.get(conv);
    if (!talk) return;
    if (user === this.me) {
      talk.readSeq = Math.max(talk.readSeq, read);
    } else {
      const before = talk.receipts.get(user) ?? { delivered: 0, read: 0 };
      talk.receipts.set(user, { delivered: Math.max(before.delivered, delivered), read: Math.max(before.read, read) });
    }
    this.out.changed(conv);
  }

  /** How far a message of one's own has got, in words. */
  status(talk, seq) {
    const others = talk.members ? talk.members.map(({ user }) => user).filter((user) => user !== this.me) : [talk.peer];
    const count = (what) => others.filter((user) => (talk.receipts.get(user)?.[what] ?? 0) >= seq).length;
    if (talk.peer) return count("read") ? "Read" : count("delivered") ? "Delivered" : "Sent";
    const read = count("read");
    if (read > 0) return read === others.length ? "Read by all" : `Read by ${read}`;
    return others.length > 0 && count("delivered") === others.length ? "Delivered" : "Sent";
  }

  #listed({ convs, more }) {
    for (const { conv, last_seq, read_seq } of convs) {
      const talk = this.talk(conv);
      talk.lastSeq = Math.max(talk.lastSeq, last_seq);
      if (talk.tail > last_seq) {
        // Overtaken by a message, or from a restored store: SYNC tells.
        this.#sync(talk);
      } else {
        // A READ may have been lost with its connection.
        if (talk.readSeq > read_seq) this.out.say({ type: "read", conv, seq: talk.readSeq });
        talk.readSeq = Math.max(talk.readSeq, read_seq);
        this.#catchUp(talk);
      }
      this.out.changed(conv);
    }
    if (more) this.askUnread(convs.at(-1).conv);
  }

  #catchUp(talk) {
    if (!talk.known) {
      this.#toLoad.add(talk);
      this.#loadSome();
    } else if (talk.lastSeq > talk.tail) {
      this.#sync(talk);
    }
  }

  /** What has just been opened does not wait for its turn here. */
  #loadSome() {
    let free = LOADED_AT_ONCE - this.#asked.filter(({ type }) => type === "history").length;
    for (const talk of this.#toLoad) {
      if (free <= 0) return;
      this.#toLoad.delete(talk);
      if (talk.known || talk.loading || this.all.get(talk.conv) !== talk) continue;
      this.loadOlder(talk);
      free -= 1;
    }
  }

  #sync(talk) {
    if (!this.#asked.some((asked) => asked.type === "sync" && asked.talk === talk)) {
      this.#ask(talk, { type: "sync", conv: talk.conv, after_seq: talk.tail });
    }
  }

  #ask(talk, request) {
    const said = this.out.say(request);
    if (said) this.#asked.push({ ...request, talk });
    return said;
  }

  #pushed(message) {
    const talk = this.talk(message.conv);
    talk.lastSeq = Math.max(talk.lastSeq, message.seq);
    if (talk.known && message.seq === talk.tail + 1) this.#append(talk, message);
    else this.#catchUp(talk);
    this.out.changed(talk.conv);
  }

  #page(page) {
    const asked = this.#asked.shift();
    const talk = this.all.get(page.conv);
    // It may be over since it was asked for, or have begun anew.
    if (talk && talk === asked?.talk) {
      if (asked.type === "sync" && page.last_seq < asked.after_seq) this.#beginAnew(talk, page.last_seq);
      else this.#take(talk, asked, page);
      this.out.changed(page.conv);
    }
    this.#loadSome();
  }

  /** The store was restored from a backup: it knows less than this page, and gives out the same numbers again. */
  #beginAnew({ conv, name, members, role }, lastSeq) {
    const talk = Object.assign(this.#blank(conv), { name, members, role, lastSeq });
    this.all.set(conv, talk);
    this.loadOlder(talk);
    this.#soon("unread", ACK_AFTER, () => this.askUnread());
    if (isGroup(conv)) this.out.groupChanged(conv);
  }

  #take(talk, { type, before_seq }, { msgs, next_seq, last_seq, more }) {
    talk.lastSeq = Math.max(talk.lastSeq, last_seq);
    if (type === "history") {
      talk.loading = false;
      if (before_seq === 0 && !talk.known) {
        talk.known = true;
        talk.tail = msgs[0] ? msgs[0].seq - 1 : last_seq;
        msgs.forEach((message) => this.#append(talk, message));
        // How far the other one has got comes behind the last page of a SYNC alone.
        if (talk.peer) this.#sync(talk);
      } else {
        talk.messages.unshift(...msgs.filter(({ seq }) => seq < talk.head));
        msgs.forEach(({ sender, client_msg_id }) => sender === this.me && this.outbox.remove(client_msg_id));
      }
      talk.head = next_seq;
      talk.more = more;
    } else {
      msgs.filter(({ seq }) => seq > talk.tail).forEach((message) => this.#append(talk, message));
    }
    // What is stored further back than the first page is not shown at the end any more.
    this.outbox.of(talk.conv).forEach(({ stored, client_msg_id }) => stored <= talk.tail && this.outbox.remove(client_msg_id));
    this.#catchUp(talk);
  }

  #noPage({ conv, code, retry_after_ms }) {
    const asked = this.#asked.shift();
    const talk = this.all.get(conv);
    if (talk && talk === asked?.talk) {
      talk.loading = false;
      if (code === "not_a_member") this.forget(conv);
      else if (retry_after_ms) setTimeout(() => this.#catchUp(talk), retry_after_ms);
    }
    this.#loadSome();
  }

  #append(talk, message) {
    talk.messages.push(message);
    talk.tail = message.seq;
    if (message.sender === this.me) {
      this.outbox.remove(message.client_msg_id);
      // The server moves the sender's cursor likewise.
      if (talk.readSeq === message.seq - 1) talk.readSeq = message.seq;
    }
    this.#acknowledgeSoon();
    const event = eventOf(message);
    if (event) this.#happened(talk, event, message);
  }

  #happened(talk, event, { sender }) {
    const gone = event.event === "removed" ? event.user : event.event === "left" ? sender : undefined;
    if (gone === this.me) {
      // Unless it is an old story, and one has come back since.
      if (talk.tail === talk.lastSeq) this.forget(talk.conv);
      return;
    }
    if (event.event === "created" || event.event === "renamed") talk.name = event.name;
    this.out.groupChanged(talk.conv);
  }

  #stored({ client_msg_id, conv, seq, server_time }) {
    const message = this.outbox.find(client_msg_id);
    if (!message) return;
    const talk = this.talk(conv);
    talk.lastSeq = Math.max(talk.lastSeq, seq);
    if (talk.known && seq === talk.tail + 1) {
      const { body, sent_at } = message;
      this.#append(talk, { conv, seq, sender: this.me, client_msg_id, body, time: server_time, kind: 0, sent_at });
    } else {
      // It stays in sight until the conversation shows it in its place.
      message.stored = seq;
      if (seq <= talk.tail) this.outbox.remove(client_msg_id);
      this.#catchUp(talk);
    }
    this.out.changed(conv);
  }

  #notSent({ client_msg_id, conv, code, retry_after_ms }) {
    const message = this.outbox.find(client_msg_id);
    if (!message) return;
    if (retry_after_ms) {
      setTimeout(() => this.outbox.find(client_msg_id) && this.#send(message), retry_after_ms);
    } else {
      message.refused = code;
      this.out.changed(conv);
    }
  }

  /** What may be said again is, as it is by then. */
  #refused({ of, conv, retry_after_ms }) {
    const talk = this.all.get(conv);
    const again = {
      read: () => talk && this.out.say({ type: "read", conv, seq: talk.readSeq }),
      ack: () => talk && this.out.say({ type: "ack", conv, seq: talk.ackedSeq }),
      unread: () => this.askUnread(),
      presence_sub: () => this.#watch(),
    }[of];
    if (again && retry_after_ms) setTimeout(again, retry_after_ms);
  }

  #acknowledgeSoon() {
    this.#soon("ack", ACK_AFTER, () => {
      for (const talk of this.all.values()) {
        if (talk.tail > Math.max(talk.ackedSeq, talk.readSeq) && this.out.say({ type: "ack", conv: talk.conv, seq: talk.tail })) {
          talk.ackedSeq = talk.tail;
        }
      }
    });
  }

  /** Once for all who want it within a moment. */
  #soon(what, ms, work) {
    if (this.#timers.has(what)) return;
    this.#timers.set(what, setTimeout(() => {
      this.#timers.delete(what);
      work();
    }, ms));
  }

  #watch() {
    const users = Array.from(this.all.values(), ({ peer }) => peer).filter(Boolean).slice(0, WATCHED);
    this.out.say({ type: "presence_sub", users });
  }

  /** What the API says of a group. */
  groupShown({ conv, name, role, members }) {
    Object.assign(this.talk(conv), { name, role, members });
    members.forEach(({ user, delivered_seq, read_seq }) => this.receipt(conv, user, delivered_seq, read_seq));
    this.out.changed(conv);
  }

  /** The groups that there are: of those that were known when it was asked, the others are over. */
  groupsListed(groups, known) {
    const listed = new Set(groups.map(({ conv }) => conv));
    known.filter((conv) => isGroup(conv) && !listed.has(conv)).forEach((conv) => this.forget(conv));
    groups.forEach(({ conv, name }) => {
      Object.assign(this.talk(conv), { name });
      this.out.changed(conv);
    });
  }
}
