package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

// sync notes what was known when a sync was asked for.
func (c *Checker) sync(e *trace.Event) {
	k := &call{
		user: e.User, conn: c.conns[e.Conn], op: string(trace.Sync), began: e.N, cursors: e.Cursors,
		known: make(map[wire.ConvID]int64), tops: make(map[wire.ConvID]int64),
	}
	for conv, t := range c.convs {
		if t.known.n > 0 && (t.parsed.Group != "" || t.parsed.Has(e.User)) {
			k.tops[conv] = t.known.max()
		}
	}
	if k.t = e.T; k.conn != nil {
		k.fresh, k.read = !k.conn.dev.said, maps.Clone(k.conn.read)
	}
	c.calls[e.Call] = k
}

// returned takes the outcome of a call.
func (c *Checker) returned(k *call, e *trace.Event) {
	for _, t := range k.tallies {
		if t.answer(e.Code, k.conn, e.N) && k.wish != nil { // it was not by this that it came to stand
			k.wish.by = slices.DeleteFunc(k.wish.by, func(u wire.UserID) bool { return u == k.user })
		}
	}
	if k.op == trace.OpHistory && e.Code != "" && e.Code != trace.NoAnswer {
		c.denied = append(c.denied, denial{k.user, k.conv, e.Code, e.N})
	}
	if k.op == string(trace.Sync) && e.Code == "" && k.conn != nil {
		c.synced(k, e.N)
	}
}

// synced takes the end of a whole answer to sync: it must have come to what was
// known when it was asked for.
func (c *Checker) synced(k *call, at int64) {
	d := k.conn.dev
	for conv, top := range k.tops {
		end, named := k.from(conv)
		if !named && k.fresh {
			end = k.conn.user.of(conv).said.max()
			if v := d.views[conv]; end > 0 && (v == nil || !v.paged) {
				d.view(conv).from = end + 1
			}
		}
		if end < top {
			c.short = append(c.short, gap{conn: k.conn.no, user: k.user, conv: conv, from: end + 1, to: top, event: at})
		}
	}
	d.said = d.said || k.conn.said
	k.conn.goOn(k)
}

// goOn makes pushes go on from what a sync gave, unless it was told meanwhile that
// some are left out.
func (cn *conn) goOn(k *call) {
	if k.began < cn.lagged || cn.synced {
		return
	}
	if cn.blank {
		// What was pushed meanwhile may have been on its way since before.
		cn.blank = false
		clear(cn.top)
		return
	}
	cn.synced = true
	begin := func(conv wire.ConvID, at int64) {
		if _, ok := cn.top[conv]; !ok {
			cn.top[conv] = at
		}
	}
	for _, cursors := range []map[wire.ConvID]int64{k.known, k.cursors} {
		for conv, at := range cursors {
			begin(conv, at)
		}
	}
	if k.fresh {
		for conv, cs := range cn.user.cursors {
			begin(conv, cs.said.max())
		}
	}
}

// judgePages looks at what syncs left out, now that it is known whose it was.
func (c *Checker) judgePages(spans map[wire.ConvID]map[wire.UserID][]span) {
	say := func(g gap, seq int64, text string) {
		c.bad(Violation{Rule: Sync, Text: fmt.Sprintf("%s: an answer to sync %s %d of %s", c.conns[g.conn], text, seq, g.conv), Conv: g.conv, Seq: seq, Conns: one(g.conn), Event: g.event})
	}
	for _, g := range c.holes {
		if seq := firstOf(spans[g.conv][g.user], g.from, g.to, nil); seq > 0 {
			say(g, seq, "leaves out seq")
		}
	}
	for _, g := range c.short {
		if seq := firstOf(spans[g.conv][g.user], g.from, g.to, nil); seq > 0 {
			say(g, seq, "ends before what was known when it was asked for, seq")
		}
	}
	for _, g := range c.begins {
		if !slices.ContainsFunc(spans[g.conv][g.user], func(s span) bool { return s.from == g.from }) {
			say(g, g.from, "says that its user's begins at seq")
		}
	}
}

// judgeHeads counts again what pages said of conversations when nothing changed
// any more. Where it never became calm, something did.
func (c *Checker) judgeHeads(spans map[wire.ConvID]map[wire.UserID][]span) {
	if c.late {
		return
	}
	slices.SortStableFunc(c.heads, func(a, b headSaid) int { return cmp.Compare(a.conv, b.conv) })
	var t *timeline
	var n counts
	for _, said := range c.heads {
		if t == nil || t.conv != said.conv {
			t = c.convs[said.conv]
			n = t.counts()
		}
		own := spans[said.conv][said.user]
		v := Violation{Conv: said.conv, Seq: said.read, Event: said.event}
		if unread := n.unread(said.user, said.read, own); unread != said.unread {
			v.Rule, v.Text = Unread, fmt.Sprintf("sync says that %s has %d unread of %s after %d; there are %d", said.user, said.unread, said.conv, said.read, unread)
			c.bad(v)
		}
		if len(own) > 0 && said.top != min(t.known.max(), own[len(own)-1].to) {
			v.Rule, v.Text = Sync, fmt.Sprintf("sync says that %s ends at %d for %s (member %s), and there are %d", said.conv, said.top, said.user, show(own), t.known.max())
			c.bad(v)
		}
	}
}

// counts are how many messages up to each seq may be unread, of all and of each
// sender.
type counts struct {
	all []int64 // by seq
	by  map[wire.UserID][]int64
}

func (t *timeline) counts() counts {
	n := counts{all: make([]int64, t.known.max()+1), by: make(map[wire.UserID][]int64)}
	for seq := int64(1); seq < int64(len(n.all)); seq++ {
		n.all[seq] = n.all[seq-1]
		if e := t.entries[seq]; e != nil && e.target == 0 && e.typ != wire.TypeSystem && !t.recalledBefore(seq, forever) {
			n.all[seq]++
			n.by[e.from] = append(n.by[e.from], seq)
		}
	}
	return n
}

// unread counts others' messages after read in spans.
func (n *counts) unread(u wire.UserID, read int64, own []span) (total int64) {
	upto := func(seq int64) int64 {
		seq = min(seq, int64(len(n.all))-1)
		mine, _ := slices.BinarySearch(n.by[u], seq+1)
		return n.all[seq] - int64(mine)
	}
	for _, s := range own {
		if from := max(read+1, s.from); from <= s.to && from < int64(len(n.all)) {
			total += upto(s.to) - upto(from-1)
		}
	}
	return total
}
