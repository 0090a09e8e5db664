package mq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/starling-im/starling/common/record"
)

// ErrNoRecord is returned by ReadOne for an offset that the log does not have.
var ErrNoRecord = errors.New("the log does not have this record")

const (
	readTimeout = 5 * time.Second  // of a question where a partition begins and ends
	readSilence = 30 * time.Second // without a record that stands: the log is unavailable
)

// ReadTopic calls f for every record of a topic that stands at the call, one
// partition after another, each from its beginning, and ends with the first
// error of f. It joins no group and moves no offset. What it holds is 2 MiB.
//
// Errors are ErrRefused where a person has to act, else ErrUnavailable.
func ReadTopic(ctx context.Context, cfg Config, topic string, f func(record.Entry) error) error {
	return reading(&cfg, func(r *reader) error {
		md, err := r.c.GetMetadata(&topic, false, int(readTimeout.Milliseconds()))
		if err != nil {
			return r.explain(err)
		}
		t := md.Topics[topic]
		if t.Error.Code() == kafka.ErrUnknownTopicOrPart || t.Error.Code() == kafka.ErrUnknownTopic {
			return fmt.Errorf("topic %s does not exist: run `starling migrate` with the same settings: %w", topic, ErrRefused)
		}
		if t.Error.Code() != kafka.ErrNoError {
			return fmt.Errorf("topic %s: %w", topic, cfg.explain(t.Error))
		}
		for _, p := range t.Partitions {
			id := record.PartitionID{Topic: topic, Number: p.ID}
			low, high, err := r.bounds(id)
			if err != nil {
				return err
			}
			if err := r.read(ctx, id, low, high, f); err != nil {
				return err
			}
		}
		return nil
	})
}

// ReadOne returns one record, or ErrNoRecord, also for an offset that is the
// brokers' own.
func ReadOne(ctx context.Context, cfg Config, p record.PartitionID, offset int64) (record.Entry, error) {
	var out record.Entry
	found := false
	err := reading(&cfg, func(r *reader) error {
		low, high, err := r.bounds(p)
		if err != nil {
			return err
		}
		if offset < low || offset >= high {
			return fmt.Errorf("%v begins at offset %d and ends before %d: %w", p, low, high, ErrNoRecord)
		}
		err = r.read(ctx, p, offset, offset+1, func(e record.Entry) error { out, found = e, true; return nil })
		if err == nil && !found {
			err = fmt.Errorf("%v/%d: %w", p, offset, ErrNoRecord)
		}
		return err
	})
	return out, err
}

// reader is a client that belongs to no group.
type reader struct {
	cfg *Config
	c   *kafka.Consumer
}

func reading(cfg *Config, f func(*reader) error) (err error) {
	if err := cfg.Validate(); err != nil {
		return err
	}
	m := cfg.base()
	maps.Copy(m, kafka.ConfigMap{
		"group.id":                   "starling-read", // the client wants one; nothing is asked of it
		"enable.auto.commit":         false,
		"auto.offset.reset":          "error",
		"enable.partition.eof":       true,
		"queued.min.messages":        100,
		"queued.max.messages.kbytes": 1 << 10,
		"fetch.max.bytes":            maxStored,
		"fetch.message.max.bytes":    maxStored,
		"fetch.wait.max.ms":          10, // 500 by default: a partition's end holds up the next one's beginning
		"fetch.queue.backoff.ms":     10,
	})
	c, err := kafka.NewConsumer(&m)
	if err != nil {
		return fmt.Errorf("make kafka consumer: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return f(&reader{cfg, c})
}

func (r *reader) bounds(p record.PartitionID) (low, high int64, err error) {
	low, high, err = r.c.QueryWatermarkOffsets(p.Topic, p.Number, int(readTimeout.Milliseconds()))
	if err != nil {
		return 0, 0, fmt.Errorf("ask where %v begins and ends: %w", p, r.explain(err))
	}
	return low, high, nil
}

// explain gives the reason for an error, which came as an event where the
// brokers refuse the client.
func (r *reader) explain(err error) error {
	for ev := r.c.Poll(0); ev != nil; ev = r.c.Poll(0) {
		if ke, ok := ev.(kafka.Error); ok {
			if refused := r.cfg.refusal(ke); refused != nil {
				return refused
			}
		}
	}
	return r.cfg.explain(err)
}

// read hands over from..to-1 of a partition.
func (r *reader) read(ctx context.Context, p record.PartitionID, from, to int64, f func(record.Entry) error) error {
	if from >= to {
		return nil
	}
	tp := kafka.TopicPartition{Topic: &p.Topic, Partition: p.Number, Offset: kafka.Offset(from)}
	if err := r.c.Assign([]kafka.TopicPartition{tp}); err != nil {
		return fmt.Errorf("read %v from %d: %w", p, from, err)
	}
	heard := time.Now()
	for next := from; next < to; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read %v from %d: %w", p, next, err)
		}
		switch ev := r.c.Poll(int(pollWait.Milliseconds())).(type) {
		case *kafka.Message:
			if idOf(ev.TopicPartition) != p {
				continue // left of the partition before
			}
			if e := entryOf(ev); ev.TopicPartition.Error == nil && e.Offset < to {
				if err := f(e); err != nil {
					return err
				}
			}
			next, heard = int64(ev.TopicPartition.Offset)+1, time.Now()
		case kafka.PartitionEOF: // what is left was deleted, or is of the brokers' own
			if idOf(kafka.TopicPartition(ev)) == p {
				return nil
			}
		case kafka.Error:
			if err := r.failed(ev); err != nil {
				return fmt.Errorf("read %v from %d: %w", p, next, err)
			}
		}
		if time.Since(heard) > readSilence {
			return fmt.Errorf("read %v from %d: nothing for %v: %w", p, next, readSilence, ErrUnavailable)
		}
	}
	return nil
}

// failed is what does not pass by itself.
func (r *reader) failed(e kafka.Error) error {
	if err := r.cfg.refusal(e); err != nil {
		return err
	}
	if e.IsFatal() || e.Code() == kafka.ErrAutoOffsetReset || e.Code() == kafka.ErrOffsetOutOfRange {
		return r.cfg.explain(e)
	}
	return nil
}
