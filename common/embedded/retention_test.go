package embedded

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap/zaptest"

	"github.com/starling-im/starling/common/record"
)

// TestRetention: old records go, young ones and a partition's last stay, and
// the end of the log is the same after a stop.
func TestRetention(t *testing.T) {
	dir := t.TempDir()
	s, err := Start(t.Context(), Config{Dir: dir, Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	produceAt(t, s, 0, now.Add(-20*time.Hour), now.Add(-19*time.Hour), now.Add(-time.Hour), now)
	produceAt(t, s, 1, now.Add(-20*time.Hour), now.Add(-19*time.Hour))
	if err := s.deleteOld(t.Context(), now.Add(-10*time.Hour)); err != nil {
		t.Fatal(err)
	}
	check := func(s *Services) {
		t.Helper()
		for p, want := range map[int32][2]int64{0: {2, 4}, 1: {1, 2}, 2: {0, 0}} {
			i := s.kafka.PartitionInfo(record.TopicMessages, p)
			if got := [2]int64{i.LogStartOffset, i.HighWatermark}; got != want {
				t.Errorf("partition %d is %v, not %v", p, got, want)
			}
		}
	}
	check(s)
	if err := s.deleteOld(t.Context(), now.Add(-10*time.Hour)); err != nil {
		t.Fatal(err)
	}
	check(s)
	_ = s.Stop(t.Context())
	if s, err = Start(t.Context(), Config{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	check(s)
	_ = s.Stop(t.Context())
}

// TestRetainTimer: the timer deletes without being asked and ends with its
// context.
func TestRetainTimer(t *testing.T) {
	s, err := Start(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	produceAt(t, s, 0, old, old)
	ctx, cancel := context.WithCancel(t.Context())
	s.work.Go(func() { s.retain(ctx, time.Minute, 5*time.Millisecond) })
	for end := time.Now().Add(10 * time.Second); s.kafka.PartitionInfo(record.TopicMessages, 0).LogStartOffset != 1; {
		if time.Now().After(end) {
			t.Fatal("the timer deletes nothing")
		}
	}
	cancel()
	_ = s.Stop(t.Context())
}

func produceAt(t *testing.T, s *Services, p int32, at ...time.Time) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, ts := range at {
		r := &kgo.Record{Topic: record.TopicMessages, Partition: p, Value: []byte("v"), Timestamp: ts}
		if err := c.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}
