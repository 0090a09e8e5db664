// What is drawn. Texts of users only ever become text nodes.

import { describe, preview } from "./timeline.js";

export const $ = (id) => document.getElementById(id);

// el makes an element: el("b", {class: "x"}, child, "text").
export function el(tag, attrs = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs)) {
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else if (v !== false && v != null) e.setAttribute(k, v === true ? "" : v);
  }
  e.append(...children.filter((c) => c != null && c !== false));
  return e;
}

export function avatar(name, group) {
  let h = 0;
  for (const c of name) h = (h * 31 + c.codePointAt(0)) >>> 0;
  return el("span", { class: `avatar h${h % 8}${group ? " group" : ""}`, "aria-hidden": "true" }, [...name][0]?.toUpperCase() ?? "?");
}

const clock = (ts) => new Date(ts).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
const day = (ts) => new Date(ts).toLocaleDateString([], { weekday: "long", day: "numeric", month: "long" });

// drawConversations keeps the button of each conversation, and moves none that
// is in its place: a press that began before stays a click.
export function drawConversations(convs, open, me, choose) {
  const sorted = [...convs].sort((a, b) => (b.last?.ts ?? 0) - (a.last?.ts ?? 0));
  $("no-convs").hidden = sorted.length > 0;
  const list = $("conversations");
  const had = new Map([...list.children].map((li) => [li.firstChild.dataset.conv, li]));
  const rows = sorted.map((c) => {
    const li = had.get(c.id) ?? el("li", {}, el("button", { "data-conv": c.id }));
    const button = li.firstChild;
    button.onclick = () => choose(c);
    button.setAttribute("aria-current", c === open);
    button.replaceChildren(avatar(c.title(me), c.group),
      el("span", { class: "grow" },
        el("span", { class: "row" }, el("b", {}, c.title(me)), el("small", { class: "muted" }, c.last ? clock(c.last.ts) : "")),
        el("span", { class: "row" }, el("span", { class: "muted grow" }, preview(c.last)),
          c.unread > 0 && el("span", { class: "badge", title: `${c.unread} unread` }, c.unread > 99 ? "99+" : String(c.unread)))));
    return li;
  });
  if (rows.length !== list.children.length || rows.some((li, i) => li !== list.children[i])) list.replaceChildren(...rows);
  const unread = sorted.reduce((n, c) => n + c.unread, 0);
  document.title = unread ? `(${unread}) Starling` : "Starling";
}

function tick(m, conv) {
  if (m.failed) return `not delivered: ${m.failed}`;
  if (!m.seq) return m.id ? "✓" : "…";
  if (conv.group) return "✓";
  return conv.read >= m.seq ? "✓✓ read" : conv.delivered >= m.seq ? "✓✓" : "✓";
}

function drawMessage(m, conv, me) {
  if (m.type === "system") return el("div", { class: "system", "data-seq": m.seq }, describe(m.content));
  const mine = m.from === me;
  const text = m.status === "recalled" ? "Message recalled" : m.type === "text" ? m.content : `[${m.type}] ${m.content}`;
  return el("article", { class: `msg${mine ? " mine" : ""}${m.seq ? "" : " pending"}${m.failed ? " failed" : ""}${m.status ? " " + m.status : ""}`, "data-seq": m.seq },
    conv.group && !mine && el("span", { class: "from" }, m.from),
    el("p", {}, text),
    el("footer", {}, m.status === "edited" && el("span", {}, "edited"), el("time", {}, clock(m.ts)), mine && el("span", { class: "tick" }, tick(m, conv))));
}

// drawMessages keeps the reader's place: at the end it stays there, above it
// the first visible row does not move.
export function drawMessages(conv, me) {
  const box = $("messages");
  const fromEnd = box.scrollHeight - box.scrollTop;
  const atEnd = fromEnd - box.clientHeight < 60 || box.dataset.conv !== conv.id;
  const older = box.dataset.oldest !== String(conv.oldest);
  const top = box.scrollTop;
  const rows = [];
  let last = "";
  for (const m of conv.shown()) {
    const d = day(m.ts);
    if (d !== last) rows.push(el("div", { class: "day" }, d));
    last = d;
    rows.push(drawMessage(m, conv, me));
  }
  box.replaceChildren(...rows);
  box.dataset.conv = conv.id;
  box.dataset.oldest = conv.oldest;
  box.scrollTop = atEnd ? box.scrollHeight : older ? box.scrollHeight - fromEnd : top;
}

// ask opens the dialog; check(values) may throw {message} to keep it open.
export function ask(title, body, check) {
  return new Promise((done) => {
    $("dialog-title").textContent = title;
    $("dialog-error").textContent = "";
    $("dialog-body").replaceChildren(...body);
    const dialog = $("dialog");
    $("dialog-ok").hidden = !check;
    $("dialog-cancel").textContent = check ? "Cancel" : "Close";
    const finish = (v) => { dialog.close(); done(v); };
    $("dialog-cancel").onclick = () => finish(null);
    dialog.oncancel = () => done(null);
    $("dialog-form").onsubmit = async (e) => {
      e.preventDefault();
      if (!check) return finish(null);
      $("dialog-ok").disabled = true;
      try { finish(await check(Object.fromEntries(new FormData($("dialog-form"))))); }
      catch (err) { $("dialog-error").textContent = err.message ?? String(err); }
      finally { $("dialog-ok").disabled = false; }
    };
    dialog.showModal();
  });
}

export const field = (name, label, attrs = {}) => el("label", {}, label, el("input", { name, id: "field-" + name, ...attrs }));
