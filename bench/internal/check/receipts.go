package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

// receipts is what was told of cursors, by who was asked and whose it is.
type receipts struct {
	said map[saidOf][]saidCursor
	top  map[cursorOf]wire.Receipt // the highest that were pushed
}

type saidOf struct {
	cursorOf
	own bool // told to the user itself; else to the peer
}

type saidCursor struct {
	delivered, read int64
	began, ended    int64 // events of the sync
	last            bool  // in the last phase, when nothing changed any more
	push            bool  // it was pushed: such may overtake each other
}

// settling is how long, µs, a cursor may take to its place.
const settling = 2_500_000

func (c *Checker) receipt(e *trace.Event) {
	cn := c.conns[e.Conn]
	if cn == nil {
		return
	}
	if e.Kind == trace.Cursor {
		cn.user.of(e.Conv).add(post{e.Seq, e.Conn, e.T, e.Op == trace.OpRead})
		if cn.said = true; e.Op == trace.OpRead {
			if e.Seq > cn.read[e.Conv].seq {
				cn.read[e.Conv] = post{e.Seq, e.Conn, e.T, true}
			}
		}
		return
	}
	r := e.Receipt
	of := cursorOf{r.Conv, r.User}
	u := c.user(r.User)
	v := Violation{Rule: Receipt, Conv: r.Conv, Conns: one(e.Conn), Event: e.N}
	if !u.of(r.Conv).ever(r.Delivered, r.Read) {
		v.Seq = max(r.Delivered, r.Read)
		v.Text = fmt.Sprintf("%s was told that %s has %d of %s and read %d, which they never said", cn, r.User, r.Delivered, r.Conv, r.Read)
		c.bad(v)
	}
	// Two devices, two connections of one, and two logics may overtake each other.
	last := cn.told[of]
	if back := r.Read < last.Read || r.Delivered < last.Delivered; back && u.devices == 1 && c.faults.at(last.t, e.T) == nil && u.sameConn(r, &last.Receipt, e.T-repinned) {
		v.Seq = max(last.Delivered, last.Read)
		v.Text = fmt.Sprintf("%s was told that %s has %d of %s and read %d, after %d and %d", cn, r.User, r.Delivered, r.Conv, r.Read, last.Delivered, last.Read)
		c.bad(v)
	}
	cn.told[of] = toldReceipt{*r, e.T}
	c.pushedCursor(of, r, e.N)
}

// pushedCursor keeps what no sync may say less than that is asked for later.
func (c *Checker) pushedCursor(of cursorOf, r *wire.Receipt, at int64) {
	top := c.receipts.top[of]
	if r.Delivered <= top.Delivered && r.Read <= top.Read {
		return
	}
	top.Delivered, top.Read = max(top.Delivered, r.Delivered), max(top.Read, r.Read)
	c.receipts.top[of] = top
	for _, own := range []bool{false, true} {
		s := saidCursor{delivered: top.Delivered, read: top.Read, began: at, ended: at, push: true}
		if own {
			s.delivered = 0 // of the own cursors sync tells only read_seq
		}
		c.receipts.said[saidOf{of, own}] = append(c.receipts.said[saidOf{of, own}], s)
	}
}

// cursors are what a user said of one conversation, over all devices.
type cursors struct {
	posts      []post // as they were said
	said, read seqset // read acknowledges too
}

func (cs *cursors) add(p post) {
	if p.seq > maxSeq {
		return
	}
	cs.posts = append(cs.posts, p)
	if cs.said.add(p.seq); p.read {
		cs.read.add(p.seq)
	}
}

// ever says whether both are cursors that were said, or none.
func (cs *cursors) ever(delivered, read int64) bool {
	return (delivered == 0 || cs.said.has(delivered)) && (read == 0 || cs.read.has(read))
}

func (u *user) of(conv wire.ConvID) *cursors {
	cs := u.cursors[conv]
	if cs == nil {
		cs = new(cursors)
		u.cursors[conv] = cs
	}
	return cs
}

// repinned is how long, µs, a logic may be silent until an edge takes another for
// its sessions, at least: what is told later may have been overtaken.
const repinned = 5_000_000

