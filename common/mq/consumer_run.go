package mq

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record"
)

// run is one call of Run. All fields but the channels belong to its goroutine.
type run struct {
	*consumer
	ctx   context.Context //nolint:containedctx // Run's own; rebalance callbacks come through librdkafka without one
	owner Owner
	err   error // ends the loop

	batches chan []record.Entry // to hand
	done    chan error          // from hand, one a batch
	busy    bool                // the owner has a batch
	since   time.Time           // for so long
	stalled bool
	buf     []record.Entry
	over    bool // the owner is told nothing more
	joined  bool // the group has answered

	next    map[record.PartitionID]int64 // owned partitions, next offset to hand over
	counted time.Time                    // when the lag was shown last

	ids       chan map[string]string        // from watch: topics' ids
	topicIDs  map[record.PartitionID]string // of owned partitions, as told to the owner
	misplaced bool                          // the client met an offset that the log does not have
}

// hand calls the owner, one batch at a time.
func (r *run) hand() {
	for b := range r.batches {
		start := time.Now()
		err := r.owner.Messages(r.ctx, b)
		r.m.busy.Observe(time.Since(start).Seconds())
		r.done <- err
	}
}

func (r *run) loop() error {
	if err := r.c.SubscribeTopics(r.topics, r.rebalance); err != nil {
		return fmt.Errorf("subscribe to %v: %w", r.topics, err)
	}
	for r.err == nil && r.ctx.Err() == nil {
		r.step()
		r.offerMoved()
	}
	if over := r.ctx.Err(); over != nil && errors.Is(r.err, over) { // what was under way said so
		r.err = nil
	}
	return r.err
}

// step polls once, or waits for the owner, and hands over what there is.
func (r *run) step() {
	switch {
	case r.busy && len(r.buf) > 0 && !r.stalled:
		// Polling with a wait here would keep the owner waiting in turn.
		r.drain()
		r.await(min(pollWait, max(0, stallAfter-time.Since(r.since))))
		if r.busy && time.Since(r.since) >= stallAfter {
			r.pause()
		}
	case r.busy:
		r.poll(pollWait)
		r.await(0)
	default:
		if len(r.buf) == 0 {
			r.poll(pollWait)
		}
		r.drain()
		r.handOver()
	}
	r.m.buffered.Set(float64(len(r.buf)))
	if time.Since(r.counted) >= lagEvery {
		r.counted = time.Now()
		r.showLag()
	}
}

// showLag tells how many records of each partition were not handed over. The
// end of the log is what the last fetch said: nobody is asked.
func (r *run) showLag() {
	for p, next := range r.next {
		if _, high, err := r.c.GetWatermarkOffsets(p.Topic, p.Number); err == nil && high >= 0 {
			r.m.lag.WithLabelValues(p.Topic, strconv.Itoa(int(p.Number))).Set(float64(max(0, high-next)))
		}
	}
}

// drain takes what is there without waiting.
func (r *run) drain() {
	for r.err == nil && len(r.buf) < r.cfg.BatchMessages && r.poll(0) {
	}
}

// handOver gives the owner what there is. A record that comes once more, which
// the client lets happen now and then when partitions move, is left out.
func (r *run) handOver() {
	if r.err != nil {
		return
	}
	batch := r.buf[:0]
	for _, e := range r.buf {
		if e.Offset < r.next[e.PartitionID] {
			r.m.repeats.Inc()
			continue
		}
		r.m.records.WithLabelValues(e.Topic).Inc()
		r.next[e.PartitionID] = e.Offset + 1
		batch = append(batch, e)
	}
	r.buf = batch
	if len(r.buf) == 0 {
		return
	}
	r.batches <- r.buf
	r.buf, r.busy, r.since = nil, true, time.Now()
}

// await gives the owner some time to finish its batch.
func (r *run) await(d time.Duration) {
	if !r.busy {
		return
	}
	if d <= 0 {
		select {
		case err := <-r.done:
			r.finished(err)
		default:
		}
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case err := <-r.done:
		r.finished(err)
	case <-r.ctx.Done():
	case <-t.C:
	}
}

// join waits for the batch in hand, however long.
func (r *run) join() {
	if r.busy {
		r.finished(<-r.done)
	}
}

func (r *run) finished(err error) {
	r.busy = false
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("owner of group %s: %w", r.group, err)
	}
	if r.stalled {
		r.resume()
	}
}

func (r *run) pause() {
	tps, err := r.c.Assignment()
	if err == nil {
		err = r.c.Pause(tps)
	}
	if err != nil {
		r.log.Warn("pause partitions", zap.Error(err))
		return
	}
	r.stalled = true
	r.m.stalls.Inc()
	r.log.Warn("owner keeps a batch for long; partitions are paused", zap.Duration("since", time.Since(r.since)))
}

func (r *run) resume() {
	tps, err := r.c.Assignment()
	if err == nil {
		err = r.c.Resume(tps)
	}
	if err != nil {
		r.err = errors.Join(r.err, fmt.Errorf("resume partitions: %w", err))
	}
	r.stalled = false
}

// poll takes one event; it says whether there was one. A wait that is over does
// not wait: to the client a negative one means for ever.
func (r *run) poll(wait time.Duration) bool {
	switch ev := r.c.Poll(int(max(wait, 0).Milliseconds())).(type) {
	case nil:
		return false
	case *kafka.Message:
		if ev.TopicPartition.Error != nil {
			if ke, ok := errors.AsType[kafka.Error](ev.TopicPartition.Error); ok {
				r.fault(ke)
			}
			return true
		}
		r.buf = append(r.buf, entryOf(ev))
	case kafka.Error:
		r.fault(ev)
	case kafka.OffsetsCommitted:
		r.confirm(ev)
		if ev.Error != nil {
			r.m.errs.WithLabelValues("commit").Inc()
			r.log.Warn("commit offsets", zap.Error(ev.Error))
		}
	}
	return true
}

// fault ends the run for what does not pass by itself.
func (r *run) fault(e kafka.Error) {
	r.m.errs.WithLabelValues(e.Code().String()).Inc()
	switch {
	case r.ending(): // nothing is read any more
		r.log.Debug("kafka consumer, at its end", zap.Error(e))
	case e.Code() == kafka.ErrAutoOffsetReset, e.Code() == kafka.ErrOffsetOutOfRange:
		r.log.Error("kafka consumer", zap.Error(e))
		r.misplaced = true
	case e.Code() == kafka.ErrTopicAuthorizationFailed, e.Code() == kafka.ErrGroupAuthorizationFailed:
		r.fail(r.cfg.refusal(e))
	case e.IsFatal():
		r.fail(e)
	case r.cfg.refusal(e) != nil: // credentials may be put right under a running process
		r.log.Error("kafka refuses the consumer", zap.Error(r.cfg.refusal(e)))
	case e.Code() == kafka.ErrMaxPollExceeded:
		r.log.Error("consumer was put out of its group: the owner kept a batch too long", zap.Error(e))
	default:
		r.log.Debug("kafka consumer", zap.Error(e))
	}
}
