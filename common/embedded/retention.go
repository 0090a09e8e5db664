package embedded

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// retain deletes old records every so often, until ctx ends.
func (s *Services) retain(ctx context.Context, keep, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := s.deleteOld(ctx, time.Now().Add(-keep)); err != nil && ctx.Err() == nil {
				s.log.Warn("embedded kafka: retention", zap.Error(err))
			}
		}
	}
}

// deleteOld deletes the records from before a time, but the last of each
// partition: an emptied one would start again at 0 after a kill -9.
func (s *Services) deleteOld(ctx context.Context, before time.Time) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...))
	if err != nil {
		return fmt.Errorf("make client for retention: %w", err)
	}
	defer cl.Close()
	first, err := kadm.NewClient(cl).ListOffsetsAfterMilli(ctx, before.UnixMilli(), Topics()...)
	if err != nil {
		return fmt.Errorf("list offsets after %v: %w", before, err)
	}
	if err := first.Error(); err != nil {
		return fmt.Errorf("list offsets after %v: %w", before, err)
	}
	for _, topic := range Topics() {
		for _, p := range s.kafka.PartitionInfos(topic) {
			o, ok := first.Lookup(topic, p.Partition)
			to := min(o.Offset, p.HighWatermark-1)
			if !ok || to <= p.LogStartOffset {
				continue
			}
			if err := s.kafka.DeleteRecords(topic, p.Partition, to); err != nil {
				return fmt.Errorf("delete records of %s/%d below %d: %w", topic, p.Partition, to, err)
			}
		}
	}
	return nil
}
