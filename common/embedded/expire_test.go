package embedded

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"
)

func expiring(t *testing.T) (*expiry, *redis.Client) {
	t.Helper()
	m := miniredis.RunT(t)
	c := redis.NewClient(&redis.Options{Addr: m.Addr()})
	t.Cleanup(func() { _ = c.Close() })
	return newExpiry(m), c
}

func (e *expiry) to(tick int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.advance(tick)
}

// TestExpiry: each way of setting a TTL ends the key in its time, not before,
// and a newer TTL, or none, counts instead of the former.
func TestExpiry(t *testing.T) {
	e, c := expiring(t)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Set(ctx, "set", 1, time.Second).Err())
	must(c.SetArgs(ctx, "args", 1, redis.SetArgs{Mode: "NX", TTL: time.Second}).Err())
	must(c.HSet(ctx, "hash", "f", 1).Err())
	must(c.Expire(ctx, "hash", time.Second).Err())
	must(c.Eval(ctx, `redis.call("SET", KEYS[1], "v", "PX", 1000) return 1`, []string{"script"}).Err())
	_, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, "tx", 1, time.Second)
		p.Set(ctx, "renewed", 1, time.Second)
		p.Set(ctx, "kept", 1, time.Second)
		p.Set(ctx, "remade", 1, time.Second)
		return nil
	})
	must(err)
	must(c.Set(ctx, "forever", 1, 0).Err())
	left := func() string {
		t.Helper()
		keys, err := c.Keys(ctx, "*").Result()
		must(err)
		return fmt.Sprint(keys)
	}
	e.to(1)
	e.to(5)
	must(c.Set(ctx, "renewed", 1, time.Second).Err())
	must(c.Set(ctx, "kept", 1, 0).Err())
	must(c.Del(ctx, "remade").Err())
	must(c.HSet(ctx, "remade", "f", 1).Err())
	e.to(6)
	e.to(11)
	if got := left(); got != "[args forever hash kept remade renewed script set tx]" {
		t.Errorf("before the time: %s", got)
	}
	e.to(12)
	if got := left(); got != "[forever kept remade renewed]" {
		t.Errorf("after the time: %s", got)
	}
	e.to(17)
	if got := left(); got != "[forever kept remade]" {
		t.Errorf("after the newer time: %s", got)
	}
	if len(e.at)+len(e.due) != 0 {
		t.Errorf("%d keys and %d ticks are kept for nothing", len(e.at), len(e.due))
	}
}

// TestExpiryAmidScripts: what a script calls is done under miniredis's lock, which
// a tick waits for.
func TestExpiryAmidScripts(t *testing.T) {
	e, c := expiring(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var scripts sync.WaitGroup
	over := make(chan struct{})
	for i := range 2 {
		scripts.Go(func() {
			for range 1000 {
				if err := c.Eval(ctx, `redis.call("SET", KEYS[1], "v", "PX", 1000) return 1`, []string{fmt.Sprint(i)}).Err(); err != nil {
					t.Error("a script:", err)
					return
				}
			}
		})
	}
	go func() {
		defer close(over)
		scripts.Wait()
	}()
	ticks := make(chan struct{})
	go func() {
		defer close(ticks)
		for tick := int64(1); ; tick++ {
			select {
			case <-over:
				return
			default:
				e.to(tick)
			}
		}
	}()
	select {
	case <-ticks:
	case <-ctx.Done():
		t.Fatal("a tick and a script wait for each other")
	}
}

// TestExpiryOfARenewedKey: a key that is renewed all the time costs no more than
// one that is set once.
func TestExpiryOfARenewedKey(t *testing.T) {
	e, c := expiring(t)
	for tick := range int64(100) {
		if err := c.Set(t.Context(), "k", 1, time.Hour-time.Duration(tick%3)*time.Minute).Err(); err != nil {
			t.Fatal(err)
		}
		e.to(tick + 1)
	}
	entries := 0
	for _, ks := range e.due {
		entries += len(ks)
	}
	if entries > 3 {
		t.Errorf("%d entries for one key", entries)
	}
	if err := c.Expire(t.Context(), "k", time.Second).Err(); err != nil {
		t.Fatal(err)
	}
	e.to(101)
	e.to(112)
	if e.redis.Exists("k") {
		t.Error("it has not ended in its last time")
	}
	e.to(40_000)
	if len(e.at)+len(e.due) != 0 {
		t.Errorf("%d keys and %d ticks are kept for nothing", len(e.at), len(e.due))
	}
}

// TestExpiryOfALateCommand: the hook is told before the command is done, which
// may be after the next tick, and that one late.
func TestExpiryOfALateCommand(t *testing.T) {
	e, c := expiring(t)
	e.hook(new(server.Peer), "SET", "late")
	e.to(50)
	e.redis.Server().SetPreHook(nil)
	if err := c.Set(t.Context(), "late", 1, time.Second).Err(); err != nil {
		t.Fatal(err)
	}
	e.to(50 + unseenTicks)
	e.to(50 + unseenTicks + 11)
	if e.redis.Exists("late") {
		t.Error("the key has not ended")
	}
}

// TestExpiryAfterAStall: ticks that come late, many at once, count for nothing
// that was set meanwhile.
func TestExpiryAfterAStall(t *testing.T) {
	e, c := expiring(t)
	set := func(k string, ttl time.Duration) {
		t.Helper()
		if err := c.Set(t.Context(), k, 1, ttl).Err(); err != nil {
			t.Fatal(err)
		}
	}
	set("renewed", time.Second)
	e.to(1)
	set("set", time.Second)
	set("renewed", 10*time.Second)
	e.to(60)
	if !e.redis.Exists("set") || !e.redis.Exists("renewed") {
		t.Fatal("a key has ended that was set just now")
	}
	e.to(71)
	if e.redis.Exists("set") || !e.redis.Exists("renewed") {
		t.Error("a second later it is not the key of one second that has ended")
	}
}

// TestExpiryOfALateRenewal: a TTL that is set after the tick that was told of
// it counts instead of the former.
func TestExpiryOfALateRenewal(t *testing.T) {
	e, c := expiring(t)
	if err := c.Set(t.Context(), "late", 1, time.Second).Err(); err != nil {
		t.Fatal(err)
	}
	e.hook(new(server.Peer), "SET", "late")
	e.to(1)
	e.redis.Server().SetPreHook(nil)
	if err := c.Set(t.Context(), "late", 1, 10*time.Second).Err(); err != nil {
		t.Fatal(err)
	}
	for tick := range int64(50) {
		e.to(2 + tick)
	}
	if !e.redis.Exists("late") {
		t.Error("the key has ended by its former TTL")
	}
}

// BenchmarkTick is a tick with many keys in the cache and few new ones.
func BenchmarkTick(b *testing.B) {
	m := miniredis.RunT(b)
	e := newExpiry(m)
	for i := range 200_000 {
		k := fmt.Sprint("k", i)
		if err := m.Set(k, "v"); err != nil {
			b.Fatal(err)
		}
		m.SetTTL(k, time.Hour)
		e.hook(new(server.Peer), "SET", k)
	}
	for tick := range int64(2 * unseenTicks) {
		e.to(tick)
	}
	tick := e.tick
	for b.Loop() {
		for i := range 100 {
			e.hook(new(server.Peer), "SET", fmt.Sprint("k", i))
		}
		tick++
		e.to(tick)
	}
}
