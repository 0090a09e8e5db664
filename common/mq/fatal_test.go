package mq

import (
	"errors"
	"flag"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/embedded"
	"github.com/starling-im/starling/common/record"
)

func embeddedConfig(tb testing.TB) Config {
	tb.Helper()
	s, err := embedded.Start(tb.Context(), embedded.Config{Dir: tb.TempDir()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Stop(tb.Context()) })
	var c Config
	c.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError), "kafka.")
	c.Brokers, c.SingleBroker, c.Embedded = config.Strings(s.KafkaBrokers()), true, true
	c.MessageTimeout = time.Minute // a busy machine is no failure here
	return c
}

// TestFatal: a fatal error answers everything in flight once, with
// ErrUnavailable, and a new client takes over.
func TestFatal(t *testing.T) {
	t.Run("embedded", func(t *testing.T) { fatal(&fatalTest{t, embeddedConfig(t)}) })
	t.Run("kafka", func(t *testing.T) {
		addr := os.Getenv("STARLING_TEST_KAFKA")
		switch {
		case addr != "":
		case os.Getenv("STARLING_TEST_REAL") != "":
			t.Fatal("STARLING_TEST_KAFKA is not set, and STARLING_TEST_REAL is")
		default:
			t.Skip("STARLING_TEST_KAFKA is not set")
		}
		var cfg Config
		cfg.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError), "kafka.")
		cfg.Brokers, cfg.SingleBroker, cfg.MessageTimeout = config.Strings{addr}, true, time.Minute
		if _, err := CreateTopics(t.Context(), cfg, cfg.Topics()); err != nil {
			t.Fatal(err)
		}
		fatal(&fatalTest{t, cfg})
	})
}

type fatalTest struct {
	t   *testing.T
	cfg Config
}

func fatal(x *fatalTest) {
	t, cfg := x.t, x.cfg
	cfg.Linger = time.Second // keeps the records in flight
	p, err := newProducer(t.Context(), cfg, zap.NewNop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	id := record.PartitionID{Topic: record.TopicMessages}
	late := false
	for round := 0; round < 3; {
		const n = 50
		var answers [n]atomic.Int32
		var delivered atomic.Int32
		begin := time.Now()
		for i := range n {
			err := p.Produce(id, 1, []byte("v"), func(d Delivery) {
				answers[i].Add(1)
				if d.Err == nil {
					delivered.Add(1)
				} else if !errors.Is(d.Err, ErrUnavailable) {
					t.Errorf("round %d, record %d: %v", round, i, d.Err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		p.mu.RLock()
		old := p.cur
		old.TestFatalError(kafka.ErrOutOfOrderSequenceNumber, "made by the test")
		p.mu.RUnlock()
		inFlight := time.Since(begin) < cfg.Linger/2
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for p.ask() != nil || p.same(old) {
			<-time.After(time.Millisecond)
		}
		for i := range answers {
			if a := answers[i].Load(); a != 1 {
				t.Errorf("round %d: record %d has %d answers", round, i, a)
			}
		}
		if !inFlight { // a slow machine; once more
			late = true
			continue
		}
		if d := delivered.Load(); d > 0 {
			t.Errorf("round %d: %d records were delivered", round, d)
		}
		round++
	}
	ok := make(chan Delivery, 1)
	if err := p.Produce(id, 1, []byte("after"), func(d Delivery) { ok <- d }); err != nil {
		t.Fatal(err)
	}
	if d := <-ok; d.Err != nil || d.Offset != 0 && !late && cfg.Embedded {
		t.Errorf("after the fatal errors: %+v", d)
	}
}

func (p *producer) same(c *client) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.cur == c
}

// BenchmarkAck is the time from Produce to the acknowledgement, one record at
// a time, by linger.
func BenchmarkAck(b *testing.B) {
	for _, linger := range []time.Duration{0, time.Millisecond} {
		b.Run("linger="+linger.String(), func(b *testing.B) {
			cfg := embeddedConfig(b)
			cfg.Linger = linger
			p, err := newProducer(b.Context(), cfg, zap.NewNop(), nil)
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			answer := make(chan Delivery)
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Produce(record.PartitionID{Topic: record.TopicMessages}, 1, []byte("0123456789"), func(d Delivery) { answer <- d }); err != nil {
					b.Fatal(err)
				}
				if d := <-answer; d.Err != nil {
					b.Fatal(d.Err)
				}
			}
		})
	}
}
