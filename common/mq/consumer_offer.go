package mq

import (
	"context"
	"fmt"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record"
)

// topicsEvery is how often the topics' ids are compared with those that were
// told at the assignment.
const topicsEvery = 5 * time.Second

// watch asks for the ids of the topics until the run ends. A topic that was
// deleted and made again would be read on from an offset that means nothing.
func (r *run) watch() {
	tick := time.NewTicker(topicsEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(r.ctx, topicsEvery)
		have, err := describeNames(ctx, r.admin, &r.cfg, r.topics)
		cancel()
		if err != nil {
			r.log.Debug("look at the topics", zap.Error(err))
			continue
		}
		ids := map[string]string{}
		for name, t := range have {
			ids[name] = t.TopicID.String()
		}
		select {
		case r.ids <- ids:
		case <-r.ctx.Done():
			return
		}
	}
}

// offerMoved offers partitions anew whose topic was made again, or whose place
// the log does not have.
func (r *run) offerMoved() {
	select {
	case ids := <-r.ids:
		var moved []record.PartitionID
		for p := range r.next {
			if id, ok := ids[p.Topic]; ok && id != r.topicIDs[p] {
				moved = append(moved, p)
			}
		}
		r.offer(moved, true, "the topic was deleted and made again")
	default:
	}
	if r.misplaced && r.err == nil {
		r.misplaced = false
		if lost := r.findMisplaced(); r.err == nil {
			r.offer(lost, false, "the log does not have the next record")
		}
	}
}

// findMisplaced asks where the log begins and ends; the client's error does
// not say which partition it is about.
func (r *run) findMisplaced() []record.PartitionID {
	r.join()
	at := map[record.PartitionID]int64{}
	tps := make([]kafka.TopicPartition, 0, len(r.next))
	for p, next := range r.next {
		at[p] = next
		tps = append(tps, kafka.TopicPartition{Topic: &p.Topic, Partition: p.Number})
	}
	for _, e := range r.buf {
		at[e.PartitionID] = e.Offset + 1
	}
	as, err := r.look(tps)
	if err != nil {
		r.fail(err)
		return nil
	}
	var lost, all []record.PartitionID
	for _, a := range as {
		all = append(all, a.PartitionID)
		if next := at[a.PartitionID]; next < a.Low || next > a.High {
			lost = append(lost, a.PartitionID)
		}
	}
	if len(lost) == 0 { // it moved again; one of them is not read any more
		return all
	}
	return lost
}

// offer takes partitions from the owner and asks it anew where to start, as if
// they had left and come back.
// With another, offsets are of another topic: none is committed.
func (r *run) offer(ps []record.PartitionID, another bool, why string) {
	if len(ps) == 0 || r.err != nil {
		return
	}
	r.log.Error("partitions are offered to the owner anew", zap.String("because", why), zap.Any("partitions", ps))
	r.m.rebalances.WithLabelValues("offered_anew").Add(float64(len(ps)))
	tps := make([]kafka.TopicPartition, len(ps))
	for i, p := range ps {
		tps[i] = kafka.TopicPartition{Topic: &p.Topic, Partition: p.Number}
	}
	r.join()
	r.revoked(tps, another)
	if r.err != nil {
		return
	}
	starts, err := r.assigned(tps)
	if err != nil {
		r.fail(err)
	}
	r.take(tps, starts)
}

func (r *run) fail(err error) {
	if r.err == nil {
		r.err = fmt.Errorf("consume as group %s: %w", r.group, err)
	}
}
