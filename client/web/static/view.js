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

export function avatar(name, group, online) {
  let h = 0;
  for (const c of name) h = (h * 31 + c.codePointAt(0)) >>> 0;
  return el("span", { class: `avatar h${h % 8}${group ? " group" : ""}${online ? " online" : ""}`, "aria-hidden": "true" }, [...name][0]?.toUpperCase() ?? "?");
}

export const clock = (ts) => new Date(ts).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
const day = (ts) => new Date(ts).toLocaleDateString([], { weekday: "long", day: "numeric", month: "long" });

// arrange makes rows the children of box and moves none that is in its place: a
// press that began before stays a click.
function arrange(box, rows) {
  const keep = new Set(rows);
  for (const child of [...box.children]) if (!keep.has(child)) child.remove();
  let at = box.firstElementChild;
  for (const row of rows) {
    if (row === at) at = at.nextElementSibling;
    else box.insertBefore(row, at);
  }
}

export function drawConversations(convs, { open, choose, people }) {
  const sorted = [...convs].sort((a, b) => (b.last?.ts ?? 0) - (a.last?.ts ?? 0));
  $("no-convs").hidden = sorted.length > 0;
  const list = $("conversations");
  const had = new Map([...list.children].map((li) => [li.firstChild.dataset.conv, li]));
  arrange(list, sorted.map((c) => {
    const li = had.get(c.id) ?? el("li", {}, el("button", { "data-conv": c.id }));
    const button = li.firstChild;
    button.onclick = () => choose(c);
    button.setAttribute("aria-current", c === open);
    const writers = people.writers(c.id);
    button.replaceChildren(avatar(c.title, c.group, !c.group && people.online(c.peer)),
      el("span", { class: "grow" },
        el("span", { class: "row" }, el("b", {}, c.title), el("small", { class: "muted" }, c.last ? clock(c.last.ts) : "")),
        el("span", { class: "row" }, el("span", { class: writers ? "grow writing" : "muted grow" }, writers || preview(c.last)),
          c.mentioned && el("span", { class: "badge at", title: "You are mentioned" }, "@"),
          c.unread > 0 && el("span", { class: "badge unread", title: `${c.unread} unread` }, c.unread > 99 ? "99+" : String(c.unread)))));
    return li;
  }));
  const unread = sorted.reduce((n, c) => n + c.unread, 0);
  document.title = unread ? `(${unread}) Starling` : "Starling";
}

// tick says how far a message of ours has got.
function tick(m, conv) {
  if (m.failed) return `not delivered: ${m.failed}`;
  if (!m.seq) return m.id ? "✓" : "…";
  if (conv.group) {
    const all = [...conv.receipts.values()];
    const read = all.filter((r) => r.read >= m.seq).length;
    return read ? `✓✓ read by ${read}` : all.some((r) => r.delivered >= m.seq) ? "✓✓" : "✓";
  }
  return conv.read >= m.seq ? "✓✓ read" : conv.delivered >= m.seq ? "✓✓" : "✓";
}

// words sets mentioned names off.
function words(text, mention) {
  if (!mention?.length) return [text];
  return text.split(/(@[A-Za-z0-9._@-]+)/).map((w, i) => (i % 2 && mention.includes(w.slice(1).replace(/\.+$/, "")) ? el("b", { class: "mention" }, w) : w));
}

function quoted(m, conv) {
  if (!m.reply_to) return null;
  const q = conv.byID(m.reply_to);
  return { seq: q?.seq, from: q?.from ?? "", text: q ? preview(q) : "an older message" };
}

function message(m, conv, act) {
  const mine = m.from === conv.me, recalled = m.status === "recalled";
  const q = quoted(m, conv);
  const text = recalled ? ["Message recalled"] : m.type === "text" ? words(m.content, m.mention) : [`[${m.type}] ${m.content}`];
  const can = m.seq && !recalled;
  const button = (name, sign) => el("button", { type: "button", title: name, "aria-label": name, "data-act": name.toLowerCase(), onclick: () => act[name.toLowerCase()](m) }, sign);
  return el("article", { class: `msg${mine ? " mine" : ""}${m.seq ? "" : " pending"}${m.failed ? " failed" : ""}${m.status ? " " + m.status : ""}${m.mention?.includes(conv.me) ? " to-me" : ""}`, "data-seq": m.seq, tabindex: "0" },
    conv.group && !mine && el("span", { class: "from" }, m.from),
    q && !recalled && el("button", { type: "button", class: "quote", onclick: () => q.seq && $("messages").querySelector(`[data-seq="${q.seq}"]`)?.scrollIntoView({ block: "center" }) },
      q.from && el("b", {}, q.from), el("span", {}, q.text)),
    el("p", {}, ...text),
    el("footer", {}, m.status === "edited" && el("span", {}, "edited"), el("time", {}, clock(m.ts)),
      mine && (conv.group && m.seq ? el("button", { type: "button", class: "tick", title: "Who has it", onclick: () => act.receipts(m) }) : el("span", { class: "tick" }))),
    can && el("span", { class: "acts" },
      button("Reply", "↩"),
      mine && m.type === "text" && button("Edit", "✎"),
      (mine || act.admin(conv)) && button("Recall", "✕")));
}

// drawTick changes the tick alone: a receipt must not take the focus from a
// message, nor have it read out again.
function drawTick(e, m, conv) {
  const t = e.querySelector(".tick");
  if (!t) return;
  const text = tick(m, conv);
  if (t.textContent !== text) t.textContent = text;
  t.classList.toggle("read", !conv.group && conv.read >= m.seq);
}

// drawMessages keeps the reader's place: at the end it stays there, above it
// the first visible row does not move. A message whose look has not changed keeps
// its element.
export function drawMessages(conv, act) {
  const box = $("messages");
  const fromEnd = box.scrollHeight - box.scrollTop;
  const atEnd = fromEnd - box.clientHeight < 60 || box.dataset.conv !== conv.id;
  const older = box.dataset.oldest !== String(conv.oldest);
  const top = box.scrollTop;
  const had = new Map(box.dataset.conv === conv.id ? [...box.children].map((e) => [e.dataset.key, e]) : []);
  const rows = [];
  const put = (key, look, make) => {
    let e = had.get(key);
    if (e?.dataset.look !== look) { e = make(); e.dataset.key = key; e.dataset.look = look; }
    rows.push(e);
    return e;
  };
  let last = "";
  for (const m of conv.shown()) {
    const d = day(m.ts);
    if (d !== last) put("day " + d, "", () => el("div", { class: "day" }, d));
    last = d;
    const key = m.client_id ? `${m.from} ${m.client_id}` : String(m.seq);
    if (m.type === "system") put(key, m.content, () => el("div", { class: "system", "data-seq": m.seq }, describe(m.content)));
    else drawTick(put(key, JSON.stringify([m.seq, m.status, m.content, m.failed, quoted(m, conv), act.admin(conv)]), () => message(m, conv, act)), m, conv);
  }
  arrange(box, rows);
  box.dataset.conv = conv.id;
  box.dataset.oldest = conv.oldest;
  box.scrollTop = atEnd ? box.scrollHeight : older ? box.scrollHeight - fromEnd : top;
}

// notice shows a line for some seconds.
export function notice(text) {
  const n = $("notice");
  n.textContent = text;
  n.hidden = false;
  clearTimeout(notice.timer);
  notice.timer = setTimeout(() => { n.hidden = true; }, 6000);
}
