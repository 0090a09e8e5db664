package announce

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// counting counts the calls that write routes.
type counting struct {
	*memregistry.Registry
	puts atomic.Int64
	adds atomic.Int64 // calls that name this edge for groups
	outs atomic.Int64 // calls that take it out of some
	slow time.Duration
	hold chan struct{} // closed: rooms are taken out
	seen time.Duration // that keeping a last_seen takes
	late atomic.Int64  // ns that the next renewal takes to arrive
	fail atomic.Bool
	deaf atomic.Bool // removals fail

	mu     sync.Mutex
	before func() // once, before routes are written
}

func (c *counting) once(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before = f
}

func (c *counting) Renew(ctx context.Context, l registry.Lease, ttl time.Duration) (registry.Standing, error) {
	time.Sleep(time.Duration(c.late.Swap(0)))
	return c.Registry.Renew(ctx, l, ttl)
}

func (c *counting) AddGroupEdge(ctx context.Context, server wire.ServerID, groups []wire.GroupID) ([]int64, error) {
	c.adds.Add(1)
	time.Sleep(c.slow)
	return c.Registry.AddGroupEdge(ctx, server, groups)
}

func (c *counting) DropGroupEdges(ctx context.Context, server wire.ServerID, groups []wire.GroupID, counters []int64) error {
	c.outs.Add(1)
	time.Sleep(c.slow)
	if c.hold != nil && groups[0].IsRoom() {
		<-c.hold
	}
	return c.Registry.DropGroupEdges(ctx, server, groups, counters)
}

func (c *counting) SetLastSeen(ctx context.Context, u wire.UserID, ms int64) error {
	time.Sleep(c.seen)
	return c.Registry.SetLastSeen(ctx, u, ms)
}

func (c *counting) DropRoute(ctx context.Context, u wire.UserID, r registry.Route) error {
	if c.deaf.Load() {
		return errors.New("no")
	}
	return c.Registry.DropRoute(ctx, u, r)
}

func (c *counting) PutRoutes(ctx context.Context, rs map[wire.UserID][]registry.Route) (map[wire.UserID][]registry.Route, error) {
	c.puts.Add(1)
	c.mu.Lock()
	before := c.before
	c.before = nil
	c.mu.Unlock()
	if before != nil {
		before()
	}
	if c.fail.Load() {
		return nil, errors.New("no")
	}
	time.Sleep(c.slow)
	return c.Registry.PutRoutes(ctx, rs)
}

type rig struct {
	a      *Announcer
	reg    *counting
	roster *roster.Roster
	hellos atomic.Int64
	missed atomic.Int64
	newer  atomic.Int64
}

// run starts an announcer in a bubble of fake time.
func run(t *testing.T, cfg Config, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{reg: &counting{Registry: memregistry.New()}, roster: roster.New()}
		r.a = New(cfg, r.reg, r.roster, Events{
			Older: func(*roster.Member, registry.Route) {},
			Load:  func() int64 { return 3 }, HelloChanged: func() { r.hellos.Add(1) },
			Missed: func() { r.missed.Add(1) }, Newer: func(*roster.Member) { r.newer.Add(1) },
		}, prometheus.NewRegistry(), zap.NewNop())
		r.a.Start(t.Context(), registry.Lease{Tier: registry.TierEdge, Server: "e1", URL: "ws://e1"})
		defer r.a.Stop(context.WithoutCancel(t.Context()))
		f(t, r)
	})
}

