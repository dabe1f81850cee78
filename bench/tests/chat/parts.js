// The page's modules, each by itself, in the page: what would take minutes, a machine that sleeps, or luck, with a clock and a
// server of our own. Gives what is wrong, as a list of sentences.

const found = [];

/** Time that passes when it is told to. */
class Clock {
  now = 1_000_000;
  #timers = new Map();
  #id = 0;

  setTimeout = (work, ms = 0) => {
    this.#timers.set(this.#id += 1, { at: this.now + ms, work });
    return this.#id;
  };

  clearTimeout = (id) => this.#timers.delete(id);

  /** `late`: what would have come meanwhile comes at the end, as in a hidden page. */
  async pass(ms, { late = false } = {}) {
    await settled();
    const end = this.now + ms;
    if (late) this.now = end;
    for (;;) {
      const [id, next] = Array.from(this.#timers).sort(([, a], [, b]) => a.at - b.at)[0] ?? [];
      if (!next || next.at > end) break;
      this.#timers.delete(id);
      this.now = Math.max(this.now, next.at);
      next.work();
      await settled();
    }
    this.now = end;
  }
}

/** Until every promise that can has gone on. */
async function settled() {
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
}

/** The server's end of a connection is here. */
class Socket extends EventTarget {
  static OPEN = 1;
  static all = [];
  readyState = 1;
  said = [];

  constructor() {
    super();
    Socket.all.push(this);
  }

  send(text) {
    this.said.push(JSON.parse(text));
  }

  close() {
    this.readyState = 3;
  }

  hear(frame) {
    this.dispatchEvent(Object.assign(new Event("message"), { data: JSON.stringify(frame) }));
  }

  ends(code) {
    this.readyState = 3;
    this.dispatchEvent(Object.assign(new Event("close"), { code }));
  }

  logsIn() {
    this.dispatchEvent(new Event("open"));
    this.hear({ type: "login_ok", session_id: "s", node: "n" });
  }

  pings() {
    return this.said.filter(({ type }) => type === "ping").length;
  }

