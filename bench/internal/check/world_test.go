package check

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

// world is a system without a fault in which everything happens at once, and what
// its people do by chance. What it writes is clean.
type world struct {
	tape
	rng   *rand.Rand
	talks []*talk
	all   []*client
	calls int64
	conns int64
	ids   wire.MsgID
	cids  int
}

// talk is a conversation: entries by seq from 1, and who sees which.
type talk struct {
	conv    wire.ConvID
	msgs    map[int64]*wire.Msg // as they stand
	updates map[int64]*wire.Update
	top     int64
	own     map[wire.UserID][]span
	said    map[wire.UserID][2]int64 // delivered, read
}

// client is a device.
type client struct {
	user   wire.UserID
	device wire.DeviceID
	conn   int64                 // 0: away
	at     map[wire.ConvID]int64 // cursors
	slow   bool                  // the next push is left out
}

func newWorld(seed uint64) *world {
	w := &world{tape: tape{who: make(map[int64]deviceKey)}, rng: rand.New(rand.NewPCG(seed, 1)), ids: 1000}
	w.add(trace.Event{Kind: trace.Begin, Text: trace.Version, Run: &trace.Run{Seed: seed}})
	for _, u := range []wire.UserID{"alice", "bob", "carl", "dora"} {
		w.all = append(w.all, &client{user: u, device: "phone", at: make(map[wire.ConvID]int64)})
	}
	w.all = append(w.all, &client{user: "alice", device: "web", at: make(map[wire.ConvID]int64)})
	for _, c := range []wire.ConvID{private, "p:alice:carl", group} {
		t := &talk{conv: c, msgs: map[int64]*wire.Msg{}, updates: map[int64]*wire.Update{}, own: map[wire.UserID][]span{}, said: map[wire.UserID][2]int64{}}
		if p, _ := c.Parse(); p.Group == "" {
			t.own[p.A], t.own[p.B] = []span{{1, forever}}, []span{{1, forever}}
		}
		w.talks = append(w.talks, t)
	}
	for _, d := range w.all {
		w.connect(d)
	}
	g := w.talks[2]
	w.command(g, trace.OpCreate, "alice", []wire.UserID{"bob", "carl"}, func() {
		for _, u := range []wire.UserID{"alice", "bob", "carl"} {
			g.own[u] = []span{{1, forever}}
		}
		w.event(g, wire.EventCreated, "alice", "alice")
	})
	w.add(trace.Event{Kind: trace.Phase, Text: trace.PhaseWork})
	return w
}

// live lets n things happen, and ends the record.
func (w *world) live(n int) *tape {
	for range n {
		w.step()
	}
	w.add(trace.Event{Kind: trace.Phase, Text: trace.PhaseRest})
	for _, d := range w.all {
		if d.conn == 0 {
			w.connect(d)
		}
		w.say(d)
	}
	w.add(trace.Event{Kind: trace.Phase, Text: trace.PhaseCalm})
	for range settling / 1000 {
		w.add(trace.Event{Kind: trace.Note})
	}
	w.add(trace.Event{Kind: trace.Phase, Text: trace.PhaseRead})
	for _, d := range w.all {
		w.sync(d, maps.Clone(d.at))
		if d.device != "phone" {
			continue
		}
		all := make(map[wire.ConvID]int64)
		for _, t := range w.talks {
			all[t.conv] = 0
		}
		w.sync(d, all)
		for _, t := range w.talks {
			w.history(t, d.user)
		}
	}
	w.add(trace.Event{Kind: trace.Phase, Text: trace.PhaseFinish})
	return &w.tape
}

func (w *world) step() {
	d, t := w.all[w.rng.IntN(len(w.all))], w.talks[w.rng.IntN(len(w.talks))]
	switch k := w.rng.IntN(20); {
	case k < 2 && d.conn != 0:
		w.add(trace.Event{Kind: trace.Close, Conn: d.conn, Text: "closed by this side"})
		d.conn = 0
	case d.conn == 0:
		w.connect(d)
	case k < 6:
		w.say(d)
	case k < 9:
		w.change(d, t)
	case k < 10:
		w.members(d.user)
	case k < 11:
		d.slow = true
	default:
		w.send(d, t)
	}
}

func (w *world) connect(d *client) {
	w.conns++
	d.conn, d.slow = w.conns, false
	w.open(d.conn, d.user, d.device)
	w.sync(d, maps.Clone(d.at))
}

