// Who is online, and who is writing: what is true for a moment and never kept.

import { clock } from "./view.js";

const TYPING_LASTS = 5000; // ms that somebody counts as writing after the last word of it
const TYPING_EVERY = 3000; // ms between two words of ours
const MOST = 1000; // users that one connection may watch
const AT_ONCE = 200;

export class People {
  constructor(changed) {
    this.changed = changed;
    this.watched = new Set();
    this.known = new Map(); // user -> presence
    this.typing = new Map(); // conversation -> Map of user -> timer
    this.said = { conv: "", at: 0 };
  }

  // watch asks for users that are not watched yet. It throws what asking again
  // may mend.
  async watch(conn, users) {
    const fresh = users.filter((u) => !this.watched.has(u)).slice(0, MOST - this.watched.size);
    for (let i = 0; i < fresh.length; i += AT_ONCE) {
      const part = fresh.slice(i, i + AT_ONCE);
      part.forEach((u) => this.watched.add(u));
      try { this.presence(await conn.call("presence_sub", { users: part })); } // the first of them; the others are frames
      catch (e) {
        part.forEach((u) => this.watched.delete(u));
        if (e.retry_after_ms || e.code === "unavailable") throw e;
      }
    }
  }

  // forget is for a connection that has ended: its successor watches nobody.
  forget() {
    this.watched.clear();
    this.known.clear();
  }

  presence(p) {
    this.known.set(p.user, p);
    this.changed();
  }

  online(user) { return !!this.known.get(user)?.online; }

  // about is a line about a user.
  about(user) {
    const p = this.known.get(user);
    if (!p) return "";
    if (p.online) return "online";
    if (!p.last_seen) return "offline";
    const day = new Date(p.last_seen).toDateString() === new Date().toDateString() ? "" : new Date(p.last_seen).toLocaleDateString() + " ";
    return `last seen ${day}${clock(p.last_seen)}`;
  }

  // writes takes note that a user is writing, or (lasts 0) is not any more.
  writes(conv, user, lasts = TYPING_LASTS) {
    const here = this.typing.get(conv) ?? new Map();
    this.typing.set(conv, here);
    clearTimeout(here.get(user));
    if (lasts) here.set(user, setTimeout(() => this.writes(conv, user, 0), lasts));
    else if (!here.delete(user)) return;
    this.changed();
  }

  // writers is a line about who is writing in a conversation.
  writers(conv) {
    const names = [...(this.typing.get(conv)?.keys() ?? [])];
    if (!names.length) return "";
    return names.length > 2 ? "several people are writing…" : `${names.join(" and ")} ${names.length > 1 ? "are" : "is"} writing…`;
  }

  // weWrite tells the others, not at every key.
  weWrite(conn, c) {
    if (this.said.conv === c.id && Date.now() - this.said.at < TYPING_EVERY) return;
    if (conn.tell("typing", c.target)) this.said = { conv: c.id, at: Date.now() };
  }

  sent() { this.said.at = 0; }
}
