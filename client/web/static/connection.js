// A connection to an edge that comes back by itself: it finds an edge, keeps
// the heartbeat, sends again under the same client_id what got no answer, and
// says when it is online. What the frames mean is not its business.

const PATIENCE = 10000; // ms to find an edge
const STAY_AWAY = new Set([4001, 4003, 4009]); // docs/protocol.md: do not come back by yourself

export class Connection {
  // on: {open(), frame(op, body), state(name), closed(code)}
  constructor(token, on) {
    this.token = token;
    this.on = on;
    this.seq = 0;
    this.calls = new Map(); // envelope seq -> {resolve, reject}
    this.unsent = new Map(); // client_id -> {body, resolve, reject}: sends without an answer
    this.attempt = 0;
    this.due = 0; // when a reconnect told to come back
    this.epoch = ""; // of the history, by the last auth_ok
    this.online = this.stopped = false;
    this.wake = () => { if (!this.ws) this.connect(); };
    addEventListener("online", this.wake);
  }

  async connect() {
    clearTimeout(this.retry);
    if (this.stopped || this.ws) return;
    this.on.state("connecting");
    const attempt = (this.ws = {}); // holds the place while the edge is looked up
    let url;
    try {
      const answer = await fetch("/v1/edges", { headers: { Authorization: "Bearer " + this.token }, signal: AbortSignal.timeout(PATIENCE) });
      const edges = await answer.json().catch(() => null);
      const out = answer.status === 401 ? 4001 : edges?.error?.code === "banned" ? 4003 : 0;
      if (out && !this.stopped) return this.end(out);
      if (!answer.ok || !edges?.length) throw new Error("no edge");
      url = edges[Math.min(this.attempt >> 1, edges.length - 1)].url;
    } catch {
      if (this.ws === attempt) this.ws = null;
      return this.again();
    }
    if (this.stopped) return;
    const ws = (this.ws = new WebSocket(url, ["starling", this.token]));
    ws.onmessage = (e) => { if (this.ws === ws) this.receive(JSON.parse(e.data)); }; // some come after a close of ours
    ws.onclose = (e) => {
      if (this.ws !== ws) return;
      this.ws = null;
      this.online = false;
      clearInterval(this.heart);
      this.drop(this.calls);
      STAY_AWAY.has(e.code) ? this.end(e.code) : this.again();
    };
  }

  drop(waiting) {
    for (const w of waiting.values()) w.reject({ code: "unavailable", message: "connection lost" });
    waiting.clear();
  }

  // again comes back after a growing, jittered wait, or when the server said.
  again() {
    if (this.stopped) return;
    this.on.state("offline");
    const wait = Math.min(15000, 250 * 2 ** Math.min(this.attempt++, 6)) * (0.5 + Math.random());
    this.retry = setTimeout(() => this.connect(), this.due ? Math.max(0, this.due - Date.now()) : wait);
    this.due = 0;
  }

  end(code) {
    this.stop();
    this.on.closed(code);
  }

  stop() {
    this.stopped = true;
    this.online = false;
    clearTimeout(this.retry);
    clearInterval(this.heart);
    removeEventListener("online", this.wake);
    this.ws?.close?.(1000);
    this.ws = null;
    this.drop(this.calls);
    this.drop(this.unsent);
  }

  receive({ op, seq, body }) {
    if (op === "auth_ok") {
      this.attempt = 0;
      this.online = true;
      this.epoch = body.history_epoch;
      this.heart = setInterval(() => this.write("ping", {}), body.heartbeat_ms / 2);
      this.on.state("online");
      this.on.open();
      for (const s of this.unsent.values()) this.transmit(s);
      return;
    }
    if (op === "reconnect") return this.move(body.after_ms);
    const call = seq && this.calls.get(seq);
    if (call) {
      this.calls.delete(seq);
      op === "error" ? call.reject(body) : call.resolve(body);
      return;
    }
    this.on.frame(op, body);
  }

  // move leaves this edge when it was told to, and is at another at once.
  move(after) {
    const ws = this.ws;
    this.due = Date.now() + after;
    this.attempt = 0;
    setTimeout(() => { if (this.ws === ws) ws.close(1000); }, after);
  }

  write(op, body, seq) {
    if (!this.online) return false;
    this.ws.send(JSON.stringify({ op, seq, body }));
    return true;
  }

  // tell sends what is answered by frames of its own, or not at all.
  tell(op, body) { return this.write(op, body, ++this.seq); }

  call(op, body) {
    return new Promise((resolve, reject) => {
      const seq = ++this.seq;
      this.calls.set(seq, { resolve, reject });
      if (!this.write(op, body, seq)) {
        this.calls.delete(seq);
        reject({ code: "unavailable", message: "offline" });
      }
    });
  }

  // send resolves with the send_ack, however often the connection breaks, and
  // rejects only for what trying again would not mend.
  send(body) {
    return new Promise((resolve, reject) => {
      const s = { body, resolve, reject };
      this.unsent.set(body.client_id, s);
      this.transmit(s);
    });
  }

  async transmit(s) {
    if (!this.online || !this.unsent.has(s.body.client_id)) return;
    try {
      const ack = await this.call("send", s.body);
      if (this.unsent.delete(s.body.client_id)) s.resolve(ack);
    } catch (e) {
      if (["unavailable", "overloaded", "rate_limited"].includes(e.code)) {
        setTimeout(() => this.transmit(s), e.retry_after_ms ?? 1000);
      } else if (this.unsent.delete(s.body.client_id)) s.reject(e);
    }
  }
}