// user returns the routes that the index has of a user.
func (r *rig) user(t *testing.T, user wire.UserID) []registry.Route {
	t.Helper()
	got, err := r.reg.Lookup(t.Context(), []wire.UserID{user}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got.Users[user]
}

// group counts the edges that the index names for a group.
func (r *rig) group(t *testing.T, group wire.GroupID) int {
	t.Helper()
	got, err := r.reg.Lookup(t.Context(), nil, []wire.GroupID{group})
	if err != nil {
		t.Fatal(err)
	}
	return len(got.Groups[group])
}

func (r *rig) lastSeen(t *testing.T, user wire.UserID) int64 {
	t.Helper()
	got, err := r.reg.LastSeen(t.Context(), []wire.UserID{user})
	if err != nil {
		t.Fatal(err)
	}
	return got[user]
}

func (r *rig) member(user string, conn int) *roster.Member {
	m, _ := r.roster.Connect(nil, roster.Identity{User: wire.UserID(user), Device: "web", Conn: wire.ConnID(conn)}, nil)
	r.roster.Open(m, nil, 0)
	return m
}

func TestLogInsAreCollected(t *testing.T) {
	run(t, Config{TTL: time.Hour, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		r.reg.slow = 20 * time.Millisecond
		var wg sync.WaitGroup
		const n = 300
		for i := range n {
			m := r.member(fmt.Sprintf("u%d", i), i+1)
			wg.Go(func() {
				if _, ok := r.a.Put(t.Context(), m); !ok {
					t.Error("gave way to nobody")
				}
			})
		}
		wg.Wait()
		// A call under way for each worker, and another for all that came meanwhile.
		if got := r.reg.puts.Load(); got > 2*dropWorkers {
			t.Errorf("%d calls for %d log-ins", got, n)
		}
		for _, u := range []wire.UserID{"u0", "u299"} {
			if got := r.user(t, u); len(got) != 1 || got[0].Server != "e1" {
				t.Errorf("routes of %s: %+v", u, got)
			}
		}
	})
}

func TestGivesWayToANewerConnection(t *testing.T) {
	run(t, Config{TTL: time.Hour, Round: time.Second}, func(t *testing.T, r *rig) {
		t.Helper()
		_, err := r.reg.Renew(t.Context(), registry.Lease{Tier: registry.TierEdge, Server: "e2", Epoch: 9, URL: "ws://e2", Weight: 1}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		old := r.member("bob", 5)
		if _, ok := r.a.Put(t.Context(), old); !ok {
			t.Fatal("the only one gave way")
		}
		route := registry.Route{Conn: 8, Server: "e2", Epoch: 9, Device: "web"}
		if _, err := r.reg.Registry.PutRoutes(t.Context(), map[wire.UserID][]registry.Route{"bob": {route}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if r.newer.Load() == 0 {
			t.Error("the slow round did not find that the device is elsewhere now")
		}
		if _, ok := r.a.Put(t.Context(), r.member("bob", 6)); ok {
			t.Error("an older id did not give way at log-in")
		}
		if got := r.a.Elsewhere(t.Context())(); len(got) != 1 || got[0] != "ws://e2" {
			t.Errorf("other edges: %v", got)
		}
	})
}

func TestUnlistedUntilAnnounced(t *testing.T) {
	run(t, Config{TTL: 300 * time.Millisecond, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		r.reg.fail.Store(true)
		if _, ok := r.a.Put(t.Context(), r.member("bob", 1)); !ok {
			t.Fatal("a log-in does not go on without the registry")
		}
		if _, _, unlisted := r.a.Hello(); !unlisted || r.hellos.Load() != 1 {
			t.Fatalf("unlisted %v after %d hellos", unlisted, r.hellos.Load())
		}
		time.Sleep(250 * time.Millisecond) // renewals go through, announcing does not
		if _, _, unlisted := r.a.Hello(); !unlisted {
			t.Fatal("listed without having announced")
		}
		r.reg.fail.Store(false)
		time.Sleep(100 * time.Millisecond)
		if _, _, unlisted := r.a.Hello(); unlisted {
			t.Error("not listed with the next renewal")
		}
		if got := r.user(t, "bob"); len(got) != 1 {
			t.Errorf("routes %+v", got)
		}
	})
}

func TestLapseTakesANewEpoch(t *testing.T) {
	run(t, Config{TTL: 150 * time.Millisecond, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		_, before, _ := r.a.Hello()
		r.reg.SetAway(true)
		time.Sleep(225 * time.Millisecond)
		if r.missed.Load() != 0 {
			t.Error("sessions are told while the registry is away")
		}
		r.reg.SetAway(false)
		time.Sleep(50 * time.Millisecond) // a renewal
		if r.missed.Load() != 1 {
			t.Errorf("sessions are told %d times", r.missed.Load())
		}
		if _, after, unlisted := r.a.Hello(); after <= before || unlisted {
			t.Errorf("epoch %d after %d, unlisted %v", after, before, unlisted)
		}
	})
}

func TestGroupsComeAndGo(t *testing.T) {
	run(t, Config{TTL: time.Hour, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		m, _ := r.roster.Connect(nil, roster.Identity{User: "bob", Device: "web", Conn: 1}, nil)
		r.a.AddGroups(t.Context(), r.roster.Reserve([]roster.Joined{{Group: "g"}}))
		if r.group(t, "g") != 1 {
			t.Fatal("not named")
		}
		r.roster.Open(m, []roster.Joined{{Group: "g"}}, 0)
		_, left := r.roster.Remove(m)
		// Somebody else enters before the removal is done: its counter is newer.
		r.a.AddGroups(t.Context(), r.roster.Reserve([]roster.Joined{{Group: "g"}}))
		r.a.GroupsLeft(left)
		synctest.Wait()
		if r.group(t, "g") != 1 {
			t.Error("a removal that came late took the edge out")
		}
		r.a.GroupsLeft(r.roster.Unreserve([]roster.Joined{{Group: "g"}}))
		synctest.Wait()
		if r.group(t, "g") != 0 {
			t.Error("the edge is named for a group that nobody here is in")
		}
	})
}

func TestDropRemovesTheRouteAndKeepsLastSeen(t *testing.T) {
	run(t, Config{TTL: time.Hour, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		m := r.member("bob", 1)
		r.a.Put(t.Context(), m)
		r.a.Drop(m, 77)
		synctest.Wait()
		if got := r.user(t, "bob"); len(got) != 0 {
			t.Errorf("routes %+v", got)
		}
		if got := r.lastSeen(t, "bob"); got != 77 {
			t.Errorf("last seen %d", got)
		}
	})
}

// Who finds a user away must find when it was seen last, too.
func TestLastSeenIsKeptBeforeTheRouteGoes(t *testing.T) {
	run(t, Config{TTL: time.Hour, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		m := r.member("bob", 1)
		r.a.Put(t.Context(), m)
		r.reg.seen = time.Second
		r.a.Drop(m, 77)
		for range 3 {
			time.Sleep(400 * time.Millisecond)
			if len(r.user(t, "bob")) == 0 && r.lastSeen(t, "bob") != 77 {
				t.Fatal("away, and when it was seen last is not known")
			}
		}
		if len(r.user(t, "bob")) != 0 {
			t.Error("the route stays")
		}
	})
}

// Log-ins of one user that go out together share the answer.
func TestLogInsOfOneUserAtOnce(t *testing.T) {
	run(t, Config{TTL: time.Hour, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		r.reg.slow = time.Second
		var wg sync.WaitGroup
		for i := range dropWorkers { // the calls under way
			m := r.member(fmt.Sprint("u", i), i+1)
			wg.Go(func() { r.a.Put(t.Context(), m) })
			synctest.Wait()
		}
		const n = 5
		for i := range n {
			m, _ := r.roster.Connect(nil, roster.Identity{User: "bob", Device: wire.DeviceID(fmt.Sprint("d", i)), Conn: wire.ConnID(10 + i)}, nil)
			wg.Go(func() {
				if beside, ok := r.a.Put(t.Context(), m); !ok || len(beside) != n-1 {
					t.Errorf("%s is let in: %v, beside %v", m.Device, ok, beside)
				}
			})
		}
		wg.Wait()
		if got := r.reg.puts.Load(); got != dropWorkers+1 {
			t.Errorf("%d calls", got)
		}
	})
}

func TestRoundHasAllParts(t *testing.T) {
	all := make([]int, 1234)
	n := 0
	for step := range roundSteps {
		n += len(part(all, step))
	}
	if n != len(all) {
		t.Errorf("a round has %d of %d", n, len(all))
	}
}

// Clients of an edge that drains do not all go to the same one.
func TestElsewhereSpreads(t *testing.T) {
	run(t, Config{TTL: time.Hour, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		for i := range maxElsewhere + 4 {
			l := registry.Lease{Tier: registry.TierEdge, Server: wire.ServerID(fmt.Sprint("x", i)), URL: fmt.Sprint("ws://x", i), Weight: 1, Draining: i == 0}
			if _, err := r.reg.Renew(t.Context(), l, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		next, firsts := r.a.Elsewhere(t.Context()), map[string]int{}
		for range 1000 {
			urls := next()
			if len(urls) != maxElsewhere {
				t.Fatalf("%d edges", len(urls))
			}
			firsts[urls[0]]++
		}
		if len(firsts) != maxElsewhere+3 || firsts["ws://x0"] > 0 || firsts["ws://x1"] > 300 {
			t.Errorf("first choices of a thousand clients: %v", firsts)
		}
		r.reg.SetAway(true)
		if urls := r.a.Elsewhere(t.Context())(); urls == nil || len(urls) != 0 {
			t.Errorf("with the registry away: %v", urls)
		}
	})
}

// A renewal that was sent in time and arrives too late has a lapse behind it all
// the same: others may have taken this edge for dead.
func TestRenewalArrivesLate(t *testing.T) {
	run(t, Config{TTL: 6 * time.Second, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		r.a.Put(t.Context(), r.member("bob", 1))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		before, missed := r.a.Lease().Epoch, r.missed.Load()
		r.reg.late.Store(int64(5 * time.Second)) // and 2 s since the one before
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if now := r.a.Lease().Epoch; now <= before || r.missed.Load() == missed {
			t.Errorf("epoch %d, was %d; told %d times that something was missed", now, before, r.missed.Load()-missed)
		}
		if routes := r.user(t, "bob"); len(routes) != 1 || routes[0].Epoch != r.a.Lease().Epoch {
			t.Errorf("routes %v", routes)
		}
	})
}
