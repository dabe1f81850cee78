// What is on the page. Names and texts come in as text only (`textContent`), never as HTML. Rows that stay are kept, so
// that nothing flickers, no focus is lost, and screen readers hear what is new alone.

import { dayOf, eventOf, eventText, initial, isGroup, presenceText, shortTime, textOf, timeOf } from "./words.js";

export const byId = (id) => document.getElementById(id);

export function element(name, { text, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  if (text !== undefined) made.textContent = text;
  made.append(...children.filter(Boolean));
  return made;
}

/** Only what is different is written. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** Makes a list show these items: `key` says which row is whose, `looks` when it has to be filled anew. */
function reconcile(list, items) {
  const there = new Map(Array.from(list.children, (row) => [row.dataset.key, row]));
  let next = list.firstElementChild;
  for (const { key, looks, fill } of items) {
    const row = there.get(key) ?? element("li");
    there.delete(key);
    if (row.dataset.looks !== looks) {
      fill(row);
      Object.assign(row.dataset, { key, looks });
    }
    if (row === next) next = next.nextElementSibling;
    else list.insertBefore(row, next);
  }
  there.forEach((row) => row.remove());
}

export function nameOf(talk) {
  return talk.peer ?? talk.name ?? (isGroup(talk.conv) ? "Group" : talk.conv.replace(/^room:/, ""));
}

export function showTalks(talks, open, choose) {
  const items = talks.inOrder().map((talk) => {
    const name = nameOf(talk);
    const last = talk.messages.at(-1);
    const unread = talks.unread(talk);
    const state = talk.peer ? talks.presence.get(talk.peer)?.state ?? "offline" : "offline";
    const chosen = talk.conv === open;
    const line = last ? lineOf(talk, last, talks.me) : "";
    return {
      key: talk.conv,
      looks: JSON.stringify([name, line, last?.time, unread, state, chosen]),
      fill: (row) => fillTalk(row, { name, line, time: last?.time, unread, state, chosen }, () => choose(talk.conv)),
    };
  });
  reconcile(byId("talks"), items);
  byId("no-talks").hidden = items.length > 0;
  const unread = talks.inOrder().filter((talk) => talks.unread(talk) > 0).length;
  document.title = unread ? `(${unread}) warbler chat` : "warbler chat";
}

function lineOf(talk, message, me) {
  const event = eventOf(message);
  if (event) return eventText(event, message.sender, me);
  const by = message.sender === me ? "You: " : talk.peer ? "" : `${message.sender}: `;
  return by + textOf(message);
}

function fillTalk(row, { name, line, time, unread, state, chosen }, choose) {
  let button = row.firstElementChild;
  if (!button) {
    button = element("button", { type: "button" });
    row.append(button);
  }
  // Replaced, and not added: the conversation of a row never changes, but the page's state does.
  button.onclick = choose;
  if (chosen) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
  const avatar = element("span", { className: "avatar", text: initial(name), ariaHidden: "true" });
  if (state !== "offline") avatar.dataset.state = state;
  const parts = [
    avatar,
    element("span", { className: "title", text: name }),
    element("span", { className: "when", text: time ? shortTime(time) : "" }),
    element("span", { className: "last", text: line }),
    unread > 0 && element("span", { className: "unread", text: String(unread) }, element("span", { className: "unseen", text: " unread" })),
    state !== "offline" && element("span", { className: "unseen", text: `, ${state}` }),
  ];
  button.replaceChildren(...parts.filter(Boolean));
}

/** The messages of the open conversation, and where it is scrolled to: at the end if it was there, else as it was. */
export function showMessages(talks, talk) {
  const scroll = byId("scroll");
  const list = byId("messages");
  const other = list.dataset.conv !== talk.conv;
  const atEnd = other || isAtEnd();
  const [top, height, first] = [scroll.scrollTop, scroll.scrollHeight, list.dataset.first];
  scroll.setAttribute("aria-busy", String(talk.loading));
  byId("older").hidden = !(talk.loading && talk.known);
  reconcile(list, rowsOf(talks, talk));
  Object.assign(list.dataset, { conv: talk.conv, first: String(talk.messages[0]?.seq ?? 0) });
  if (atEnd) scroll.scrollTop = scroll.scrollHeight;
  else if (list.dataset.first !== first) scroll.scrollTop = top + scroll.scrollHeight - height;
}

/** Whether the messages leave room, so that there is nothing to scroll. */
export function allIsInSight() {
  const scroll = byId("scroll");
  return scroll.clientHeight > 0 && scroll.scrollHeight <= scroll.clientHeight;
}

export function isAtEnd() {
  const scroll = byId("scroll");
  return scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
}

function rowsOf(talks, talk) {
  const rows = [];
  let before = {};
  for (const message of talk.messages) {
    const day = new Date(message.time).toDateString();
    if (day !== before.day) rows.push(plainRow(`day ${day}`, "day", dayOf(message.time)));
    const event = eventOf(message);
    const first = day !== before.day || before.event || before.sender !== message.sender;
    rows.push(event
      ? plainRow(`event ${message.seq}`, "event", eventText(event, message.sender, talks.me))
      : messageRow(talks, talk, message, first));
    before = { day, event, sender: message.sender };
  }
  for (const message of talks.outbox.of(talk.conv)) {
    const first = before.event || before.sender !== talks.me;
    rows.push(messageRow(talks, talk, { ...message, sender: talks.me, time: message.sent_at, waiting: true }, first));
    before = { sender: talks.me };
  }
  return rows;
}

function plainRow(key, className, text) {
  return { key, looks: text, fill: (row) => Object.assign(row, { className, textContent: text }) };
}

function messageRow(talks, talk, message, first) {
  const mine = message.sender === talks.me;
  const status = mine ? statusOf(talks, talk, message) : "";
  const kind = [message.refused ? "refused" : message.waiting && "waiting", first && "first"].filter(Boolean).join(" ");
  return {
    key: `message ${message.sender} ${message.client_msg_id}`,
    looks: JSON.stringify([kind, status, message.time]),
    fill: (row) => {
      row.className = `message ${mine ? "mine" : "theirs"} ${kind}`;
      row.replaceChildren(
        ...(!mine && !talk.peer && first ? [element("p", { className: "sender", text: message.sender })] : []),
        element("p", { className: "body", text: textOf(message) }),
        element("p", { className: "meta" }, element("time", { text: timeOf(message.time) }), status && ` · ${status}`),
      );
    },
  };
}

function statusOf(talks, talk, message) {
  if (message.refused) return `Not sent (${message.refused.replaceAll("_", " ")})`;
  if (message.stored) return "Sent";
  return message.waiting ? "Sending…" : talks.status(talk, message.seq);
}

export function showHead(talks, talk) {
  const name = nameOf(talk);
  setText(byId("talk-name"), name);
  setText(byId("talk-avatar"), initial(name));
  const members = talk.members?.length;
  const about = talk.peer ? presenceText(talks.presence.get(talk.peer)) : members ? `${members} ${members === 1 ? "member" : "members"}` : "";
  setText(byId("talk-about"), about);
  byId("about-group").hidden = !isGroup(talk.conv);
}

/** `remove(user)` is offered for those whom the user may remove. */
export function showMembers(talks, talk, remove) {
  const may = { owner: ["admin", "member"], admin: ["member"], member: [] }[talk.role] ?? [];
  setText(byId("members-title"), nameOf(talk));
  const rows = (talk.members ?? []).map(({ user, role }) => element("li", {},
    element("span", { className: "title", text: user === talks.me ? `${user} (you)` : user }),
    element("span", { className: "role", text: role === "member" ? "" : role }),
    user !== talks.me && may.includes(role) && element("button", {
      type: "button", className: "quiet", text: "Remove", ariaLabel: `Remove ${user}`, onclick: () => remove(user),
    })));
  byId("members").replaceChildren(...rows);
  byId("add-form").hidden = talk.role === "member";
}
