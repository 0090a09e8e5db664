package check

import (
	"fmt"
	"slices"

	"github.com/starling-im/starling/common/wire"
)

// sight is how a message looked to somebody, where that has to be explained by a
// change that had not been seen.
type sight struct {
	conv  wire.ConvID
	seq   int64
	look  state
	conn  int64
	after int64 // the change that was known when it was asked for; 0: none
	event int64
	// change: it is a text that came with a change, which only who may see the
	// message is told.
	change bool
}

// sight compares how a message looks with what was sent and what changes made of
// it. asked is the event with which it was asked for; -1: it was pushed.
func (c *Checker) sight(t *timeline, m *wire.Msg, cn *conn, asked, at int64) {
	if m.Type == wire.TypeSystem {
		return
	}
	s := c.sends[sendKey{t.conv, m.From, m.ClientID}]
	if s == nil {
		return // a phantom
	}
	look := stateOf(m.Status, m.Content)
	x := sight{conv: t.conv, seq: m.Seq, look: look, event: at}
	if m.Type != wire.TypeText || len(m.Mention) > 0 || m.ReplyTo != 0 {
		c.bad(Violation{
			Rule: Corrupt, Text: fmt.Sprintf("seq %d of %s is of type %s, answers %v and mentions %d; nobody sent such", m.Seq, t.conv, m.Type, m.ReplyTo, len(m.Mention)),
			Conv: t.conv, Seq: m.Seq, From: m.From, ClientID: m.ClientID, Event: at,
		})
	}
	if cn != nil {
		x.conn = cn.no
	}
	if asked >= 0 {
		x.after = t.changedBefore(m.Seq, asked)
	}
	if x.after > 0 || m.Status != "" || look.text != s.content {
		c.pending = append(c.pending, x)
	}
}

// judgeStates explains what had to wait.
func (c *Checker) judgeStates(spans map[wire.ConvID]map[wire.UserID][]span) {
	for i := range c.pending {
		p := &c.pending[i]
		c.judgeSight(p)
		if cn := c.conns[p.conn]; p.change && !within(spans[p.conv][cn.dev.key.user], p.seq) {
			c.bad(Violation{
				Rule: Leak, Text: fmt.Sprintf("sync tells %s the text of seq %d of %s, which is not theirs", cn, p.seq, p.conv),
				Conv: p.conv, Seq: p.seq, Conns: one(p.conn), Event: p.event,
			})
		}
	}
}

func (c *Checker) judgeSight(p *sight) {
	t := c.convs[p.conv]
	e := t.entries[p.seq]
	if e == nil || e.target > 0 {
		return // the target of a change that was itself not seen
	}
	v := Violation{Conv: p.conv, Seq: p.seq, From: e.from, ClientID: e.cid, Conns: one(p.conn), Event: p.event}
	newest, explained := t.made(p.seq, p.look)
	if s := c.sends[sendKey{p.conv, e.from, e.cid}]; s != nil && p.look == (state{"", s.content}) {
		explained = true
	}
	switch {
	case explained && newest < p.after:
		v.Rule, v.Text = Stale, fmt.Sprintf("%s under seq %d of %s is shown without its change %d, which was known before", e, p.seq, p.conv, p.after)
	case explained:
		return
	case p.look.status == wire.StatusEdited && t.syncedEdit(p.seq) && c.wishes[e.id].edit(p.look.text) != nil:
		return // by a change that was pushed to nobody
	default:
		v.Rule, v.Text = Corrupt, fmt.Sprintf("%s under seq %d of %s looks like nothing that was sent (status %q)", e, p.seq, p.conv, p.look.status)
	}
	c.bad(v)
}

// made returns the newest change that made a message look so.
func (t *timeline) made(seq int64, look state) (newest int64, found bool) {
	for _, change := range t.changes[seq] {
		if e := t.entries[change]; e.own && e.state == look || e.state == look && look.status == wire.StatusRecalled {
			newest, found = max(newest, change), true
		}
	}
	return newest, found
}

// syncedEdit says whether an edit of a message is known from syncs alone, which do
// not say its text.
func (t *timeline) syncedEdit(seq int64) bool {
	return slices.ContainsFunc(t.changes[seq], func(change int64) bool {
		e := t.entries[change]
		return !e.own && e.state.status == wire.StatusEdited
	})
}
