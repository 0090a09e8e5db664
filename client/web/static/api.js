// The HTTP API, as far as the page needs it.

export class Api {
  constructor(token) { this.token = token; }

  async call(method, path, body, headers = {}) {
    const answer = await fetch("/v1" + path, {
      method,
      headers: { ...(this.token && { Authorization: "Bearer " + this.token }), ...(body && { "Content-Type": "application/json" }), ...headers },
      body: body && JSON.stringify(body),
    });
    const json = await answer.json().catch(() => ({}));
    if (!answer.ok) throw json.error ?? { code: "internal", message: "HTTP " + answer.status };
    return json;
  }

  get(path) { return this.call("GET", path); }

  // change sends a command that must happen once, however often it is tried.
  change(method, path, body) { return this.call(method, path, body, { "Idempotency-Key": crypto.randomUUID() }); }

  // all follows `next` through a paged list.
  async all(path, key) {
    const out = [];
    let after = "";
    do {
      const page = await this.get(`${path}?limit=100${after && "&after=" + encodeURIComponent(after)}`);
      out.push(...(page[key] ?? []));
      after = page.next ?? "";
    } while (after);
    return out;
  }
}
