package registry

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// DefaultLeaseTTL is how long a lease lives without renewal.
const DefaultLeaseTTL = 3 * time.Second

const releaseTimeout = time.Second

// LeaserCallbacks tell the owner of a lease what became of it. They are called
// from Run's goroutine, one at a time, and must not block: renewing waits for
// them. Any may be nil.
type LeaserCallbacks struct {
	// OnLapse: the lease may have lapsed meanwhile; it stands again under
	// newEpoch, what was written under an older one counts no more.
	OnLapse func(newEpoch uint64)
	// OnDown: a renewal failed, the first since OnUp.
	OnDown func(err error)
	// OnUp: a renewal passed, the first of all or since OnDown. With a lapse,
	// it comes after OnLapse.
	OnUp func()
}

// Leaser renews one lease every third of its ttl. It is for tiers that keep
// nothing in the index but their lease. An edge has more to do with each
// renewal (announce, renew in the midst of it, be listed or not) and so has a
// loop of its own (edge/internal/announce).
//
//	down ──renewed in time──► up ──failed──► down
//	down ──renewed too late──► epoch + 1, renewed again ──► up (OnLapse, OnUp)
//
// Too late is measured from before the last renewal that passed, by this
// process's monotonic clock: a process that was frozen finds out at its next
// renewal, before or after Redis did.
type Leaser struct {
	reg   Leases
	lease func() Lease
	ttl   time.Duration
	cb    LeaserCallbacks
	epoch atomic.Uint64
	kick  chan struct{}

	// Run's own:
	last time.Time // start of the last renewal that passed; zero after a raise
	up   bool
	told bool // OnUp or OnDown was called
	owed bool // OnLapse is to be called once the new epoch stands
}

// NewLeaser makes a Leaser; ttl 0 is DefaultLeaseTTL. lease returns the present
// lease; its Epoch counts only the first time, from then on the Leaser keeps it.
func NewLeaser(reg Leases, lease func() Lease, ttl time.Duration, cb LeaserCallbacks) *Leaser {
	if ttl <= 0 {
		ttl = DefaultLeaseTTL
	}
	l := &Leaser{reg: reg, lease: lease, ttl: ttl, cb: cb, kick: make(chan struct{}, 1)}
	l.epoch.Store(lease().Epoch)
	return l
}

// Epoch returns the present epoch. Any goroutine may ask.
func (l *Leaser) Epoch() uint64 { return l.epoch.Load() }

// Kick renews soon, because the lease has changed (draining). Never blocks.
func (l *Leaser) Kick() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// Run renews until ctx ends, then releases the lease and returns nil or why it
// could not be released. The first renewal is at once.
func (l *Leaser) Run(ctx context.Context) error {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return l.release(ctx)
		case <-t.C:
		case <-l.kick:
		}
		l.renew(ctx)
		wait := l.ttl / 3
		if !l.up {
			wait = l.ttl / 10
		}
		t.Reset(wait)
	}
}

func (l *Leaser) renew(ctx context.Context) {
	l.raiseIfLapsed()
	start, err := l.put(ctx)
	if err == nil && l.raiseIfLapsed() { // perhaps before this renewal arrived
		start, err = l.put(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		l.sink(err)
		return
	}
	l.last = start
	l.rise()
}

// raiseIfLapsed gives the lease a new epoch if the last renewal is a ttl ago.
// The new one stands nowhere yet, so it has nothing to lapse.
func (l *Leaser) raiseIfLapsed() bool {
	if l.last.IsZero() || time.Since(l.last) < l.ttl {
		return false
	}
	l.last = time.Time{}
	l.epoch.Add(1)
	l.owed = true
	return true
}

func (l *Leaser) put(ctx context.Context) (start time.Time, err error) {
	lease := l.lease()
	lease.Epoch = l.epoch.Load()
	start = time.Now()
	_, err = l.reg.Renew(ctx, lease, l.ttl)
	return start, err
}

func (l *Leaser) sink(err error) {
	if was := l.up; was || !l.told {
		l.up, l.told = false, true
		if l.cb.OnDown != nil {
			l.cb.OnDown(err)
		}
	}
}

func (l *Leaser) rise() {
	if l.owed {
		l.owed = false
		if l.cb.OnLapse != nil {
			l.cb.OnLapse(l.epoch.Load())
		}
	}
	if !l.up {
		l.up, l.told = true, true
		if l.cb.OnUp != nil {
			l.cb.OnUp()
		}
	}
}

func (l *Leaser) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	lease := l.lease()
	lease.Epoch = l.epoch.Load()
	if err := l.reg.Release(ctx, lease); err != nil {
		return fmt.Errorf("release lease of %s %s: %w", lease.Tier, lease.Server, err)
	}
	return nil
}
