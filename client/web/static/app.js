// The chat page: login, the list of conversations, one open conversation.

import { Api } from "./api.js";
import { Connection } from "./connection.js";
import { Conversation } from "./timeline.js";
import { $, ask, avatar, drawConversations, drawMessages, el, field } from "./view.js";

const PAGE = 40; // messages of history asked for at a time
const ID = { required: true, maxlength: 64, pattern: "[A-Za-z0-9._@\\-]+", title: "Letters, digits and . _ @ -" };

const state = { me: "", convs: new Map(), open: null, api: null, conn: null, epoch: "", syncing: null, again: false };

// ---- session

// Each tab is a device of its own, so that two tabs under one name both work.
function device() {
  let d = sessionStorage.getItem("device");
  if (!d) sessionStorage.setItem("device", (d = "web-" + crypto.randomUUID().slice(0, 13)));
  return d;
}

async function logIn(user) {
  const { token } = await new Api().call("POST", "/login", { user, device: device() });
  sessionStorage.setItem("session", JSON.stringify({ user, token }));
  start(user, token);
}

function logOut(message = "") {
  state.conn?.stop();
  sessionStorage.removeItem("session");
  Object.assign(state, { me: "", convs: new Map(), open: null, conn: null, epoch: "" });
  $("chat").hidden = true;
  $("login").hidden = false;
  $("login-error").textContent = message;
  $("login-name").focus();
}

function start(user, token) {
  state.me = user;
  state.api = new Api(token);
  $("login").hidden = true;
  $("chat").hidden = false;
  $("me-name").textContent = user;
  $("me-avatar").replaceWith(Object.assign(avatar(user), { id: "me-avatar" }));
  choose(null);
  state.conn = new Connection(token, {
    open: opened,
    frame: received,
    state: (s) => { $("status").textContent = s; $("status").dataset.state = s; },
    closed: (code) => logOut({ 4001: "Your session has ended. Come in again.", 4003: "You were signed out by an administrator.", 4009: "This tab was opened elsewhere." }[code]),
  });
  state.conn.connect();
}

async function opened(auth) {
  if (state.epoch && state.epoch !== auth.history_epoch) state.convs.clear();
  const first = state.epoch !== auth.history_epoch;
  state.epoch = auth.history_epoch;
  try {
    if (first) await loadConversations();
    await sync();
  } catch (e) { console.warn("sync", e); setTimeout(() => state.conn?.online && sync(), 1000); }
}

// ---- data

function conversation(id) {
  let c = state.convs.get(id);
  if (!c) {
    state.convs.set(id, (c = new Conversation(id)));
    if (c.group) nameGroup(c);
  }
  return c;
}

async function nameGroup(c) {
  try { c.name = (await state.api.get("/groups/" + encodeURIComponent(c.group))).name; draw(); } catch { /* the id will do */ }
}

async function loadConversations() {
  for (const row of await state.api.all("/conversations", "conversations")) {
    const c = conversation(row.conv);
    Object.assign(c, { upto: Math.max(c.upto, row.max_seq), readSeq: row.read_seq, unread: row.unread, last: row.last ?? c.last, delivered: row.delivered ?? 0, read: row.read ?? 0 });
  }
  draw();
}

// sync brings everything after the cursors; calls during one ask for another.
async function sync() {
  if (state.syncing) { state.again = true; return state.syncing; }
  state.syncing = (async () => {
    do {
      state.again = false;
      const cursors = Object.fromEntries([...state.convs].filter(([, c]) => c.upto).map(([id, c]) => [id, c.upto]));
      let page = await state.conn.call("sync", { cursors, limit: 200 });
      for (;;) {
        for (const c of page.conversations) conversation(c.conv).page(c, state.me);
        for (const r of page.refused ?? []) refuse(r);
        page.conversations.forEach((c) => acknowledge(conversation(c.conv)));
        if (!page.more) break;
        page = await state.conn.call("sync", { token: page.token });
      }
    } while (state.again);
  })();
  try { await state.syncing; } finally { state.syncing = null; draw(); }
}

function received(op, body) {
  switch (op) {
    case "msg":
    case "update": {
      const c = conversation(body.conv);
      if (c.push(body, state.me) === "gap") sync().catch(() => {});
      acknowledge(c);
      break;
    }
    case "lagged": sync().catch(() => {}); break;
    case "refused": refuse(body); break;
    case "group": { const c = state.convs.get("g:" + body.group); if (c && body.event === "renamed") c.name = body.name; break; }
    case "receipt": {
      const c = conversation(body.conv);
      if (body.user === state.me) { c.readSeq = Math.max(c.readSeq, body.read); if (body.read >= c.upto) c.unread = 0; }
      else { c.delivered = Math.max(c.delivered, body.delivered); c.read = Math.max(c.read, body.read); }
      break;
    }
    case "send_ack": { const p = state.convs.get(body.conv)?.pending.get(body.client_id); if (p) p.id = body.id; break; }
    default: return;
  }
  draw();
}

function refuse({ conv, client_id: id, code }) {
  const p = state.convs.get(conv)?.pending.get(id);
  if (p) p.failed = code;
}

