package mq

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/starling-im/starling/common/record"
)

// TopicDeadLetter takes records that the machine set aside.
const TopicDeadLetter = "im_dead_letter"

// TopicSpec is a topic that must stand.
type TopicSpec struct {
	Name       string
	Partitions int
	Retention  time.Duration // of a topic made here
}

// Topics returns the specs of all topics of Starling.
func (c *Config) Topics() []TopicSpec {
	names := []string{record.TopicMessages, record.TopicGroups, record.TopicPush, record.TopicOffline, TopicDeadLetter}
	out := make([]TopicSpec, len(names))
	for i, n := range names {
		out[i] = TopicSpec{Name: n, Partitions: c.Partitions, Retention: c.Retention}
	}
	return out
}

func partitionError(topic string, has, want int) error {
	return fmt.Errorf("topic %s has %d partitions, kafka.partitions says %d: the number cannot change once messages stand; set kafka.partitions to %d", topic, has, want, has)
}

func replicaError(topic string, has, want int) error {
	return fmt.Errorf("topic %s has %d replicas, not %d: raise them, or set kafka.single-broker on a development machine", topic, has, want)
}

// EnsureTopics makes the topics that are missing, stamped by the brokers
// (LogAppendTime), and checks partitions and replicas of those that stand.
// All deviations are returned, joined. ctx bounds it, 30 s at most.
func EnsureTopics(ctx context.Context, cfg Config, specs []TopicSpec) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	m := cfg.base()
	a, err := kafka.NewAdminClient(&m)
	if err != nil {
		return fmt.Errorf("make kafka admin client: %w", err)
	}
	defer a.Close()
	if err := createMissing(ctx, a, &cfg, specs); err != nil {
		return err
	}
	return checkTopics(ctx, a, &cfg, specs)
}

func createMissing(ctx context.Context, a *kafka.AdminClient, cfg *Config, specs []TopicSpec) error {
	have, err := describe(ctx, a, specs)
	if err != nil {
		return err
	}
	replicas, inSync := cfg.replicas()
	var missing []kafka.TopicSpecification
	for _, s := range specs {
		if _, ok := have[s.Name]; ok {
			continue
		}
		missing = append(missing, kafka.TopicSpecification{
			Topic: s.Name, NumPartitions: s.Partitions, ReplicationFactor: replicas,
			Config: map[string]string{
				"message.timestamp.type": "LogAppendTime",
				"retention.ms":           strconv.FormatInt(s.Retention.Milliseconds(), 10),
				"min.insync.replicas":    strconv.Itoa(inSync),
			},
		})
	}
	if len(missing) == 0 {
		return nil
	}
	rs, err := a.CreateTopics(ctx, missing)
	if err != nil {
		return fmt.Errorf("create %d topics: %w: %w", len(missing), ErrUnavailable, err)
	}
	var errs []error
	for _, r := range rs {
		if code := r.Error.Code(); code != kafka.ErrNoError && code != kafka.ErrTopicAlreadyExists {
			errs = append(errs, fmt.Errorf("create topic %s: %w", r.Topic, r.Error))
		}
	}
	return errors.Join(errs...)
}

// checkTopics waits until what was made shows, then checks it.
func checkTopics(ctx context.Context, a *kafka.AdminClient, cfg *Config, specs []TopicSpec) error {
	for {
		have, err := describe(ctx, a, specs)
		if err != nil {
			return err
		}
		if len(have) == len(specs) {
			return deviations(cfg, specs, have)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for new topics: %w: %w", ErrUnavailable, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func deviations(cfg *Config, specs []TopicSpec, have map[string]kafka.TopicDescription) error {
	replicas, _ := cfg.replicas()
	var errs []error
	for _, s := range specs {
		t := have[s.Name]
		if len(t.Partitions) != s.Partitions {
			errs = append(errs, partitionError(s.Name, len(t.Partitions), s.Partitions))
		}
		for _, p := range t.Partitions {
			if len(p.Replicas) < replicas {
				errs = append(errs, replicaError(s.Name, len(p.Replicas), replicas))
				break
			}
		}
	}
	return errors.Join(errs...)
}

// describe returns the topics that stand, by name.
func describe(ctx context.Context, a *kafka.AdminClient, specs []TopicSpec) (map[string]kafka.TopicDescription, error) {
	names := make([]string, len(specs))
	for i, s := range specs {
		names[i] = s.Name
	}
	return describeNames(ctx, a, names)
}

func describeNames(ctx context.Context, a *kafka.AdminClient, names []string) (map[string]kafka.TopicDescription, error) {
	r, err := a.DescribeTopics(ctx, kafka.NewTopicCollectionOfTopicNames(names))
	if err != nil {
		return nil, fmt.Errorf("describe topics %v: %w: %w", names, ErrUnavailable, err)
	}
	out := map[string]kafka.TopicDescription{}
	for _, t := range r.TopicDescriptions {
		switch t.Error.Code() {
		case kafka.ErrNoError:
			out[t.Name] = t
		case kafka.ErrUnknownTopicOrPart, kafka.ErrUnknownTopic:
		default:
			return nil, fmt.Errorf("describe topic %s: %w", t.Name, t.Error)
		}
	}
	return out, nil
}