func (t *talk) sees(u wire.UserID, seq int64) bool { return within(t.own[u], seq) }

// give pushes a seq to whom it is for, or tells them that it was left out.
func (w *world) give(t *talk, seq int64) {
	for _, d := range w.all {
		if d.conn == 0 || !t.sees(d.user, seq) {
			continue
		}
		if d.slow {
			d.slow = false
			w.add(trace.Event{Kind: trace.Lagged, Conn: d.conn, Lagged: &wire.Lagged{Convs: map[wire.ConvID][2]int64{t.conv: {seq, seq}}}})
			w.sync(d, maps.Clone(d.at))
			continue
		}
		d.at[t.conv] = seq
		if u := t.updates[seq]; u != nil {
			x := *u
			w.add(trace.Event{Kind: trace.Update, Conn: d.conn, Update: &x})
		} else {
			x := *t.msgs[seq]
			w.add(trace.Event{Kind: trace.Msg, Conn: d.conn, Msg: &x})
		}
	}
}

func (w *world) send(d *client, t *talk) {
	if _, known := t.own[d.user]; !known {
		return
	}
	w.cids++
	cid := fmt.Sprintf("m%d", w.cids)
	content := "text of " + cid
	e := trace.Event{Kind: trace.Due, User: d.user, Conv: t.conv, ClientID: cid, Content: content}
	w.add(e)
	e.Kind, e.Conn = trace.Send, d.conn
	w.add(e)
	if !t.sees(d.user, t.top+1) {
		e.Kind, e.Code = trace.Fail, string(wire.CodeNotMember)
		w.add(e)
		return
	}
	w.ids++
	t.top++
	t.msgs[t.top] = &wire.Msg{ID: w.ids, Conv: t.conv, Seq: t.top, From: d.user, Type: wire.TypeText, Content: content, ClientID: cid, TS: 7 + t.top}
	w.give(t, t.top)
	e.Kind, e.ID = trace.Ack, w.ids
	w.add(e)
	if w.rng.IntN(4) == 0 { // and once more
		e.Kind = trace.Send
		w.add(e)
		e.Kind = trace.Ack
		w.add(e)
	}
}

// change edits or recalls one of the user's own.
func (w *world) change(d *client, t *talk) {
	for _, seq := range slices.Backward(slices.Sorted(maps.Keys(t.msgs))) {
		m := t.msgs[seq]
		if m.From != d.user || m.Type == wire.TypeSystem || m.Status == wire.StatusRecalled || !t.sees(d.user, t.top+1) {
			continue
		}
		w.calls++
		w.cids++
		e := trace.Event{Kind: trace.Call, Call: w.calls, Conn: d.conn, Op: trace.OpEdit, Conv: t.conv, ID: m.ID, Content: fmt.Sprintf("edit %d", w.cids)}
		m.Status, m.Content = wire.StatusEdited, e.Content
		if w.rng.IntN(3) == 0 {
			e.Op, e.Content, m.Status, m.Content = trace.OpRecall, "", wire.StatusRecalled, ""
		}
		w.add(e)
		t.top++
		t.updates[t.top] = &wire.Update{Conv: t.conv, Seq: t.top, ID: m.ID, TargetSeq: seq, Status: m.Status, Content: m.Content}
		w.give(t, t.top)
		w.add(trace.Event{Kind: trace.Return, Call: e.Call, Conn: d.conn})
		return
	}
}

func (w *world) command(t *talk, op string, by wire.UserID, users []wire.UserID, do func()) {
	w.calls++
	call := w.calls
	w.add(trace.Event{Kind: trace.Call, Call: call, User: by, Op: op, Conv: t.conv, Users: users})
	do()
	w.add(trace.Event{Kind: trace.Return, Call: call})
}

func (w *world) event(t *talk, event string, user, by wire.UserID) {
	w.ids++
	t.top++
	b, _ := json.Marshal(wire.GroupEvent{Group: "team", Event: event, User: user, By: by})
	t.msgs[t.top] = &wire.Msg{ID: w.ids, Conv: t.conv, Seq: t.top, From: by, Type: wire.TypeSystem, Content: string(b), TS: 7 + t.top}
	w.give(t, t.top)
}

