package mq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record"
)

// rebalance is librdkafka's callback, from inside Poll and so on Run's
// goroutine.
func (r *run) rebalance(_ *kafka.Consumer, ev kafka.Event) error {
	switch ev := ev.(type) {
	case kafka.AssignedPartitions:
		r.joined = true
		r.join()
		var starts map[record.PartitionID]int64
		if r.err == nil && !r.ending() {
			starts, r.err = r.assigned(ev.Partitions)
		}
		r.take(ev.Partitions, starts)
	case kafka.RevokedPartitions:
		r.join() // may take long enough to lose them
		r.revoked(ev.Partitions, r.c.AssignmentLost())
	}
	return nil
}

func (r *run) ending() bool { return r.over || r.ctx.Err() != nil }

// take answers an assignment. Partitions without a start, because the owner
// gave none or the run is about to end, can't be refused: the group holds them
// for this member until they go back with a revocation or the membership. The
// client is not told of them, so it reads nothing. (Pausing them instead goes
// wrong: the client remembers a pause beyond the assignment.)
func (r *run) take(tps []kafka.TopicPartition, starts map[record.PartitionID]int64) {
	taken := make([]kafka.TopicPartition, 0, len(starts))
	for _, tp := range tps {
		if start, ok := starts[idOf(tp)]; ok {
			tp.Offset = kafka.Offset(start)
			taken = append(taken, tp)
			delete(r.declined, idOf(tp))
		} else {
			r.declined[idOf(tp)] = struct{}{}
		}
	}
	if err := r.c.IncrementalAssign(taken); err != nil {
		r.err = errors.Join(r.err, fmt.Errorf("assign %d partitions: %w", len(taken), err))
	}
}

// assigned asks the owner where to start, and has it own those partitions.
func (r *run) assigned(tps []kafka.TopicPartition) (map[record.PartitionID]int64, error) {
	if len(tps) == 0 {
		return nil, nil
	}
	as, err := r.look(tps)
	if err != nil {
		return nil, err
	}
	starts, err := r.owner.Assigned(r.ctx, as)
	if err != nil {
		return nil, fmt.Errorf("owner of group %s at an assignment: %w", r.group, err)
	}
	for p, start := range starts {
		if start < 0 || !slices.ContainsFunc(as, func(a Assignment) bool { return a.PartitionID == p }) {
			return nil, fmt.Errorf("owner of group %s gave start %d for %v", r.group, start, p)
		}
	}
	r.mu.Lock()
	for _, a := range as {
		if start, ok := starts[a.PartitionID]; ok {
			r.committed[a.PartitionID] = a.Committed
			r.next[a.PartitionID] = start
			r.topicIDs[a.PartitionID] = a.TopicID
		}
	}
	r.mu.Unlock()
	r.m.rebalances.WithLabelValues("assigned").Add(float64(len(starts)))
	r.m.rebalances.WithLabelValues("declined").Add(float64(len(tps) - len(starts)))
	r.log.Info("partitions assigned", zap.Int("count", len(starts)), zap.Int("declined", len(tps)-len(starts)))
	return starts, nil
}

// look asks the brokers where the partitions stand, until they answer.
func (r *run) look(tps []kafka.TopicPartition) ([]Assignment, error) {
	for {
		as, err := r.lookOnce(tps)
		if err == nil {
			return as, nil
		}
		r.log.Warn("partitions assigned, but the brokers do not say where they stand", zap.Error(err))
		select {
		case <-r.ctx.Done():
			return nil, fmt.Errorf("look at assigned partitions: %w: %w", r.ctx.Err(), err)
		case <-time.After(assignPause):
		}
	}
}

func (r *run) lookOnce(tps []kafka.TopicPartition) ([]Assignment, error) {
	ctx, cancel := context.WithTimeout(r.ctx, describeTimeout)
	defer cancel()
	topics, err := describeNames(ctx, r.admin, &r.cfg, r.topics)
	if err != nil {
		return nil, err
	}
	committed, err := r.c.Committed(slices.Clone(tps), 5000)
	if err != nil {
		return nil, fmt.Errorf("read committed offsets: %w", err)
	}
	as := make([]Assignment, 0, len(tps))
	for _, tp := range committed {
		if tp.Error != nil {
			return nil, fmt.Errorf("read committed offset of %v: %w", idOf(tp), tp.Error)
		}
		a := Assignment{PartitionID: idOf(tp), Committed: max(-1, int64(tp.Offset))}
		if a.Low, a.High, err = r.c.QueryWatermarkOffsets(a.Topic, a.Number, 5000); err != nil {
			return nil, fmt.Errorf("read watermarks of %v: %w", a.PartitionID, err)
		}
		t, ok := topics[a.Topic]
		if !ok {
			return nil, fmt.Errorf("topic %s does not stand", a.Topic)
		}
		a.TopicID = t.TopicID.String()
		as = append(as, a)
	}
	return as, nil
}