// sameConn says whether all that two receipts tell was said on one connection and
// nowhere else, and that of a not before since.
func (u *user) sameConn(a, b *wire.Receipt, since int64) bool {
	conns := make(map[int64]bool)
	found := 0
	for _, p := range u.of(a.Conv).posts {
		if p.t < since && (p.seq == a.Delivered || p.read && p.seq == a.Read) {
			return false
		}
		if p.seq == a.Delivered || p.seq == b.Delivered || p.read && (p.seq == a.Read || p.seq == b.Read) {
			conns[p.conn] = true
			found++
		}
	}
	return len(conns) == 1 && found >= 2
}

// cursorSaid keeps what sync said of the user's own cursor, and of the peer's.
func (c *Checker) cursorSaid(u wire.UserID, p *wire.SyncConv, began, ended int64) {
	say := func(of wire.UserID, delivered, read int64) {
		key := saidOf{cursorOf{p.Conv, of}, of == u}
		c.receipts.said[key] = append(c.receipts.said[key], saidCursor{delivered, read, began, ended, c.atRead, false})
		if !c.user(of).of(p.Conv).ever(delivered, read) {
			c.bad(Violation{
				Rule: Receipt, Text: fmt.Sprintf("sync tells %s that %s has %d of %s and read %d, which they never said", u, of, delivered, p.Conv, read),
				Conv: p.Conv, Seq: max(read, delivered), Event: ended,
			})
		}
	}
	say(u, 0, p.ReadSeq)
	if conv := c.timeline(p.Conv).parsed; conv.Has(u) && conv.Peer(u) != u {
		say(conv.Peer(u), p.Delivered, p.Read)
	}
}

// judgeReceipts asks that no sync says less than one that had ended before it
// began, and that the last ones say what was said to them.
func (c *Checker) judgeReceipts() {
	for of, said := range c.receipts.said {
		delivered, read := c.lasting(of.cursorOf)
		if of.own {
			delivered = 0 // of the own cursors only read_seq is told
		}
		highest := make([]saidCursor, len(said)+1) // of the first n, which ended in this order
		for i, s := range said {
			h := &highest[i+1]
			h.delivered, h.read = max(highest[i].delivered, s.delivered), max(highest[i].read, s.read)
			before, _ := slices.BinarySearchFunc(said[:i], s.began, func(e saidCursor, began int64) int { return cmp.Compare(e.ended, began) })
			if s.push {
				continue
			}
			text := ""
			if h := highest[before]; s.read < h.read || s.delivered < h.delivered {
				text = fmt.Sprintf("%d and %d had been told before", h.delivered, h.read)
			} else if s.last && (s.delivered < delivered || s.read < read) {
				text = fmt.Sprintf("they said %d and %d long before", delivered, read)
			}
			if text != "" {
				c.bad(Violation{
					Rule: Receipt, Text: fmt.Sprintf("sync says that %s has %d of %s and read %d; %s", of.user, s.delivered, of.conv, s.read, text),
					Conv: of.conv, Seq: s.read, Event: s.ended,
				})
			}
		}
	}
}

// lasting is the furthest that a user said on connections that stood to the end,
// when no fault was at work any more and in good time.
func (c *Checker) lasting(of cursorOf) (delivered, read int64) {
	for _, p := range c.user(of.user).of(of.conv).posts {
		if cn := c.conns[p.conn]; p.t+settling > c.readAt || cn.closed > 0 && cn.closed < c.readAt || c.faults.at(p.t, c.readAt) != nil {
			continue
		}
		delivered = max(delivered, p.seq)
		if p.read {
			read = max(read, p.seq)
		}
	}
	return delivered, read
}

// judgeTold asks that receipts were told to members alone, and of members.
func (c *Checker) judgeTold(spans map[wire.ConvID]map[wire.UserID][]span) {
	for no, cn := range c.conns {
		for of := range cn.told {
			if own := spans[of.conv]; len(own[cn.dev.key.user]) > 0 && len(own[of.user]) > 0 {
				continue
			}
			c.bad(Violation{
				Rule: Receipt, Text: fmt.Sprintf("%s is told a receipt of %s in %s, where not both ever were members", cn, of.user, of.conv),
				Conv: of.conv, Conns: one(no),
			})
		}
	}
}
