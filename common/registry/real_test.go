package registry_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/registry/registrytest"
	"github.com/starling-im/starling/common/testkit/redistest"
	"github.com/starling-im/starling/common/wire"
)

// TestContractRealRedis runs on a server alone, under Sentinels and on a
// Cluster; and on the server that STARLING_TEST_REDIS_ADDR names, under a prefix
// of its own.
func TestContractRealRedis(t *testing.T) {
	if addr := os.Getenv("STARLING_TEST_REDIS_ADDR"); addr != "" {
		t.Run("named", func(t *testing.T) { contractOn(t, testConfig(addr), nil) })
	}
	t.Run("standalone", func(t *testing.T) {
		t.Parallel()
		s := redistest.Start(t)
		contractOn(t, testConfig(s.Addr), func() { s.Do("flushall") })
	})
	t.Run("sentinel", func(t *testing.T) {
		t.Parallel()
		s := redistest.StartSentinels(t, "of-redis", "of-sentinels")
		contractOn(t, sentinelConfig(s), func() { s.Master.Do("flushall") })
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		s := redistest.StartCluster(t, 3, false)
		contractOn(t, clusterConfig(s), s.Flush)
	})
}

func sentinelConfig(s *redistest.Sentinels) registry.Config {
	c := testConfig("")
	c.Addrs, c.Master = s.Addrs(), redistest.MasterName
	_ = c.Password.Set("of-redis")
	_ = c.SentinelPassword.Set("of-sentinels")
	return c
}

func clusterConfig(s *redistest.Cluster) registry.Config {
	c := testConfig("")
	c.Addrs, c.Cluster = config.Strings{s.Masters[0].Addr}, true // the others it finds out
	return c
}

// contractOn runs the suite; flush nil removes what has the test's prefix.
func contractOn(t *testing.T, c registry.Config, flush func()) {
	t.Helper()
	registrytest.Run(t, func(t *testing.T) registrytest.Env {
		t.Helper()
		flush := flush
		if flush == nil {
			c.Prefix = "test:" + strings.ReplaceAll(t.Name(), " ", "_") + ":" + time.Now().Format("150405.000000") + ":"
			flush = flushPrefix(t, c.Addrs[0], c.Prefix)
		}
		t.Cleanup(flush)
		return registrytest.Env{
			Registry: newRedis(t, c), Other: newRedis(t, c), Flush: flush,
			Advance: func(d time.Duration) { <-time.After(d) },
		}
	})
}

