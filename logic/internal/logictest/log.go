// Package logictest is a log for tests of this tier: a Producer whose records a
// small machine applies to a store, one after another, as a job would.
//
// It is no model of the job's machine (that has its own simulation): it knows
// sends, repeats, membership, recalls, edits and the group commands, without
// their rights. A Log is safe for concurrent use.
package logictest

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
)

// Partitions is how many partitions every topic has.
const Partitions = 4

// ErrFull is what Produce returns while SetFull stands.
var ErrFull = errors.New("queue is full")

type entry struct {
	p     record.PartitionID
	ts    int64
	value []byte
	done  func(mq.Delivery)
}

// Log is a producer and the machine behind it.
type Log struct {
	store store.Machine
	wg    sync.WaitGroup

	mu      sync.Mutex
	cond    *sync.Cond
	queue   []entry
	offset  int64
	full    bool
	down    error
	held    bool
	idle    bool // acknowledge, but do not apply
	closed  bool
	busy    bool
	records []*recordpb.Record
	pushes  []*recordpb.Push
}

var _ mq.Producer = (*Log)(nil)

// New starts a log over a store; ctx is what its machine works under. Close
// ends it.
func New(ctx context.Context, st store.Machine) *Log {
	l := &Log{store: st}
	l.cond = sync.NewCond(&l.mu)
	l.wg.Go(func() { l.run(context.WithoutCancel(ctx)) })
	return l
}

// Produce queues a record.
func (l *Log) Produce(p record.PartitionID, ts int64, value []byte, done func(mq.Delivery)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full || l.closed {
		return ErrFull
	}
	l.queue = append(l.queue, entry{p, ts, value, done})
	l.cond.Broadcast()
	return nil
}

// Partitions is the same for every topic.
func (l *Log) Partitions(string) int32 { return Partitions }

// Ready says whether SetDown stands.
func (l *Log) Ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.down
}

// Flush waits until all that was queued is answered and applied.
func (l *Log) Flush(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) > 0 || l.busy {
		l.cond.Wait()
	}
	return nil
}

// Close ends the log; what is held is answered as failed.
func (l *Log) Close() {
	l.mu.Lock()
	l.closed, l.held = true, false
	l.cond.Broadcast()
	l.mu.Unlock()
	l.wg.Wait()
}

// SetFull makes Produce fail.
func (l *Log) SetFull(v bool) { l.set(func() { l.full = v }) }

// SetDown makes deliveries fail with err.
func (l *Log) SetDown(err error) { l.set(func() { l.down = err }) }

// Hold keeps records from being delivered until it is called with false.
func (l *Log) Hold(v bool) { l.set(func() { l.held = v }) }

// StopMachine makes the log acknowledge without applying.
func (l *Log) StopMachine(v bool) { l.set(func() { l.idle = v }) }

func (l *Log) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	l.cond.Broadcast()
}

// Records returns what was acknowledged, without receipts.
func (l *Log) Records() []*recordpb.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*recordpb.Record(nil), l.records...)
}

// Pushes returns what im_push got.
func (l *Log) Pushes() []*recordpb.Push {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*recordpb.Push(nil), l.pushes...)
}

// Waiting is how many records are not delivered yet.
func (l *Log) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue)
}

func (l *Log) run(ctx context.Context) {
	for {
		l.mu.Lock()
		for !l.closed && (len(l.queue) == 0 || l.held) {
			l.cond.Wait()
		}
		if len(l.queue) == 0 {
			l.mu.Unlock()
			return
		}
		e := l.queue[0]
		l.queue, l.busy = l.queue[1:], true
		d := mq.Delivery{Offset: l.offset, TS: e.ts, Err: l.down}
		if l.closed {
			d.Err = mq.ErrUnavailable
		}
		if d.Err == nil {
			l.offset++
		}
		apply := !l.idle
		l.mu.Unlock()
		if d.Err == nil {
			l.take(ctx, e, d, apply)
		}
		e.done(d)
		l.set(func() { l.busy = false })
	}
}

// take keeps a record and applies it.
func (l *Log) take(ctx context.Context, e entry, d mq.Delivery, apply bool) {
	if e.p.Topic == record.TopicPush {
		p := new(recordpb.Push)
		if err := proto.Unmarshal(e.value, p); err != nil {
			panic("BUG: bad push: " + err.Error())
		}
		l.set(func() { l.pushes = append(l.pushes, p) })
		return
	}
	r, err := record.Decode(e.value)
	if err != nil {
		panic("BUG: bad record: " + err.Error())
	}
	l.set(func() { l.records = append(l.records, r) })
	if !apply {
		return
	}
	if err := newTurn(l.store, r, e.p, d).apply(ctx); err != nil {
		panic("BUG: record not applied: " + err.Error())
	}
}
