// Package registrytest is the contract of registry.Registry as one suite, run
// on every implementation: what the interface promises, and nothing that only
// one of them does. Imported by tests alone.
package registrytest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/wire"
)

// Env is one empty registry and what the suite does to it.
type Env struct {
	Registry registry.Registry
	Other    registry.Registry     // of another process, on the same data; may be the same
	Advance  func(d time.Duration) // lets leases lapse
	Flush    func()                // loses all data
}

type suite struct {
	t   *testing.T
	env Env
}

// Run runs the suite; newEnv is called for each test.
func Run(t *testing.T, newEnv func(t *testing.T) Env) {
	t.Helper()
	for name, f := range map[string]func(suite){
		"leases": suite.leases, "sentinel": suite.sentinel, "routes": suite.routes, "devices": suite.devices, "mates": suite.mates,
		"emptied": suite.emptied, "slow edge": suite.slowEdge, "emptied midway": suite.emptiedMidway, "every use": suite.everyUse,
		"lapse": suite.lapse, "new lease at once": suite.newLease, "race": suite.deviceRace, "groups": suite.groups, "seen": suite.seen, "reserve": suite.reserve,
		"messages": suite.messages, "offline": suite.offline, "members": suite.members, "empty calls": suite.empty, "canceled": suite.canceled,
	} {
		t.Run(name, func(t *testing.T) { f(suite{t, newEnv(t)}) })
	}
}

