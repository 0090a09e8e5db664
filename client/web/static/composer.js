// What is being written: a new message, an answer to one, or the new text of an
// old one; with names to complete after an @.

import { $, el } from "./view.js";
import { preview } from "./timeline.js";

const WORD = /@([A-Za-z0-9._@-]*)$/;

export class Composer {
  // on: {send(text, {reply, mention}), edit(message, text), writing(), names(): [user]}
  constructor(on) {
    this.on = on;
    this.reply = this.editing = null;
    const text = $("text");
    $("composer").onsubmit = (e) => { e.preventDefault(); this.submit(); };
    $("context-cancel").onclick = () => this.clear(!!this.editing);
    text.oninput = () => { this.suggest(); if (text.value.trim() && !this.editing) on.writing(); };
    text.onkeydown = (e) => {
      if (e.isComposing) return;
      const first = $("suggest").firstElementChild;
      if (e.key === "Escape") this.clear(!!this.editing);
      else if (e.key === "Tab" && first) { e.preventDefault(); first.click(); }
      else if (e.key === "Enter" && !e.shiftKey) { e.preventDefault(); $("composer").requestSubmit(); }
    };
  }

  clear(text = true) {
    this.reply = this.editing = null;
    if (text) $("text").value = "";
    $("context").hidden = true;
    $("suggest").replaceChildren();
  }

  about(label, m) {
    $("context").hidden = false;
    $("context-text").textContent = `${label}: ${preview(m)}`;
    $("text").focus();
  }

  answer(m) { this.clear(!!this.editing); this.reply = m; this.about(`Answer to ${m.from}`, m); }

  // change begins an edit, with the text of the last try if that failed.
  change(m) { this.clear(); this.editing = m; $("text").value = m.draft ?? m.content; this.about("Edit", m); }

  // idle says that nothing would be lost by an edit.
  get idle() { return !$("text").value && !this.reply && !this.editing; }

  // lock is for a conversation that one cannot write in any more.
  lock(out) {
    const text = $("text");
    text.disabled = $("composer").querySelector("button").disabled = out;
    text.placeholder = out ? "You are not in this group any more" : "Write a message";
  }

  submit() {
    const text = $("text").value.trim();
    if (!text) return;
    const { reply, editing } = this;
    this.clear();
    if (editing) { if (text !== editing.content) this.on.edit(editing, text); return; }
    const names = new Set(this.on.names());
    const mention = [...new Set([...text.matchAll(/@([A-Za-z0-9._@-]+)/g)].map((m) => m[1].replace(/\.+$/, "")))].filter((n) => names.has(n));
    this.on.send(text, { reply, mention });
  }

  // suggest offers names after an @.
  suggest() {
    const text = $("text");
    const begun = WORD.exec(text.value.slice(0, text.selectionStart))?.[1];
    const fit = begun === undefined ? [] : this.on.names().filter((n) => n.startsWith(begun) && n !== begun).slice(0, 6);
    $("suggest").replaceChildren(...fit.map((n) => el("button", { type: "button", onclick: () => {
      const at = text.selectionStart;
      const before = text.value.slice(0, at).replace(WORD, "@" + n + " ");
      text.value = before + text.value.slice(at);
      text.setSelectionRange(before.length, before.length);
      $("suggest").replaceChildren();
      text.focus();
    } }, "@" + n)));
  }
}
