package mq

import (
	"errors"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/starling-im/starling/common/record"
)

const (
	// laneWindow is how many records of a partition go to the client singly. It
	// sends no more at a time (RD_KAFKA_IDEMP_MAX_INFLIGHT, and it counts records,
	// not requests).
	laneWindow = 5
	// What goes to the client at once after that fits into one request of its own.
	laneRecords = 5000
	laneBytes   = 512 << 10
)

// lane is what one client has of one partition.
//
// librdkafka's idempotent producer has at most five records of a partition on
// their way. While others wait whose linger is over, the thread of that broker
// asks its socket again and again, without a pause: a processor is gone for as
// long as the broker takes to answer, which takes the longer for it. So what it
// could not send waits here, and goes to it in one request when all before it is
// answered; nothing waits where less than five are on their way.
type lane struct {
	mu       sync.Mutex
	inFlight int
	waiting  []*pending
}

// client is one librdkafka producer and its lanes.
type client struct {
	*kafka.Producer
	lanes sync.Map // record.PartitionID → *lane
}

func (c *client) lane(id record.PartitionID) *lane {
	if l, ok := c.lanes.Load(id); ok {
		return l.(*lane) //nolint:forcetypeassert // it holds nothing else
	}
	l, _ := c.lanes.LoadOrStore(id, &lane{})
	return l.(*lane) //nolint:forcetypeassert // as above
}

// hand gives a record to librdkafka.
func (c *client) hand(e *pending) error {
	return c.Produce(&kafka.Message{ //nolint:wrapcheck // judged by the caller
		TopicPartition: kafka.TopicPartition{Topic: &e.id.Topic, Partition: e.id.Number},
		Value:          e.value,
		Timestamp:      time.UnixMilli(e.ts),
		Opaque:         e,
	}, nil)
}

// put hands a record over, or has it wait for its turn.
func (c *client) put(e *pending) error {
	l := c.lane(e.id)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) > 0 || l.inFlight >= laneWindow {
		l.waiting = append(l.waiting, e)
		return nil
	}
	err := c.hand(e)
	if err == nil {
		l.inFlight++
	}
	return err
}

// refusal is a record that had waited and that the client does not take.
type refusal struct {
	e   *pending
	err error
}

// next notes that a record of the lane was answered, and hands over what waited
// when nothing is on its way any more. Where the answer did not come in time,
// what waited behind it has no better prospect: it is refused, too.
func (c *client) next(id record.PartitionID, answer error) (refused []refusal) {
	l := c.lane(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inFlight--
	if ke, ok := errors.AsType[kafka.Error](answer); ok && ke.Code() == kafka.ErrMsgTimedOut {
		for _, e := range l.waiting {
			refused = append(refused, refusal{e, answer})
		}
		l.waiting = nil
		return refused
	}
	for l.inFlight == 0 && len(l.waiting) > 0 {
		refused = append(refused, c.handLocked(l)...)
	}
	return refused
}

// handLocked hands over what fits into one request of what waits.
func (c *client) handLocked(l *lane) (refused []refusal) {
	n, size := 0, 0
	for ; n < len(l.waiting) && n < laneRecords; n++ {
		e := l.waiting[n]
		if size += len(e.value); n > 0 && size > laneBytes {
			break
		}
		if err := c.hand(e); err != nil {
			refused = append(refused, refusal{e, err})
		} else {
			l.inFlight++
		}
	}
	clear(l.waiting[:n])
	if l.waiting = l.waiting[n:]; len(l.waiting) == 0 {
		l.waiting = nil
	}
	return refused
}