func (r *run) revoked(tps []kafka.TopicPartition, lost bool) {
	taken := make([]kafka.TopicPartition, 0, len(tps))
	ps := make([]record.PartitionID, 0, len(tps))
	for _, tp := range tps {
		if _, ok := r.declined[idOf(tp)]; !ok {
			taken, ps = append(taken, tp), append(ps, idOf(tp))
		}
		delete(r.declined, idOf(tp))
	}
	if len(ps) > 0 && !r.over {
		r.buf = slices.DeleteFunc(r.buf, func(e record.Entry) bool { return slices.Contains(ps, e.PartitionID) })
		r.owner.Revoked(ps, lost) // may Commit
		r.forget(ps, lost)
		event := "revoked"
		if lost {
			event = "lost"
		}
		r.m.rebalances.WithLabelValues(event).Add(float64(len(ps)))
		r.log.Info("partitions revoked", zap.Int("count", len(ps)), zap.Bool("lost", lost))
	}
	if err := r.c.IncrementalUnassign(taken); err != nil {
		r.err = errors.Join(r.err, fmt.Errorf("unassign %d partitions: %w", len(taken), err))
	}
}

func (r *run) forget(ps []record.PartitionID, lost bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range ps {
		delete(r.next, p)
		delete(r.topicIDs, p)
		r.m.lag.DeleteLabelValues(p.Topic, strconv.Itoa(int(p.Number)))
		delete(r.committed, p)
		if lost {
			delete(r.unsure, p)
		}
	}
}

// leave gives all partitions back, so that the owner is told on this
// goroutine, and within a bound also where no broker answers. It waits for the
// last commit too: a client closed under one does not tell the group that it
// leaves, and the others wait for its session to end.
func (r *run) leave() {
	r.join()
	r.buf = nil
	// A client that is joining, for the first time or again in a rebalance, does
	// not tell the group that it leaves; so it joins first. Where that takes
	// longer, as no broker answers or another member keeps the group waiting, the
	// broker ends the session.
	for end := time.Now().Add(joinTimeout); time.Now().Before(end) && (!r.joined || r.rebalancing()); {
		r.poll(pollWait)
	}
	if err := r.c.Unsubscribe(); err != nil {
		r.log.Warn("leave the group", zap.Error(err))
	}
	for end := time.Now().Add(leaveTimeout); r.unsettled() && time.Now().Before(end); {
		r.poll(pollWait)
	}
	// The client commits once more as it gives partitions back, and does not say
	// so in advance: closed before the broker has answered, it would not tell the
	// group that it leaves.
	for end := time.Now().Add(leaveGrace); time.Now().Before(end); {
		r.poll(time.Until(end))
	}
	r.buf = nil
	r.mu.Lock()
	rest := make([]record.PartitionID, 0, len(r.committed))
	for p := range r.committed {
		rest = append(rest, p)
	}
	r.mu.Unlock()
	r.over = true
	if len(rest) > 0 {
		r.owner.Revoked(rest, true)
		r.forget(rest, true)
	}
}

// rebalancing asks the brokers whether the members of the group are joining. The
// client does not tell.
func (r *run) rebalancing() bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), probeTimeout)
	defer cancel()
	res, err := r.admin.DescribeConsumerGroups(ctx, []string{r.group}, kafka.SetAdminRequestTimeout(probeTimeout))
	if err != nil || len(res.ConsumerGroupDescriptions) != 1 {
		return false
	}
	state := res.ConsumerGroupDescriptions[0].State
	return state == kafka.ConsumerGroupStatePreparingRebalance || state == kafka.ConsumerGroupStateCompletingRebalance
}

func (r *run) unsettled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.committed)+len(r.unsure)+len(r.declined) > 0
}
