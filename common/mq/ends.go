package mq

import (
	"context"
	"fmt"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/starling-im/starling/common/record"
)

// Ends asks the brokers for the end of each partition: the offset that is
// written next. It connects anew each time, so it is for who asks now and then.
// ctx bounds it, 30 s at most. Errors are as those of CheckTopics.
func Ends(ctx context.Context, cfg Config, ps []record.PartitionID) (map[record.PartitionID]int64, error) {
	out := make(map[record.PartitionID]int64, len(ps))
	if len(ps) == 0 {
		return out, nil
	}
	err := administer(ctx, &cfg, func(ctx context.Context, a *kafka.AdminClient) error {
		if err := answered(ctx, a, &cfg); err != nil {
			return fmt.Errorf("ask %v for the log's end: %w", []string(cfg.Brokers), err)
		}
		specs := make(map[kafka.TopicPartition]kafka.OffsetSpec, len(ps))
		for i := range ps { // the topic is part of the key by its address
			specs[kafka.TopicPartition{Topic: &ps[i].Topic, Partition: ps[i].Number}] = kafka.LatestOffsetSpec
		}
		r, err := a.ListOffsets(ctx, specs, kafka.SetAdminRequestTimeout(describeTimeout))
		if err != nil {
			return fmt.Errorf("ask %v for the log's end: %w", []string(cfg.Brokers), cfg.explain(err))
		}
		for tp, at := range r.ResultInfos {
			id := record.PartitionID{Topic: *tp.Topic, Number: tp.Partition}
			if at.Error.Code() != kafka.ErrNoError {
				return fmt.Errorf("ask for the end of %v: %w", id, cfg.explain(at.Error))
			}
			out[id] = int64(at.Offset)
		}
		return nil
	})
	return out, err
}
