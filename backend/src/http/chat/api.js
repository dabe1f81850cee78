// The HTTP API: groups, and the token of a demo.

/** Why a request was not done, with the server's code. */
export class ApiError extends Error {
  constructor(status, code, reason) {
    super(reason);
    this.status = status;
    this.code = code;
  }
}

async function ask(method, path, { token, body, key } = {}) {
  const headers = {};
  if (token) headers.authorization = `Bearer ${token}`;
  if (key) headers["idempotency-key"] = key;
  if (body) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`/api/v1/${path}`, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new ApiError(0, "unreachable", "The server cannot be reached.");
  }
  const told = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) throw new ApiError(answer.status, told?.code ?? "", told?.error ?? `The server answered ${answer.status}.`);
  return told;
}

/** Tries again what may be repeated, while the server is not there or busy. */
async function patiently(request) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await request();
    } catch (error) {
      const passing = error.status === 0 || error.status === 502 || error.status === 503;
      if (!passing || tries === 4) throw error;
      await new Promise((resolve) => setTimeout(resolve, 250 * 2 ** tries * (0.5 + Math.random())));
    }
  }
}

const segment = encodeURIComponent;
const pathOf = (conv) => `groups/${segment(conv.slice("group:".length))}`;

/** A token for anybody; only a demo's server gives it. */
export const demoLogin = (user) => ask("POST", "demo-login", { body: { user } });

export class Groups {
  constructor(token) {
    this.token = token;
  }

  #ask(method, path, rest = {}) {
    return patiently(() => ask(method, path, { token: this.token, ...rest }));
  }

  create(name, members) {
    // The same key however often it is tried: one group.
    return this.#ask("POST", "groups", { key: crypto.getRandomValues(new Uint32Array(4)).join("-"), body: { name, members } });
  }

  async list() {
    return (await this.#ask("GET", "groups")).groups;
  }

  show(conv) {
    return this.#ask("GET", pathOf(conv));
  }

  add(conv, user) {
    return this.#ask("PUT", `${pathOf(conv)}/members/${segment(user)}`, { body: {} });
  }

  remove(conv, user) {
    return this.#ask("DELETE", `${pathOf(conv)}/members?user=${segment(user)}`);
  }
}
