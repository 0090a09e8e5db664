package registry

import (
	"context"
	"flag"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap/zaptest"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/wire"
)

// infoHook answers INFO with a run id, which miniredis has none of.
type infoHook struct{ id string }

func (h *infoHook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (h *infoHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if c, ok := cmd.(*redis.StringCmd); ok && cmd.Name() == "info" {
			c.SetVal("# Server\r\nredis_version:7\r\nrun_id:" + h.id + "\r\n")
			return nil
		}
		return next(ctx, cmd)
	}
}

func (h *infoHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// TestOtherRun: a Redis that began anew with the data of before (a snapshot, a
// replica made master) is noticed at the next renewal, and the index counts as
// unknown until all edges have announced again.
func TestOtherRun(t *testing.T) {
	m := miniredis.RunT(t)
	var c Config
	c.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError), "redis.")
	c.Addrs, c.Timeout = config.Strings{m.Addr()}, 10*time.Second
	r, err := New(c, zaptest.NewLogger(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	hook := &infoHook{id: "one"}
	r.c.AddHook(hook)
	ctx, l := t.Context(), Lease{Tier: TierEdge, Server: "e", Epoch: 1}
	renew := func() Standing {
		t.Helper()
		st, err := r.Renew(ctx, l, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	st := renew()
	for _, id := range []string{"two", "three"} {
		if err := r.Announced(ctx, "e", 1, st.Index); err != nil {
			t.Fatal(err)
		}
		m.FastForward(59 * time.Second)
		renew()
		m.FastForward(2 * time.Second)
		if first := renew(); !first.Known || !renew().Known {
			t.Errorf("run %s: unknown after all have announced", hook.id)
		}
		hook.id = id
		if st = renew(); st.Known || !st.Announce {
			t.Errorf("run %s passes for the one before", id)
		}
		if rs, err := r.Lookup(ctx, nil, nil); err != nil || rs.Known {
			t.Errorf("run %s: look-up says known %v, %v", id, rs.Known, err)
		}
	}
}

// TestSweepInTurn: of all processes one does a round.
func TestSweepInTurn(t *testing.T) {
	m := miniredis.RunT(t)
	var rs [2]*Redis
	for i := range rs {
		var c Config
		c.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError), "redis.")
		c.Addrs, c.Timeout = config.Strings{m.Addr()}, 10*time.Second
		r, err := New(c, zaptest.NewLogger(t), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		rs[i] = r
	}
	for round := range 3 {
		first, err1 := rs[round%2].sweepInTurn(t.Context())
		second, err2 := rs[1-round%2].sweepInTurn(t.Context())
		if err1 != nil || err2 != nil || !first || second {
			t.Errorf("round %d: %v %v, %v %v", round, first, second, err1, err2)
		}
		m.FastForward(sweepEvery + time.Second)
	}
}

func TestParseRoutes(t *testing.T) {
	got := parseRoutes(map[string]string{
		"2": `{"conn":2,"server":"a"}`, "18446744073709551615": `{"conn":18446744073709551615}`,
		"1": `{"conn":1}`, "3": `{"conn":4}`, "x": `{"conn":0}`, "5": "", "6": "null",
	})
	var conns []wire.ConnID
	for _, r := range got {
		conns = append(conns, r.Conn)
	}
	if want := []wire.ConnID{1, 2, 1<<64 - 1}; !slices.Equal(conns, want) {
		t.Errorf("routes %v, not %v", conns, want)
	}
}

func FuzzParseReserved(f *testing.F) {
	f.Add("1|2|3")
	f.Add("-1|18446744073709551615|0")
	f.Add("||")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := parseReserved(s)
		if err != nil {
			return
		}
		again, err := parseReserved(reservedValue(&Reservation{ID: v.ID, Hash: v.Hash}, v.Acked))
		if err != nil || again != v {
			t.Errorf("%q is %+v and then %+v, %v", s, v, again, err)
		}
	})
}

func FuzzParseOffline(f *testing.F) {
	f.Add("p:a:b|1|2")
	f.Add("|||")
	f.Add("g:x|9223372036854775807|-1")
	f.Fuzz(func(t *testing.T, s string) {
		e, ok := parseOffline("u", s)
		if !ok {
			return
		}
		if again, ok := parseOffline("u", offlineMember(&e)); !ok || again != e {
			t.Errorf("%q is %+v and then %+v", s, e, again)
		}
	})
}

// betweenHook does something once, before the second pipeline of a call.
type betweenHook struct {
	infoHook
	do func()
}

func (h *betweenHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return c.Name() == "hdel" || c.Name() == "eval" }) && h.do != nil {
			h.do()
			h.do = nil
		}
		return next(ctx, cmds)
	}
}

// TestAnnouncedMeanwhile: two edges whose leases had lapsed announce their
// connections of one user at once. What one found dead of the other's it must not
// take away once that is announced anew.
func TestAnnouncedMeanwhile(t *testing.T) {
	m := miniredis.RunT(t)
	var c Config
	c.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError), "redis.")
	c.Addrs, c.Timeout = config.Strings{m.Addr()}, 10*time.Second
	open := func() *Redis {
		r, err := New(c, zaptest.NewLogger(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		return r
	}
	one, two := open(), open()
	ctx := t.Context()
	put := func(r *Redis, rt Route) {
		t.Helper()
		if _, err := r.PutRoutes(ctx, map[wire.UserID][]Route{"ann": {rt}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, server := range []wire.ServerID{"e1", "e2"} {
		if _, err := one.Renew(ctx, Lease{Tier: TierEdge, Server: server, Epoch: 1}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	phone, web := Route{Conn: 1, Server: "e1", Epoch: 1, Device: "phone"}, Route{Conn: 2, Server: "e2", Epoch: 1, Device: "web"}
	put(one, phone)
	put(two, web)
	// Both lapsed, and stand under new epochs.
	for _, server := range []wire.ServerID{"e1", "e2"} {
		if _, err := one.Renew(ctx, Lease{Tier: TierEdge, Server: server, Epoch: 2}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	phone.Epoch, web.Epoch = 2, 2
	two.c.AddHook(&betweenHook{do: func() { put(one, phone) }})
	put(two, web)
	found, err := one.Lookup(ctx, []wire.UserID{"ann"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if rs := found.Users["ann"]; len(rs) != 2 {
		t.Errorf("routes %+v, want both devices'", rs)
	}
}
