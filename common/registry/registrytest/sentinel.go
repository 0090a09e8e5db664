package registrytest

import (
	"time"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/wire"
)

// leaseTTL of the edges of these tests; an emptied index is unknown for as long.
const leaseTTL = time.Second

func (s suite) known() bool {
	s.t.Helper()
	return must[registry.Routes](s.t)(s.env.Other.Lookup(s.t.Context(), nil, nil)).Known
}

func (s suite) renew(l registry.Lease) registry.Standing {
	s.t.Helper()
	return must[registry.Standing](s.t)(s.env.Registry.Renew(s.t.Context(), l, leaseTTL))
}

// announce renews the lease of an edge and does what that asks for.
func (s suite) announce(l registry.Lease) {
	s.t.Helper()
	st := s.renew(l)
	if !st.Announce || st.Known {
		s.t.Fatalf("%s need not announce: %+v", l.Server, st)
	}
	check(s.t, s.env.Registry.Announced(s.t.Context(), l.Server, l.Epoch, st.Index))
}

// settle keeps leases for longer than one stands; the last step is a renewal
// of each.
func (s suite) settle(ls ...registry.Lease) {
	s.t.Helper()
	for range 4 {
		s.env.Advance(leaseTTL * 3 / 10)
		for _, l := range ls {
			s.renew(l)
		}
	}
}

func (s suite) is(what string, known bool) {
	s.t.Helper()
	same(s.t, what, s.known(), known)
}

func (s suite) sentinel() {
	t, r, a, b := s.t, s.env.Registry, edge("a", 1), edge("b", 1)
	ctx := t.Context()
	check(t, r.Announced(ctx, "nobody", 1, "none"))
	s.is("without edges", false)
	st := s.renew(a)
	same(t, "first renewal", st.Announce && !st.Known && st.Index != "", true)
	same(t, "the other's sees the same index", s.renew(b), st)
	check(t, r.Announced(ctx, "a", 1, st.Index))
	s.settle(a, b)
	s.is("one of two announced", false)
	same(t, "the one need not again", s.renew(a), registry.Standing{Index: st.Index})
	check(t, s.env.Other.Announced(ctx, "b", 0, st.Index))
	s.is("an older epoch announced", false)
	check(t, s.env.Other.Announced(ctx, "b", 1, "other"))
	s.is("announced under another index", false)
	check(t, s.env.Other.Announced(ctx, "b", 1, st.Index))
	s.is("both announced", true)
	ok := registry.Standing{Known: true, Index: st.Index}
	same(t, "renewal", s.renew(a), ok)
	same(t, "renewal of a job", s.renew(registry.Lease{Tier: registry.TierJob, Server: "j"}).Known, true)
	c := edge("c", 1)
	same(t, "renewal of a new edge", s.renew(c), st)
	s.is("a new edge, which has no routes yet, makes no hole", true)
	check(t, r.Announced(ctx, "c", 1, st.Index))
	same(t, "renewal once it has announced", s.renew(c), ok)
	same(t, "renewal under a new epoch", s.renew(edge("c", 2)), st)
}

// emptied: all is announced again, under another name.
func (s suite) emptied() {
	t, r, a, b := s.t, s.env.Registry, edge("a", 1), edge("b", 1)
	s.announce(a)
	s.announce(b)
	first := s.renew(a).Index
	s.settle(a, b)
	s.is("announced", true)

	s.env.Flush()
	s.is("emptied", false)
	same(t, "a job's renewal after it", s.renew(registry.Lease{Tier: registry.TierJob, Server: "j"}).Known, false)
	check(t, r.Announced(t.Context(), "a", 1, first)) // begun before
	s.announce(a)
	put(t, r, "u", route(1, "a", 1, "d"))
	s.announce(b)
	s.settle(a, b)
	s.is("announced again", true)
	same(t, "routes", routesOf(t, s.env.Other, "u"), []registry.Route{route(1, "a", 1, "d")})
	if second := s.renew(a).Index; second == first {
		t.Error("the index has the name of the one before")
	}
}

// slowEdge: leases are lost with the rest. Who announces first must not make
// known what lacks the edges that have not renewed theirs yet.
func (s suite) slowEdge() {
	a, b := edge("a", 1), edge("b", 1)
	s.announce(a)
	s.announce(b)
	s.settle(a, b)
	s.is("announced", true)
	s.env.Flush()
	s.announce(a)
	s.renew(a)
	s.is("while the other may live", false)
	s.env.Advance(leaseTTL / 2)
	s.renew(a)
	s.is("while the other may live still", false)
	s.renew(b)
	s.env.Advance(leaseTTL * 7 / 10)
	s.renew(a)
	s.is("while the other lives and has not announced", false)
	s.announce(b)
	s.settle(a, b)
	s.is("both announced", true)

	s.env.Flush()
	s.announce(a)
	s.settle(a)
	s.is("the other died", true)
}

