package mq_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/testkit"
)

func TestReadTopic(t *testing.T) { onBrokers(t, readTopic) }

// readTopic: all that stands is read once, in order, and no more.
func readTopic(b *broker) {
	t := b.t
	cfg := b.config()
	none := 0
	if err := mq.ReadTopic(t.Context(), cfg, b.topic, func(record.Entry) error { none++; return nil }); err != nil || none != 0 {
		t.Fatalf("an empty topic: %d records, %v", none, err)
	}
	p := newProducer(t, cfg)
	const n = 300
	var want []string
	for _, q := range []int32{0, 2} { // the others stay empty
		values := numbers(fmt.Sprintf("%d-", q), 0, n)
		want = append(want, values...)
		produce(t, p, b.part(q), values...)
	}
	for range 2 { // a second reading begins at the beginning
		var got []string
		next := map[int32]int64{}
		if err := mq.ReadTopic(t.Context(), cfg, b.topic, func(e record.Entry) error {
			if len(got) == 5 { // what comes while it reads is not of it
				produce(t, p, b.part(3), "late")
			}
			if e.Offset != next[e.Number] || e.TS < time.Now().Add(-time.Hour).UnixMilli() {
				t.Errorf("%v: offset %d at %d, want %d", e.PartitionID, e.Offset, e.TS, next[e.Number])
			}
			next[e.Number]++
			if string(e.Value) != "late" {
				got = append(got, string(e.Value))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
	stop := errors.New("enough")
	count := 0
	if err := mq.ReadTopic(t.Context(), cfg, b.topic, func(record.Entry) error { count++; return stop }); !errors.Is(err, stop) || count != 1 {
		t.Errorf("stopped: %v after %d", err, count)
	}
	e, err := mq.ReadOne(t.Context(), cfg, b.part(2), 7)
	if err != nil || string(e.Value) != "2-00007" || e.Offset != 7 || e.PartitionID != b.part(2) {
		t.Errorf("one: %+v, %v", e, err)
	}
	for _, offset := range []int64{n, 1 << 40} {
		if _, err := mq.ReadOne(t.Context(), cfg, b.part(2), offset); !errors.Is(err, mq.ErrNoRecord) {
			t.Errorf("offset %d: %v", offset, err)
		}
	}
	if err := mq.ReadTopic(t.Context(), cfg, "no-such-topic", nil); !errors.Is(err, mq.ErrRefused) {
		t.Errorf("no topic: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := mq.ReadTopic(ctx, cfg, b.topic, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestReadOneOfTheBrokers: the mark of a transaction has an offset and is no record.
func TestReadOneOfTheBrokers(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	c, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.TransactionalID("t"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: b.topic, Partition: 1, Value: []byte("one")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := c.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if e, err := mq.ReadOne(t.Context(), b.config(), b.part(1), 0); err != nil || string(e.Value) != "one" {
		t.Errorf("the record: %+v, %v", e, err)
	}
	if _, err := mq.ReadOne(t.Context(), b.config(), b.part(1), 1); !errors.Is(err, mq.ErrNoRecord) {
		t.Errorf("the mark: %v", err)
	}
}

// TestReadAway: without a broker it ends by itself.
func TestReadAway(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	cfg := b.config()
	cfg.Brokers = config.Strings{testkit.Reserve(t, 1)[0]}
	if err := mq.ReadTopic(t.Context(), cfg, b.topic, nil); !errors.Is(err, mq.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if _, err := mq.ReadOne(t.Context(), cfg, b.part(0), 0); !errors.Is(err, mq.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}
