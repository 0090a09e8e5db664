// Package receipt moves cursors: acks and reads are gathered per user, device
// and conversation, written in batches, and then told to whom they concern.
//
// Add never blocks. The buffer is bounded; what does not fit is dropped and
// counted, which a later ack of the same device makes good, because cursors are
// cumulative. Run is the one writer; Flush waits for it, so that a sync sees
// the acks that came before it on its connection. All methods are safe for
// concurrent use.
package receipt

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// Sizes and times of the buffer.
const (
	Capacity   = 65_536
	PerUser    = 4096 // entries of one user, who else would take all
	FlushCount = 500
	FlushEvery = 150 * time.Millisecond

	storeWait = 5 * time.Second
	indexWait = time.Second
	retryWait = 500 * time.Millisecond
)

// Store writes cursors.
type Store interface {
	MoveCursors(ctx context.Context, moves []store.CursorMove) ([]store.CursorState, error)
}

// Index holds the offline lists that an ack clears.
type Index interface {
	ClearOffline(ctx context.Context, u wire.UserID, conv wire.ConvID, upto int64) error
}

// Pusher carries receipts to the jobs (live.Pusher).
type Pusher interface {
	Push(key string, e *recordpb.Push, done func(ok bool)) error
}

// Deps is what a Buffer works with. LargeGroup: members above which nobody but
// the user's own devices gets a receipt.
type Deps struct {
	Log        *zap.Logger
	Store      Store
	Index      Index
	Push       Pusher
	LargeGroup int
	Metrics    *Metrics
	Now        func() time.Time
}

type key struct {
	user   wire.UserID
	device wire.DeviceID
	conv   wire.ConvID
}

type move struct {
	delivered, read int64
	conn            wire.ConnID // that spoke last; it needs no receipt of its own
}

// Buffer gathers cursors.
type Buffer struct {
	d Deps

	mu      sync.Mutex
	pending map[key]move
	users   map[wire.UserID]int // entries of pending
	gen     *flight             // what the next flush will settle
	flying  *flight             // what the present one settles
	kick    chan struct{}       // cap 1: flush now
	arm     chan struct{}       // cap 1: something is pending
}

// flight is one flush; done is closed when it ended.
type flight struct {
	done  chan struct{}
	users map[wire.UserID]int
}

func newFlight() *flight { return &flight{done: make(chan struct{})} }

// New returns a Buffer; Run makes it work.
func New(d Deps) (*Buffer, error) {
	if d.Store == nil || d.Index == nil || d.Push == nil {
		return nil, errors.New("receipt: store, index and pusher are needed")
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = zap.NewNop()
	}
	if d.Metrics == nil {
		d.Metrics = NewMetrics(nil)
	}
	return &Buffer{
		d: d, pending: map[key]move{}, users: map[wire.UserID]int{}, gen: newFlight(),
		kick: make(chan struct{}, 1), arm: make(chan struct{}, 1),
	}, nil
}

// Add takes one ack (delivered) or read of a device. False: the buffer, or the
// user's share of it, is full and it was dropped.
func (b *Buffer) Add(u wire.UserID, d wire.DeviceID, conn wire.ConnID, conv wire.ConvID, delivered, read int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := key{u, d, conv}
	m, ok := b.pending[k]
	if !ok {
		if len(b.pending) >= Capacity || b.users[u] >= PerUser {
			b.d.Metrics.dropped.Inc()
			return false
		}
		b.users[u]++
	}
	b.pending[k] = move{max(m.delivered, delivered), max(m.read, read), conn}
	b.d.Metrics.depth.Set(float64(len(b.pending)))
	notify(b.arm)
	if len(b.pending) >= FlushCount {
		notify(b.kick)
	}
	return true
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Flush waits until what u has pending is written, or ctx ends.
func (b *Buffer) Flush(ctx context.Context, u wire.UserID) {
	b.mu.Lock()
	var wait *flight
	switch {
	case b.users[u] > 0:
		wait = b.gen
		notify(b.kick)
	case b.flying != nil && b.flying.users[u] > 0:
		wait = b.flying
	}
	b.mu.Unlock()
	if wait == nil {
		return
	}
	select {
	case <-wait.done:
	case <-ctx.Done():
	}
}

// Run writes what is gathered until ctx ends, then the rest.
func (b *Buffer) Run(ctx context.Context) error {
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			b.drain(context.WithoutCancel(ctx))
			return nil
		case <-b.arm:
			t.Reset(FlushEvery)
			select {
			case <-ctx.Done():
				continue
			case <-b.kick:
			case <-t.C:
			}
			// The end does not cut a write short: each is bounded by storeWait.
			if err := b.flush(context.WithoutCancel(ctx)); err != nil {
				b.d.Log.Warn("cursors not written, kept", zap.Error(err))
				b.pause(ctx, t)
			}
		}
	}
}

