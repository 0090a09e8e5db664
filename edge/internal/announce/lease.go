package announce

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/registry"
)

// SetDraining marks the lease, at once.
func (a *Announcer) SetDraining(ctx context.Context) {
	a.mu.Lock()
	a.lease.Draining = true
	a.mu.Unlock()
	if _, err := a.write(ctx); err != nil {
		a.failed("renew", err)
	}
}

// write writes the lease as it stands; two writes never overtake each other.
func (a *Announcer) write(ctx context.Context) (registry.Standing, error) {
	a.writing.Lock()
	defer a.writing.Unlock()
	st, err := a.reg.Renew(ctx, a.Lease(), a.cfg.TTL)
	if err != nil {
		return registry.Standing{}, fmt.Errorf("renew the lease: %w", err)
	}
	return st, nil
}

// keep renews the lease in the middle of a long announcing, which else would
// outlive it and begin anew without end.
func (a *Announcer) keep(ctx context.Context) error {
	start := time.Now()
	a.mu.Lock()
	age := start.Sub(a.renewed)
	a.mu.Unlock()
	if age < a.cfg.TTL/renewPerTTL || age > a.cfg.TTL { // lapsed: that is for renew
		return nil
	}
	if _, err := a.write(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	a.renewed = start
	a.mu.Unlock()
	return nil
}

func (a *Announcer) renewing(ctx context.Context) {
	t := time.NewTicker(a.cfg.TTL / renewPerTTL)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-a.wake:
		}
		a.renew(ctx)
	}
}

// renew writes the lease and does what its answer asks for.
func (a *Announcer) renew(ctx context.Context) {
	start := time.Now()
	l, raised := a.present(start)
	st, err := a.write(ctx)
	if err != nil {
		if ctx.Err() == nil {
			a.Unlist("renew", err)
		}
		return
	}
	if !raised && a.late() {
		return
	}
	a.mu.Lock()
	// With nobody here nothing of ours can be missing from it.
	emptied := st.Announce && l.Load > 0 && !a.renewed.IsZero()
	a.renewed = start
	due := a.owes || st.Announce
	a.owes = false
	if a.unknown = !st.Known && l.Load > 0; a.unknown {
		a.emptied = start
	}
	a.mu.Unlock()
	if due && !a.announceAll(ctx, l, st.Index) {
		return
	}
	if listed := a.list(); listed || emptied {
		// Between a write that failed, or the index being emptied, and the jobs
		// being told, pushes may have passed this edge by. The jobs know by now,
		// though the index stays unknown until all edges have announced.
		a.events.Missed()
	}
}

// late says whether a renewal that was sent in time may have arrived after the
// lease had lapsed. Then the next one, at once, finds it so.
func (a *Announcer) late() bool {
	a.mu.Lock()
	late := !a.renewed.IsZero() && time.Since(a.renewed) > a.cfg.TTL
	a.mu.Unlock()
	if late {
		select {
		case a.wake <- struct{}{}:
		default: // asked for already
		}
	}
	return late
}

// present returns the lease to be written at a time: one that has lapsed gets a
// new epoch.
func (a *Announcer) present(start time.Time) (l registry.Lease, lapsed bool) {
	a.mu.Lock()
	a.lease.Load = a.events.Load()
	lapsed = !a.renewed.IsZero() && start.Sub(a.renewed) > a.cfg.TTL
	if lapsed {
		a.lease.Epoch = max(a.lease.Epoch+1, uint64(start.UnixMilli()))
		a.owes = true
	}
	l = a.lease
	a.mu.Unlock()
	if lapsed {
		a.metrics.lapses.Inc()
		a.log.Warn("the lease lapsed; all sessions are announced anew", zap.Uint64("epoch", l.Epoch))
		a.unlist()
	}
	return l, lapsed
}

// settleTime is how long joins written before an index was emptied may still be
// on their way from the jobs.
const settleTime = 10 * time.Second

// Unsettled says whether the index was emptied a moment ago.
func (a *Announcer) Unsettled() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unknown || time.Since(a.emptied) < settleTime
}

// Unlist notes that something could not be written: jobs push everything here
// until all is announced again.
func (a *Announcer) Unlist(call string, err error) {
	a.failed(call, err)
	a.mu.Lock()
	a.owes = true
	a.mu.Unlock()
	a.unlist()
}

// list ends being unlisted, unless something else could not be written
// meanwhile. True: it was unlisted until now.
func (a *Announcer) list() bool {
	a.mu.Lock()
	listed := a.unlisted && !a.owes
	if listed {
		a.unlisted = false
	}
	a.mu.Unlock()
	if listed {
		a.listingChanged(false)
	}
	return listed
}

func (a *Announcer) unlist() {
	a.mu.Lock()
	changed := !a.unlisted
	a.unlisted = true
	a.mu.Unlock()
	if changed {
		a.listingChanged(true)
	}
}

func (a *Announcer) listingChanged(to bool) {
	a.log.Info("listing in the registry changed", zap.Bool("unlisted", to))
	a.metrics.unlisted.Set(0)
	if to {
		a.metrics.unlisted.Set(1)
	}
	a.events.HelloChanged()
}

func (a *Announcer) failed(call string, err error) {
	a.metrics.errors.WithLabelValues(call).Inc()
	a.log.Debug("registry call failed", zap.String("call", call), zap.Error(err))
}
