package memregistry_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/registry/registrytest"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func TestContract(t *testing.T) {
	registrytest.Run(t, func(*testing.T) registrytest.Env {
		r, now := memregistry.New(), int64(0)
		return registrytest.Env{
			Registry: r, Other: r, Flush: r.Flush,
			Advance: func(d time.Duration) { now += d.Milliseconds(); r.SetNow(now) },
		}
	})
}

func lookup(t *testing.T, r *memregistry.Registry, u wire.UserID) (routes []registry.Route, known bool) {
	t.Helper()
	rs, err := r.Lookup(t.Context(), []wire.UserID{u}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return rs.Users[u], rs.Known
}

func ready(t *testing.T) *memregistry.Registry {
	t.Helper()
	r := memregistry.New()
	l := registry.Lease{Tier: registry.TierEdge, Server: "e", Epoch: 1}
	announce(t, r, l)
	return r
}

// announce renews a lease and does what that asks for.
func announce(t *testing.T, r *memregistry.Registry, l registry.Lease) {
	t.Helper()
	st, err := r.Renew(t.Context(), l, time.Minute)
	if err == nil {
		err = r.Announced(t.Context(), l.Server, l.Epoch, st.Index)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, r *memregistry.Registry, u wire.UserID, conn wire.ConnID) {
	t.Helper()
	_, err := r.PutRoutes(t.Context(), map[wire.UserID][]registry.Route{u: {{Conn: conn, Server: "e", Epoch: 1, Device: "d"}}})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAway(t *testing.T) {
	r := ready(t)
	put(t, r, "u", 1)
	r.SetAway(true)
	if _, err := r.Lookup(t.Context(), nil, nil); !errors.Is(err, memregistry.ErrAway) {
		t.Errorf("look-up while away: %v", err)
	}
	if err := r.Ping(t.Context()); !errors.Is(err, memregistry.ErrAway) {
		t.Errorf("ping while away: %v", err)
	}
	r.SetAway(false)
	if rs, known := lookup(t, r, "u"); len(rs) != 1 || !known {
		t.Errorf("back again: %v, known %v", rs, known)
	}
}

func TestFreeze(t *testing.T) {
	r := ready(t)
	put(t, r, "u", 1)
	r.Freeze()
	put(t, r, "u", 2)
	put(t, r, "v", 3)
	r.SetNow(time.Hour.Milliseconds())
	if rs, _ := lookup(t, r, "u"); len(rs) != 1 || rs[0].Conn != 1 {
		t.Errorf("frozen routes of u: %v", rs)
	}
	if rs, _ := lookup(t, r, "v"); len(rs) != 0 {
		t.Errorf("frozen routes of v: %v", rs)
	}
	if live, err := r.Live(t.Context(), registry.TierEdge); err != nil || len(live) != 0 {
		t.Errorf("live while frozen: %v, %v", live, err)
	}
	r.Flush()
	if _, known := lookup(t, r, "u"); !known {
		t.Error("frozen look-up sees the flush")
	}
	r.Thaw()
	if rs, known := lookup(t, r, "u"); len(rs) != 0 || known {
		t.Errorf("thawed after a flush: %v, known %v", rs, known)
	}
}

func TestSetKnown(t *testing.T) {
	r := ready(t)
	r.SetKnown(false)
	if _, known := lookup(t, r, "u"); known {
		t.Error("known after SetKnown(false)")
	}
	announce(t, r, registry.Lease{Tier: registry.TierEdge, Server: "e", Epoch: 1})
	if _, known := lookup(t, r, "u"); !known {
		t.Error("unknown after all have announced")
	}
}

// TestDeterministic: the same calls give the same answers in the same order.
func TestDeterministic(t *testing.T) {
	run := func() []registry.Route {
		r := ready(t)
		for i := range wire.ConnID(50) {
			d := wire.DeviceID(rune('a' + i%26))
			_, err := r.PutRoutes(t.Context(), map[wire.UserID][]registry.Route{"u": {{Conn: i, Server: "e", Epoch: 1, Device: d}}})
			if err != nil {
				t.Fatal(err)
			}
		}
		rs, _ := lookup(t, r, "u")
		return rs
	}
	first := run()
	for range 10 {
		if d := cmp.Diff(first, run()); d != "" {
			t.Fatal(d)
		}
	}
}
