package mq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record"
)

const (
	pollWait = 100 * time.Millisecond // longest wait in one poll: how soon ctx is noticed
	// stallAfter is how long an owner may keep a batch before the partitions
	// are paused and polling goes on without them. Pausing throws away what
	// was fetched ahead, so ordinary back-pressure must not reach it.
	stallAfter   = 10 * time.Second
	maxPoll      = 5 * time.Minute // a rebalance waits so long for a member that stalls
	commitEvery  = time.Second
	leaveTimeout = 5 * time.Second
	leaveGrace   = 200 * time.Millisecond // between giving partitions back and closing
	joinTimeout  = 3 * time.Second        // of a member that is stopped before it has joined
	closeTimeout = 10 * time.Second       // of a client that has left its group
	assignPause  = 500 * time.Millisecond
	lagEvery     = time.Second
)

// consumer is one member of a group.
//
// Run's goroutine polls and takes part in rebalances; a second one, which Run
// waits for, calls Owner.Messages, so that an owner that blocks does not stop
// the polling: a batch is handed over, polling goes on into a bounded buffer,
// a full buffer waits, and after stallAfter the partitions are paused. The
// owner's methods are never called at the same time: a rebalance waits for the
// batch in hand (after maxPoll the group goes on without this member, and
// Revoked says lost).
//
// Offsets given to Commit are stored in the client, which commits them in the
// background each second and when partitions leave.
type consumer struct {
	c      *kafka.Consumer
	admin  *kafka.AdminClient
	cfg    Config
	group  string
	topics []string
	log    *zap.Logger
	m      *consumerMetrics

	// declined are partitions that the group gave and the owner did not take;
	// one after another Run's goroutine alone has it.
	declined map[record.PartitionID]struct{}

	mu        sync.Mutex
	committed map[record.PartitionID]int64 // owned partitions, highest asked for; -1: nothing yet
	unsure    map[record.PartitionID]int64 // asked for and not yet answered by the broker
	running   bool
	closed    bool
}

// NewConsumer makes a member of a group; it joins in Run.
func NewConsumer(cfg Config, group string, topics []string, log *zap.Logger, reg prometheus.Registerer) (Consumer, error) {
	return newConsumer(cfg, group, topics, log, reg)
}

func newConsumer(cfg Config, group string, topics []string, log *zap.Logger, reg prometheus.Registerer) (*consumer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m := cfg.base()
	maps.Copy(m, kafka.ConfigMap{
		"group.id":                      group,
		"enable.auto.commit":            true, // of what StoreOffsets was given, nothing else
		"enable.auto.offset.store":      false,
		"auto.commit.interval.ms":       int(commitEvery.Milliseconds()),
		"auto.offset.reset":             "error",
		"group.protocol":                "classic",
		"partition.assignment.strategy": "cooperative-sticky",
		"session.timeout.ms":            int(cfg.SessionTimeout.Milliseconds()),
		"heartbeat.interval.ms":         1000,
		"max.poll.interval.ms":          int(maxPoll.Milliseconds()),
		"fetch.min.bytes":               1,
		"fetch.wait.max.ms":             100,
		"fetch.queue.backoff.ms":        10, // 1000 by default: a second of silence after each full queue
		"fetch.error.backoff.ms":        100,
		// What waits in the client is 16 MiB over all partitions, and one answer
		// of each broker on top, before decompression.
		"queued.min.messages":        10 * cfg.BatchMessages,
		"queued.max.messages.kbytes": 16 << 10,
		"fetch.max.bytes":            8 << 20,
	})
	c, err := kafka.NewConsumer(&m)
	if err != nil {
		return nil, fmt.Errorf("make kafka consumer of group %s: %w", group, err)
	}
	a, err := kafka.NewAdminClientFromConsumer(c)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make kafka admin client of group %s: %w", group, err), c.Close())
	}
	x := &consumer{
		c: c, admin: a, cfg: cfg, group: group, topics: topics,
		log: log.With(zap.String("group", group)), m: newConsumerMetrics(reg, group),
		committed: map[record.PartitionID]int64{}, unsure: map[record.PartitionID]int64{},
		declined: map[record.PartitionID]struct{}{},
	}
	x.m.capacity.Set(float64(cfg.BatchMessages))
	return x, nil
}

