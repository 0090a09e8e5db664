package check

import (
	"encoding/json"
	"fmt"
	"hash/maphash"

	"github.com/starling-im/starling/common/wire"
)

// maxSeq bounds the seqs that are believed: a set of them is a bit each.
const maxSeq = 1 << 28

// entry is what stands under a seq: a message or a change of one.
type entry struct {
	id     wire.MsgID
	from   wire.UserID
	cid    string
	typ    wire.MsgType
	ts     int64 // ms, of a message
	target int64 // of a change: the seq that it changes
	state  state // of a system message: its text; of a change: what it makes of its target,
	own    bool  // as it was pushed; sync shows the target's present text instead
	event  *wire.GroupEvent
	first  int64 // event that showed it first
}

// state is how a message looks: status and a hash of its text.
type state struct {
	status string
	text   uint64
}

// name identifies a message in its conversation: by whom, and how it was called.
type name struct {
	from wire.UserID
	cid  string
}

// place is where a message stands.
type place struct {
	conv wire.ConvID
	seq  int64
}

// timeline is a conversation as everybody together was shown it.
type timeline struct {
	conv    wire.ConvID
	parsed  wire.Conv
	known   seqset
	entries map[int64]*entry
	byName  map[name]int64
	changes map[int64][]int64 // target → seqs of its changes, as they were seen
	created *call             // of a group: the call that made it
	asked   commands
	admins  map[wire.UserID]bool // who ever was one
}

func newTimeline(conv wire.ConvID) *timeline {
	t := &timeline{
		conv: conv, entries: make(map[int64]*entry), byName: make(map[name]int64),
		changes: make(map[int64][]int64), asked: make(commands), admins: make(map[wire.UserID]bool),
	}
	t.parsed, _ = conv.Parse() // of none: nobody is a member
	return t
}

// sameThing says whether two sights of one seq are of one thing.
func (e *entry) sameThing(o *entry) bool {
	return e.id == o.id && e.target == o.target && e.from == o.from && e.cid == o.cid && e.typ == o.typ && e.ts == o.ts &&
		e.state.status == o.state.status && (!e.own || !o.own || e.state.text == o.state.text)
}

func (e *entry) String() string {
	if e.target > 0 {
		return fmt.Sprintf("%s of seq %d", e.state.status, e.target)
	}
	return fmt.Sprintf("message %v of %s %q", e.id, e.from, e.cid)
}

var hashSeed = maphash.MakeSeed() //nolint:gochecknoglobals // hashes are compared within one process

func hashOf(text string) uint64 { return maphash.String(hashSeed, text) }

func stateOf(status, text string) state { return state{status, hashOf(text)} }

// sawMsg enters a message that somebody was shown.
func (c *Checker) sawMsg(t *timeline, m *wire.Msg, conn, at int64) bool {
	e := &entry{id: m.ID, from: m.From, cid: m.ClientID, typ: m.Type, ts: m.TS, first: at}
	if m.Type == wire.TypeSystem {
		e.state, e.own = stateOf(m.Status, m.Content), true
		ev := new(wire.GroupEvent)
		if json.Unmarshal([]byte(m.Content), ev) == nil {
			e.event = ev
		}
	}
	return c.saw(t, m.Seq, e, conn, at)
}

// sawUpdate enters a change that somebody was shown, by a push or by a sync that
// was asked for with an event.
func (c *Checker) sawUpdate(t *timeline, u *wire.Update, cn *conn, asked, at int64) bool {
	e := &entry{id: u.ID, target: u.TargetSeq, state: stateOf(u.Status, u.Content), first: at, own: asked < 0}
	if !c.saw(t, u.Seq, e, cn.no, at) {
		return false
	}
	if !e.own && u.Status == wire.StatusEdited && u.Content != "" {
		c.pending = append(c.pending, sight{
			conv: t.conv, seq: u.TargetSeq, look: e.state, conn: cn.no, after: max(u.Seq, t.changedBefore(u.TargetSeq, asked)), event: at, change: true,
		})
	}
	return true
}

