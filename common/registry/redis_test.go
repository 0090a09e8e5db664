package registry_test

import (
	"errors"
	"flag"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/registry/registrytest"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func testConfig(addr string) registry.Config {
	var c registry.Config
	c.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError), "redis.")
	c.Addrs = config.Strings{addr}
	c.Timeout = 10 * time.Second // a busy machine is no failure here
	c.OfflineLimit = registrytest.OfflineLimit
	return c
}

func newRedis(t *testing.T, c registry.Config) *registry.Redis {
	t.Helper()
	r, err := registry.New(c, zaptest.NewLogger(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func startMini(t *testing.T) *miniredis.Miniredis {
	t.Helper()
	m := miniredis.NewMiniRedis()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestContractMiniredis(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) registrytest.Env {
		t.Helper()
		m := startMini(t)
		return registrytest.Env{
			Registry: newRedis(t, testConfig(m.Addr())), Other: newRedis(t, testConfig(m.Addr())),
			Advance: m.FastForward, Flush: m.FlushAll,
		}
	})
}

// TestServerGone: a few failed calls open the breaker, then calls end at once;
// it closes when the server is back.
func TestServerGone(t *testing.T) {
	m := miniredis.NewMiniRedis()
	if err := m.StartAddr(testkit.Reserve(t, 1)[0]); err != nil { // it is needed again
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	c := testConfig(m.Addr())
	c.BreakAfter, c.BreakFor = 3, time.Hour
	opens := newRedis(t, c)
	c.BreakFor = 10 * time.Millisecond
	closes, ctx := newRedis(t, c), t.Context()
	for _, r := range []*registry.Redis{opens, closes} {
		if err := r.Ping(ctx); err != nil {
			t.Fatal(err)
		}
	}
	m.Close()
	for i := range c.BreakAfter {
		if _, err := opens.Lookup(ctx, []wire.UserID{"u"}, nil); err == nil || errors.Is(err, registry.ErrOpen) {
			t.Fatalf("call %d on a server gone: %v", i, err)
		}
	}
	best := quickest(20, func() {
		if err := opens.Ping(ctx); !errors.Is(err, registry.ErrOpen) {
			t.Fatalf("breaker did not open: %v", err)
		}
	})
	if best > time.Millisecond {
		t.Errorf("a call of an open breaker takes %v", best)
	}
	waitFor(t, "the other breaker opens", func() bool { return errors.Is(closes.Ping(ctx), registry.ErrOpen) })
	if err := m.Restart(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "breaker closes", func() bool { return closes.Ping(ctx) == nil })
	if _, err := closes.Lookup(ctx, []wire.UserID{"u"}, nil); err != nil {
		t.Error(err)
	}
}

// quickest of several calls is what one takes while the machine does nothing else.
func quickest(calls int, call func()) time.Duration {
	best := time.Duration(math.MaxInt64)
	for range calls {
		begin := time.Now()
		call()
		best = min(best, time.Since(begin))
	}
	return best
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// TestServerSilent: a server that takes connections and says nothing costs a
// call its timeout, not more.
func TestServerSilent(t *testing.T) {
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	c := testConfig(ln.Addr().String())
	c.Timeout = 50 * time.Millisecond
	r := newRedis(t, c)
	best := quickest(3, func() {
		if err := r.Ping(t.Context()); err == nil || errors.Is(err, registry.ErrOpen) {
			t.Fatalf("a silent server answered, or was not asked: %v", err)
		}
	})
	if best > 2*time.Second {
		t.Errorf("calls take %v or more, timeout is %v", best, c.Timeout)
	}
}

func TestExpiry(t *testing.T) {
	m := startMini(t)
	c := testConfig(m.Addr())
	c.ReserveTTL, c.CacheTTL, c.MembersTTL, c.OfflineTTL = time.Minute, time.Minute, time.Minute, time.Minute
	r, ctx := newRedis(t, c), t.Context()
	q := registry.Reservation{Conv: "p:a:b", From: "a", ClientID: "c", ID: 1}
	if _, err := r.Reserve(ctx, []registry.Reservation{q}); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		r.PutMessages(ctx, []registry.CachedMsg{{ID: 1}}), r.PutMembers(ctx, "g", []wire.UserID{"a"}),
		r.FileOffline(ctx, []registry.OfflineEntry{{User: "u", Conv: "g:g", Seq: 1, ID: 1}}), r.SetLastSeen(ctx, "u", 1),
		r.MarkAcked(ctx, []registry.Reservation{{Conv: "p:a:b", From: "a", ClientID: "acked", ID: 3}}, []int64{5}),
		r.ChangeMembers(ctx, "changed", []wire.UserID{"a"}, []wire.UserID{"b"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range m.Keys() {
		if m.TTL(k) <= 0 {
			t.Errorf("key %s never expires", k)
		}
	}
	m.FastForward(2 * time.Minute)
	got, err := r.Reserve(ctx, []registry.Reservation{{Conv: "p:a:b", From: "a", ClientID: "c", ID: 2}})
	if err != nil || !got[0].First || got[0].ID != 2 {
		t.Errorf("reservation after its time: %+v, %v", got, err)
	}
	if ms, err := r.GetMessages(ctx, []wire.MsgID{1}); err != nil || len(ms) != 0 {
		t.Errorf("cached message after its time: %v, %v", ms, err)
	}
	if is, err := r.AreMembers(ctx, []registry.Membership{{Group: "g", User: "a"}}); err != nil || is[0] {
		t.Errorf("member after its time: %v, %v", is, err)
	}
	if es, err := r.Offline(ctx, "u"); err != nil || len(es) != 0 {
		t.Errorf("offline list after its time: %v, %v", es, err)
	}
}

func TestClock(t *testing.T) {
	m := startMini(t)
	r := newRedis(t, testConfig(m.Addr()))
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		m.SetTime(time.Now().Add(off))
		if got, err := r.Clock(t.Context()); err != nil || (got-off).Abs() > time.Minute {
			t.Errorf("a clock off by %v is off by %v, %v", off, got, err)
		}
	}
}

// TestRoutesOfTheDead: what a dead edge left of a user goes when the user comes
// back, and by itself when not.
func TestRoutesOfTheDead(t *testing.T) {
	m := startMini(t)
	r, ctx := newRedis(t, testConfig(m.Addr())), t.Context()
	put := func(u wire.UserID, rt registry.Route) map[wire.UserID][]registry.Route {
		t.Helper()
		stood, err := r.PutRoutes(ctx, map[wire.UserID][]registry.Route{u: {rt}})
		if err != nil {
			t.Fatal(err)
		}
		return stood
	}
	fields := func(u string) string {
		t.Helper()
		keys, err := m.HKeys("user:conn:{" + u + "}")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(keys, " ")
	}
	old := registry.Lease{Tier: registry.TierEdge, Server: "old", Epoch: 1}
	if _, err := r.Renew(ctx, old, time.Minute); err != nil {
		t.Fatal(err)
	}
	put("alice", registry.Route{Conn: 1, Server: "old", Epoch: 1, Device: "phone"})
	put("alice", registry.Route{Conn: 2, Server: "old", Epoch: 1, Device: "web"})
	put("gone", registry.Route{Conn: 3, Server: "old", Epoch: 1, Device: "web"})
	if got := fields("alice"); got != "1 2" {
		t.Errorf("while the edge lives: %s", got)
	}
	if err := r.Release(ctx, old); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Renew(ctx, registry.Lease{Tier: registry.TierEdge, Server: "new", Epoch: 1}, time.Minute); err != nil {
		t.Fatal(err)
	}
	if stood := put("alice", registry.Route{Conn: 9, Server: "new", Epoch: 1, Device: "web"}); len(stood["alice"]) != 1 || stood["alice"][0].Conn != 2 {
		t.Errorf("stood before: %+v", stood)
	}
	if got := fields("alice"); got != "9" {
		t.Errorf("left of alice: %s", got)
	}
	put("alice", registry.Route{Conn: 9, Server: "nobody", Epoch: 1, Device: "web"}) // before its lease stands
	if got := fields("alice"); got != "9" {
		t.Errorf("one's own route: %s", got)
	}
	m.FastForward(25 * time.Hour)
	if m.Exists("user:conn:{gone}") || m.Exists("user:conn:{alice}") {
		t.Error("routes that nobody announces stay")
	}
}

// TestIDsOfTheDead: ids are made at each start and must not pile up for ever,
// nor may one go that lives.
func TestIDsOfTheDead(t *testing.T) {
	m := startMini(t)
	r, ctx := newRedis(t, testConfig(m.Addr())), t.Context()
	for id, ago := range map[string]time.Duration{"long-dead": 25 * time.Hour, "dead": 23 * time.Hour} {
		if _, err := m.ZAdd("leases:{job}", float64(time.Now().Add(-ago).UnixMilli()), id); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []wire.ServerID{"a", "b", "a"} {
		if _, err := r.Renew(ctx, registry.Lease{Tier: registry.TierJob, Server: id, Epoch: 1}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	ids, err := m.ZMembers("leases:{job}")
	if err != nil || strings.Join(ids, " ") != "dead a b" && strings.Join(ids, " ") != "dead b a" {
		t.Errorf("ids %v, %v", ids, err)
	}
	live, err := r.Live(ctx, registry.TierJob)
	if err != nil || len(live) != 2 || live[0].Server != "a" || live[1].Server != "b" {
		t.Errorf("live %+v, %v", live, err)
	}
}

// TestKeys pins the names that other parts and operators know, with the id in
// braces for Cluster.
func TestKeys(t *testing.T) {
	m := startMini(t)
	r, ctx := newRedis(t, testConfig(m.Addr())), t.Context()
	rt := registry.Route{Conn: 9, Server: "e", Epoch: 1, Device: "d"}
	l := registry.Lease{Tier: registry.TierEdge, Server: "e", Epoch: 1}
	_, err1 := r.Renew(ctx, l, time.Minute)
	_, err2 := r.PutRoutes(ctx, map[wire.UserID][]registry.Route{"alice": {rt}})
	_, err3 := r.AddGroupEdge(ctx, "e", []wire.GroupID{"g"})
	_, err4 := r.Reserve(ctx, []registry.Reservation{{Conv: "p:a:b", From: "a", ClientID: "c", ID: 1}})
	if err := errors.Join(err1, err2, err3, err4, r.Announced(ctx, "e", 1, ""), r.SetLastSeen(ctx, "alice", 1),
		r.PutMessages(ctx, []registry.CachedMsg{{ID: 7}}), r.PutMembers(ctx, "g", []wire.UserID{"a"}),
		r.FileOffline(ctx, []registry.OfflineEntry{{User: "alice", Conv: "g:g", Seq: 1, ID: 1}})); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"group:edges:{g}", "group:members:{g}", "index:announced", "index:sentinel", "index:settling", "lease:edge:{e}", "leases:{edge}", "leases:{edge}:gen", "msg:cache:{7}",
		"offline:msg:{alice}", "send:{p:a:b|a|c}", "user:conn:{alice}", "user:status:{alice}",
	}
	if got := m.Keys(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("keys are\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestGarbage: what cannot be read is left out, not an error of everybody.
func TestGarbage(t *testing.T) {
	m := startMini(t)
	r, ctx := newRedis(t, testConfig(m.Addr())), t.Context()
	l := registry.Lease{Tier: registry.TierEdge, Server: "e", Epoch: 1}
	if _, err := r.Renew(ctx, l, time.Minute); err != nil {
		t.Fatal(err)
	}
	m.HSet("user:conn:{u}", "1", "not json", "2", `{"conn":3,"server":"e","epoch":1}`, "4", `{"conn":4,"server":"e","epoch":1}`)
	_, _ = m.ZAdd("leases:{edge}", float64(time.Now().UnixMilli()), "junk")
	for k, v := range map[string]string{"lease:edge:{junk}": "][", "msg:cache:{5}": "x", "user:status:{u}": "soon"} {
		if err := m.Set(k, v); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.ZAdd("offline:msg:{u}", 1, "no bars"); err != nil {
		t.Fatal(err)
	}
	rs, err := r.Lookup(ctx, []wire.UserID{"u"}, nil)
	if err != nil || len(rs.Users["u"]) != 1 || rs.Users["u"][0].Conn != 4 {
		t.Errorf("routes: %+v, %v", rs, err)
	}
	if ms, err := r.GetMessages(ctx, []wire.MsgID{5}); err != nil || len(ms) != 0 {
		t.Errorf("messages: %v, %v", ms, err)
	}
	if seen, err := r.LastSeen(ctx, []wire.UserID{"u"}); err != nil || len(seen) != 0 {
		t.Errorf("last seen: %v, %v", seen, err)
	}
	if es, err := r.Offline(ctx, "u"); err != nil || len(es) != 0 {
		t.Errorf("offline: %v, %v", es, err)
	}
	if err := m.Set("send:{p:a:b|a|c}", "1|2"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Reserve(ctx, []registry.Reservation{{Conv: "p:a:b", From: "a", ClientID: "c", ID: 1}}); err == nil {
		t.Error("a broken reservation passed for one")
	}
}

func TestValidate(t *testing.T) {
	if c := testConfig("127.0.0.1:1"); c.Validate() != nil {
		t.Errorf("defaults with an address: %v", c.Validate())
	}
	c := testConfig("nowhere")
	c.DB, c.Timeout, c.PoolSize, c.BreakAfter, c.BreakFor, c.Prefix, c.OfflineLimit, c.CacheTTL = -1, 0, 0, 0, 0, "{", 0, 0
	err := c.Validate()
	if err == nil {
		t.Fatal("all wrong, nothing said")
	}
	for _, key := range []string{"addrs", "db", "timeout", "pool-size", "break-after", "break-for", "prefix", "offline-limit", "cache-ttl"} {
		if !strings.Contains(err.Error(), "redis."+key+": ") {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
	if _, err := registry.New(registry.Config{}, zaptest.NewLogger(t), nil); err == nil {
		t.Error("New took an empty config")
	}
}
