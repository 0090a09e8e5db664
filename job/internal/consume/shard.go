// Package consume reads the log: Shard brings the records of the durable
// topics through the machine (a turn), then through delivery (its effects);
// Pushes brings the entries of im_push to the edges, at most once.
//
// A Shard has three goroutines. The consumer's own runs the turns, one after
// another: what arrives while one is under way is the next one's batch. The
// actor does the effects of committed turns in order, a few turns behind at
// most (then the next turn waits); turns that wait are done together. The third
// commits offsets. Whatever ends a partition here first waits until the actor
// has done what was committed.
package consume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/machine"
)

// Pauses between two tries of a turn or a claim that failed.
const (
	retryMin = 20 * time.Millisecond
	retryMax = 2 * time.Second
)

// drainTime is what the actor gets at the end for turns already committed;
// what is left then is done by the next owner.
const drainTime = 3 * time.Second

// Machine is what a Shard needs of the partition machine.
type Machine interface {
	Claim(ctx context.Context, p record.PartitionID, topicID string, low, high, committed int64) (start int64, err error)
	Release(p record.PartitionID)
	Turn(ctx context.Context, es []record.Entry) (machine.Result, error)
	Epoch(ctx context.Context, p record.PartitionID) (int64, error) // any goroutine
}

// Deliverer is what a Shard needs of delivery.
type Deliverer interface {
	Claim(p record.PartitionID, start int64) []wire.ServerID
	Release(p record.PartitionID)
	Act(ctx context.Context, effects []machine.Effects) error
	Committable() map[record.PartitionID]int64
}

// Producer is what a Shard needs of the log, for the dead-letter topic.
type Producer interface {
	Produce(p record.PartitionID, ts int64, value []byte, done func(mq.Delivery)) error
	Partitions(topic string) int32
}

// Deps is what a Shard works with; Run closes the Consumer. Check, if given, is
// asked until the store is what it has to be, before the group is joined. Holds,
// if given, says which partitions are this store's; others that the group
// assigns are left alone (they are of other shards, which have groups of their
// own).
type Deps struct {
	Check func(ctx context.Context) error
	Holds func(p record.PartitionID) bool

	Log       *zap.Logger
	Metrics   prometheus.Registerer
	Machine   Machine
	Deliverer Deliverer
	Consumer  mq.Consumer
	Producer  Producer
}

// Shard is the loop over the partitions of one store. Make it with NewShard.
type Shard struct {
	cfg Config
	d   Deps
	m   *metrics

	work      chan job // to the actor
	actorDone chan struct{}

	mu    sync.Mutex // guards owned against commit, and what follows
	owned map[record.PartitionID]struct{}
	// fenced are partitions that the group still gives to us, and since when
	// another owner has them.
	fenced map[record.PartitionID]time.Time
	// contradicted are partitions that were not taken, and why.
	contradicted map[record.PartitionID]*machine.LogError
	reminded     time.Time // when they were logged last

	leave context.CancelCauseFunc // ends this membership of the group
	// trouble is why records wait, nil while they don't.
	trouble error
}

// NewShard returns a shard that has not begun.
func NewShard(cfg Config, d Deps) *Shard {
	s := &Shard{
		cfg: cfg, d: d, m: newMetrics(d.Metrics),
		work:      make(chan job, cfg.EffectsTurns),
		actorDone: make(chan struct{}),
		owned:     make(map[record.PartitionID]struct{}),
		fenced:    make(map[record.PartitionID]time.Time),

		contradicted: make(map[record.PartitionID]*machine.LogError),
	}
	s.m.queueCapacity.Set(float64(cfg.EffectsTurns))
	return s
}

// Run works until ctx ends, or until going on would lose messages. At the end
// it does the effects of what it has committed and commits the offsets.
func (s *Shard) Run(ctx context.Context) error {
	own, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx by the drain
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { s.act(own) })
	wg.Go(func() { s.commitOften(own) })

	err := s.check(ctx)
	if err == nil {
		err = s.member(ctx)
	}
	for errors.Is(err, errRejoin) && ctx.Err() == nil {
		s.m.rejoins.Inc()
		s.d.Log.Warn("joining the group again", zap.Error(err))
		err = s.member(ctx)
	}
	if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, errRejoin)) {
		err = nil
	}
	drain, cancel := context.WithTimeout(own, drainTime)
	s.settle(drain.Done())
	cancel()
	s.commit()
	stop()
	wg.Wait()
	if cerr := s.d.Consumer.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close consumer: %w", cerr))
	}
	return err
}

// check waits until the store is what it has to be.
func (s *Shard) check(ctx context.Context) error {
	if s.d.Check == nil {
		return nil
	}
	return s.insist(ctx, "check the store", func() error { return s.d.Check(ctx) })
}

// Ready says why records wait, nil while they don't.
func (s *Shard) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.trouble
	if err == nil && len(s.fenced) > 0 {
		err = fmt.Errorf("%d partitions assigned here have another owner", len(s.fenced))
	}
	return errors.Join(err, s.contradictedLocked())
}