// emptiedMidway: what was announced before the loss is not there, though the
// announcing ends after it and the lease was renewed meanwhile.
func (s suite) emptiedMidway() {
	t, r, a := s.t, s.env.Registry, edge("a", 1)
	st := s.renew(a)
	put(t, r, "u", route(1, "a", 1, "d"))
	s.env.Flush()
	now := s.renew(a) // as a long announcing does
	same(t, "must announce again", now.Announce && now.Index != st.Index, true)
	check(t, r.Announced(t.Context(), "a", 1, st.Index))
	s.settle(a)
	s.is("half of it announced", false)
	s.announce(a)
	s.settle(a)
	s.is("announced", true)
}

// everyUse works after a loss as on an empty registry.
func (s suite) everyUse() {
	t, r, a := s.t, s.env.Registry, edge("a", 1)
	ctx := t.Context()
	q := registry.Reservation{Conv: "g:g", From: "u", ClientID: "c", ID: 1}
	m := registry.CachedMsg{Conv: "g:g", Seq: 1, ID: 1}
	waits := registry.OfflineEntry{User: "u", Conv: "g:g", Seq: 1, ID: 1}
	var counters []int64
	for range 3 {
		st := s.renew(a)
		same(t, "routes", put(t, r, "u", route(1, "a", 1, "d")), []registry.Route(nil))
		n := must[[]int64](t)(r.AddGroupEdge(ctx, "a", []wire.GroupID{"g"}))[0]
		check(t, r.Announced(ctx, "a", 1, st.Index))
		same(t, "reserved", must[[]registry.Reserved](t)(r.Reserve(ctx, []registry.Reservation{q}))[0].First, true)
		check(t, r.MarkAcked(ctx, []registry.Reservation{q}, []int64{5}))
		check(t, r.PutMessages(ctx, []registry.CachedMsg{m}))
		check(t, r.PutMembers(ctx, "g", []wire.UserID{"u"}))
		check(t, r.FileOffline(ctx, []registry.OfflineEntry{waits}))
		check(t, r.SetLastSeen(ctx, "u", 7))
		for _, old := range counters { // known from before the loss: it must not match
			check(t, r.DropGroupEdges(ctx, "a", []wire.GroupID{"g"}, []int64{old}))
		}
		counters = append(counters, n)

		got := must[registry.Routes](t)(r.Lookup(ctx, []wire.UserID{"u"}, []wire.GroupID{"g"}))
		same(t, "looked up", got.Users, map[wire.UserID][]registry.Route{"u": {route(1, "a", 1, "d")}})
		same(t, "group", got.Groups, map[wire.GroupID][]wire.ServerID{"g": {"a"}})
		same(t, "live", must[[]registry.Lease](t)(r.Live(ctx, registry.TierEdge)), []registry.Lease{a})
		same(t, "acked", must[[]registry.Reserved](t)(r.Reserve(ctx, []registry.Reservation{q})), []registry.Reserved{{ID: 1, Acked: 5}})
		same(t, "cached", must[map[wire.MsgID]registry.CachedMsg](t)(r.GetMessages(ctx, []wire.MsgID{1})), map[wire.MsgID]registry.CachedMsg{1: m})
		same(t, "member", must[[]bool](t)(r.AreMembers(ctx, []registry.Membership{{Group: "g", User: "u"}})), []bool{true})
		same(t, "offline", must[[]registry.OfflineEntry](t)(r.Offline(ctx, "u")), []registry.OfflineEntry{waits})
		same(t, "seen", must[map[wire.UserID]int64](t)(r.LastSeen(ctx, []wire.UserID{"u"})), map[wire.UserID]int64{"u": 7})

		s.env.Flush()
		s.is("emptied", false)
		check(t, r.DropRoute(ctx, "u", route(1, "a", 1, "d")))
		check(t, r.ClearOffline(ctx, "u", "g:g", 9))
		check(t, r.ChangeMembers(ctx, "g", nil, []wire.UserID{"u"}))
		check(t, r.Release(ctx, a))
		same(t, "nothing left", len(must[[]registry.Lease](t)(r.Live(ctx, registry.TierEdge))), 0)
	}
}
