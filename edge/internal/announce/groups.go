package announce

import (
	"context"
	"fmt"

	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
)

// joinRequest is a group that this edge is to be named for.
type joinRequest struct {
	group wire.GroupID
	done  func()
}

// change is a group that this edge must be taken out of, or (counter 0) whose
// counter is to be learnt.
type change struct {
	group   wire.GroupID
	counter int64
}

// AddGroups names this edge for groups that are new here. An error makes the
// edge unlisted.
func (a *Announcer) AddGroups(ctx context.Context, groups []wire.GroupID) {
	if len(groups) == 0 {
		return
	}
	if err := a.addGroups(ctx, groups); err != nil {
		a.Unlist("add_group_edge", err)
	}
}

// Join is AddGroups of a group that many enter at once: what comes while a call
// is under way goes out with the next. done is called after it and must not
// block. False: too many wait.
func (a *Announcer) Join(group wire.GroupID, done func()) bool {
	select {
	case a.joins <- joinRequest{group, done}:
		a.metrics.joinDepth.Inc()
		return true
	default:
		a.metrics.joinDropped.Inc()
		return false
	}
}

func (a *Announcer) joining(ctx context.Context) {
	var reqs []joinRequest
	var groups []wire.GroupID
	for {
		// Of whole crowds that enter the same room one key goes out.
		if reqs = collect(ctx, a.joins, reqs, queuedJoins); len(reqs) == 0 {
			return
		}
		a.metrics.joinDepth.Sub(float64(len(reqs)))
		fresh := make(map[wire.GroupID]struct{})
		for waiting := reqs; len(waiting) > 0; {
			n := 0
			for groups = groups[:0]; n < len(waiting) && len(groups) < batchRoutes; n++ {
				g := waiting[n].group
				if _, ok := fresh[g]; !ok {
					fresh[g] = struct{}{}
					groups = append(groups, g)
				}
			}
			a.AddGroups(ctx, groups)
			for _, r := range waiting[:n] {
				r.done()
			}
			waiting = waiting[n:]
		}
	}
}

func (a *Announcer) addGroups(ctx context.Context, groups []wire.GroupID) error {
	began := a.roster.Counting()
	counters, err := a.reg.AddGroupEdge(ctx, a.Lease().Server, groups)
	if err != nil {
		return fmt.Errorf("add %d groups: %w", len(groups), err)
	}
	var left []roster.Left
	for i, g := range groups {
		if i < len(counters) && !a.roster.Counted(g, counters[i], began) {
			left = append(left, roster.Left{Group: g, Counter: counters[i]}) // all left meanwhile
		}
	}
	a.GroupsLeft(left)
	return nil
}

// Recount learns the counter of a group that a job has named this edge for once
// more: with an older one, the removal that compares would fail for good.
func (a *Announcer) Recount(g wire.GroupID) { a.change(change{group: g}) }

// GroupsLeft takes this edge out of groups that nobody here is in.
func (a *Announcer) GroupsLeft(left []roster.Left) {
	for _, l := range left {
		if l.Counter != 0 {
			a.change(change{l.Group, l.Counter})
		}
	}
}

func (a *Announcer) change(c change) {
	if c.group.IsRoom() {
		enqueue(a, a.rooms, "room", c)
	} else {
		enqueue(a, a.groups, "group", c)
	}
}

// changing does what waits, a batch in a call. In which order does not matter:
// a removal whose counter has been passed does nothing.
func (a *Announcer) changing(ctx context.Context, q chan change) {
	var cs []change
	for {
		if cs = collect(ctx, q, cs, batchRoutes); len(cs) == 0 {
			return
		}
		a.metrics.depth.Sub(float64(len(cs)))
		a.persist(ctx, "group_edge", func(ctx context.Context) error { return a.changeBatch(ctx, cs) })
	}
}

func (a *Announcer) changeBatch(ctx context.Context, cs []change) error {
	var recount, gone []wire.GroupID
	var counters []int64
	seen := make(map[wire.GroupID]struct{})
	for _, c := range cs {
		if c.counter != 0 {
			gone, counters = append(gone, c.group), append(counters, c.counter)
		} else if _, ok := seen[c.group]; !ok {
			seen[c.group] = struct{}{}
			recount = append(recount, c.group)
		}
	}
	if len(gone) > 0 {
		if err := a.reg.DropGroupEdges(ctx, a.Lease().Server, gone, counters); err != nil {
			return fmt.Errorf("drop %d groups: %w", len(gone), err)
		}
	}
	if len(recount) == 0 {
		return nil
	}
	return a.addGroups(ctx, recount)
}
