// Checks of the page's modules, run in a browser where nobody is logged in
// (deploy/e2e/browser_modules_test.go). It evaluates to what went wrong.
(async () => {
  const wrong = [];
  const equal = (what, got, want) => { if (JSON.stringify(got) !== JSON.stringify(want)) wrong.push(`${what}: ${JSON.stringify(got)}, not ${JSON.stringify(want)}`); };
  const until = async (what, ok) => {
    for (let i = 0; i < 400; i++) { if (ok()) return; await sleep(25); }
    wrong.push(what + ": never");
  };
  const sleep = (ms) => new Promise((go) => setTimeout(go, ms));
  const [{ Api }, { Connection }, { ask, busy, dismiss }, { Mirror }, { People }, { Conversation }] = await Promise.all(
    ["api", "connection", "dialog", "mirror", "people", "timeline"].map((m) => import(`/${m}.js`)));

  // ---- timeline
  const msg = (seq, from = "bob", more = {}) => ({ id: "m" + seq, conv: "p:alice:bob", seq, from, type: "text", content: "text " + seq, ts: 1, ...more });
  const recall = (seq, target_seq) => ({ seq, target_seq, id: "m" + target_seq, status: "recalled" });
  const loaded = (row) => {
    const c = new Conversation("p:alice:bob", "alice");
    c.start({ max_seq: 10, read_seq: 4, unread: 5, ...row });
    c.counts({ max_seq: 10, read_seq: 4, unread: 5, ...row });
    return c;
  };
  let c = loaded();
  const page = [msg(8), msg(9), msg(10)];
  equal("a recall in turn", c.push(recall(11, 9)), "new");
  equal("what it means for the unread is not known", [c.unread, c.unsure], [5, true]);
  c.history(page, 40);
  equal("a recall that came before its message", [c.messages.get(9).status, c.messages.get(9).content], ["recalled", ""]);
  c.counts({ max_seq: 11, read_seq: 4, unread: 4 });
  equal("counted anew", [c.unread, c.unsure], [4, false]);

  c = loaded();
  c.push(msg(11, "bob", { mention: ["alice"] }));
  equal("one more", [c.unread, c.mentioned], [6, true]);
  c.push(recall(12, 11));
  equal("one less", [c.unread, c.mentioned], [5, false]);
  c.push(msg(13, "alice"));
  equal("one's own counts nothing", [c.unread, c.readSeq], [5, 4]);
  c.receipt({ user: "alice", delivered: 13, read: 7 });
  equal("a part read elsewhere", [c.readSeq, c.unsure], [7, true]);
  c.counts({ max_seq: 13, read_seq: 7, unread: 2 });
  c.push(msg(14));
  c.receipt({ user: "alice", delivered: 14, read: 13 });
  equal("all read elsewhere but the last", [c.unread, c.unsure], [1, false]);
  c.receipt({ user: "alice", delivered: 13, read: 12 });
  c.counts({ max_seq: 14, read_seq: 12, unread: 3 });
  equal("a read never goes back", [c.readSeq, c.unread], [13, 1]);
  c.push(msg(15, "bob", { mention: ["alice"] }));
  c.page({ messages: [], updates: [], upto: 15, max_seq: 15, read_seq: 15, unread: 0 });
  equal("a page without unread", [c.unread, c.mentioned], [0, false]);
  c.receipt({ user: "bob", delivered: 15, read: 15 });
  c.receipt({ user: "bob", delivered: 14, read: 3 });
  c.counts({ max_seq: 15, read_seq: 15, unread: 0, delivered: 1, read: 1 });
  equal("a receipt never goes back", [c.delivered, c.read, c.receipts.get("bob")], [15, 15, { delivered: 15, read: 15 }]);

  // ---- mirror
  const sent = [];
  const conn = { online: true, epoch: "one", write: (op, body) => !!sent.push([op, body.seq]), call: async () => ({ conversations: [], more: false }) };
  const api = new Api("none");
  let lists = 0, listed = { conv: "p:alice:bob", max_seq: 10, read_seq: 10, unread: 0 };
  api.get = async () => { if (!lists++) throw { code: "unavailable" }; return { conversations: [listed] }; };
  const mirror = new Mirror("alice", api, conn, { changed() {}, met() {}, open: () => null, restored() {} });
  mirror.behind(true);
  await until("a failed first load is made good", () => mirror.epoch === "one" && !mirror.up.running);
  c = mirror.convs.get("p:alice:bob");
  equal("loaded", [c?.upto, c?.unread], [10, 0]);
  const pushing = Date.now() + 1500;
  for (let seq = 11; Date.now() < pushing; seq++) { mirror.received("msg", msg(seq)); await sleep(20); }
  equal("acks are not put off by a busy conversation", sent.filter(([op, seq]) => op === "ack" && seq < c.upto).length > 2, true);
  listed = { ...listed, max_seq: c.upto + 5, read_seq: 10, unread: c.unread, delivered: 9, read: 8 };
  const { upto } = c;
  mirror.received("lagged", {});
  await until("receipts that were missed", () => c.read === 8 && c.delivered === 9);
  equal("the list moves no cursor", c.upto, upto);

  const big = Array.from({ length: 3 }, (_, i) => ({ user: "a" + i, role: "member" }));
  api.get = async (path) => path.includes("limit=1&") ? { members: [{ user: "alice", role: "admin" }] } : path.includes("/members") ? { members: big, next: "a2" } : { name: "Big", members: 100000 };
  const g = mirror.conversation("g:big");
  mirror.on.open = () => g;
  mirror.know(g);
  await until("the own role in a long list", () => g.role === "admin" && g.count === 100000 && g.members.length === 3);
  api.get = async () => { throw { code: "not_member" }; };
  mirror.know(g);
  await until("out of the group", () => g.out && !g.members.length);

  const people = new People(() => {}), asked = [];
  const crowd = Array.from({ length: 450 }, (_, i) => "u" + i);
  const watcher = { call: async (op, { users }) => { asked.push(users.length); if (asked.length === 2) throw { code: "unavailable" }; return { user: users[0], online: true }; } };
  await people.watch(watcher, crowd).catch(() => {});
  await people.watch(watcher, crowd);
  equal("presence is asked for in parts, and again after an error", [asked, people.watched.size], [[200, 200, 200, 50], 450]);

  // ---- api and connection, on a network of their own
  const real = { fetch: window.fetch, WebSocket: window.WebSocket };
  const answers = {};
  window.fetch = async (url) => new Response(JSON.stringify(answers[url][1]), { status: answers[url][0] });
  const sockets = [];
  window.WebSocket = class {
    constructor() { sockets.push(this); setTimeout(() => this.onmessage({ data: JSON.stringify({ op: "auth_ok", body: { heartbeat_ms: 60000, history_epoch: "x" } }) })); }
    send() {}
    close(code) { setTimeout(() => this.onclose({ code })); }
  };
  try {
    answers["/v1/groups/g"] = [202, { operation: "7" }];
    answers["/v1/operations/7"] = [200, { operation: "7", done: true, code: "forbidden" }];
    equal("a late refusal", await new Api("t").change("PATCH", "/groups/g", {}).catch((e) => e.code), "forbidden");
    answers["/v1/operations/7"] = [202, { operation: "7", done: false }];
    setTimeout(() => { answers["/v1/operations/7"] = [200, { operation: "7", done: true }]; }, 300);
    equal("a late yes", (await new Api("t").change("PATCH", "/groups/g", {})).done, true);

    let closed = 0, frames = 0;
    const on = { open() {}, frame() { frames++; }, state() {}, closed: (code) => { closed = code; } };
    answers["/v1/edges"] = [403, { error: { code: "banned" } }];
    new Connection("t", on).connect();
    await until("a ban ends the session", () => closed === 4003);
    answers["/v1/edges"] = [200, [{ url: "ws://edge" }]];
    const k = new Connection("t", on);
    k.connect();
    await until("online", () => k.online);
    k.receive({ op: "reconnect", body: { after_ms: 1500 } });
    const told = Date.now();
    await until("moved", () => sockets.length === 2 && k.online);
    equal("moved once, and at once", Date.now() - told < 2900 || "late", true);
    const call = k.call("sync", {}).catch((e) => e.code), send = k.send({ client_id: "c" }).catch((e) => e.code);
    k.stop();
    equal("a log-out leaves nothing waiting", await Promise.all([call, send]), ["unavailable", "unavailable"]);
    equal("nor writes", k.write("ack", {}), false);
    sockets[1].onmessage({ data: JSON.stringify({ op: "msg", body: {} }) });
    equal("nor takes what comes late", frames, 0);
  } finally { Object.assign(window, real); }

  const ended = new Api("t"), late = ended.get("/edges").catch((e) => e.message);
  ended.stop();
  equal("a log-out ends requests", await late, "Logged out.");

  // ---- dialog
  const first = ask("First", []);
  const second = ask("Second", [], async () => {});
  equal("a newer question ends the former", await first, null);
  await sleep(50); // the former's close event
  busy(async () => { throw { message: "no" }; });
  await until("an error shows", () => document.querySelector("#dialog-error").textContent === "no" && !document.querySelector("#dialog-ok").disabled);
  equal("and the dialog stays", document.querySelector("#dialog").open, true);
  dismiss();
  equal("left", [await second, document.querySelector("#dialog").open], [null, false]);
  return wrong;
})();
