// Package worker holds a leased worker number and numbers messages with it.
//
// The lease is written ahead by TTL and renewed every Every, so ids go on for a
// while when the store is away; once it has lapsed Next fails until the store
// answers again. A lease that another owner took over is given up at once and a
// new number is taken. A Lease is safe for concurrent use.
package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/idgen"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// Times of a lease. TTL is how long sends survive a store that is away, and how
// long a crashed instance's number stays unused.
const (
	TTL   = 30 * time.Minute
	Every = 20 * time.Second

	callTime  = 5 * time.Second
	retryTime = time.Second
)

// ErrNone is returned by Next before a number was leased.
var ErrNone = errors.New("no worker number is leased")

// Store keeps the leases.
type Store interface {
	LeaseWorker(ctx context.Context, owner string, now, until int64) (worker int, lastUsed int64, err error)
	RenewWorker(ctx context.Context, worker int, owner string, until int64) error
	ReleaseWorker(ctx context.Context, worker int, owner string, lastUsed int64) error
}

// Lease is a leased number and its generator.
type Lease struct {
	owner string
	store Store
	log   *zap.Logger
	now   func() time.Time
	cur   atomic.Pointer[held]
}

type held struct {
	worker int
	gen    *idgen.Generator
	until  atomic.Int64
}

// New returns a Lease for an owner that no other process shares.
func New(owner string, st Store, log *zap.Logger, now func() time.Time) *Lease {
	if now == nil {
		now = time.Now
	}
	if log == nil {
		log = zap.NewNop()
	}
	return &Lease{owner: owner, store: st, log: log, now: now}
}

// Acquire takes a number.
func (l *Lease) Acquire(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	now := l.now()
	until := now.Add(TTL).UnixMilli()
	w, last, err := l.store.LeaseWorker(ctx, l.owner, now.UnixMilli(), until)
	if err != nil {
		return fmt.Errorf("lease a worker number: %w", err)
	}
	// Another's lease has lapsed before it is given away. One that has not is our
	// own, of a call whose answer was lost: nothing was numbered under it.
	last = min(last, now.UnixMilli())
	h := &held{worker: w, gen: idgen.New(w, last, l.now)}
	h.gen.Extend(until)
	h.until.Store(until)
	l.cur.Store(h)
	l.log.Info("worker number leased", zap.Int("worker", w))
	return nil
}

// Run renews until ctx ends, then gives the number back.
func (l *Lease) Run(ctx context.Context) error {
	first := Every
	if l.cur.Load() == nil {
		first = retryTime
	}
	t := time.NewTimer(first)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			l.release(context.WithoutCancel(ctx))
			return nil
		case <-t.C:
		}
		next := Every
		if err := l.renew(ctx); err != nil && ctx.Err() == nil {
			l.log.Warn("worker lease not renewed", zap.Error(err))
			next = retryTime
		}
		t.Reset(next)
	}
}

func (l *Lease) renew(ctx context.Context) error {
	h := l.cur.Load()
	if h == nil {
		return l.Acquire(ctx)
	}
	rctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	until := l.now().Add(TTL).UnixMilli()
	err := l.store.RenewWorker(rctx, h.worker, l.owner, until)
	if errors.Is(err, store.ErrFenced) {
		l.cur.Store(nil) // nothing is numbered with it from here on
		h.gen.Close()
		return l.Acquire(ctx)
	}
	if err != nil {
		return fmt.Errorf("renew worker number %d: %w", h.worker, err)
	}
	h.gen.Extend(until)
	h.until.Store(until)
	return nil
}

// release says up to when the number was really used, so that it is free soon.
func (l *Lease) release(ctx context.Context) {
	h := l.cur.Swap(nil)
	if h == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if err := l.store.ReleaseWorker(ctx, h.worker, l.owner, h.gen.Close()); err != nil {
		l.log.Info("worker number not given back", zap.Error(err))
	}
}

// Next returns an id.
func (l *Lease) Next() (wire.MsgID, error) {
	h := l.cur.Load()
	if h == nil {
		return 0, ErrNone
	}
	return h.gen.Next() //nolint:wrapcheck // says what it is
}

// Ready says why ids cannot be given.
func (l *Lease) Ready() error {
	switch h := l.cur.Load(); {
	case h == nil:
		return ErrNone
	case l.now().UnixMilli() > h.until.Load():
		return idgen.ErrLapsed
	}
	return nil
}