// Run implements Consumer. At its end the member has left the group and the
// owner was told so.
func (x *consumer) Run(ctx context.Context, o Owner) error {
	x.mu.Lock()
	if x.running || x.closed {
		x.mu.Unlock()
		return errors.New("consumer runs already or is closed")
	}
	x.running = true
	x.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	r := &run{
		consumer: x, ctx: ctx, owner: o, batches: make(chan []record.Entry), done: make(chan error, 1),
		next: map[record.PartitionID]int64{}, ids: make(chan map[string]string), topicIDs: map[record.PartitionID]string{},
	}
	var work sync.WaitGroup
	work.Go(r.hand)
	work.Go(r.watch)
	err := r.loop() //nolint:contextcheck // r.ctx is ctx
	cancel()
	r.leave() //nolint:contextcheck // ctx has ended
	close(r.batches)
	work.Wait()
	x.mu.Lock()
	x.running = false
	x.mu.Unlock()
	return err
}

// Commit implements Consumer.
func (x *consumer) Commit(offsets map[record.PartitionID]int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	tps := make([]kafka.TopicPartition, 0, len(offsets))
	for p, next := range offsets {
		if was, owned := x.committed[p]; !owned || next <= was {
			continue
		}
		tps = append(tps, kafka.TopicPartition{Topic: &p.Topic, Partition: p.Number, Offset: kafka.Offset(next)})
	}
	if len(tps) == 0 || x.closed {
		return
	}
	tps, err := x.c.StoreOffsets(tps)
	if err != nil {
		x.log.Debug("store offsets", zap.Error(err))
	}
	for _, tp := range tps {
		if tp.Error != nil || err != nil && len(tps) == 1 {
			continue // leaves just now, or is not quite here: the next call asks again
		}
		x.committed[idOf(tp)], x.unsure[idOf(tp)] = int64(tp.Offset), int64(tp.Offset)
	}
}

// confirm takes the broker's answer to a commit in the background.
func (x *consumer) confirm(ev kafka.OffsetsCommitted) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, tp := range ev.Offsets {
		if ev.Error != nil || tp.Error != nil || int64(tp.Offset) >= x.unsure[idOf(tp)] {
			delete(x.unsure, idOf(tp))
		}
	}
}

// Close ends the client. Run must have returned; so the group was left and what
// was stored is committed.
func (x *consumer) Close() error {
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return nil
	}
	if x.running {
		x.mu.Unlock()
		return errors.New("close consumer: end the context of Run first")
	}
	x.closed = true
	x.mu.Unlock()
	x.admin.Close()
	return x.closeWithin(closeTimeout, x.c.Close)
}

// closeWithin leaves a client behind that does not end: seen once, after all
// brokers had been away, where it held up a job for longer than it may take to
// stop. There is nothing left that it could lose.
func (x *consumer) closeWithin(limit time.Duration, end func() error) error {
	done := make(chan error, 1)
	go func() { done <- end() }() // nobody can stop it
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("close consumer of group %s: %w", x.group, err)
		}
	case <-time.After(limit):
		x.log.Warn("the client of kafka does not end; it is left behind", zap.Duration("after", limit))
	}
	return nil
}

func entryOf(m *kafka.Message) record.Entry {
	return record.Entry{
		PartitionID: record.PartitionID{Topic: *m.TopicPartition.Topic, Number: m.TopicPartition.Partition},
		Offset:      int64(m.TopicPartition.Offset),
		TS:          m.Timestamp.UnixMilli(),
		Value:       m.Value,
	}
}

func idOf(tp kafka.TopicPartition) record.PartitionID {
	return record.PartitionID{Topic: *tp.Topic, Number: tp.Partition}
}
