package mq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

const (
	adminTimeout    = 30 * time.Second // bounds CreateTopics and CheckTopics
	describeTimeout = 5 * time.Second  // of one question to the controller, inside the client too
)

// CreateTopics makes the topics that are missing and returns their names.
// Those that stand are left as they are: CheckTopics says what is wrong with
// them. Several processes may call it at once. ctx bounds it, 30 s at most.
//
// Errors are ErrRefused where a person has to act, else ErrUnavailable.
func CreateTopics(ctx context.Context, cfg Config, specs []TopicSpec) ([]string, error) {
	var made []string
	err := administer(ctx, &cfg, func(ctx context.Context, a *kafka.AdminClient) (err error) {
		made, err = createMissing(ctx, a, &cfg, specs)
		return err
	})
	return made, err
}

// CheckTopics compares partitions, replicas and settings of the topics with
// what no message gets lost under. It changes nothing. All deviations are
// returned, joined, each with its remedy. ctx bounds it, 30 s at most.
//
// Errors are ErrRefused where a person has to act, else ErrUnavailable: then
// it may be asked again, as no broker answers or topics are missing still.
func CheckTopics(ctx context.Context, cfg Config, specs []TopicSpec) error {
	return administer(ctx, &cfg, func(ctx context.Context, a *kafka.AdminClient) error {
		return checkTopics(ctx, a, &cfg, specs)
	})
}

// administer calls f with an admin client. The client's errors of
// authentication, of which its calls know nothing, end f's context.
func administer(ctx context.Context, cfg *Config, f func(context.Context, *kafka.AdminClient) error) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	m := cfg.base()
	p, err := kafka.NewProducer(&m) // an admin client proper hides its events
	if err != nil {
		return fmt.Errorf("make kafka admin client: %w", err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for ev := range p.Events() {
			if ke, ok := ev.(kafka.Error); ok {
				if r := cfg.refusal(ke); r != nil {
					refuse(r)
				}
			}
		}
	})
	defer work.Wait()
	defer p.Close()
	a, err := kafka.NewAdminClientFromProducer(p)
	if err != nil {
		return fmt.Errorf("make kafka admin client: %w", err)
	}
	defer a.Close()
	err = f(ctx, a)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrRefused) {
		return cause
	}
	return err
}

