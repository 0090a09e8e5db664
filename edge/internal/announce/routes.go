package announce

import (
	"context"
	"fmt"
	"slices"

	"github.com/starling-im/starling/common/planted"
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

// Put writes the route of a session that logs in and returns the user's others
// that it stands beside, at all edges, one a device. False: a newer one that it cannot stand beside is there, this one
// must give way. With the registry away it is true, and the edge unlisted.
func (a *Announcer) Put(ctx context.Context, m *roster.Member) (others []registry.Route, ok bool) {
	for {
		_, epoch, _ := a.Hello()
		req := putRequest{m: m, done: make(chan putResult, 1)}
		var res putResult
		select {
		case a.puts <- req:
		case <-ctx.Done():
			return nil, true
		}
		select {
		case res = <-req.done:
		case <-ctx.Done():
			return nil, true
		}
		if res.err != nil {
			a.Unlist("put_routes", res.err)
			return nil, true
		}
		if !a.here(m) {
			a.dropRoute(m) // it ended before its route was written
			return nil, true
		}
		if a.newer(m, res.stood) {
			return nil, false
		}
		a.older(m, res.stood)
		// The epoch may have changed while the route was on its way; the
		// announcing that followed may have come before it.
		if _, now, _ := a.Hello(); now == epoch {
			return a.beside(m, res.stood), true
		}
	}
}

// beside picks those that m stands beside. What stood is shared by all of a
// batch that log the same user in, m among them, so it is left as it is.
func (a *Announcer) beside(m *roster.Member, stood []registry.Route) (others []registry.Route) {
	for _, r := range stood {
		known := slices.ContainsFunc(others, func(o registry.Route) bool { return o.Device == r.Device })
		if r.Conn != m.Conn && !known && !a.cfg.Rivals(m, &r) {
			others = append(others, r)
		}
	}
	return others
}

// older reports what a route replaced at other edges.
func (a *Announcer) older(m *roster.Member, stood []registry.Route) {
	here := a.Lease().Server
	for _, r := range stood {
		if a.cfg.Rivals(m, &r) && r.Conn < m.Conn && r.Server != here {
			a.events.Older(m, r)
		}
	}
}

// putting collects routes: what comes while a call is under way goes out with
// the next.
func (a *Announcer) putting(ctx context.Context) {
	var reqs []putRequest
	for {
		if reqs = collect(ctx, a.puts, reqs, batchRoutes); len(reqs) == 0 {
			return
		}
		a.putBatch(ctx, reqs)
	}
}

func (a *Announcer) putBatch(ctx context.Context, reqs []putRequest) {
	l := a.Lease()
	routes := make(map[wire.UserID][]registry.Route, len(reqs))
	for _, r := range reqs {
		if planted.Now(planted.EdgeForgetsRoute) {
			continue
		}
		routes[r.m.User] = append(routes[r.m.User], routeOf(r.m, l))
	}
	stood, err := a.reg.PutRoutes(ctx, routes)
	a.metrics.batches.Inc()
	a.metrics.routes.Add(float64(len(reqs)))
	for _, r := range reqs {
		r.done <- putResult{stood: stood[r.m.User], err: err}
	}
}

// Drop removes the route of a session that ended and keeps when it was seen;
// that first, so that nobody finds the user away and not when it was seen last.
func (a *Announcer) Drop(m *roster.Member, seenMS int64) {
	route, user := routeOf(m, a.Lease()), m.User
	enqueue(a, a.drops, "route", func(ctx context.Context) error {
		if err := a.reg.SetLastSeen(ctx, user, seenMS); err != nil {
			return fmt.Errorf("set last seen: %w", err)
		}
		return a.drop(ctx, user, route)
	})
}

func (a *Announcer) dropRoute(m *roster.Member) {
	route, user := routeOf(m, a.Lease()), m.User
	enqueue(a, a.drops, "route", func(ctx context.Context) error { return a.drop(ctx, user, route) })
}

func (a *Announcer) drop(ctx context.Context, user wire.UserID, route registry.Route) error {
	if err := a.reg.DropRoute(ctx, user, route); err != nil {
		return fmt.Errorf("drop route: %w", err)
	}
	return nil
}