// Assigned implements mq.Owner: it claims the partitions, however often the
// store has to be asked within claimPatience. Those of other shards, and those
// whose log contradicts the store, get no start: they are not read.
func (s *Shard) Assigned(ctx context.Context, as []mq.Assignment) (_ map[record.PartitionID]int64, err error) {
	starts := make(map[record.PartitionID]int64, len(as))
	defer func() {
		if err != nil && len(starts) > 0 {
			s.Revoked(slices.Collect(maps.Keys(starts)), true)
		}
	}()
	for _, a := range as {
		if s.d.Holds != nil && !s.d.Holds(a.PartitionID) {
			continue
		}
		start, taken, err := s.claim(ctx, a)
		if err != nil {
			return nil, fmt.Errorf("claim %v: %w", a.PartitionID, err)
		}
		if taken {
			starts[a.PartitionID] = start
		}
	}
	return starts, nil
}

// claim claims one partition; taken is false for one that contradicts the store.
func (s *Shard) claim(ctx context.Context, a mq.Assignment) (start int64, taken bool, err error) {
	s.mu.Lock()
	s.reconciledLocked(a.PartitionID)
	s.mu.Unlock()
	var contradiction *machine.LogError
	begin := time.Now()
	err = s.insist(ctx, "claim partition", func() (err error) {
		start, err = s.d.Machine.Claim(ctx, a.PartitionID, a.TopicID, a.Low, a.High, a.Committed)
		if errors.As(err, &contradiction) {
			return nil
		}
		if err != nil && time.Since(begin) > claimPatience {
			return fmt.Errorf("%w: %w", errRejoin, err)
		}
		return err
	})
	switch {
	case err != nil:
		return 0, false, err
	case contradiction != nil:
		return 0, false, s.contradict(ctx, contradiction)
	}
	s.d.Deliverer.Claim(a.PartitionID, start)
	s.mu.Lock()
	s.owned[a.PartitionID] = struct{}{}
	delete(s.fenced, a.PartitionID)
	s.m.owned.Set(float64(len(s.owned)))
	s.mu.Unlock()
	return start, true, nil
}

// Revoked implements mq.Owner: effects of committed turns are done first, so
// that a sequence of pushes ends where it was committed and has no hole.
func (s *Shard) Revoked(ps []record.PartitionID, lost bool) {
	s.settle(nil)
	if !lost {
		s.commit()
	}
	s.mu.Lock()
	for _, p := range ps {
		delete(s.owned, p)
		delete(s.fenced, p)
	}
	s.reconciledLocked(ps...)
	s.m.owned.Set(float64(len(s.owned)))
	s.mu.Unlock()
	for _, p := range ps {
		s.d.Machine.Release(p)
		s.d.Deliverer.Release(p)
		s.m.forget(p)
	}
	s.d.Log.Info("partitions revoked", zap.Int("partitions", len(ps)), zap.Bool("lost", lost))
}

// Messages implements mq.Owner: turns, and their effects to the actor.
func (s *Shard) Messages(ctx context.Context, ms []record.Entry) error {
	for len(ms) > 0 {
		n := min(len(ms), s.cfg.TurnRecords)
		if err := s.turn(ctx, ms[:n]); err != nil {
			return err
		}
		ms = ms[n:]
	}
	return nil
}

func (s *Shard) turn(ctx context.Context, es []record.Entry) error {
	begin := time.Now()
	var res machine.Result
	err := s.insist(ctx, "apply records", func() error {
		for {
			var err error
			res, err = s.d.Machine.Turn(ctx, es)
			if ferr := s.fence(ctx, res.Fenced); ferr != nil {
				return ferr
			}
			le, contradicted := errors.AsType[*machine.LogError](err)
			if !contradicted {
				return err
			}
			if err := s.contradict(ctx, le); err != nil {
				return err
			}
		} // the rest without that partition
	})
	if err != nil {
		return fmt.Errorf("apply %d records: %w", len(es), err)
	}
	s.m.turnSeconds.Observe(time.Since(begin).Seconds())
	s.m.turnRecords.Observe(float64(len(es)))
	s.m.applied(es, s.owns)
	s.m.recordAge.Observe(max(0, time.Since(time.UnixMilli(es[0].TS)).Seconds()))
	for i := range res.Poison {
		s.setAside(&res.Poison[i])
	}
	if len(res.Effects) == 0 {
		return nil
	}
	return s.hand(ctx, job{effects: res.Effects})
}

// insist repeats what failed until it works, ctx ends, or the group has to be
// joined anew.
func (s *Shard) insist(ctx context.Context, what string, f func() error) error {
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		err := f()
		s.setTrouble(err)
		if err == nil || errors.Is(err, errRejoin) {
			return err
		}
		if ctx.Err() != nil { // a store may say only "interrupted"
			return fmt.Errorf("%s: %w: %w", what, ctx.Err(), err)
		}
		s.m.retries.Inc()
		s.d.Log.Warn("records wait: trying again", zap.String("what", what), zap.Error(err), zap.Duration("after", wait))
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case <-t.C:
		}
	}
}

func (s *Shard) setTrouble(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = err
}

// commitOften commits until ctx ends.
func (s *Shard) commitOften(ctx context.Context) {
	t := time.NewTicker(s.cfg.CommitInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.commit()
			s.reclaim()
			s.remind(ctx)
		}
	}
}

// commit commits what is done, of partitions still owned.
func (s *Shard) commit() {
	offsets := s.d.Deliverer.Committable()
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range offsets {
		if _, ok := s.owned[p]; !ok {
			delete(offsets, p)
		}
	}
	if len(offsets) > 0 {
		s.d.Consumer.Commit(offsets)
		s.m.committed(offsets)
	}
}
