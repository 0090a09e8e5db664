// What this tab keeps of the conversations, and how it stays right: the list, the
// sync after each break, acknowledgements. Each login has a Mirror of its own,
// so an answer that comes late cannot get into the next one.

import { Task } from "./task.js";
import { Conversation } from "./timeline.js";

const PAGE = 40; // messages of history asked for at a time
const ACK_EVERY = 150; // ms
const LARGE = 500; // members; above it the server sends no receipts, and one page does not hold them

const groupPath = (c) => "/groups/" + encodeURIComponent(c.group);
const convPath = (c) => "/conversations/" + encodeURIComponent(c.id);

export class Mirror {
  // on: {changed(), met(), open(): the conversation in front, restored(id)}
  constructor(me, api, conn, on) {
    Object.assign(this, { me, api, conn, on });
    this.convs = new Map();
    this.epoch = ""; // of the store that convs is of; "" until the list is loaded
    this.stale = false; // figures (unread, receipts) may have been missed
    this.up = new Task(() => this.catchUp(), () => conn.online);
  }

  // behind says that something was missed, maybe figures that no sync brings.
  behind(stale) {
    this.stale ||= stale;
    this.up.run();
  }

  async catchUp() {
    const epoch = this.conn.epoch;
    if (this.epoch && this.epoch !== epoch) { // restored from a backup: seqs mean something else now
      const open = this.on.open();
      this.epoch = "";
      this.convs.clear();
      if (open) this.on.restored(open.id);
    }
    const first = !this.epoch;
    if (first) await this.list(first);
    this.epoch = epoch;
    await this.sync();
    if (this.stale && !first) await this.list();
    const open = this.on.open();
    for (const c of this.convs.values()) if (c === open || c.acked < c.upto) this.acknowledge(c);
    if (open?.group) this.know(open);
    if (open && !open.oldest) this.older(open);
    this.on.met();
  }

  // conversation finds one, or begins it; known: its name comes with the list.
  conversation(id, known = false) {
    let c = this.convs.get(id);
    if (!c) {
      this.convs.set(id, (c = new Conversation(id, this.me)));
      if (!c.group) this.on.met();
      else if (!known) this.know(c);
    }
    return c;
  }

  // list merges the list of conversations. Only at first it moves cursors, later
  // rows would be skipped by that; what is not known then comes by a sync.
  async list(first = false) {
    this.stale = false;
    const rows = await this.api.all("/conversations", "conversations").catch((e) => { this.stale = true; throw e; });
    for (const row of rows) {
      if (!first && !this.convs.has(row.conv)) continue;
      const c = this.conversation(row.conv, true);
      if (first) c.start(row);
      if (first && !row.unread) c.acked = c.upto;
      c.counts(row);
      Object.assign(c, { name: row.name ?? c.name, out: !!row.left });
      if (c.readSeq > row.read_seq) this.conn.write("read", { conv: c.id, seq: c.readSeq }); // the first one did not get there
    }
    this.on.changed();
  }

  // sync brings everything after the cursors.
  async sync() {
    const cursors = Object.fromEntries([...this.convs].filter(([, c]) => c.upto).map(([id, c]) => [id, c.upto]));
    let page = await this.conn.call("sync", { cursors, limit: 200 });
    for (;;) {
      for (const c of page.conversations) this.conversation(c.conv).page(c);
      for (const r of page.refused ?? []) this.refuse(r);
      for (const c of page.conversations) this.acknowledge(this.conversation(c.conv));
      this.on.changed();
      if (!page.more) return;
      page = await this.conn.call("sync", { token: page.token });
    }
  }

  // received takes a frame, and says whether it was one for here.
  received(op, body) {
    switch (op) {
      case "msg":
      case "update": {
        const c = this.conversation(body.conv);
        if (c.push(body) === "gap") this.behind(false);
        this.check(c);
        this.acknowledge(c);
        break;
      }
      case "receipt": {
        const c = this.convs.get(body.conv);
        if (c) { c.receipt(body); this.check(c); }
        break;
      }
      case "lagged": this.behind(true); break;
      case "refused": this.refuse(body); break;
      case "group": this.changedGroup(body); break;
      case "send_ack": { const p = this.convs.get(body.conv)?.pending.get(body.client_id); if (p) p.id = body.id; break; }
      default: return false;
    }
    this.on.changed();
    return true;
  }

