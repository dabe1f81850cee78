// One login, however many connections it takes: back-off, hints to move, kicks, and the time that the way there takes.

/** How often the way there is measured; more often than any heartbeat that a server asks for. */
const PING_EVERY = 5_000;
/** A connection that leaves a question unanswered for so long is taken for dead. */
const DEAD_AFTER = 12_000;
/** How long a login may take. */
const LOGIN_WITHIN = 10_000;
/** How long answers are waited for before moving on. */
const LAST_ANSWERS_WITHIN = 2_000;
const FIRST_PAUSE = 400;
const LONGEST_PAUSE = 30_000;
/** After a session that has lasted so long, the pauses begin anew. */
const LASTING = 10_000;

/** Close codes after which somebody has to decide. */
const KICKED = 4002;
const LOGIN_REFUSED = 4001;
const TOKEN_EXPIRED = 4006;
/** Close codes that ask for a mended client: this one would only do the same again. */
const OUR_FAULT = new Set([1002, 1003, 1007, 1008, 1009, 4008]);

export class Session {
  #socket;
  #timers = new Map();
  #failures = 0;
  #id;
  #refusal;
  /** When the first question was asked after which nothing was heard. */
  #pingedAt;
  #left = new AbortController();
  /** Ids of messages that this connection has not answered. */
  #unanswered = new Set();

  /**
   * @param {object} login `token`, `device`, and `renew`, which gives another token, or null if there is none to be had
   * @param {object} told `state(kind, details)`, `up(login_ok)`, `frame(frame)`, `renewed(token)`
   */
  constructor(login, told) {
    this.login = login;
    this.told = told;
    addEventListener("online", () => this.#timers.has("again") && this.connect(), { signal: this.#left.signal });
  }

  connect() {
    this.#drop();
    this.#refusal = undefined;
    this.told.state("connecting");
    const url = new URL("/ws", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url, "im.v1.json");
    this.#socket = socket;
    const ours = (listener) => (event) => socket === this.#socket && listener(event);
    socket.addEventListener("open", ours(() => this.#logIn()));
    socket.addEventListener("message", ours((event) => this.#heard(JSON.parse(event.data))));
    socket.addEventListener("close", ours((event) => this.#closed(event.code)));
    this.#later("login", LOGIN_WITHIN, () => this.#lost());
  }

  /** Says goodbye, and stays away for good. */
  leave() {
    this.#left.abort();
    this.say({ type: "bye" });
    this.#drop();
    this.told.state("out");
  }

  /** Whether it was said. What was not is lost: the caller says it again after the next login. */
  say(frame) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    if (frame.type === "send") this.#unanswered.add(frame.client_msg_id);
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  #logIn() {
    const resume = this.#id && { session_id: this.#id, last_push: 0 };
    this.say({ type: "login", token: this.login.token, device_id: this.login.device, resume });
  }

  #heard(frame) {
    this.#pingedAt = undefined;
    switch (frame.type) {
      case "login_ok": return this.#up(frame);
      case "login_err": this.#refusal = frame; return undefined;
      case "pong": return this.told.state("up", { rtt: Math.max(0, performance.now() - frame.t / 1000) });
      case "reconnect": return this.#hinted(frame);
      case "kick": return this.#kicked();
      case "send_ack":
      case "send_err": this.#unanswered.delete(frame.client_msg_id); break;
      default:
    }
    return this.told.frame(frame);
  }

  #up(ok) {
    this.#cancel("login");
    this.#id = ok.session_id;
    this.#later("lasting", LASTING, () => { this.#failures = 0; });
    this.told.state("up", { node: ok.node });
    this.told.up(ok);
    this.#ping();
  }

  #ping() {
    const now = performance.now();
    // Counted from a question: the timers of a hidden page come once a minute, and those of a sleeping machine not at all.
    if (this.#pingedAt !== undefined && now - this.#pingedAt > DEAD_AFTER) return this.#lost();
    this.#pingedAt ??= now;
    // Microseconds, because the field is a whole number.
    this.say({ type: "ping", t: Math.round(now * 1000) });
    return this.#later("ping", PING_EVERY, () => this.#ping());
  }

  /** The server wants to be rid of us: not before its time, spread by dice, and in time before it closes. */
  #hinted({ after_ms = 0, spread_ms = 0, deadline_ms = 0 }) {
    this.told.state("moving");
    const wait = after_ms + Math.random() * spread_ms;
    const latest = deadline_ms > 0 ? Math.max(0, deadline_ms - 200) : wait;
    this.#later("move", Math.min(wait, latest), () => this.#move(Date.now() + LAST_ANSWERS_WITHIN));
  }

  #move(latest) {
    if (this.#unanswered.size > 0 && Date.now() < latest) return this.#later("move", 20, () => this.#move(latest));
    this.say({ type: "bye" });
    return this.connect();
  }

  /** Whatever close comes behind it, or none. */
  #kicked() {
    this.#drop();
    this.told.state("kicked");
  }

  #closed(code) {
    const refusal = this.#refusal;
    this.#drop();
    if (code === KICKED) return this.#kicked();
    if (OUR_FAULT.has(code)) return this.told.state("stopped", { code });
    if (code === TOKEN_EXPIRED || refusal?.code === "token_expired") return this.#renew();
    if (code === LOGIN_REFUSED && refusal && !refusal.retry_after_ms) return this.told.state("refused", refusal);
    return this.#again(refusal?.retry_after_ms ?? 0);
  }

  async #renew() {
    // If it cannot be asked for now, the old one is refused again, and so it is asked for after the next pause.
    const token = await this.login.renew().catch(() => this.login.token);
    if (this.#left.signal.aborted) return;
    if (!token) return void this.told.state("refused", { code: "token_expired" });
    this.login.token = token;
    this.told.renewed(token);
    this.#again();
  }

  #lost() {
    this.#drop();
    this.#again();
  }

  /** Connects again after a pause that grows and is never the same for two. */
  #again(least = 0) {
    const longest = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this.#failures);
    const pause = least + longest * (0.5 + Math.random() / 2);
    this.#failures += 1;
    this.told.state("waiting", { seconds: Math.ceil(pause / 1000) });
    this.#later("again", pause, () => this.connect());
  }

  #drop() {
    this.#timers.forEach((timer) => clearTimeout(timer));
    this.#timers.clear();
    this.#unanswered.clear();
    this.#pingedAt = undefined;
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.close();
  }

  #later(name, ms, work) {
    this.#cancel(name);
    this.#timers.set(name, setTimeout(() => {
      this.#timers.delete(name);
      work();
    }, ms));
  }

  #cancel(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}