// changedBefore is the newest change of a message that anybody had been shown
// before an event; 0: none.
func (t *timeline) changedBefore(seq, event int64) (newest int64) {
	for _, change := range t.changes[seq] {
		if t.entries[change].first < event {
			newest = max(newest, change)
		}
	}
	return newest
}

// saw compares with what stands under the seq, or enters it. False: it cannot be
// believed.
func (c *Checker) saw(t *timeline, seq int64, e *entry, conn, at int64) bool {
	if seq < 1 || seq > maxSeq {
		c.bad(Violation{Rule: Corrupt, Text: fmt.Sprintf("%s has seq %d in %s", e, seq, t.conv), Conv: t.conv, Conns: one(conn), Event: at})
		return false
	}
	old := t.entries[seq]
	if old == nil {
		c.enter(t, seq, e, conn, at)
		return true
	}
	if !old.sameThing(e) {
		c.bad(Violation{
			Rule: Order, Text: fmt.Sprintf("seq %d of %s is %s to one and %s to another", seq, t.conv, old, e),
			Conv: t.conv, Seq: seq, Conns: one(conn), Event: at,
		})
	}
	if e.own && !old.own {
		old.state, old.own = e.state, true
	}
	return true
}

func (c *Checker) enter(t *timeline, seq int64, e *entry, conn, at int64) {
	t.entries[seq] = e
	t.known.add(seq)
	v := Violation{Rule: Repeated, Conv: t.conv, Seq: seq, From: e.from, ClientID: e.cid, Conns: one(conn), Event: at}
	if e.target > 0 {
		t.changes[e.target] = append(t.changes[e.target], seq)
		return
	}
	if first, ok := c.ids[e.id]; ok {
		v.Text = fmt.Sprintf("id %v stands under seq %d of %s and %d of %s", e.id, first.seq, first.conv, seq, t.conv)
		c.bad(v)
	}
	c.ids[e.id] = place{t.conv, seq}
	if e.typ == wire.TypeSystem {
		if ev := e.event; ev != nil && (ev.Event == wire.EventCreated || ev.Event == wire.EventRole && ev.Role != "member") {
			t.admins[ev.User] = true
		}
		return
	}
	n := name{e.from, e.cid}
	if first, ok := t.byName[n]; ok {
		v.Text = fmt.Sprintf("%s of %s stands under seq %d and %d of %s", e.cid, e.from, first, seq, t.conv)
		c.bad(v)
	}
	t.byName[n] = seq
}

// span is a membership: the seqs that it shows, both ends included.
type span struct{ from, to int64 }

const forever = 1 << 62

// spans are the memberships of every user, read from the timeline. A group's
// first members are those of the call that made it.
func (t *timeline) spans() map[wire.UserID][]span {
	out := make(map[wire.UserID][]span)
	if t.parsed.Group == "" {
		out[t.parsed.A], out[t.parsed.B] = []span{{1, forever}}, []span{{1, forever}}
		return out
	}
	open := make(map[wire.UserID]int64)
	join := func(u wire.UserID, seq int64) {
		if _, in := open[u]; !in && u != "" {
			open[u] = seq
		}
	}
	leave := func(u wire.UserID, seq int64) {
		if from, in := open[u]; in {
			out[u] = append(out[u], span{from, seq})
			delete(open, u)
		}
	}
	t.known.each(func(seq int64) bool {
		ev := t.entries[seq].event
		if ev == nil {
			return true
		}
		switch ev.Event {
		case wire.EventCreated:
			join(ev.User, seq)
			join(ev.By, seq)
			if t.created != nil {
				for _, u := range t.created.users {
					join(u, seq)
				}
			}
		case wire.EventJoined:
			join(ev.User, seq)
		case wire.EventLeft, wire.EventRemoved:
			leave(ev.User, seq)
		case wire.EventDismissed:
			for u := range open {
				leave(u, seq)
			}
		}
		return true
	})
	for u := range open {
		out[u] = append(out[u], span{open[u], forever})
	}
	return out
}

func within(spans []span, seq int64) bool {
	for _, s := range spans {
		if seq >= s.from && seq <= s.to {
			return true
		}
	}
	return false
}

func one(conn int64) []int64 {
	if conn == 0 {
		return nil
	}
	return []int64{conn}
}