// members lets a user into the group, or out of it.
func (w *world) members(u wire.UserID) {
	g := w.talks[2]
	one := []wire.UserID{u}
	switch own := g.own[u]; {
	case u == "alice":
	case !g.sees(u, g.top+1):
		w.command(g, trace.OpAdd, "alice", one, func() {
			g.own[u] = append(own, span{g.top + 1, forever})
			w.event(g, wire.EventJoined, u, "alice")
		})
	default:
		op, ev, by := trace.OpRemove, wire.EventRemoved, wire.UserID("alice")
		if w.rng.IntN(2) == 0 {
			op, ev, by = trace.OpLeave, wire.EventLeft, u
		}
		w.command(g, op, by, one, func() {
			own[len(own)-1].to = g.top + 1
			w.event(g, ev, u, by)
		})
	}
}

// say acknowledges or reads up to the cursor, of which the others hear.
func (w *world) say(d *client) {
	for _, t := range w.talks {
		at := d.at[t.conv]
		if at == 0 || !t.sees(d.user, t.top) {
			continue
		}
		op, said := trace.OpAck, t.said[d.user]
		if said[0] = max(said[0], at); w.rng.IntN(2) == 0 {
			op, said[1] = trace.OpRead, max(said[1], at)
		}
		w.add(trace.Event{Kind: trace.Cursor, Conn: d.conn, Conv: t.conv, Seq: at, Op: op})
		if said == t.said[d.user] {
			continue
		}
		t.said[d.user] = said
		for _, o := range w.all {
			if o != d && o.conn != 0 && t.sees(o.user, t.top+1) {
				w.add(trace.Event{Kind: trace.Receipt, Conn: o.conn, Receipt: &wire.Receipt{Conv: t.conv, User: d.user, Delivered: said[0], Read: said[1]}})
			}
		}
	}
}

// end is the last seq that a user sees; 0: none.
func (t *talk) end(u wire.UserID) int64 {
	if own := t.own[u]; len(own) > 0 {
		return min(t.top, own[len(own)-1].to)
	}
	return 0
}

func (w *world) sync(d *client, cursors map[wire.ConvID]int64) {
	w.calls++
	w.add(trace.Event{Kind: trace.Sync, Conn: d.conn, Call: w.calls, Cursors: cursors})
	page := &wire.SyncOK{}
	for _, t := range w.talks {
		end := t.end(d.user)
		if cursors[t.conv] >= end {
			continue
		}
		own := t.own[d.user]
		sc := wire.SyncConv{Conv: t.conv, MaxSeq: end, MinSeq: own[len(own)-1].from, Upto: end, ReadSeq: t.said[d.user][1]}
		if p, _ := t.conv.Parse(); p.Group == "" {
			sc.Delivered, sc.Read = t.said[p.Peer(d.user)][0], t.said[p.Peer(d.user)][1]
		}
		for seq := int64(1); seq <= end; seq++ {
			m := t.msgs[seq]
			if !t.sees(d.user, seq) {
				continue
			}
			if m != nil && seq > sc.ReadSeq && m.From != d.user && m.Type == wire.TypeText && m.Status != wire.StatusRecalled {
				sc.Unread++
			}
			switch u := t.updates[seq]; {
			case seq <= cursors[t.conv]:
			case m != nil:
				sc.Messages = append(sc.Messages, *m)
			default:
				x := *u
				if x.Content = ""; t.sees(d.user, x.TargetSeq) && x.Status == wire.StatusEdited {
					x.Content = t.msgs[x.TargetSeq].Content
				}
				sc.Updates = append(sc.Updates, x)
			}
		}
		d.at[t.conv] = max(d.at[t.conv], end)
		page.Conversations = append(page.Conversations, sc)
	}
	w.add(trace.Event{Kind: trace.Page, Conn: d.conn, Call: w.calls, Page: page})
	w.add(trace.Event{Kind: trace.Return, Call: w.calls, Conn: d.conn})
}

func (w *world) history(t *talk, u wire.UserID) {
	if len(t.own[u]) == 0 {
		return
	}
	w.calls++
	w.add(trace.Event{Kind: trace.Call, Call: w.calls, User: u, Op: trace.OpHistory, Conv: t.conv})
	e := trace.Event{Kind: trace.History, Call: w.calls, User: u, Conv: t.conv}
	for _, seq := range slices.Sorted(maps.Keys(t.msgs)) {
		if t.sees(u, seq) {
			e.Messages = append(e.Messages, *t.msgs[seq])
		}
	}
	w.add(e)
}
