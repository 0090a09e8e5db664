// Conversations as this tab knows them: each has a cursor (`upto`) up to which
// nothing is missing, messages by seq, and what is read. A push next to the
// cursor moves it, one below it is a repeat and dropped, one beyond it shows a
// gap that only a sync can close.

export class Conversation {
  constructor(id) {
    this.id = id;
    this.upto = 0;
    this.readSeq = 0;
    this.unread = 0;
    this.messages = new Map(); // seq -> msg
    this.pending = new Map(); // client_id -> msg without a seq
    this.oldest = 0; // history below this seq is not loaded yet; 0: nothing is
    this.whole = false; // history is loaded to its start
    this.delivered = 0; // what the peer has, and has read (private only)
    this.read = 0;
    this.name = "";
  }

  get group() { return this.id.startsWith("g:") ? this.id.slice(2) : ""; }

  peer(me) {
    const [, a, b] = this.id.split(":");
    return a === me ? b : a;
  }

  title(me) { return this.group ? this.name || this.group : this.peer(me) === me ? "Notes to self" : this.peer(me); }

  // push takes one live row; "gap" asks for a sync.
  push(row, me) {
    if (row.seq <= this.upto) return "old";
    if (row.seq !== this.upto + 1) return "gap";
    this.take(row, me);
    this.upto = row.seq;
    return "new";
  }

  // take puts a message or an update where it belongs.
  take(row, me) {
    if (row.target_seq) {
      const target = this.messages.get(row.target_seq);
      if (target) Object.assign(target, { status: row.status, content: row.status === "recalled" ? "" : row.content });
      if (this.last?.seq === row.target_seq) this.last = target ?? { ...this.last, status: row.status, content: row.content ?? "" };
      return;
    }
    this.messages.set(row.seq, row);
    this.pending.delete(row.client_id);
    if (!this.last || row.seq > this.last.seq) this.last = row;
    if (row.from === me) this.readSeq = Math.max(this.readSeq, row.seq);
    else if (row.seq > this.readSeq && row.type !== "system" && row.seq > this.upto) this.unread++;
  }

  // page takes one conversation of a sync_ok: whole from the cursor to upto.
  page(c, me) {
    for (const row of [...c.messages, ...c.updates].sort((a, b) => a.seq - b.seq)) if (row.seq > this.upto) this.take(row, me);
    this.upto = Math.max(this.upto, c.upto);
    this.readSeq = Math.max(this.readSeq, c.read_seq);
    if (!c.more) this.unread = c.unread;
    this.delivered = Math.max(this.delivered, c.delivered ?? 0);
    this.read = Math.max(this.read, c.read ?? 0);
  }

  // history takes an older page.
  history(rows, asked) {
    for (const row of rows) if (!this.messages.has(row.seq)) this.messages.set(row.seq, row);
    if (rows.length) this.oldest = rows[0].seq;
    if (rows.length < asked) this.whole = true;
  }

  // shown lists what stands between the loaded history and now, then what has
  // no seq yet.
  shown() {
    const rows = [...this.messages.values()].filter((m) => m.seq >= this.oldest).sort((a, b) => a.seq - b.seq);
    return [...rows, ...this.pending.values()];
  }
}

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
