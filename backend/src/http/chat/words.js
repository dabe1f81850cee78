// What people read: names of conversations, times, and what has happened to a group.

/** Kind of the messages with which the server tells what has happened to a group. */
export const KIND_GROUP = 2147483648;

/** The conversation of two users: one name for both. */
export function directConv(one, other) {
  const bytes = (text) => Array.from(new TextEncoder().encode(text));
  const [a, b] = [bytes(one), bytes(other)];
  const at = a.findIndex((byte, place) => byte !== b[place]);
  const before = at === -1 ? a.length <= b.length : a[at] < (b[at] ?? -1);
  return before ? `dm:${one}:${other}` : `dm:${other}:${one}`;
}

/** The other one of a direct conversation; undefined for any other kind. */
export function peerOf(conv, me) {
  const [kind, one, other] = conv.split(":");
  if (kind !== "dm") return undefined;
  return one === me ? other : one;
}

export const isGroup = (conv) => conv.startsWith("group:");

/** What a user id may be. */
export function isUser(name) {
  const length = new TextEncoder().encode(name).length;
  return length >= 1 && length <= 60 && !/[:\s\p{Cc}]/u.test(name);
}

export const initial = (name) => (Array.from(name)[0] ?? "?").toUpperCase();

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const date = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short" });

export const timeOf = (ms) => clock.format(new Date(ms));

export function dayOf(ms) {
  const day = new Date(ms);
  const today = new Date();
  if (day.toDateString() === today.toDateString()) return "Today";
  today.setDate(today.getDate() - 1);
  return day.toDateString() === today.toDateString() ? "Yesterday" : date.format(day);
}

/** A time in a list: the clock today, the date before. */
export const shortTime = (ms) => (dayOf(ms) === "Today" ? timeOf(ms) : date.format(new Date(ms)));

export function presenceText(presence) {
  if (!presence) return "";
  switch (presence.state) {
    case "online": return "online";
    case "busy": return "busy";
    case "away": return "away";
    default: return presence.last_seen ? `last seen ${dayOf(presence.last_seen)} ${timeOf(presence.last_seen)}` : "offline";
  }
}

/** The event in a message of the server; undefined if it is none that can be read. */
export function eventOf(message) {
  if (message.kind !== KIND_GROUP) return undefined;
  try {
    return JSON.parse(message.body);
  } catch {
    return {};
  }
}

/** What has happened, by whom, as a sentence. */
export function eventText(event, sender, me) {
  const by = sender === me ? "You" : sender;
  const whom = (user) => (user === me ? "you" : user);
  switch (event.event) {
    case "created": return `${by} created the group “${event.name}”`;
    case "added": return `${by} added ${whom(event.user)}`;
    case "removed": return `${by} removed ${whom(event.user)}`;
    case "left": return event.owner ? `${by} left; ${whom(event.owner)} is the owner now` : `${by} left`;
    case "renamed": return `${by} renamed the group to “${event.name}”`;
    case "role": return `${by} made ${whom(event.user)} ${event.role === "member" ? "a member" : `the ${event.role}`.replace("the admin", "an admin")}`;
    default: return `${by} changed the group`;
  }
}

/** What a message says in one line. */
export function textOf(message) {
  if (typeof message.body === "string") return message.body;
  return "(not text)";
}