func flushPrefix(t *testing.T, addr, prefix string) func() {
	t.Helper()
	raw := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { _ = raw.Close() })
	return func() {
		keys, err := raw.Keys(context.Background(), prefix+"*").Result()
		if err == nil && len(keys) > 0 {
			err = raw.Del(context.Background(), keys...).Err()
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// tier is edges that renew as they do in production.
type tier struct {
	t      *testing.T
	r      *registry.Redis
	leases []registry.Lease
}

const shortTTL = 500 * time.Millisecond

// renew renews all leases, announces where asked, and says whether all found
// the index known. Errors are for who waits: servers come and go here.
func (e *tier) renew() bool {
	known := true
	for _, l := range e.leases {
		st, err := e.r.Renew(e.t.Context(), l, shortTTL)
		if err == nil && st.Announce {
			err = e.r.Announced(e.t.Context(), l.Server, l.Epoch, st.Index)
		}
		known = known && err == nil && st.Known
	}
	return known
}

func (e *tier) untilKnown(what string) {
	e.t.Helper()
	redistest.Eventually(e.t, "known "+what, func() bool { return e.renew() })
}

// index is the name of the present one.
func (e *tier) index() string {
	e.t.Helper()
	st, err := e.r.Renew(e.t.Context(), e.leases[0], shortTTL)
	if err != nil {
		e.t.Fatal(err)
	}
	return st.Index
}

func (e *tier) known() bool {
	e.t.Helper()
	rs, err := e.r.Lookup(e.t.Context(), nil, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	return rs.Known
}

func newTier(t *testing.T, c registry.Config, edges ...wire.ServerID) *tier {
	t.Helper()
	e := &tier{t: t, r: newRedis(t, c)}
	for _, id := range edges {
		e.leases = append(e.leases, registry.Lease{Tier: registry.TierEdge, Server: id, Epoch: 1})
	}
	return e
}

// TestClusterMasterEmptied: whichever master is emptied, its run goes on, and
// look-ups say so at once, renewals begin anew.
func TestClusterMasterEmptied(t *testing.T) {
	t.Parallel()
	s := redistest.StartCluster(t, 3, false)
	e := newTier(t, clusterConfig(s), "a", "b")
	for i, m := range s.Masters {
		e.untilKnown(fmt.Sprintf("before %d is emptied", i))
		before := e.index()
		m.Do("flushall")
		if e.known() {
			t.Errorf("master %d emptied: look-ups trust the index", i)
		}
		if e.renew(); e.index() == before || e.known() {
			t.Errorf("master %d emptied: the same index goes on", i)
		}
	}
	e.untilKnown("at last")
}

// TestClusterFailover: a replica has the marker of its master, too; the run id
// tells. Calls go to it soon, though nobody redirects the client.
func TestClusterFailover(t *testing.T) {
	t.Parallel()
	s := redistest.StartCluster(t, 3, true)
	e := newTier(t, clusterConfig(s), "a", "b")
	for i := range s.Masters {
		e.untilKnown(fmt.Sprintf("before failover %d", i))
		before := e.index()
		s.Masters[i].Kill()
		redistest.Eventually(t, "the replica is promoted", func() bool {
			out, err := s.Replicas[i].Try("info", "replication")
			return err == nil && strings.Contains(out, "role:master")
		})
		e.untilKnown(fmt.Sprintf("after failover %d", i))
		if e.index() == before {
			t.Errorf("failover %d: what the replica may have lost is trusted", i)
		}
	}
}

// TestClusterResharded: slots that move take their keys along, and nothing of
// the index is lost; a master more is under watch after it.
func TestClusterResharded(t *testing.T) {
	t.Parallel()
	s := redistest.StartCluster(t, 3, false)
	e := newTier(t, clusterConfig(s), "a")
	e.untilKnown("before")
	// The first master gives all its slots to the second one.
	from, to := s.Masters[0], s.Masters[1]
	id := to.Do("cluster", "myid")
	from.Do("--cluster", "reshard", from.Addr, "--cluster-from", from.Do("cluster", "myid"), "--cluster-to", id,
		"--cluster-slots", "5461", "--cluster-yes")
	e.untilKnown("after")
	e.leases[0].Load++
	before := e.index()
	to.Do("flushall")
	if e.known() {
		t.Error("the slots that moved were emptied: look-ups trust the index")
	}
	if e.index() == before {
		t.Error("the slots that moved were emptied: the same index goes on")
	}
}

// TestSentinelFailover: a replica takes the master's place.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinels(t, "of-redis", "of-sentinels")
	e := newTier(t, sentinelConfig(s), "a", "b")
	e.untilKnown("before")
	before := e.index()
	s.Failover(t)
	e.untilKnown("after")
	if e.index() == before {
		t.Error("what the replica may have lost is trusted")
	}
}

// TestRestart: one server that comes back with its data of a while ago.
func TestRestart(t *testing.T) {
	s := redistest.Start(t, "--save", "3600 1000000")
	e := newTier(t, testConfig(s.Addr), "a")
	e.untilKnown("before")
	before := e.index()
	s.Do("save")
	if s.Restart(); !e.known() {
		t.Fatal("the data did not come back: this shows nothing")
	}
	if e.index() == before || e.known() {
		t.Error("a run that began with older data passes for the one before")
	}
	e.untilKnown("after")
}

func TestWrongPasswords(t *testing.T) {
	s := redistest.StartSentinels(t, "of-redis", "of-sentinels")
	for name, change := range map[string]func(*registry.Config){
		"redis": func(c *registry.Config) { _ = c.Password.Set("x") }, "sentinels": func(c *registry.Config) { _ = c.SentinelPassword.Set("x") },
	} {
		c := sentinelConfig(s)
		change(&c)
		if err := newRedis(t, c).Check(t.Context()); err == nil || name == "redis" && !errors.Is(err, registry.ErrRefused) {
			t.Errorf("a wrong password of %s: %v", name, err)
		}
	}
}

func TestCheck(t *testing.T) {
	s := redistest.Start(t)
	check := func() error { return newRedis(t, testConfig(s.Addr)).Check(t.Context()) }
	if err := check(); err != nil {
		t.Error(err)
	}
	s.Do("config", "set", "maxmemory", "100mb")
	if err := check(); err != nil {
		t.Errorf("a bound without eviction: %v", err)
	}
	s.Do("config", "set", "maxmemory-policy", "volatile-lru")
	if err := check(); !errors.Is(err, registry.ErrRefused) || !strings.Contains(err.Error(), "noeviction") {
		t.Errorf("eviction: %v", err)
	}
	c := testConfig(s.Addr)
	c.Username = "limited"
	_ = c.Password.Set("x")
	s.Do("acl", "setuser", "limited", "on", ">x", "~*", "-@all")
	if err := newRedis(t, c).Check(t.Context()); !errors.Is(err, registry.ErrRefused) {
		t.Errorf("without rights: %v", err)
	}
	s.Kill()
	if err := check(); err == nil || errors.Is(err, registry.ErrRefused) {
		t.Errorf("without a server: %v", err)
	}
}

// TestLiveWithinTheLease: a server is seen with its first renewal, and no more
// once its lease has passed; nobody else does anything for it.
func TestLiveWithinTheLease(t *testing.T) {
	s := redistest.Start(t)
	watcher, e := newRedis(t, testConfig(s.Addr)), newTier(t, testConfig(s.Addr), "a", "b")
	servers := func() []wire.ServerID {
		ls, err := watcher.Live(t.Context(), registry.TierEdge)
		if err != nil {
			t.Fatal(err)
		}
		var ids []wire.ServerID
		for _, l := range ls {
			ids = append(ids, l.Server)
		}
		return ids
	}
	e.renew()
	if got := servers(); !slices.Equal(got, []wire.ServerID{"a", "b"}) {
		t.Errorf("live with the first renewal: %v", got)
	}
	gen := s.Do("get", "leases:{edge}:gen")
	e.renew()
	if again := s.Do("get", "leases:{edge}:gen"); gen != "2" || again != gen {
		t.Errorf("leases counted: %s, after renewals %s", gen, again)
	}
	died := time.Now()
	e.leases = e.leases[:1]
	redistest.Eventually(t, "the dead one goes", func() bool { e.renew(); return slices.Equal(servers(), []wire.ServerID{"a"}) })
	if d := time.Since(died); d < shortTTL*9/10 || d > shortTTL+2*time.Second {
		t.Errorf("it went after %v, the lease is %v", d, shortTTL)
	}
	e.leases[0].Epoch++
	e.renew()
	if now := s.Do("get", "leases:{edge}:gen"); now != "3" {
		t.Errorf("leases counted after a new epoch: %s", now)
	}
}

// TestHungAndGone: calls on a server that hangs or is gone end in bounded time,
// the breaker opens, and closes within a second after the server is back.
func TestHungAndGone(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	c := testConfig(s.Addr)
	c.Timeout = 100 * time.Millisecond
	r, ctx := newRedis(t, c), t.Context()
	fails := func(what string) {
		t.Helper()
		var worst time.Duration
		var last error
		for range c.BreakAfter {
			begin := time.Now()
			_, last = r.Lookup(ctx, []wire.UserID{"u"}, nil)
			if worst = max(worst, time.Since(begin)); last == nil {
				t.Fatalf("%s: a look-up passed", what)
			}
		}
		if worst > c.Timeout+time.Second { // scheduling apart, it is the timeout
			t.Errorf("%s: a call took %v", what, worst)
		}
		if err := r.Ping(ctx); !errors.Is(err, registry.ErrOpen) {
			t.Errorf("%s: the breaker is not open after %v: %v", what, last, err)
		}
	}
	back := func(what string) {
		t.Helper()
		begin := time.Now()
		redistest.Eventually(t, what+": the breaker closes", func() bool { return r.Ping(ctx) == nil })
		if d := time.Since(begin); d > c.BreakFor+time.Second {
			t.Errorf("%s: the breaker closed after %v", what, d)
		}
	}
	back("at first")
	s.Freeze()
	fails("hangs")
	s.Thaw()
	back("thawed")
	s.Kill()
	fails("gone")
	s.Restart()
	back("started again")
}