func createMissing(ctx context.Context, a *kafka.AdminClient, cfg *Config, specs []TopicSpec) ([]string, error) {
	have, err := describe(ctx, a, cfg, specs)
	if err != nil {
		return nil, err
	}
	replicas, _ := cfg.replicas()
	var missing []kafka.TopicSpecification
	for _, s := range specs {
		if _, ok := have[s.Name]; ok {
			continue
		}
		settings := map[string]string{}
		for _, e := range cfg.settings(s, replicas) {
			settings[e.key] = e.made
		}
		missing = append(missing, kafka.TopicSpecification{
			Topic: s.Name, NumPartitions: s.Partitions, ReplicationFactor: replicas, Config: settings,
		})
	}
	if len(missing) == 0 {
		return nil, nil
	}
	rs, err := a.CreateTopics(ctx, missing)
	if err != nil {
		return nil, fmt.Errorf("create %d topics: %w", len(missing), cfg.explain(err))
	}
	var made []string
	var errs []error
	for _, r := range rs {
		switch r.Error.Code() {
		case kafka.ErrNoError:
			made = append(made, r.Topic)
		case kafka.ErrTopicAlreadyExists: // somebody else's, just now
		case kafka.ErrInvalidReplicationFactor:
			errs = append(errs, fmt.Errorf("create topic %s with %d replicas: %w: fewer brokers are up; start them, or set kafka.single-broker on a development machine: %w", r.Topic, replicas, ErrUnavailable, r.Error))
		default:
			errs = append(errs, fmt.Errorf("create topic %s: %w", r.Topic, cfg.explain(r.Error)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return made, err
	}
	return made, showing(ctx, a, cfg, specs)
}

// showing waits until what was made shows.
func showing(ctx context.Context, a *kafka.AdminClient, cfg *Config, specs []TopicSpec) error {
	for {
		have, err := describe(ctx, a, cfg, specs)
		if err == nil && len(have) == len(specs) {
			return nil
		}
		if errors.Is(err, ErrRefused) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for new topics: %w: %w", ErrUnavailable, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func checkTopics(ctx context.Context, a *kafka.AdminClient, cfg *Config, specs []TopicSpec) error {
	have, err := describe(ctx, a, cfg, specs)
	if err != nil {
		return err
	}
	settings, err := describeSettings(ctx, a, cfg, slices.Collect(maps.Keys(have)))
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range specs {
		t, ok := have[s.Name]
		if !ok {
			errs = append(errs, fmt.Errorf("topic %s is missing: run `starling migrate` with the same settings: %w", s.Name, ErrUnavailable))
			continue
		}
		errs = append(errs, cfg.deviations(s, &t, settings[s.Name])...)
	}
	return errors.Join(errs...)
}

func (c *Config) deviations(s TopicSpec, t *kafka.TopicDescription, settings map[string]kafka.ConfigEntryResult) []error {
	var errs []error
	if len(t.Partitions) != s.Partitions {
		errs = append(errs, partitionError(s.Name, len(t.Partitions), s.Partitions))
	}
	want, _ := c.replicas()
	replicas := math.MaxInt // the fewest of a partition
	for _, p := range t.Partitions {
		replicas = min(replicas, len(p.Replicas))
	}
	if replicas < want {
		errs = append(errs, replicaError(s.Name, replicas, want))
	}
	if c.Embedded {
		return errs
	}
	for _, e := range c.settings(s, max(replicas, want)) {
		if is := settings[e.key].Value; !e.ok(is) {
			errs = append(errs, c.settingError(s.Name, is, &e))
		}
	}
	return errs
}

// describe returns the topics that stand, by name.
func describe(ctx context.Context, a *kafka.AdminClient, cfg *Config, specs []TopicSpec) (map[string]kafka.TopicDescription, error) {
	names := make([]string, len(specs))
	for i, s := range specs {
		names[i] = s.Name
	}
	return describeNames(ctx, a, cfg, names)
}

// answered waits until a broker answers. A question to the controller must not
// wait for it: while it does, librdkafka (2.11) connects to a controller that is
// away without any pause, which takes a whole core, and goes on for a minute
// after the question's context has ended. The end of ctx is noticed within
// probeTimeout.
func answered(ctx context.Context, a *kafka.AdminClient, cfg *Config) error {
	for {
		_, err := a.GetMetadata(nil, false, int(probeTimeout.Milliseconds()))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), cfg.explain(err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func describeNames(ctx context.Context, a *kafka.AdminClient, cfg *Config, names []string) (map[string]kafka.TopicDescription, error) {
	if err := answered(ctx, a, cfg); err != nil {
		return nil, fmt.Errorf("describe topics %v on %v: %w", names, []string(cfg.Brokers), err)
	}
	r, err := a.DescribeTopics(ctx, kafka.NewTopicCollectionOfTopicNames(names), kafka.SetAdminRequestTimeout(describeTimeout))
	if err != nil {
		return nil, fmt.Errorf("describe topics %v on %v: %w", names, []string(cfg.Brokers), cfg.explain(err))
	}
	out := map[string]kafka.TopicDescription{}
	for _, t := range r.TopicDescriptions {
		switch t.Error.Code() {
		case kafka.ErrNoError:
			out[t.Name] = t
		case kafka.ErrUnknownTopicOrPart, kafka.ErrUnknownTopic:
		default:
			return nil, fmt.Errorf("describe topic %s: %w", t.Name, cfg.explain(t.Error))
		}
	}
	return out, nil
}

// describeSettings returns the topics' settings by name; the embedded log,
// which has few of them, is not asked.
func describeSettings(ctx context.Context, a *kafka.AdminClient, cfg *Config, names []string) (map[string]map[string]kafka.ConfigEntryResult, error) {
	if cfg.Embedded || len(names) == 0 {
		return nil, nil
	}
	resources := make([]kafka.ConfigResource, len(names))
	for i, n := range names {
		resources[i] = kafka.ConfigResource{Type: kafka.ResourceTopic, Name: n}
	}
	rs, err := a.DescribeConfigs(ctx, resources)
	if err != nil {
		return nil, fmt.Errorf("read settings of topics %v: %w", names, cfg.explain(err))
	}
	out := map[string]map[string]kafka.ConfigEntryResult{}
	for _, r := range rs {
		if r.Error.Code() != kafka.ErrNoError {
			return nil, fmt.Errorf("read settings of topic %s: %w", r.Name, cfg.explain(r.Error))
		}
		out[r.Name] = r.Config
	}
	return out, nil
}

func asError(err error) (kafka.Error, bool) { return errors.AsType[kafka.Error](err) }
