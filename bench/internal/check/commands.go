package check

import (
	"fmt"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

// command is a change of a group that was asked for, of one user.
type command struct {
	op   string
	user wire.UserID
}

// commands are those of one group.
type commands map[command]*asking

// asking counts the answers to one command, and notes when it was asked.
type asking struct {
	tally
	began []int64 // events
}

// ask enters a command for each user that it is about.
func (t *timeline) ask(k *call, e *trace.Event) {
	users := e.Users
	if e.Op == trace.OpCreate {
		users = []wire.UserID{e.User}
	}
	for _, u := range users {
		a := t.asked[command{e.Op, u}]
		if a == nil {
			a = new(asking)
			t.asked[command{e.Op, u}] = a
		}
		a.asked++
		a.began = append(a.began, e.N)
		k.tallies = append(k.tallies, &a.tally)
	}
}

// endings counts how often it was asked, before an event, to end a membership.
func (cs commands) endings(u wire.UserID, before int64) (n int) {
	for _, op := range []string{trace.OpRemove, trace.OpLeave} {
		if a := cs[command{op, u}]; a != nil {
			for _, began := range a.began {
				if began < before {
					n++
				}
			}
		}
	}
	return n
}

// opOf is the operation that a group's event comes of; "": none that is made.
func opOf(event string) string {
	switch event {
	case wire.EventCreated:
		return trace.OpCreate
	case wire.EventJoined:
		return trace.OpAdd
	case wire.EventRemoved:
		return trace.OpRemove
	case wire.EventLeft:
		return trace.OpLeave
	case wire.EventRole:
		return trace.OpRole
	}
	return ""
}

// judgeCommands compares the events of groups with what was asked for: each that
// was applied stands, and none stands more often than it was not refused.
func (c *Checker) judgeCommands() {
	for conv, t := range c.convs {
		stands := make(map[command]int)
		t.known.each(func(seq int64) bool {
			e := t.entries[seq]
			if e.typ != wire.TypeSystem {
				return true
			}
			var k command
			if ev := e.event; ev != nil && wire.GroupConv(ev.Group) == conv && ev.By == e.from {
				k = command{opOf(ev.Event), ev.User}
			}
			if stands[k]++; t.asked[k] == nil {
				c.bad(Violation{Rule: Phantom, Text: fmt.Sprintf("seq %d of %s is a change of the group that nobody asked for", seq, conv), Conv: conv, Seq: seq, Event: e.first})
			}
			return true
		})
		for k, a := range t.asked {
			n := stands[k]
			switch k.op {
			case trace.OpRole:
				a.applied = 0 // one that changes nothing leaves nothing
			case trace.OpRemove, trace.OpLeave:
				// After a lost answer, one may find done what the other did.
				n = max(n, min(a.applied, stands[command{trace.OpRemove, k.user}]+stands[command{trace.OpLeave, k.user}]))
			}
			what := fmt.Sprintf("%s of %s", k.op, k.user)
			if n < a.applied {
				c.bad(Violation{Rule: Lost, Text: fmt.Sprintf("%s in %s was applied %d times and stands %d times", what, conv, a.applied, n), Conv: conv, Conns: one(a.conn), Event: a.event})
			}
			a.applied = 0
			c.judgeTally(t, what, &a.tally, stands[k], 0)
		}
	}
}
