// The HTTP API, as far as the page needs it.

const PATIENCE = 30000; // ms; the server gives up sooner
const PAGE = 500; // rows, the most a list gives at once

export class Api {
  constructor(token) {
    this.token = token;
    this.over = new AbortController();
  }

  // stop ends what is under way: nothing of it may show after a log-out.
  stop() { this.over.abort({ code: "unavailable", message: "Logged out." }); }

  async call(method, path, body, headers = {}) {
    const answer = await fetch("/v1" + path, {
      method,
      headers: { ...(this.token && { Authorization: "Bearer " + this.token }), ...(body && { "Content-Type": "application/json" }), ...headers },
      body: body && JSON.stringify(body),
      signal: AbortSignal.any([this.over.signal, AbortSignal.timeout(PATIENCE)]),
    });
    const json = await answer.json().catch(() => ({}));
    if (!answer.ok) throw json.error ?? { code: "internal", message: "HTTP " + answer.status };
    return json;
  }

  get(path) { return this.call("GET", path); }

  // change sends a command that must happen once, and returns when it has.
  async change(method, path, body) {
    const answer = await this.call(method, path, body, { "Idempotency-Key": crypto.randomUUID() });
    return answer.operation ? this.verdict(answer.operation) : answer;
  }

  // verdict waits for the fate of a command that was answered by 202.
  async verdict(id) {
    for (let wait = 250, end = Date.now() + PATIENCE; Date.now() < end; wait = Math.min(2 * wait, 4000)) {
      await new Promise((go) => setTimeout(go, wait));
      const op = await this.get("/operations/" + id);
      if (op.code) throw { code: op.code, message: `Refused: ${op.code.replaceAll("_", " ")}` };
      if (op.done) return op;
    }
    throw { code: "unavailable", message: "Not decided yet. It may still happen: look again later." };
  }

  // page is the first of a paged list after a place.
  page(path, after = "") { return this.get(`${path}?limit=${PAGE}${after && "&after=" + encodeURIComponent(after)}`); }

  // all follows `next` through a paged list.
  async all(path, key) {
    const out = [];
    for (let after = "", page; page = await this.page(path, after); after = page.next) {
      out.push(...(page[key] ?? []));
      if (!page.next) break;
    }
    return out;
  }
}