// pause keeps a store that is away from being asked without end.
func (b *Buffer) pause(ctx context.Context, t *time.Timer) {
	t.Reset(retryWait)
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	notify(b.arm)
}

func (b *Buffer) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	for b.depth() > 0 {
		if err := b.flush(ctx); err != nil {
			b.d.Log.Warn("cursors lost at the end", zap.Error(err), zap.Int("count", b.depth()))
			return
		}
	}
}

func (b *Buffer) depth() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.pending)
}

// flush writes all that is pending, in batches of FlushCount.
func (b *Buffer) flush(ctx context.Context) error {
	b.mu.Lock()
	taken := b.pending
	f := b.gen
	f.users = b.users
	b.pending, b.users, b.gen, b.flying = map[key]move{}, map[wire.UserID]int{}, newFlight(), f
	b.d.Metrics.depth.Set(0)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.flying = nil
		b.mu.Unlock()
		close(f.done)
	}()
	// A batch that fails is no reason to leave the others: of several shards one
	// may be away.
	var errs []error
	batch := make([]store.CursorMove, 0, min(len(taken), FlushCount))
	for k, m := range taken {
		batch = append(batch, store.CursorMove{User: k.user, Device: k.device, Conv: k.conv, Delivered: m.delivered, Read: m.read})
		if len(batch) < FlushCount {
			continue
		}
		errs = append(errs, b.write(ctx, batch, taken))
		batch = batch[:0]
	}
	err := errors.Join(append(errs, b.write(ctx, batch, taken))...)
	if err != nil {
		b.giveBack(taken)
	}
	return err
}

// write moves one batch, tells of it, and takes it out of what was taken.
func (b *Buffer) write(ctx context.Context, batch []store.CursorMove, taken map[key]move) error {
	if len(batch) == 0 {
		return nil
	}
	wctx, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	states, err := b.d.Store.MoveCursors(wctx, batch)
	conns := make(map[userConv][]wire.ConnID, len(batch))
	for _, m := range batch {
		k := key{m.User, m.Device, m.Conv}
		uc := userConv{m.User, m.Conv}
		conns[uc] = append(conns[uc], taken[k].conn)
		if err == nil {
			delete(taken, k)
		}
	}
	if err != nil { // what stands all the same need not be written again
		stand := make(map[userConv]bool, len(states))
		for i := range states {
			stand[userConv{states[i].User, states[i].Conv}] = true
		}
		for _, m := range batch {
			if stand[userConv{m.User, m.Conv}] {
				delete(taken, key{m.User, m.Device, m.Conv})
			}
		}
	}
	b.tell(ctx, states, conns) // with an error, too: what stands grows only once
	if err != nil {
		return err //nolint:wrapcheck // says what was tried
	}
	b.d.Metrics.moved.Add(float64(len(batch)))
	return nil
}

// giveBack returns what was not written; newer moves win.
func (b *Buffer) giveBack(taken map[key]move) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, m := range taken {
		now, ok := b.pending[k]
		if !ok {
			if len(b.pending) >= Capacity {
				b.d.Metrics.dropped.Inc()
				continue
			}
			b.users[k.user]++
			now.conn = m.conn
		}
		b.pending[k] = move{max(m.delivered, now.delivered), max(m.read, now.read), now.conn}
	}
	b.d.Metrics.depth.Set(float64(len(b.pending)))
}
