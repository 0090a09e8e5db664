package announce

import (
	"context"
	"time"
)

// collect waits for an element of a queue and takes what else is there, at most
// most, into the space of the batch before. None: ctx ended.
func collect[T any](ctx context.Context, q <-chan T, batch []T, most int) []T {
	clear(batch)
	batch = batch[:0]
	select {
	case <-ctx.Done():
		return nil
	case v := <-q:
		batch = append(batch, v)
	}
	for len(batch) < most {
		select {
		case v := <-q:
			batch = append(batch, v)
			continue
		default:
		}
		break
	}
	return batch
}

// enqueue queues a removal, or counts that it is not made.
func enqueue[T any](a *Announcer, q chan<- T, of string, v T) {
	select {
	case q <- v:
		a.metrics.depth.Inc()
	default:
		a.metrics.dropped.WithLabelValues(of).Inc()
	}
}

// work does queued removals one after the other.
func (a *Announcer) work(ctx context.Context, q chan func(context.Context) error, call string) {
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-q:
			a.metrics.depth.Dec()
			a.persist(ctx, call, f)
		}
	}
}

// persist tries a removal that fails again, for as long as the lease, under
// which it would go on to count, may stand.
func (a *Announcer) persist(ctx context.Context, call string, f func(context.Context) error) {
	for until := time.Now().Add(2 * a.cfg.TTL); ; {
		err := f(ctx)
		if err == nil {
			return
		}
		a.failed(call, err)
		if time.Now().After(until) || !pause(ctx, a.cfg.TTL/removalsPerTTL) {
			return
		}
	}
}

// pause waits. False: ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
