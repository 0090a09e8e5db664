// The chat page: login, the list of conversations, one open conversation.

import { Api } from "./api.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { ask, dismiss, field } from "./dialog.js";
import { ID, manage } from "./group.js";
import { Mirror } from "./mirror.js";
import { People } from "./people.js";
import { Task } from "./task.js";
import { $, avatar, drawConversations, drawMessages, el, notice } from "./view.js";

const people = new People(() => draw());
const state = { me: "", open: null, api: null, conn: null, mirror: null };

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
  state.api?.stop();
  dismiss();
  people.forget();
  sessionStorage.removeItem("session");
  for (const list of ["conversations", "messages"]) $(list).replaceChildren(); // the next user's rows look different
  Object.assign(state, { me: "", open: null, api: null, conn: null, mirror: null });
  $("chat").hidden = true;
  $("login").hidden = false;
  $("login-error").textContent = message;
  $("login-name").focus();
}

function start(user, token) {
  const api = new Api(token);
  const conn = new Connection(token, {
    open: () => mirror.behind(true),
    frame: received,
    state: (s) => { $("status").textContent = s; $("status").dataset.state = s; if (s !== "online") people.forget(); },
    closed: (code) => logOut({ 4001: "Your session has ended. Come in again.", 4003: "You were signed out by an administrator.", 4009: "This tab was opened elsewhere." }[code]),
  });
  const watching = new Task(() => people.watch(conn, [...mirror.convs.values()].filter((c) => !c.group && c.peer !== user).map((c) => c.peer)), () => conn.online);
  const mirror = new Mirror(user, api, conn, {
    changed: draw,
    met: () => watching.run(),
    open: () => state.open,
    restored: (id) => choose(mirror.conversation(id)),
  });
  Object.assign(state, { me: user, api, conn, mirror });
  $("login").hidden = true;
  $("chat").hidden = false;
  $("me-name").textContent = user;
  $("me-avatar").replaceWith(Object.assign(avatar(user), { id: "me-avatar" }));
  choose(null);
  conn.connect();
}

function received(op, body) {
  if (state.mirror.received(op, body)) {
    if (op === "msg") people.writes(body.conv, body.from, 0);
    return;
  }
  switch (op) {
    case "presence": people.presence(body); break;
    case "typing":
      if (body.from !== state.me) people.writes(body.group ? "g:" + body.group : privately(body.from), body.from);
      break;
    case "broadcast": notice(body.type === "text" ? body.content : `[${body.type}]`);
  }
}

const privately = (user) => `p:${[state.me, user].sort().join(":")}`;

// ---- what one does

const act = {
  reply: (m) => composer.answer(m),
  edit: (m) => composer.change(m),
  recall: (m) => state.conn.call("recall", { conv: m.conv, id: m.id }).catch((e) => notice(e.message)),
  admin: (c) => ["owner", "admin"].includes(c.role),
  async receipts(m) {
    try {
      const { receipts } = await state.api.get(`/conversations/${encodeURIComponent(m.conv)}/receipts?seq=${m.seq}&limit=500`);
      await ask("Who has it", receipts.filter((r) => r.user !== state.me).map((r) => el("div", { class: "member" }, avatar(r.user), el("span", { class: "grow" }, r.user),
        el("small", { class: "muted" }, r.read >= m.seq ? "✓✓ read" : r.delivered >= m.seq ? "✓✓ delivered" : "✓ sent"))));
    } catch (e) { notice(e.message); }
  },
};

// edit keeps the text of an edit that failed, and opens it again where that
// takes nothing from the user.
async function edit(m, content) {
  const c = state.open;
  m.draft = content;
  try {
    await state.conn.call("edit", { conv: m.conv, id: m.id, content });
    delete m.draft;
  } catch (e) {
    notice(e.message);
    if (c === state.open && composer.idle) composer.change(m);
  }
}

// ---- drawing

let drawing = false;
function draw() {
  if (drawing) return;
  drawing = true;
  // A tab in the background has no animation frames, but a title with unread counts.
  (document.hidden ? setTimeout : requestAnimationFrame)(() => {
    drawing = false;
    if (!state.mirror) return;
    drawConversations(state.mirror.convs.values(), { open: state.open, choose, people });
    const c = state.open;
    if (!c) return;
    $("conv-title").textContent = c.title;
    $("conv-sub").textContent = people.writers(c.id) || (c.group ? (c.count ? `${c.count} ${c.count === 1 ? "member" : "members"}` : "") : people.about(c.peer));
    composer.lock(c.out);
    drawMessages(c, act);
  });
}

function choose(c) {
  state.open = c;
  composer.clear();
  $("chat").classList.toggle("open", !!c);
  $("pane").hidden = !c;
  $("blank").hidden = !!c;
  if (c) {
    $("group-info").hidden = !c.group;
    if (c.group) state.mirror.know(c);
    if (!c.oldest) state.mirror.older(c);
    state.mirror.acknowledge(c);
    composer.lock(c.out);
    $("text").focus();
  }
  draw();
}

const composer = new Composer({
  send(text, { reply, mention }) {
    people.sent();
    state.mirror.send(state.open, text, { ...(reply && { reply_to: reply.id }), ...(mention.length && { mention }) });
  },
  edit,
  writing: () => people.weWrite(state.conn, state.open),
  names: () => (state.open?.group ? state.open.members.map((m) => m.user) : []),
});

// ---- events

$("login-form").onsubmit = async (e) => {
  e.preventDefault();
  try { await logIn($("login-name").value.trim()); } catch (err) { $("login-error").textContent = err.code === "not_found" ? "Logging in by name is off on this server." : err.message ?? String(err); }
};
$("log-out").onclick = () => logOut();
$("back").onclick = () => choose(null);
$("group-info").onclick = () => {
  const c = state.open;
  const { api, mirror } = state;
  manage(api, c).catch((e) => notice(e.message)).finally(() => mirror.know(c));
};
$("new-chat").onclick = async () => {
  const v = await ask("New chat", [field("to", "With", ID)], async (x) => x);
  if (v) choose(state.mirror.conversation(privately(v.to)));
};
$("new-group").onclick = async () => {
  const id = crypto.randomUUID().slice(0, 18); // made here: a late verdict (202) does not name it
  const name = await ask("New group", [field("name", "Name", { required: true, maxlength: 100 }), field("members", "Members, by comma")],
    async ({ name, members }) => { await state.api.change("POST", "/groups", { id, name, members: members.split(/[\s,]+/).filter(Boolean) }); return name; });
  if (name) choose(Object.assign(state.mirror.conversation("g:" + id), { name }));
};
$("messages").onscroll = () => { if ($("messages").scrollTop < 80 && state.open?.oldest) state.mirror.older(state.open); };
for (const event of ["focus", "visibilitychange"]) addEventListener(event, () => { if (state.open) state.mirror.acknowledge(state.open); });

const saved = JSON.parse(sessionStorage.getItem("session") ?? "null");
saved ? start(saved.user, saved.token) : logOut();