  check(c) { if (c.unsure) this.behind(true); }

  refuse({ conv, client_id: id, code }) {
    const p = this.convs.get(conv)?.pending.get(id);
    if (p) p.failed = code;
  }

  // acknowledge tells the edge what this tab has and what its user has seen: at
  // once for many messages, but not put off by each.
  acknowledge(c) {
    c.timer ??= setTimeout(() => {
      c.timer = null;
      if (c === this.on.open() && !document.hidden && c.readSeq < c.upto) this.read(c);
      else if (c.acked < c.upto && this.conn.write("ack", { conv: c.id, seq: c.upto })) c.acked = c.upto;
    }, ACK_EVERY);
  }

  read(c) {
    c.seen(c.upto);
    if (this.conn.write("read", { conv: c.id, seq: c.upto })) c.acked = c.upto;
    this.on.changed();
  }

  async older(c) {
    if (c.whole || c.loading) return;
    c.loading = true;
    try {
      const { messages } = await this.api.get(`${convPath(c)}/messages?before=${c.oldest || c.upto + 1}&limit=${PAGE}`);
      c.history(messages, PAGE);
    } catch (e) { if (e.code === "not_found") c.whole = true; } finally { c.loading = false; }
    this.on.changed();
  }

  async send(c, content, extra) {
    const m = { conv: c.id, from: this.me, type: "text", content, ts: Date.now(), client_id: crypto.randomUUID(), ...extra };
    c.pending.set(m.client_id, m);
    c.last = { ...m, seq: c.last?.seq ?? 0 };
    if (c.unread) this.read(c); // who writes has read
    this.on.changed();
    try {
      m.id = (await this.conn.send({ ...c.target, client_id: m.client_id, type: "text", content, ...extra })).id;
    } catch (e) { m.failed = e.code; }
    this.on.changed();
  }

  // ---- groups

  changedGroup({ group, event, user, by, name }) {
    const c = this.convs.get("g:" + group);
    if (!c) return;
    if (event === "renamed") c.name = name;
    if (event === "role" && [user, by].includes(this.me)) c.role = "";
    if (event === "dismissed" || (user === this.me && ["left", "removed"].includes(event))) this.leave(c);
    else if (c === this.on.open() || user === this.me) this.know(c);
  }

  leave(c) { Object.assign(c, { out: true, members: [], count: 0, role: "" }); }

  // know asks for a group as it stands: a burst of its events asks twice.
  know(c) {
    c.asking ??= new Task(() => this.ask(c), () => this.conn.online);
    c.asking.run();
  }

  async ask(c) {
    try {
      const info = await this.api.get(groupPath(c));
      c.out = false;
      if (c === this.on.open()) {
        const page = await this.api.page(groupPath(c) + "/members");
        c.members = page.members;
        const mine = page.members.find((m) => m.user === this.me);
        if (mine || !c.role) c.role = mine?.role ?? (await this.roleIn(c));
        if (info.members <= LARGE) for (const r of (await this.api.page(convPath(c) + "/receipts")).receipts) c.receipt(r);
      }
      if (!c.out) Object.assign(c, { name: info.name, count: info.members }); // told once its members can be mentioned
    } catch (e) {
      if (!["not_member", "not_found"].includes(e.code)) throw e;
      this.leave(c);
    }
    this.on.changed();
  }

  // roleIn finds one's own role in a list that is too long to be read: ids have
  // no "~", and it is above all they have, so this `after` is the place just before.
  async roleIn(c) {
    const at = this.me.length - 1;
    const before = this.me.slice(0, at) + String.fromCharCode(this.me.charCodeAt(at) - 1) + "~";
    const { members } = await this.api.get(`${groupPath(c)}/members?limit=1&after=${encodeURIComponent(before)}`);
    return members.find((m) => m.user === this.me)?.role ?? "";
  }
}
