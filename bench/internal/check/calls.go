package check

import (
	"fmt"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

// call is a question whose answer is awaited, or a change that was asked for.
type call struct {
	user    wire.UserID
	conn    *conn
	op      string
	conv    wire.ConvID
	users   []wire.UserID
	began   int64    // event
	t       int64    // µs, of a sync
	tallies []*tally // of a change: what its answer counts for
	wish    *wish    // of a recall or an edit

	// Of a sync: the cursors that the client named, and those that the next page
	// goes on from; when it was asked, what was known of its user's conversations,
	// what its connection had said to have read, and whether the server may not have
	// known the device yet.
	cursors, known, tops map[wire.ConvID]int64
	read                 map[wire.ConvID]post
	fresh                bool
}

// reading is what history showed somebody.
type reading struct {
	user  wire.UserID
	conv  wire.ConvID
	seen  seqset
	event int64
}

// denial is history that somebody was refused.
type denial struct {
	user  wire.UserID
	conv  wire.ConvID
	code  string
	event int64
}

// headSaid is what a page says of a conversation as a whole.
type headSaid struct {
	user              wire.UserID
	conv              wire.ConvID
	read, unread, top int64
	event             int64
}

func (c *Checker) calling(e *trace.Event) {
	switch e.Kind { //nolint:exhaustive // the caller has picked
	case trace.Sync:
		c.sync(e)
	case trace.Page:
		if k := c.calls[e.Call]; k != nil && k.conn != nil && e.Page != nil {
			c.page(k, e)
		}
	case trace.Call:
		k := &call{user: e.User, conn: c.conns[e.Conn], op: e.Op, conv: e.Conv, users: e.Users, began: e.N}
		c.calls[e.Call] = k
		switch e.Op {
		case trace.OpRecall, trace.OpEdit:
			c.counts.Changes++
			k.wish = c.wish(e)
			k.tallies = append(k.tallies, &k.wish.tally)
		case trace.OpHistory:
		default:
			c.counts.Commands++
			t := c.timeline(e.Conv)
			if t.ask(k, e); e.Op == trace.OpCreate {
				t.created = k
			}
		}
	case trace.Return:
		if k := c.calls[e.Call]; k != nil {
			c.returned(k, e)
		}
		delete(c.calls, e.Call)
	case trace.History:
		if k := c.calls[e.Call]; k != nil {
			c.history(k, e)
			delete(c.calls, e.Call)
		}
	}
}

// page judges one answer to sync.
func (c *Checker) page(k *call, e *trace.Event) {
	c.counts.Synced++
	for i := range e.Page.Refused {
		r := &e.Page.Refused[i]
		c.sending(&trace.Event{N: e.N, T: e.T, Kind: trace.Refused, User: k.user, Conn: k.conn.no, Conv: r.Conv, ClientID: r.ClientID, ID: r.ID, Code: string(r.Code)})
	}
	for i := range e.Page.Conversations {
		c.pageOf(k, &e.Page.Conversations[i], e)
	}
}

func (c *Checker) pageOf(k *call, p *wire.SyncConv, e *trace.Event) {
	v := k.conn.dev.view(p.Conv)
	first := !v.paged
	got := c.shownBy(k, p, v, e)
	v.paged = v.paged || got.n > 0
	from, named := k.from(p.Conv)
	if low := got.min(); !named && low > 0 && k.fresh {
		// After a cursor that the user said, or from the beginning.
		from = k.conn.user.of(p.Conv).said.floor(low - 1)
		if first && from > 0 { // anew, where it has come before and was shown nothing
			v.from = from + 1
		}
	}
	if named || got.n > 0 {
		c.leftOut(k, p, got, from, e.N)
	}
	k.known[p.Conv] = p.Upto
	if p.MinSeq > 1 {
		c.begins = append(c.begins, gap{conn: k.conn.no, user: k.user, conv: p.Conv, from: p.MinSeq, to: p.MinSeq, event: e.N})
	}
	if c.atRead {
		c.heads = append(c.heads, headSaid{k.user, p.Conv, p.ReadSeq, p.Unread, p.MaxSeq, e.N})
	}
	if said := k.read[p.Conv]; p.ReadSeq < said.seq && c.faults.at(said.t, e.T) == nil {
		c.bad(Violation{
			Rule: Receipt, Text: fmt.Sprintf("%s said to have read %d of %s, and the sync after it says %d", k.conn, said.seq, p.Conv, p.ReadSeq),
			Conv: p.Conv, Seq: said.seq, Conns: one(k.conn.no), Event: e.N,
		})
	}
	c.cursorSaid(k.user, p, k.began, e.N)
}

// shownBy enters what a page shows of a conversation, and returns its seqs.
func (c *Checker) shownBy(k *call, p *wire.SyncConv, v *view, e *trace.Event) *seqset {
	t := c.timeline(p.Conv)
	got := new(seqset)
	take := func(seq int64) {
		got.add(seq)
		if v.seen.add(seq) {
			c.delivered(k.conn, t, seq, e)
		}
	}
	for i := range p.Messages {
		m := p.Messages[i]
		m.Conv = p.Conv
		if c.sawMsg(t, &m, k.conn.no, e.N) {
			c.sight(t, &m, k.conn, k.began, e.N)
			take(m.Seq)
		}
	}
	for i := range p.Updates {
		if c.sawUpdate(t, &p.Updates[i], k.conn, k.began, e.N) {
			take(p.Updates[i].Seq)
		}
	}
	return got
}

// leftOut notes what a page should hold after a cursor and does not, and what it
// holds and should not.
func (c *Checker) leftOut(k *call, p *wire.SyncConv, got *seqset, from, at int64) {
	next := from + 1
	outside := int64(0)
	got.each(func(seq int64) bool {
		if seq <= from || seq > p.Upto {
			outside = seq
			return true
		}
		if seq > next {
			c.holes = append(c.holes, gap{conn: k.conn.no, user: k.user, conv: p.Conv, from: next, to: seq - 1, event: at})
		}
		next = seq + 1
		return true
	})
	if next <= p.Upto {
		c.holes = append(c.holes, gap{conn: k.conn.no, user: k.user, conv: p.Conv, from: next, to: p.Upto, event: at})
	}
	if outside > 0 || p.MaxSeq < p.Upto {
		c.bad(Violation{
			Rule: Sync, Text: fmt.Sprintf("%s: an answer to sync after %d of %s shows seq %d, upto %d, max_seq %d", k.conn, from, p.Conv, outside, p.Upto, p.MaxSeq),
			Conv: p.Conv, Seq: outside, Conns: one(k.conn.no), Event: at,
		})
	}
}

// from is the cursor that a page begins after, if the client named one.
func (k *call) from(conv wire.ConvID) (int64, bool) {
	if at, ok := k.known[conv]; ok {
		return at, true
	}
	at, ok := k.cursors[conv]
	return at, ok
}

func (c *Checker) history(k *call, e *trace.Event) {
	c.counts.Histories++
	t := c.timeline(k.conv)
	r := reading{user: k.user, conv: k.conv, event: e.N}
	for i := range e.Messages {
		m := e.Messages[i]
		m.Conv = k.conv
		if c.sawMsg(t, &m, 0, e.N) {
			c.sight(t, &m, nil, k.began, e.N)
			r.seen.add(m.Seq)
		}
	}
	c.reads = append(c.reads, r)
}

// judgeHistories compares what history showed with the timeline of its reader.
// Changes are in it by what they made of messages, not by themselves.
func (c *Checker) judgeHistories(spans map[wire.ConvID]map[wire.UserID][]span) {
	for _, r := range c.denied {
		if len(spans[r.conv][r.user]) > 0 {
			c.bad(Violation{Rule: History, Text: fmt.Sprintf("history of %s is refused to %s, who is or was a member: %s", r.conv, r.user, r.code), Conv: r.conv, Event: r.event})
		}
	}
	for i := range c.reads {
		r := &c.reads[i]
		t, own := c.convs[r.conv], spans[r.conv][r.user]
		v := Violation{Rule: History, Conv: r.conv, Event: r.event}
		v.Seq = firstOf(own, 1, t.known.max(), func(seq int64) bool {
			e := t.entries[seq]
			return r.seen.has(seq) || e == nil || e.target > 0
		})
		if v.Seq > 0 {
			v.Text = fmt.Sprintf("history of %s for %s leaves out seq %d", r.conv, r.user, v.Seq)
			c.bad(v)
		}
		r.seen.each(func(seq int64) bool {
			if within(own, seq) {
				return true
			}
			v.Rule, v.Seq = Leak, seq
			v.Text = fmt.Sprintf("history shows %s seq %d of %s, which is not theirs (member %s)", r.user, seq, r.conv, show(own))
			c.bad(v)
			return false
		})
	}
}
