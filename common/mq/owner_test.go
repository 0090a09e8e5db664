package mq_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
)

// owner is an Owner that keeps offsets itself, as the machine does, in a
// ledger that several owners may share.
type owner struct {
	t           *testing.T
	ledger      *ledger
	consumer    mq.Consumer
	commit      bool
	high        bool                         // start at the end
	decline     map[record.PartitionID]bool  // gets no start
	first       map[record.PartitionID]int64 // start there, the first time
	declineAnew bool                         // what of it comes again gets no start
	block       chan struct{}
	blocked     chan struct{} // told once blocking begins
	fail        error

	mu    sync.Mutex
	owned map[record.PartitionID]int64 // next offset
	as    []mq.Assignment
	lost  bool
	busy  bool
}

type ledger struct {
	mu   sync.Mutex
	next map[record.PartitionID]int64
	got  map[record.PartitionID][]record.Entry

	last map[record.PartitionID]time.Time // when something came
	gap  time.Duration                    // longest silence of a partition
}

// forget is for a topic that begins anew.
func (l *ledger) forget(p record.PartitionID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.next, p)
	delete(l.got, p)
}

func (l *ledger) resetGap() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gap, l.last = 0, map[record.PartitionID]time.Time{}
}

func (l *ledger) longest() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gap
}

func (l *ledger) cameLocked(p record.PartitionID) {
	now := time.Now()
	if last, ok := l.last[p]; ok {
		l.gap = max(l.gap, now.Sub(last))
	}
	if l.last != nil {
		l.last[p] = now
	}
}

func newLedger() *ledger {
	return &ledger{next: map[record.PartitionID]int64{}, got: map[record.PartitionID][]record.Entry{}}
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, es := range l.got {
		n += len(es)
	}
	return n
}

func (l *ledger) entries(p record.PartitionID) []record.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.got[p])
}

func (l *ledger) values(p record.PartitionID) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, e := range l.got[p] {
		out = append(out, string(e.Value))
	}
	return out
}

func (o *owner) enter() func() {
	o.mu.Lock()
	if o.busy {
		o.t.Error("the owner is called twice at a time")
	}
	o.busy = true
	o.mu.Unlock()
	return func() { o.mu.Lock(); o.busy = false; o.mu.Unlock() }
}

func (o *owner) Assigned(_ context.Context, as []mq.Assignment) (map[record.PartitionID]int64, error) {
	defer o.enter()()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ledger.mu.Lock()
	defer o.ledger.mu.Unlock()
	starts := map[record.PartitionID]int64{}
	for _, a := range as {
		if _, ok := o.owned[a.PartitionID]; ok {
			o.t.Errorf("%v assigned twice", a.PartitionID)
		}
		if o.decline[a.PartitionID] {
			continue
		}
		first, ok := o.first[a.PartitionID]
		if ok && first < 0 {
			if o.declineAnew {
				continue
			}
			ok = false
		}
		starts[a.PartitionID] = max(a.Low, o.ledger.next[a.PartitionID])
		if ok {
			starts[a.PartitionID], o.first[a.PartitionID] = first, -1
		}
		if o.high {
			starts[a.PartitionID] = a.High
		}
		o.owned[a.PartitionID] = starts[a.PartitionID]
	}
	o.as = append(o.as, as...)
	return starts, nil
}

func (o *owner) Revoked(ps []record.PartitionID, lost bool) {
	defer o.enter()()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lost = o.lost || lost
	for _, p := range ps {
		if _, ok := o.owned[p]; !ok {
			o.t.Errorf("%v revoked and not owned", p)
		}
		delete(o.owned, p)
	}
}

func (o *owner) Messages(ctx context.Context, ms []record.Entry) error {
	defer o.enter()()
	if o.block != nil {
		select {
		case o.blocked <- struct{}{}:
		default:
		}
		select {
		case <-o.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if o.fail != nil {
		return o.fail
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ledger.mu.Lock()
	defer o.ledger.mu.Unlock()
	next := map[record.PartitionID]int64{}
	for _, e := range ms {
		if want, ok := o.owned[e.PartitionID]; !ok || e.Offset != want {
			o.t.Errorf("%v offset %d arrived, owned %v, next %d", e.PartitionID, e.Offset, ok, want)
		}
		o.owned[e.PartitionID] = e.Offset + 1
		o.ledger.cameLocked(e.PartitionID)
		o.ledger.next[e.PartitionID] = e.Offset + 1
		o.ledger.got[e.PartitionID] = append(o.ledger.got[e.PartitionID], e)
		next[e.PartitionID] = e.Offset + 1
	}
	if o.commit {
		o.consumer.Commit(next)
	}
	return nil
}

func (o *owner) seen() []mq.Assignment {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.as)
}

func (o *owner) wasLost() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lost
}

func (o *owner) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.owned)
}

// join runs a consumer for an owner until the returned function is called,
// which gives Run's error.
func join(t *testing.T, b *broker, c mq.Config, o *owner) (leave func() error) {
	t.Helper()
	o.t, o.owned = t, map[record.PartitionID]int64{}
	if o.ledger == nil {
		o.ledger = newLedger()
	}
	x, err := mq.NewConsumer(c, b.group, []string{b.topic}, zaptest.NewLogger(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	o.consumer = x
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var work sync.WaitGroup
	work.Go(func() { done <- x.Run(ctx, o) })
	var once sync.Once
	var result error
	leave = func() error {
		once.Do(func() {
			cancel()
			result = <-done
			work.Wait()
			if n := o.count(); n > 0 {
				t.Errorf("Run has ended and the owner still has %d partitions", n)
			}
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		})
		return result
	}
	t.Cleanup(func() { _ = leave() })
	return leave
}
