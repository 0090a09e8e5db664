package announce

import (
	"context"
	"fmt"
	"time"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
)

// removalsPerTTL is how often in a lease's time a removal that failed is tried
// again.
const removalsPerTTL = 20

// putRequest is a log-in's route on its way to the registry.
type putRequest struct {
	m    *roster.Member
	done chan putResult
}

type putResult struct {
	stood []registry.Route
	err   error
}

// Put writes the route of a session that logs in. False: a newer connection of
// the device stands, this one must give way. With the registry away it is true
// and the edge unlisted.
func (a *Announcer) Put(ctx context.Context, m *roster.Member) bool {
	for {
		_, epoch, _ := a.Hello()
		req := putRequest{m: m, done: make(chan putResult, 1)}
		var res putResult
		select {
		case a.puts <- req:
		case <-ctx.Done():
			return true
		}
		select {
		case res = <-req.done:
		case <-ctx.Done():
			return true
		}
		if res.err != nil {
			a.Unlist("put_routes", res.err)
			return true
		}
		if !a.here(m) {
			a.dropRoute(m) // it ended before its route was written
			return true
		}
		if newer(m, res.stood) {
			return false
		}
		a.older(m, res.stood)
		// The epoch may have changed while the route was on its way; the
		// announcing that followed may have come before it.
		if _, now, _ := a.Hello(); now == epoch {
			return true
		}
	}
}

// older reports what a route replaced at other edges.
func (a *Announcer) older(m *roster.Member, stood []registry.Route) {
	here := a.Lease().Server
	for _, r := range stood {
		if r.Device == m.Device && r.Conn < m.Conn && r.Server != here {
			a.events.Older(m, r)
		}
	}
}

// putting collects routes: what comes while a call is under way goes out with
// the next.
func (a *Announcer) putting(ctx context.Context) {
	var reqs []putRequest
	for {
		reqs = reqs[:0]
		select {
		case <-ctx.Done():
			return
		case r := <-a.puts:
			reqs = append(reqs, r)
		}
		for more := true; more && len(reqs) < batchRoutes; {
			select {
			case r := <-a.puts:
				reqs = append(reqs, r)
			default:
				more = false
			}
		}
		a.putBatch(ctx, reqs)
		clear(reqs)
	}
}

func (a *Announcer) putBatch(ctx context.Context, reqs []putRequest) {
	l := a.Lease()
	routes := make(map[wire.UserID][]registry.Route, len(reqs))
	for _, r := range reqs {
		routes[r.m.User] = append(routes[r.m.User], routeOf(r.m, l))
	}
	stood, err := a.reg.PutRoutes(ctx, routes)
	a.metrics.batches.Inc()
	a.metrics.routes.Add(float64(len(reqs)))
	for _, r := range reqs {
		r.done <- putResult{stood: stood[r.m.User], err: err}
	}
}

// Drop removes the route of a session that ended and keeps when it was seen.
func (a *Announcer) Drop(m *roster.Member, seenMS int64) {
	a.dropRoute(m)
	user := m.User
	a.enqueue(a.drops, func(ctx context.Context) error {
		if err := a.reg.SetLastSeen(ctx, user, seenMS); err != nil {
			return fmt.Errorf("set last seen: %w", err)
		}
		return nil
	})
}

func (a *Announcer) dropRoute(m *roster.Member) {
	route, user := routeOf(m, a.Lease()), m.User
	a.enqueue(a.drops, func(ctx context.Context) error {
		if err := a.reg.DropRoute(ctx, user, route); err != nil {
			return fmt.Errorf("drop route: %w", err)
		}
		return nil
	})
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
func (a *Announcer) Recount(g wire.GroupID) {
	a.enqueue(a.groups, func(ctx context.Context) error { return a.addGroups(ctx, []wire.GroupID{g}) })
}

// GroupsLeft takes this edge out of groups that nobody here is in.
func (a *Announcer) GroupsLeft(left []roster.Left) {
	server := a.Lease().Server
	for _, l := range left {
		if l.Counter == 0 {
			continue
		}
		a.enqueue(a.groups, func(ctx context.Context) error {
			if err := a.reg.DropGroupEdge(ctx, server, l.Group, l.Counter); err != nil {
				return fmt.Errorf("drop group: %w", err)
			}
			return nil
		})
	}
}

func (a *Announcer) enqueue(q chan func(context.Context) error, f func(context.Context) error) {
	select {
	case q <- f:
		a.metrics.depth.Inc()
	default:
		a.metrics.dropped.Inc()
	}
}

// work does queued removals one after the other. One that fails is tried again
// for as long as the lease, under which it would go on to count, may stand.
func (a *Announcer) work(ctx context.Context, q chan func(context.Context) error, call string) {
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-q:
			a.metrics.depth.Dec()
			for until := time.Now().Add(2 * a.cfg.TTL); ; {
				err := f(ctx)
				if err == nil {
					break
				}
				a.failed(call, err)
				if time.Now().After(until) || !pause(ctx, a.cfg.TTL/removalsPerTTL) {
					break
				}
			}
		}
	}
}

// pause waits. False: ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
