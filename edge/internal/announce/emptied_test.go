package announce

import (
	"context"
	"flag"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/testkit/redistest"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
)

// late renews late: before the lease lapses, but after others have announced.
type late struct {
	registry.Registry
	by time.Duration
}

func (l late) Renew(ctx context.Context, lease registry.Lease, ttl time.Duration) (registry.Standing, error) {
	pause(ctx, l.by)
	return l.Registry.Renew(ctx, lease, ttl)
}

// pair is two edges with a user each, one of which is late.
type pair struct {
	t      *testing.T
	reg    registry.Registry
	missed chan wire.ServerID
}

func startPair(t *testing.T, reg registry.Registry, ttl time.Duration) *pair {
	t.Helper()
	p := &pair{t: t, reg: reg, missed: make(chan wire.ServerID, 100)}
	for id, r := range map[wire.ServerID]registry.Registry{"prompt": reg, "late": late{reg, ttl / 2}} {
		members := roster.New()
		m, _ := members.Connect(nil, roster.Identity{User: wire.UserID("on-" + id), Device: "web", Conn: 1}, nil)
		members.Open(m, nil, 0)
		a := New(Config{TTL: ttl, Round: time.Hour}, r, members, Events{
			Older: func(*roster.Member, registry.Route) {},
			Load:  func() int64 { return 1 }, HelloChanged: func() {}, Missed: func() { p.missed <- id }, Newer: func(*roster.Member) {},
		}, prometheus.NewRegistry(), zap.NewNop())
		a.Start(t.Context(), registry.Lease{Tier: registry.TierEdge, Server: id})
		t.Cleanup(func() { a.Stop(context.WithoutCancel(t.Context())) })
	}
	return p
}

// known says whether the index is, and fails if it is with a hole in it.
func (p *pair) known() bool {
	p.t.Helper()
	got, err := p.reg.Lookup(p.t.Context(), []wire.UserID{"on-prompt", "on-late"}, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if got.Known && len(got.Users) != 2 {
		p.t.Fatalf("the index is known and names %v", got.Users)
	}
	return got.Known
}

func (p *pair) until(what string, ok func() bool) {
	p.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// emptied again and again, at moments that differ: nobody may see an index that
// is known and lacks the late edge's user, and both edges tell their sessions.
func (p *pair) emptied(flush func(), ttl time.Duration) {
	p.t.Helper()
	for i := range 6 {
		p.until("known", p.known)
		pause(p.t.Context(), ttl/3*time.Duration(i)/6)
		for len(p.missed) > 0 {
			<-p.missed
		}
		flush()
		if p.known() {
			p.t.Fatal("known though it was emptied")
		}
		told := map[wire.ServerID]bool{}
		p.until("both tell their sessions", func() bool {
			p.known()
			for len(p.missed) > 0 {
				told[<-p.missed] = true
			}
			return len(told) == 2
		})
	}
	p.until("known at last", p.known)
}

func TestEmptiedIndexWaitsForTheLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg, ttl := memregistry.New(), 3*time.Second
		p := startPair(t, reg, ttl)
		p.emptied(reg.Flush, ttl)
	})
}

func TestEmptiedRedisWaitsForTheLate(t *testing.T) {
	s := redistest.Start(t)
	var c registry.Config
	c.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError), "redis.")
	c.Addrs, c.Timeout = config.Strings{s.Addr}, 10*time.Second
	reg, err := registry.New(c, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reg.Close() })
	ttl := 600 * time.Millisecond
	startPair(t, reg, ttl).emptied(func() { s.Do("flushall") }, ttl)
}
