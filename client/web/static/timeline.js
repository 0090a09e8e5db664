// Conversations as this tab knows them: each has a cursor (`upto`) up to which
// nothing is missing, messages by seq, and what is read. A push next to the
// cursor moves it, one below it is a repeat and dropped, one beyond it shows a
// gap that only a sync can close. Cursors and receipts may come out of order, by
// two servers: none ever goes back.

export class Conversation {
  constructor(id, me) {
    this.id = id;
    this.me = me;
    this.upto = 0;
    this.acked = 0; // what the server was told that this tab has
    this.readSeq = 0;
    this.counted = 0; // the server counted what is unread up to here:
    this.base = 0; // so much; what came later is counted here
    this.unsure = false; // that count is no more right, the server has to count anew
    this.unread = 0;
    this.mentioned = false; // among what is unread
    this.messages = new Map(); // seq -> msg
    this.updates = new Map(); // target_seq -> update of a message that is not loaded
    this.pending = new Map(); // client_id -> msg without a seq
    this.oldest = 0; // history below this seq is not loaded yet; 0: nothing is
    this.whole = false; // history is loaded to its start
    this.delivered = 0; // what the peer has, and has read (private only)
    this.read = 0;
    this.receipts = new Map(); // member -> {delivered, read}, as far as they were told
    this.name = ""; // of a group, as all below
    this.count = 0; // its members
    this.members = []; // the first of them, once asked for
    this.role = ""; // one's own
    this.out = false; // one is not in it any more
  }

  get group() { return this.id.startsWith("g:") ? this.id.slice(2) : ""; }

  get peer() {
    const [, a, b] = this.id.split(":");
    return a === this.me ? b : a;
  }

  get title() { return this.group ? this.name || this.group : this.peer === this.me ? "Notes to self" : this.peer; }

  // target is how requests name the conversation.
  get target() { return this.group ? { group: this.group } : { to: this.peer }; }

  // receipt takes how far a member, or a device of one's own, has got.
  receipt({ user, delivered, read }) {
    if (user === this.me) return this.seen(read);
    const had = this.receipts.get(user) ?? { delivered: 0, read: 0 };
    this.receipts.set(user, { delivered: Math.max(had.delivered, delivered), read: Math.max(had.read, read) });
    this.delivered = Math.max(this.delivered, delivered);
    this.read = Math.max(this.read, read);
  }

  // seen takes that the user has read up to seq. Of what the server counted only
  // the sum is known, so a part of it read makes that unsure.
  seen(seq) {
    if (seq <= this.readSeq) return;
    this.readSeq = seq;
    if (seq >= Math.min(this.counted, this.upto)) Object.assign(this, { base: 0, counted: seq, unsure: false });
    else this.unsure = true;
    this.recount();
  }

  // counts takes the server's figures. A read of ours that has not got there yet
  // makes its count of the unread too high.
  counts(row) {
    this.delivered = Math.max(this.delivered, row.delivered ?? 0);
    this.read = Math.max(this.read, row.read ?? 0);
    if (row.read_seq < this.readSeq) return;
    Object.assign(this, { readSeq: row.read_seq, base: row.unread, counted: row.max_seq, unsure: false });
    this.recount();
  }

  recount() {
    let fresh = 0, mentioned = false;
    for (const m of this.messages.values()) {
      if (m.seq <= this.readSeq || !this.counting(m)) continue;
      if (m.seq > this.counted) fresh++;
      mentioned ||= !!m.mention?.includes(this.me);
    }
    this.unread = this.base + fresh;
    this.mentioned = this.unread > 0 && mentioned;
  }

  // counting says whether a message is of those that can be unread.
  counting(m) { return m.from !== this.me && m.type !== "system" && m.status !== "recalled"; }

  // push takes one live row; "gap" asks for a sync.
  push(row) {
    if (row.seq <= this.upto) return "old";
    if (row.seq !== this.upto + 1) return "gap";
    this.take(row);
    this.upto = row.seq;
    this.recount();
    return "new";
  }

  // take puts a message or an update where it belongs.
  take(row) {
    if (row.target_seq) return this.change(row);
    this.messages.set(row.seq, row);
    this.pending.delete(row.client_id);
    if (!this.last || row.seq > this.last.seq) this.last = row;
  }

  // change applies an update, or keeps it: its message may be on the way, in an
  // older page that was read before.
  change(row) {
    const target = this.messages.get(row.target_seq);
    if (!target) this.updates.set(row.target_seq, row);
    if (row.status === "recalled" && row.seq > this.counted && row.target_seq > this.readSeq && row.target_seq <= this.counted && this.base) {
      if (!target) this.unsure = true;
      else if (this.counting(target)) this.base--;
    }
    if (target) apply(target, row);
    if (this.last?.seq === row.target_seq) this.last = target ?? apply({ ...this.last }, row);
  }

  // page takes one conversation of a sync_ok: whole from the cursor to upto.
  page(c) {
    if (!this.upto) this.whole = false; // it may begin in the middle
    for (const row of [...c.messages, ...c.updates].sort((a, b) => a.seq - b.seq)) if (row.seq > this.upto) this.take(row);
    this.upto = Math.max(this.upto, c.upto);
    this.counts(c);
    this.recount();
  }

  // start sets the cursor by the list of conversations: what is before is history.
  start(row) {
    if (row.max_seq <= this.upto) return;
    Object.assign(this, { upto: row.max_seq, last: row.last ?? this.last, whole: false });
  }

  // history takes an older page, which may have been read before updates that
  // are here already.
  history(rows, asked) {
    for (const row of rows) {
      if (this.messages.has(row.seq)) continue;
      const update = this.updates.get(row.seq);
      this.messages.set(row.seq, update ? apply(row, update) : row);
      this.updates.delete(row.seq);
    }
    if (rows.length) this.oldest = rows[0].seq;
    if (rows.length < asked) this.whole = true;
    this.recount();
  }

  // byID finds a message that is loaded.
  byID(id) { return [...this.messages.values()].find((m) => m.id === id); }

  // shown lists what stands between the loaded history and now, then what has
  // no seq yet.
  shown() {
    const rows = [...this.messages.values()].filter((m) => m.seq >= this.oldest).sort((a, b) => a.seq - b.seq);
    return [...rows, ...this.pending.values()];
  }
}

const apply = (m, { status, content }) => Object.assign(m, { status, content: status === "recalled" ? "" : content ?? "" });

// describe gives a system message as a sentence.
export function describe(content) {
  let e;
  try { e = JSON.parse(content); } catch { return content; }
  switch (e.event) {
    case "created": return `${e.by} created the group`;
    case "joined": return e.by === e.user ? `${e.user} joined` : `${e.by} added ${e.user}`;
    case "left": return `${e.user} left`;
    case "removed": return `${e.by} removed ${e.user}`;
    case "role": return `${e.by} made ${e.user} ${e.role}`;
    case "renamed": return `${e.by} renamed the group to ${e.name}`;
    case "muted": return e.until ? `${e.by} muted ${e.user || "everyone"}` : `${e.by} unmuted ${e.user || "everyone"}`;
    case "dismissed": return `${e.by} dismissed the group`;
    default: return `${e.by}: ${e.event}`;
  }
}

// preview is one line of a message.
export function preview(m) {
  if (!m) return "";
  if (m.status === "recalled") return "Message recalled";
  if (m.type === "system") return describe(m.content);
  return m.type === "text" ? m.content : `[${m.type}]`;
}
