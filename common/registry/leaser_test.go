package registry_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/wire"
)

var errDown = errors.New("down")

// leases is a fake: it records renewals and fails or hangs as told.
type leases struct {
	mu       sync.Mutex
	fail     bool
	hang     time.Duration // once
	epochs   []uint64
	released []uint64
}

func (f *leases) set(change func(*leases)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *leases) Renew(_ context.Context, l registry.Lease, _ time.Duration) (registry.Standing, error) {
	f.mu.Lock()
	hang := f.hang
	f.hang = 0
	f.mu.Unlock()
	time.Sleep(hang) // the fake clock's
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail {
		return registry.Standing{}, errDown
	}
	f.epochs = append(f.epochs, l.Epoch)
	return registry.Standing{Known: true}, nil
}

func (f *leases) Release(_ context.Context, l registry.Lease) error {
	f.set(func(f *leases) { f.released = append(f.released, l.Epoch) })
	return nil
}

func (f *leases) Live(context.Context, string) ([]registry.Lease, error)         { return nil, nil }
func (f *leases) Announced(context.Context, wire.ServerID, uint64, string) error { return nil }

type leaserTest struct {
	fake   *leases
	leaser *registry.Leaser
	mu     sync.Mutex
	events []string
	stop   func()
}

func (lt *leaserTest) event(s string) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	lt.events = append(lt.events, s)
}

// take returns the events since the last call.
func (lt *leaserTest) take() []string {
	synctest.Wait()
	lt.mu.Lock()
	defer lt.mu.Unlock()
	es := lt.events
	lt.events = nil
	return es
}

func startLeaser(t *testing.T) *leaserTest {
	t.Helper()
	lt := &leaserTest{fake: &leases{}}
	lt.leaser = registry.NewLeaser(lt.fake, func() registry.Lease {
		return registry.Lease{Tier: registry.TierEdge, Server: "e", Epoch: 100}
	}, 0, registry.LeaserCallbacks{
		OnLapse: func(e uint64) { lt.event("lapse " + wire.MsgID(e).String()) },
		OnDown: func(err error) {
			if !errors.Is(err, errDown) {
				t.Errorf("down for %v", err)
			}
			lt.event("down")
		},
		OnUp: func() { lt.event("up") },
	})
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		if err := lt.leaser.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	lt.stop = func() { cancel(); work.Wait() }
	return lt
}

func expect(t *testing.T, lt *leaserTest, what string, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, lt.take()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestLeaserRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lt := startLeaser(t)
		expect(t, lt, "start", "up")
		time.Sleep(10 * time.Second)
		expect(t, lt, "at rest")
		if n := len(lt.fake.epochs); n != 11 {
			t.Errorf("%d renewals in 10 s, not one at once and one a second", n)
		}
		lt.leaser.Kick()
		synctest.Wait()
		if n := len(lt.fake.epochs); n != 12 {
			t.Errorf("%d renewals after a kick", n)
		}
		lt.stop()
		if d := cmp.Diff([]uint64{100}, lt.fake.released); d != "" {
			t.Errorf("released: %s", d)
		}
	})
}

func TestLeaserShortOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lt := startLeaser(t)
		expect(t, lt, "start", "up")
		lt.fake.set(func(f *leases) { f.fail = true })
		time.Sleep(1500 * time.Millisecond)
		expect(t, lt, "failing", "down")
		lt.fake.set(func(f *leases) { f.fail = false })
		time.Sleep(time.Second)
		expect(t, lt, "back in time", "up")
		if e := lt.leaser.Epoch(); e != 100 {
			t.Errorf("epoch %d", e)
		}
		lt.stop()
	})
}

func TestLeaserLapse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lt := startLeaser(t)
		expect(t, lt, "start", "up")
		lt.fake.set(func(f *leases) { f.fail = true })
		time.Sleep(20 * time.Second)
		expect(t, lt, "failing", "down")
		lt.fake.set(func(f *leases) { f.fail = false })
		time.Sleep(time.Second)
		expect(t, lt, "back too late", "lapse 101", "up")
		if e := lt.fake.epochs[len(lt.fake.epochs)-1]; e != 101 || lt.leaser.Epoch() != 101 {
			t.Errorf("renewed under %d, epoch is %d", e, lt.leaser.Epoch())
		}
		lt.stop()
		if d := cmp.Diff([]uint64{101}, lt.fake.released); d != "" {
			t.Errorf("released: %s", d)
		}
	})
}

// TestLeaserFrozen: one renewal takes longer than the lease lives, as in a
// process that was stopped, and passes: what it wrote may have lapsed before.
func TestLeaserFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lt := startLeaser(t)
		expect(t, lt, "start", "up")
		lt.fake.set(func(f *leases) { f.hang = 5 * time.Second })
		time.Sleep(7 * time.Second)
		expect(t, lt, "thawed", "lapse 101")
		n := len(lt.fake.epochs)
		if lt.fake.epochs[n-1] != 101 {
			t.Errorf("renewed under %v", lt.fake.epochs)
		}
		lt.stop()
	})
}

func TestLeaserNeverUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &leases{fail: true}
		down := 0
		l := registry.NewLeaser(f, func() registry.Lease { return registry.Lease{Epoch: 1} }, time.Second,
			registry.LeaserCallbacks{OnDown: func(error) { down++ }})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
		if down != 1 || l.Epoch() != 1 {
			t.Errorf("down %d times, epoch %d", down, l.Epoch())
		}
	})
}
