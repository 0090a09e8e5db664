package mq_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
)

// The end counts what was acknowledged, partition by partition.
func TestEnds(t *testing.T) {
	onBrokers(t, func(b *broker) {
		cfg := b.config()
		p := newProducer(b.t, cfg)
		produce(b.t, p, b.part(0), "a", "b", "c")
		produce(b.t, p, b.part(1), "d")
		ends, err := mq.Ends(b.t.Context(), cfg, []record.PartitionID{b.part(0), b.part(1), b.part(2)})
		if err != nil || ends[b.part(0)] != 3 || ends[b.part(1)] != 1 || ends[b.part(2)] != 0 || len(ends) != 3 {
			b.t.Errorf("%v, %v", ends, err)
		}
		if ends, err := mq.Ends(b.t.Context(), cfg, []record.PartitionID{{Topic: "no-such-topic"}}); !errors.Is(err, mq.ErrUnavailable) {
			b.t.Errorf("of no topic: %v, %v", ends, err)
		}
		cfg.Brokers = []string{"127.0.0.1:1"}
		ctx, cancel := context.WithTimeout(b.t.Context(), time.Second)
		defer cancel()
		if ends, err := mq.Ends(ctx, cfg, []record.PartitionID{b.part(0)}); !errors.Is(err, mq.ErrUnavailable) {
			b.t.Errorf("of no broker: %v, %v", ends, err)
		}
	})
}
