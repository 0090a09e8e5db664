package live

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/wire"
)

// Log carries what is pushed to the jobs.
type Log interface {
	Produce(p record.PartitionID, ts int64, value []byte, done func(mq.Delivery)) error
	Partitions(topic string) int32
}

// Pusher writes to im_push.
type Pusher struct {
	log    Log
	sent   *prometheus.CounterVec
	unsent *prometheus.CounterVec
}

// NewPusher returns a Pusher; reg may be nil.
func NewPusher(log Log, reg prometheus.Registerer) *Pusher {
	f := promauto.With(reg)
	return &Pusher{
		log: log,
		sent: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_logic_pushes_sent_total", Help: "Entries of im_push handed to the log, by operation.",
		}, []string{"op"}),
		unsent: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_logic_pushes_unsent_total", Help: "Entries of im_push that the log did not take, by operation.",
		}, []string{"op"}),
	}
}

// Push hands an entry over; those of one key keep their order. done, which may
// be nil, is told whether the log has taken it, unless Push returns an error.
func (p *Pusher) Push(key string, e *recordpb.Push, done func(ok bool)) error {
	op := wire.Op(e.GetOp()).String()
	e.Version = record.Version
	value, err := proto.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode an entry of im_push: %w", err)
	}
	n := p.log.Partitions(record.TopicPush)
	if n <= 0 {
		p.unsent.WithLabelValues(op).Inc()
		return mq.ErrUnavailable
	}
	to := record.PartitionID{Topic: record.TopicPush, Number: record.PartitionOf(key, n)}
	err = p.log.Produce(to, time.Now().UnixMilli(), value, func(d mq.Delivery) {
		if d.Err != nil {
			p.unsent.WithLabelValues(op).Inc()
		}
		if done != nil {
			done(d.Err == nil)
		}
	})
	if err != nil {
		p.unsent.WithLabelValues(op).Inc()
		return fmt.Errorf("write to im_push: %w", err)
	}
	p.sent.WithLabelValues(op).Inc()
	return nil
}
