package mq

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/starling-im/starling/common/record"
)

// TopicDeadLetter takes records that the machine set aside.
const TopicDeadLetter = "im_dead_letter"

const (
	minRetention = 8 * 24 * time.Hour // the time in which repeats are judged
	// maxBatch is what a producer sends at once for one partition, and so the
	// largest record; maxStored is what a topic must accept for it.
	maxBatch  = 1_000_000
	maxStored = 1_048_588
)

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

// replicas that a topic must have, and how many of them in sync.
func (c *Config) replicas() (all, inSync int) {
	if c.SingleBroker {
		return 1, 1
	}
	return 3, 2
}

// setting is one setting of a topic: what it is made with, and what it may be.
type setting struct {
	key, made string
	must      string // in words
	ok        func(is string) bool
}

func (c *Config) settings(s TopicSpec, replicas int) []setting {
	_, inSync := c.replicas()
	exactly := func(key, value string) setting {
		return setting{key, value, value, func(is string) bool { return is == value }}
	}
	between := func(low, high int64) func(string) bool {
		return func(is string) bool {
			n, err := strconv.ParseInt(is, 10, 64)
			return err == nil && n >= low && (high == 0 || n <= high)
		}
	}
	long := between(minRetention.Milliseconds(), 0)
	return []setting{
		exactly("message.timestamp.type", "LogAppendTime"), // the brokers' clocks order what happened
		exactly("cleanup.policy", "delete"),                // compaction would lose messages
		exactly("unclean.leader.election.enable", "false"), // it would lose acknowledged messages
		exactly("retention.bytes", "-1"),                   // so would a limit by size
		{
			"retention.ms", strconv.FormatInt(s.Retention.Milliseconds(), 10), fmt.Sprintf("at least %d, or -1", minRetention.Milliseconds()),
			func(is string) bool { return is == "-1" || long(is) },
		},
		{
			"min.insync.replicas", strconv.Itoa(inSync), fmt.Sprintf("%d to %d, the number of replicas", inSync, replicas),
			between(int64(inSync), int64(replicas)),
		},
		{"max.message.bytes", strconv.Itoa(maxStored), fmt.Sprintf("at least %d", maxStored), between(maxStored, 0)},
		{"compression.type", "producer", "anything", func(string) bool { return true }},
	}
}

func partitionError(topic string, has, want int) error {
	return fmt.Errorf("topic %s has %d partitions, kafka.partitions says %d: the number cannot change once messages stand; set kafka.partitions to %d: %w", topic, has, want, has, ErrRefused)
}

func replicaError(topic string, has, want int) error {
	return fmt.Errorf("topic %s has %d replicas, not %d: raise them with kafka-reassign-partitions.sh, or set kafka.single-broker on a development machine: %w", topic, has, want, ErrRefused)
}

func (c *Config) settingError(topic, is string, s *setting) error {
	return fmt.Errorf("topic %s has %s=%s, which must be %s: kafka-configs.sh --bootstrap-server %s --alter --entity-type topics --entity-name %s --add-config %s=%s: %w",
		topic, s.key, is, s.must, strings.Join(c.Brokers, ","), topic, s.key, s.made, ErrRefused)
}

// refusal is the error for what waiting does not cure, nil for all else.
func (c *Config) refusal(e kafka.Error) error {
	var remedy string
	switch e.Code() {
	case kafka.ErrAuthentication, kafka.ErrSaslAuthenticationFailed:
		remedy = fmt.Sprintf("the brokers do not take user %q: correct kafka.sasl-username, kafka.sasl-password and kafka.sasl-mechanism", c.SASLUser)
	case kafka.ErrUnsupportedSaslMechanism, kafka.ErrIllegalSaslState:
		remedy = fmt.Sprintf("the brokers do not offer %s: correct kafka.sasl-mechanism", c.SASL)
	case kafka.ErrSsl:
		remedy = "TLS with the brokers does not come about: correct kafka.ca-file, and the names in the brokers' certificates"
	case kafka.ErrTopicAuthorizationFailed, kafka.ErrGroupAuthorizationFailed, kafka.ErrClusterAuthorizationFailed:
		remedy = fmt.Sprintf("user %q lacks a right: give it Describe, DescribeConfigs, Read and Write on the topics im_*, Read on its groups and IdempotentWrite (kafka-acls.sh), and Create where it runs `starling migrate`", c.SASLUser)
	case kafka.ErrPolicyViolation, kafka.ErrInvalidConfig, kafka.ErrInvalidPartitions:
		remedy = "the brokers do not allow such a topic; see their logs"
	default:
		return nil
	}
	return fmt.Errorf("%w: %s: %w", ErrRefused, remedy, e)
}

// explain says of an error of the client whether waiting cures it.
func (c *Config) explain(err error) error {
	if ke, ok := asError(err); ok {
		if r := c.refusal(ke); r != nil {
			return r
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
