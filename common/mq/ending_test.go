package mq

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/starling-im/starling/common/record"
)

// starter is an owner that begins at the committed offset, or at 0.
type starter struct{}

func (starter) Assigned(ctx context.Context, as []Assignment) (map[record.PartitionID]int64, error) {
	starts := map[record.PartitionID]int64{}
	for _, a := range as {
		starts[a.PartitionID] = max(a.Committed, 0)
	}
	return starts, ctx.Err()
}
func (starter) Revoked([]record.PartitionID, bool) {}
func (starter) Messages(ctx context.Context, _ []record.Entry) error {
	return ctx.Err()
}

// TestAssignedWhileEnding: partitions that come when the run is over are not
// read, and that nothing was ever committed of them is no error.
func TestAssignedWhileEnding(t *testing.T) {
	cfg := embeddedConfig(t)
	p, err := newProducer(t.Context(), cfg, zap.NewNop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Produce(record.PartitionID{Topic: record.TopicMessages}, 1, []byte("v"), func(Delivery) {}); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	x, err := newConsumer(cfg, "group", []string{record.TopicMessages}, zaptest.NewLogger(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &run{consumer: x, ctx: ctx, owner: starter{}, next: map[record.PartitionID]int64{}, topicIDs: map[record.PartitionID]string{}}
	came := false
	err = x.c.SubscribeTopics(x.topics, func(c *kafka.Consumer, ev kafka.Event) error {
		if a, ok := ev.(kafka.AssignedPartitions); ok {
			came = len(a.Partitions) > 0
			cancel()
		}
		return r.rebalance(c, ev)
	})
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); !came && time.Now().Before(end); {
		r.poll(pollWait)
	}
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		r.poll(pollWait)
	}
	if !came || r.err != nil || len(r.buf) > 0 {
		t.Errorf("assigned %v; the run would end with %v; %d records were read", came, r.err, len(r.buf))
	}
	r.leave()
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}

// TestStopAtAnyTime: a run that is ended while it joins its group is no error.
func TestStopAtAnyTime(t *testing.T) {
	cfg := embeddedConfig(t)
	for after := time.Duration(0); after < 400*time.Millisecond; after += 50 * time.Millisecond {
		x, err := newConsumer(cfg, "group", []string{record.TopicMessages, record.TopicGroups}, zap.NewNop(), nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), after)
		if err := x.Run(ctx, starter{}); err != nil {
			t.Errorf("ended after %v: %v", after, err)
		}
		cancel()
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestPollWithoutTime: a wait whose end has just passed is over.
func TestPollWithoutTime(t *testing.T) {
	x, err := newConsumer(embeddedConfig(t), "group", []string{record.TopicMessages}, zap.NewNop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &run{consumer: x, ctx: t.Context(), owner: starter{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for r.poll(-time.Millisecond) { // what the client may say of itself comes first
		}
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("waits for ever")
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}

// TestClientThatDoesNotEnd: it does not hold up the process.
func TestClientThatDoesNotEnd(t *testing.T) {
	x := &consumer{log: zap.NewNop(), group: "group"}
	free, ended := make(chan struct{}), make(chan struct{})
	if err := x.closeWithin(time.Millisecond, func() error {
		defer close(ended)
		<-free
		return nil
	}); err != nil {
		t.Error(err)
	}
	close(free)
	<-ended
	refused := errors.New("refused")
	if err := x.closeWithin(time.Minute, func() error { return refused }); !errors.Is(err, refused) {
		t.Error(err)
	}
}

// holder is an owner that keeps its first batch until it is let go.
type holder struct {
	starter
	free chan struct{}
}

func (h holder) Messages(ctx context.Context, _ []record.Entry) error {
	select {
	case <-h.free:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestLag: what the owner was not handed shows, and nothing of a partition
// that is gone.
func TestLag(t *testing.T) {
	reg := prometheus.NewRegistry()
	cfg := embeddedConfig(t)
	cfg.BatchMessages = 10
	p, err := newProducer(t.Context(), cfg, zap.NewNop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for range 50 {
		if err := p.Produce(record.PartitionID{Topic: record.TopicMessages, Number: 1}, 1, []byte("v"), func(Delivery) {}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	x, err := newConsumer(cfg, "group", []string{record.TopicMessages}, zaptest.NewLogger(t), reg)
	if err != nil {
		t.Fatal(err)
	}
	h := holder{free: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		if err := x.Run(ctx, h); err != nil {
			t.Error(err)
		}
	})
	until := func(ok func(series int, sum float64) bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; <-time.After(5 * time.Millisecond) {
			series, sum := lagOf(t, reg)
			if ok(series, sum) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d series, lag %v", series, sum)
			}
		}
	}
	until(func(series int, sum float64) bool { return series == cfg.Partitions && sum >= 40 && sum < 50 })
	close(h.free)
	until(func(series int, sum float64) bool { return series == cfg.Partitions && sum == 0 })
	cancel()
	work.Wait()
	if series, _ := lagOf(t, reg); series != 0 {
		t.Errorf("%d series are left", series)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}

// lagOf returns the number of series of the lag, and their sum.
func lagOf(t *testing.T, reg *prometheus.Registry) (series int, sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "starling_mq_consumer_lag_records" {
			for _, m := range f.GetMetric() {
				series, sum = series+1, sum+m.GetGauge().GetValue()
			}
		}
	}
	return series, sum
}