func must[T any](t *testing.T) func(v T, err error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func edge(id wire.ServerID, epoch uint64) registry.Lease {
	return registry.Lease{Tier: registry.TierEdge, Server: id, Epoch: epoch, RPCAddr: "127.0.0.1:1", Load: 3}
}

func up(t *testing.T, r registry.Registry, ls ...registry.Lease) {
	t.Helper()
	for _, l := range ls {
		must[registry.Standing](t)(r.Renew(t.Context(), l, time.Minute))
	}
}

func route(conn wire.ConnID, server wire.ServerID, epoch uint64, device wire.DeviceID) registry.Route {
	return registry.Route{Conn: conn, Server: server, Epoch: epoch, Device: device, Platform: "web", Since: int64(conn)}
}

func put(t *testing.T, r registry.Registry, u wire.UserID, rs ...registry.Route) []registry.Route {
	t.Helper()
	return must[map[wire.UserID][]registry.Route](t)(r.PutRoutes(t.Context(), map[wire.UserID][]registry.Route{u: rs}))[u]
}

func routesOf(t *testing.T, r registry.Registry, u wire.UserID) []registry.Route {
	t.Helper()
	return must[registry.Routes](t)(r.Lookup(t.Context(), []wire.UserID{u}, nil)).Users[u]
}

func (s suite) leases() {
	t, e := s.t, s.env
	ctx, r := t.Context(), e.Registry
	a, b, j := edge("a", 1), edge("b", 7), registry.Lease{Tier: registry.TierJob, Server: "a", Epoch: 9, RPCAddr: "x:1"}
	check(t, func() error { _, err := r.Renew(ctx, b, time.Second); return err }())
	up(t, r, a, j)
	same(t, "edges", must[[]registry.Lease](t)(e.Other.Live(ctx, registry.TierEdge)), []registry.Lease{a, b})
	same(t, "jobs", must[[]registry.Lease](t)(r.Live(ctx, registry.TierJob)), []registry.Lease{j})
	same(t, "logics", must[[]registry.Lease](t)(r.Live(ctx, registry.TierLogic)), []registry.Lease(nil))
	a.Load, a.Draining = 4, true
	up(t, r, a)
	same(t, "renewed", must[[]registry.Lease](t)(r.Live(ctx, registry.TierEdge)), []registry.Lease{a, b})
	e.Advance(1100 * time.Millisecond)
	same(t, "b lapsed", must[[]registry.Lease](t)(r.Live(ctx, registry.TierEdge)), []registry.Lease{a})
	check(t, r.Release(ctx, edge("a", 2)))
	same(t, "other epoch released", must[[]registry.Lease](t)(r.Live(ctx, registry.TierEdge)), []registry.Lease{a})
	check(t, r.Release(ctx, a))
	same(t, "released", must[[]registry.Lease](t)(r.Live(ctx, registry.TierEdge)), []registry.Lease(nil))
	check(t, r.Release(ctx, a))
}

func (s suite) routes() {
	t, e := s.t, s.env
	ctx, r := t.Context(), e.Registry
	up(t, r, edge("a", 1), edge("b", 5))
	r1, r2 := route(10, "a", 1, "phone"), route(11, "b", 5, "web")
	same(t, "nothing stood", put(t, r, "u", r1), []registry.Route(nil))
	same(t, "another device stands", put(t, e.Other, "u", r2), []registry.Route{r1})
	same(t, "the same again", put(t, r, "u", r1), []registry.Route{r2})
	got := must[registry.Routes](t)(e.Other.Lookup(ctx, []wire.UserID{"u", "nobody"}, nil))
	same(t, "routes", got.Users, map[wire.UserID][]registry.Route{"u": {r1, r2}})

	other := r1
	other.Epoch = 2
	check(t, r.DropRoute(ctx, "u", other))
	same(t, "drop of another epoch", routesOf(t, r, "u"), []registry.Route{r1, r2})
	check(t, r.DropRoute(ctx, "u", r1))
	check(t, r.DropRoute(ctx, "u", r1))
	same(t, "dropped", routesOf(t, r, "u"), []registry.Route{r2})
}

func (s suite) devices() {
	t, e := s.t, s.env
	r := e.Registry
	up(t, r, edge("a", 1), edge("b", 1))
	old, young := route(10, "a", 1, "d"), route(20, "b", 1, "d")
	put(t, r, "u", old)
	same(t, "older stood", put(t, e.Other, "u", young), []registry.Route{old})
	same(t, "younger wins", routesOf(t, r, "u"), []registry.Route{young})
	same(t, "older announces", put(t, r, "u", old), []registry.Route{young})
	same(t, "younger stays", routesOf(t, r, "u"), []registry.Route{young})
	same(t, "other users", put(t, r, "v", old), []registry.Route(nil))

	other := route(15, "a", 1, "other")
	same(t, "another device beside it", put(t, r, "u", other), []registry.Route{young})
	same(t, "older and other", put(t, e.Other, "u", route(30, "b", 1, "d")), []registry.Route{other, young})

	dead := route(99, "gone", 1, "d")
	put(t, r, "w", dead)
	same(t, "younger of a dead edge", put(t, r, "w", young), []registry.Route(nil))
	same(t, "live one stays", routesOf(t, r, "w"), []registry.Route{young})
}

// mates: of several routes of a user in one call each must learn of the rest.
func (s suite) mates() {
	t, e := s.t, s.env
	r := e.Registry
	up(t, r, edge("a", 1), edge("b", 1))
	r1, r2, far := route(10, "a", 1, "phone"), route(11, "a", 1, "web"), route(5, "b", 1, "far")
	same(t, "two at once", put(t, r, "u", r1, r2), []registry.Route{r1, r2})
	same(t, "a third, elsewhere", put(t, e.Other, "u", far), []registry.Route{r1, r2})
	same(t, "the two again", put(t, r, "u", r2, r1), []registry.Route{far, r1, r2})
	same(t, "one of them", put(t, r, "u", r1), []registry.Route{far, r2})

	old, young := route(20, "a", 1, "d"), route(21, "a", 1, "d")
	same(t, "of one device", put(t, r, "v", young, old), []registry.Route{old, young})
	same(t, "the younger stays", routesOf(t, r, "v"), []registry.Route{young})
	same(t, "one that gives way", put(t, e.Other, "v", old, far), []registry.Route{far, young})
	same(t, "it is gone", routesOf(t, r, "v"), []registry.Route{far, young})
}

func (s suite) lapse() {
	t, e := s.t, s.env
	ctx, r := t.Context(), e.Registry
	must[registry.Standing](t)(r.Renew(ctx, edge("a", 1), time.Second))
	put(t, r, "u", route(1, "a", 1, "d"))
	same(t, "live", len(routesOf(t, r, "u")), 1)
	e.Advance(1100 * time.Millisecond)
	eventually(t, "route of a lapsed lease goes", func() bool { return len(routesOf(t, r, "u")) == 0 })
	up(t, r, edge("a", 2))
	same(t, "old epoch", routesOf(t, r, "u"), []registry.Route(nil))
	put(t, r, "u", route(1, "a", 2, "d"))
	same(t, "announced under the new epoch", routesOf(t, e.Other, "u"), []registry.Route{route(1, "a", 2, "d")})
}

// newLease: another process's look-up must not take a route for dead
// because it has read the leases a moment ago.
func (s suite) newLease() {
	t, e := s.t, s.env
	up(t, e.Registry, edge("z", 1))
	for i := range wire.ConnID(20) {
		same(t, "warm", len(routesOf(t, e.Other, "warm")), 0)
		id := wire.ServerID(fmt.Sprintf("edge-%d", i%5))
		up(t, e.Registry, edge(id, uint64(i)))
		put(t, e.Registry, "u", route(i, id, uint64(i), "d"))
		if got := routesOf(t, e.Other, "u"); len(got) != 1 || got[0].Conn != i {
			t.Fatalf("route %d of a lease just made is %v", i, got)
		}
	}
}

// deviceRace: of connections put at once by two processes the newest is
// left, and all others have learnt of a newer one.
func (s suite) deviceRace() {
	t, e := s.t, s.env
	up(t, e.Registry, edge("a", 1))
	const n = 16
	type result struct {
		conn  wire.ConnID
		stood []registry.Route
		err   error
	}
	results := make(chan result, n)
	for i := range wire.ConnID(n) {
		r := []registry.Registry{e.Registry, e.Other}[i%2]
		go func() { // ends by its one send
			s, err := r.PutRoutes(t.Context(), map[wire.UserID][]registry.Route{"u": {route(i+1, "a", 1, "d")}})
			results <- result{i + 1, s["u"], err}
		}()
	}
	for range n {
		res := <-results
		check(t, res.err)
		newer := slices.ContainsFunc(res.stood, func(o registry.Route) bool { return o.Conn > res.conn })
		if res.conn == n && newer {
			t.Errorf("newest connection gives way to %v", res.stood)
		}
	}
	same(t, "left", routesOf(t, e.Registry, "u"), []registry.Route{route(n, "a", 1, "d")})
}

func (s suite) groups() {
	t, e := s.t, s.env
	ctx, r := t.Context(), e.Registry
	up(t, r, edge("a", 1), edge("b", 1))
	first := must[[]int64](t)(r.AddGroupEdge(ctx, "a", []wire.GroupID{"g", "h"}))
	second := must[[]int64](t)(e.Other.AddGroupEdge(ctx, "a", []wire.GroupID{"g"}))
	if len(first) != 2 || len(second) != 1 || first[0] < 1 || first[1] < 1 || second[0] <= first[0] {
		t.Errorf("counters %v, then %v", first, second)
	}
	must[[]int64](t)(r.AddGroupEdge(ctx, "b", []wire.GroupID{"g"}))
	must[[]int64](t)(r.AddGroupEdge(ctx, "dead", []wire.GroupID{"g"}))
	look := func() map[wire.GroupID][]wire.ServerID {
		return must[registry.Routes](t)(r.Lookup(ctx, nil, []wire.GroupID{"g", "h", "none"})).Groups
	}
	same(t, "edges", look(), map[wire.GroupID][]wire.ServerID{"g": {"a", "b"}, "h": {"a"}})
	check(t, r.DropGroupEdges(ctx, "a", []wire.GroupID{"g"}, []int64{first[0]}))
	same(t, "counter has moved", look()["g"], []wire.ServerID{"a", "b"})
	check(t, r.DropGroupEdges(ctx, "a", []wire.GroupID{"g", "h"}, []int64{second[0], first[1]}))
	same(t, "dropped", look(), map[wire.GroupID][]wire.ServerID{"g": {"b"}})
	// A removal that comes once more must not take out who came back meanwhile.
	must[[]int64](t)(r.AddGroupEdge(ctx, "a", []wire.GroupID{"g", "h"}))
	check(t, r.DropGroupEdges(ctx, "a", []wire.GroupID{"g", "h"}, []int64{second[0], first[1]}))
	same(t, "came back", look(), map[wire.GroupID][]wire.ServerID{"g": {"a", "b"}, "h": {"a"}})
}

func (s suite) seen() {
	t, e := s.t, s.env
	ctx, r := t.Context(), e.Registry
	check(t, r.SetLastSeen(ctx, "u", 100))
	check(t, r.SetLastSeen(ctx, "u", 200))
	same(t, "seen", must[map[wire.UserID]int64](t)(e.Other.LastSeen(ctx, []wire.UserID{"u", "never"})), map[wire.UserID]int64{"u": 200})
}

func (s suite) reserve() {
	t, e := s.t, s.env
	ctx, r := t.Context(), e.Registry
	q := registry.Reservation{Conv: "p:a:b", From: "a", ClientID: "c|1", ID: 5, Hash: 1 << 63}
	later := q
	later.ID, later.Hash = 6, 7
	other := q
	other.From = "b"
	reserve := func(rs ...registry.Reservation) []registry.Reserved {
		return must[[]registry.Reserved](t)(r.Reserve(ctx, rs))
	}
	same(t, "first and its repeat", reserve(q, later, other), []registry.Reserved{
		{ID: 5, Hash: 1 << 63, First: true}, {ID: 5, Hash: 1 << 63}, {ID: 5, Hash: 1 << 63, First: true},
	})
	check(t, e.Other.MarkAcked(ctx, []registry.Reservation{q}, []int64{1234}))
	same(t, "acked", reserve(later), []registry.Reserved{{ID: 5, Hash: 1 << 63, Acked: 1234}})
	check(t, e.Other.MarkAcked(ctx, []registry.Reservation{q}, []int64{-1}))
	same(t, "refused", reserve(later), []registry.Reserved{{ID: 5, Hash: 1 << 63, Acked: -1}})

	// Emptied: the next one is first, and its mark is the only one.
	e.Flush()
	same(t, "after a loss", reserve(later, q), []registry.Reserved{{ID: 6, Hash: 7, First: true}, {ID: 6, Hash: 7}})
	check(t, r.MarkAcked(ctx, []registry.Reservation{later}, []int64{99}))
	same(t, "acked after a loss", reserve(q), []registry.Reserved{{ID: 6, Hash: 7, Acked: 99}})
	// What makes one key of conversation, sender and client_id cannot be mixed up.
	a := registry.Reservation{Conv: "g:x", From: "a", ClientID: "b|c", ID: 1}
	b := registry.Reservation{Conv: "g:x", From: "a", ClientID: "b}c{", ID: 2}
	same(t, "odd client ids", reserve(a, b, a), []registry.Reserved{{ID: 1, First: true}, {ID: 2, First: true}, {ID: 1}})

	const n = 10
	got := make(chan registry.Reserved, n)
	for i := range n {
		go func() { // ends by its one send
			rs, err := []registry.Registry{r, e.Other}[i%2].Reserve(ctx, []registry.Reservation{{Conv: "g:x", From: "a", ClientID: "same", ID: wire.MsgID(i + 1)}})
			if err != nil {
				t.Error(err)
				rs = make([]registry.Reserved, 1)
			}
			got <- rs[0]
		}()
	}
	firsts, ids := 0, map[wire.MsgID]bool{}
	for range n {
		v := <-got
		ids[v.ID] = true
		if v.First {
			firsts++
		}
	}
	same(t, "winners of ten at once", firsts, 1)
	same(t, "ids of ten at once", len(ids), 1)
}

func (s suite) messages() {
	t, e := s.t, s.env
	ctx, r := t.Context(), e.Registry
	m := registry.CachedMsg{Conv: "p:a:b", Seq: 4, ID: 1 << 62, Version: 3, Content: "h\u00e9\x00\"llo"}
	check(t, r.PutMessages(ctx, []registry.CachedMsg{m, {ID: 2, Conv: "g:x"}}))
	m.Version, m.Content = 9, ""
	check(t, r.PutMessages(ctx, []registry.CachedMsg{m}))
	same(t, "cached", must[map[wire.MsgID]registry.CachedMsg](t)(e.Other.GetMessages(ctx, []wire.MsgID{1 << 62, 77})), map[wire.MsgID]registry.CachedMsg{1 << 62: m})
}

// OfflineLimit is the bound that implementations under test are set to.
const OfflineLimit = 1000

func (s suite) offline() {
	t, e := s.t, s.env
	ctx, r := t.Context(), e.Registry
	entry := func(conv wire.ConvID, seq int64) registry.OfflineEntry {
		return registry.OfflineEntry{User: "u", Conv: conv, Seq: seq, ID: wire.MsgID(seq << 22)}
	}
	list := func() []registry.OfflineEntry { return must[[]registry.OfflineEntry](t)(r.Offline(ctx, "u")) }
	check(t, r.FileOffline(ctx, []registry.OfflineEntry{entry("p:a:u", 2), entry("g:x", 3), entry("p:a:u", 1)}))
	check(t, e.Other.FileOffline(ctx, []registry.OfflineEntry{entry("g:x", 3)}))
	same(t, "by age, once each", list(), []registry.OfflineEntry{entry("p:a:u", 1), entry("p:a:u", 2), entry("g:x", 3)})
	check(t, r.ClearOffline(ctx, "u", "p:a:u", 1))
	check(t, r.ClearOffline(ctx, "nobody", "p:a:u", 1))
	same(t, "cleared", list(), []registry.OfflineEntry{entry("p:a:u", 2), entry("g:x", 3)})

	var many []registry.OfflineEntry
	for i := range int64(OfflineLimit + 20) {
		many = append(many, entry("g:many", 10+i))
	}
	check(t, r.FileOffline(ctx, many))
	same(t, "bounded, the oldest went", list(), many[20:])
	check(t, r.ClearOffline(ctx, "u", "g:many", 1<<40))
	same(t, "all cleared", list(), []registry.OfflineEntry(nil))
}