// acknowledge tells the edge what this tab has and what its user has seen.
function acknowledge(c) {
  clearTimeout(c.timer);
  c.timer = setTimeout(() => {
    if (c === state.open && !document.hidden && (c.unread || c.readSeq < c.upto)) {
      c.readSeq = c.upto;
      c.unread = 0;
      state.conn?.write("read", { conv: c.id, seq: c.upto });
      draw();
    } else state.conn?.write("ack", { conv: c.id, seq: c.upto });
  }, 150);
}

async function older(c) {
  if (c.whole || c.loading) return;
  c.loading = true;
  try {
    const before = c.oldest || c.upto + 1;
    const { messages } = await state.api.get(`/conversations/${encodeURIComponent(c.id)}/messages?before=${before}&limit=${PAGE}`);
    c.history(messages, PAGE);
  } catch (e) { if (e.code === "not_found") c.whole = true; } finally { c.loading = false; }
  draw();
}

async function send(c, content) {
  const m = { conv: c.id, from: state.me, type: "text", content, ts: Date.now(), client_id: crypto.randomUUID() };
  c.pending.set(m.client_id, m);
  c.last = { ...m, seq: c.last?.seq ?? 0 };
  draw();
  try {
    const ack = await state.conn.send({ ...(c.group ? { group: c.group } : { to: c.peer(state.me) }), client_id: m.client_id, type: "text", content });
    m.id = ack.id;
  } catch (e) { m.failed = e.code; }
  draw();
}

// ---- drawing

let drawing = false;
function draw() {
  if (drawing) return;
  drawing = true;
  // A tab in the background has no animation frames, but a title with unread counts.
  (document.hidden ? setTimeout : requestAnimationFrame)(() => {
    drawing = false;
    drawConversations(state.convs.values(), state.open, state.me, choose);
    const c = state.open;
    if (!c) return;
    $("conv-title").textContent = c.title(state.me);
    $("conv-sub").textContent = c.group ? "group " + c.group : "";
    drawMessages(c, state.me);
  });
}

function choose(c) {
  state.open = c;
  $("chat").classList.toggle("open", !!c);
  $("pane").hidden = !c;
  $("blank").hidden = !!c;
  if (c) {
    $("group-info").hidden = !c.group;
    if (!c.oldest) older(c);
    acknowledge(c);
    $("text").focus();
  }
  draw();
}

async function members(c) {
  const path = `/groups/${encodeURIComponent(c.group)}/members`;
  const list = await state.api.all(path, "members");
  const mine = list.find((m) => m.user === state.me)?.role;
  const rows = list.map((m) => el("div", { class: "member" }, avatar(m.user), el("span", { class: "grow" }, m.user), el("small", { class: "muted" }, m.role),
    (m.user === state.me ? m.role !== "owner" : mine === "owner" || (mine === "admin" && m.role === "member")) &&
      el("button", { type: "button", onclick: async (e) => {
        e.target.disabled = true;
        try { await state.api.change("DELETE", `${path}/${encodeURIComponent(m.user)}`); e.target.parentElement.remove(); } catch (err) { $("dialog-error").textContent = err.message; }
      } }, m.user === state.me ? "Leave" : "Remove")));
  const add = ["owner", "admin"].includes(mine);
  if (add) rows.push(field("user", "Add a member", ID));
  await ask(c.title(state.me), rows, add && (async ({ user }) => state.api.change("POST", path, { members: [user] })));
}

// ---- events

$("login-form").onsubmit = async (e) => {
  e.preventDefault();
  try { await logIn($("login-name").value.trim()); } catch (err) { $("login-error").textContent = err.code === "not_found" ? "Logging in by name is off on this server." : err.message ?? String(err); }
};
$("log-out").onclick = () => logOut();
$("back").onclick = () => choose(null);
$("group-info").onclick = () => members(state.open).catch((e) => alert(e.message));
$("new-chat").onclick = async () => {
  const v = await ask("New chat", [field("to", "With", ID)], async (x) => x);
  if (v) choose(conversation(`p:${[state.me, v.to].sort().join(":")}`));
};
$("new-group").onclick = async () => {
  const g = await ask("New group", [field("name", "Name", { required: true, maxlength: 100 }), field("members", "Members, by comma")],
    (v) => state.api.change("POST", "/groups", { name: v.name, members: v.members.split(/[\s,]+/).filter(Boolean) }));
  if (g?.id) { const c = conversation("g:" + g.id); c.name = g.name; choose(c); }
};
$("composer").onsubmit = (e) => {
  e.preventDefault();
  const text = $("text").value.trim();
  if (!text || !state.open) return;
  $("text").value = "";
  send(state.open, text);
};
$("text").onkeydown = (e) => { if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); $("composer").requestSubmit(); } };
$("messages").onscroll = () => { if ($("messages").scrollTop < 80 && state.open?.oldest) older(state.open); };
for (const event of ["focus", "visibilitychange"]) addEventListener(event, () => { if (state.open) acknowledge(state.open); });

const saved = JSON.parse(sessionStorage.getItem("session") ?? "null");
saved ? start(saved.user, saved.token) : logOut();