  static last() {
    return Socket.all.at(-1);
  }
}

async function check(name, work) {
  const kept = { setTimeout: globalThis.setTimeout, clearTimeout: globalThis.clearTimeout, WebSocket: globalThis.WebSocket };
  const clock = new Clock();
  Object.assign(globalThis, { setTimeout: clock.setTimeout, clearTimeout: clock.clearTimeout, WebSocket: Socket });
  const date = Date.now;
  Date.now = performance.now = () => clock.now;
  Socket.all = [];
  sessionStorage.removeItem("warbler.outbox");
  const is = (what, have, want) => {
    const [one, other] = [JSON.stringify(have), JSON.stringify(want)];
    if (one !== other) found.push(`${name}: ${what} is ${one} instead of ${other}`);
  };
  try {
    await work(clock, is);
  } catch (error) {
    found.push(`${name}: ${error.stack}`);
  } finally {
    Object.assign(globalThis, kept);
    Date.now = date;
    delete performance.now;
    sessionStorage.removeItem("warbler.outbox");
  }
}

const { Session } = await import("/chat/session.js");
const { Talks } = await import("/chat/talks.js");
const { Outbox } = await import("/chat/outbox.js");

/** A session that tells its states. */
function session(renew = async () => null) {
  const states = [];
  const made = new Session({ token: "old", device: "d", renew }, {
    state: (kind, details) => kind === states.at(-1)?.kind || states.push({ kind, ...details }),
    up: () => undefined,
    frame: () => undefined,
    renewed: () => undefined,
  });
  made.connect();
  return { made, states, kinds: () => states.map(({ kind }) => kind) };
}

/** Conversations that tell what they say. */
function talking(me) {
  const said = [];
  const outbox = new Outbox(me);
  const talks = new Talks(me, outbox, { say: (frame) => said.push(frame) > 0, changed: () => undefined, groupChanged: () => undefined });
  const count = (type) => said.filter((frame) => frame.type === type).length;
  return { talks, outbox, said, count, take: () => said.splice(0) };
}

const message = (conv, seq, sender) => ({ type: "msg", conv, seq, sender, client_msg_id: `${conv} ${seq}`, body: `line ${seq}`, time: seq, kind: 0 });

function page(conv, from, to, last = to, sender = "bob") {
  const msgs = Array.from({ length: Math.max(0, to - from + 1) }, (_, at) => message(conv, from + at, sender));
  return { type: "sync_page", conv, msgs, next_seq: from, last_seq: last, more: from > 1 };
}

await check("a pause of the timers is not taken for silence", async (clock, is) => {
  const { kinds } = session();
  const socket = Socket.last();
  socket.logsIn();
  for (let minute = 1; minute <= 5; minute += 1) {
    socket.hear({ type: "pong", t: 0 });
    await clock.pass(60_000, { late: true });
  }
  is("states", kinds(), ["connecting", "up"]);
  is("connections", Socket.all.length, 1);
  is("pings", socket.pings() >= 6, true);
  // A connection that is really dead is given up all the same.
  await clock.pass(17_000);
  is("states at last", kinds(), ["connecting", "up", "waiting", "connecting"]);
});

await check("who is kicked stays away, whatever close follows", async (clock, is) => {
  for (const code of [4002, 1006]) {
    const { kinds } = session();
    Socket.last().logsIn();
    Socket.last().hear({ type: "kick", reason: "same_device" });
    Socket.last().ends(code);
    await clock.pass(120_000);
    is(`states after ${code}`, kinds(), ["connecting", "up", "kicked"]);
  }
});

await check("what this page has done wrong is not done again", async (clock, is) => {
  for (const code of [1007, 1008, 4008]) {
    const { kinds } = session();
    Socket.last().logsIn();
    Socket.last().ends(code);
    await clock.pass(120_000);
    is(`states after ${code}`, kinds(), ["connecting", "up", "stopped"]);
  }
});

await check("pauses grow until a session has lasted", async (clock, is) => {
  session();
  const pauses = [];
  const ended = async () => {
    const [before, began] = [Socket.all.length, clock.now];
    Socket.last().ends(1006);
    while (Socket.all.length === before && clock.now - began < 60_000) await clock.pass(10);
    pauses.push(clock.now - began);
  };
  for (let time = 0; time < 6; time += 1) {
    Socket.last().logsIn();
    await ended();
  }
  Socket.last().logsIn();
  const socket = Socket.last();
  for (let time = 0; time < 3; time += 1) {
    await clock.pass(5_000);
    socket.hear({ type: "pong", t: 0 });
  }
  await ended();
  is("the first pause", pauses[0] <= 410, true);
  is("the sixth pause", pauses[5] >= 6_400, true);
  is("the pause after a session that lasted", pauses[6] <= 410, true);
});

await check("a token that cannot be asked for now is asked for later", async (clock, is) => {
  let times = 0;
  const { kinds } = session(async () => {
    times += 1;
    if (times === 1) throw new Error("unreachable");
    return "new";
  });
  Socket.last().logsIn();
  Socket.last().ends(4006);
  await clock.pass(500);
  Socket.last().dispatchEvent(new Event("open"));
  is("the token before", Socket.last().said[0]?.token, "old");
  Socket.last().hear({ type: "login_err", code: "token_expired", retry_after_ms: 0 });
  Socket.last().ends(4001);
  await clock.pass(1_000);
  Socket.last().dispatchEvent(new Event("open"));
  is("the token behind", Socket.last().said[0]?.token, "new");
  is("states", kinds(), ["connecting", "up", "waiting", "connecting", "waiting", "connecting"]);
});

await check("a token that comes after signing out changes nothing", async (clock, is) => {
  let give;
  const { made, kinds } = session(() => new Promise((resolve) => { give = resolve; }));
  Socket.last().logsIn();
  Socket.last().ends(4006);
  made.leave();
  give("new");
  await clock.pass(120_000);
  is("states", kinds(), ["connecting", "up", "out"]);
  is("connections", Socket.all.length, 1);
});

await check("READ and ACK are said again after a login", async (clock, is) => {
  const { talks, said, take } = talking("alice");
  const [one, other] = ["dm:alice:bob", "dm:alice:carol"];
  [one, other].forEach((conv) => talks.loadOlder(talks.talk(conv)));
  talks.heard(page(one, 1, 5));
  talks.heard(page(other, 1, 3));
  talks.markRead(talks.talk(one));
  await clock.pass(1_000);
  take();
  talks.loggedIn();
  talks.heard(page(one, 6, 5, 5));
  talks.heard(page(other, 4, 3, 3));
  talks.heard({ type: "unread_list", convs: [one, other].map((conv) => ({ conv, last_seq: talks.talk(conv).tail, read_seq: 0 })), more: false });
  await clock.pass(1_000);
  is("said", said.filter(({ type }) => type === "read" || type === "ack"), [
    { type: "read", conv: one, seq: 5 },
    { type: "ack", conv: other, seq: 3 },
  ]);
});

await check("a restored store is met without asking for ever", async (clock, is) => {
  const { talks, count, take } = talking("alice");
  const conv = "dm:alice:bob";
  talks.loadOlder(talks.talk(conv));
  talks.heard(page(conv, 1, 9));
  talks.heard(page(conv, 10, 9, 9));
  talks.markRead(talks.talk(conv));
  take();
  talks.loggedIn();
  // In the meantime somebody scrolls up: the answer belongs to the old numbers.
  talks.talk(conv).more = true;
  talks.loadOlder(talks.talk(conv));
  talks.heard(page(conv, 1, 0, 2));
  talks.heard(page(conv, 1, 2));
  talks.heard({ type: "unread_list", convs: [{ conv, last_seq: 3, read_seq: 1 }], more: false });
  talks.heard(page(conv, 1, 3));
  talks.heard(page(conv, 4, 3, 3));
  await clock.pass(1_000);
  const talk = talks.talk(conv);
  is("messages", talk.messages.map(({ seq }) => seq), [1, 2, 3]);
  is("unread", talks.unread(talk), 2);
  is("SYNC", count("sync") <= 2, true);
  is("READ", count("read"), 0);
});

await check("many conversations are watched at once and loaded a few at a time", async (clock, is) => {
  const { talks, said, count } = talking("alice");
  talks.loggedIn();
  const convs = Array.from({ length: 200 }, (_, number) => ({ conv: `dm:alice:user-${number}`, last_seq: 1, read_seq: 0, n: 1 }));
  talks.heard({ type: "unread_list", convs, more: false });
  await clock.pass(10);
  is("PRESENCE_SUB", count("presence_sub"), 2);
  is("users watched", said.findLast(({ type }) => type === "presence_sub").users.length, 200);
  let most = 0;
  let answered = 0;
  for (let at = 0; at < said.length; at += 1) {
    most = Math.max(most, count("history") - answered);
    if (said[at].type === "history") {
      answered += 1;
      talks.heard(page(said[at].conv, 1, 1));
    } else if (said[at].type === "sync") {
      talks.heard(page(said[at].conv, 2, 1, 1));
    }
  }
  is("HISTORY at once", most <= 8, true);
  is("conversations without their messages", Array.from(talks.all.values()).filter(({ known }) => !known).length, 0);
});

await check("messages of another user wait for that user", async (clock, is) => {
  const bodies = (user) => new Outbox(user).messages.map(({ body }) => body);
  new Outbox("alice").add("dm:alice:bob", "of alice");
  const bob = new Outbox("bob");
  is("what bob has", bob.messages, []);
  const mine = bob.add("dm:alice:bob", "of bob");
  is("what alice has", bodies("alice"), ["of alice"]);
  bob.remove(mine.client_msg_id);
  is("what alice has at last", bodies("alice"), ["of alice"]);
  is("what bob has at last", bodies("bob"), []);
});

await check("a message that was stored long ago is there once", async (clock, is) => {
  for (const order of ["acknowledged first", "shown first"]) {
    const { talks, outbox } = talking("alice");
    const conv = "dm:alice:bob";
    const mine = outbox.add(conv, "line 5");
    const ack = () => talks.heard({ type: "send_ack", client_msg_id: mine.client_msg_id, conv, seq: 5, server_time: 5, duplicate: true });
    talks.loggedIn();
    talks.loadOlder(talks.talk(conv));
    if (order === "acknowledged first") ack();
    talks.heard(page(conv, 61, 100));
    talks.heard(page(conv, 101, 100, 100));
    is(`waiting, ${order}`, outbox.of(conv).length, order === "acknowledged first" ? 0 : 1);
    talks.loadOlder(talks.talk(conv));
    const older = page(conv, 1, 60, 100);
    Object.assign(older.msgs[4], { sender: "alice", client_msg_id: mine.client_msg_id });
    talks.heard(older);
    is(`waiting at last, ${order}`, outbox.of(conv).length, 0);
    if (order === "shown first") ack();
    is(`shown, ${order}`, talks.talk(conv).messages.filter(({ client_msg_id }) => client_msg_id === mine.client_msg_id).length, 1);
  }
});

return found;
