package mq_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/embedded"
	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/testkit"
)

// broker is a log with a topic and a group of the test's own: the embedded
// one, which can be stopped and started again at its address, or Apache Kafka.
type broker struct {
	t            *testing.T
	dir, addr    string
	s            *embedded.Services // nil for Apache Kafka
	topic, group string
	addrs        []string // of a cluster
}

// onBrokers runs a test on the embedded log and on Apache Kafka.
func onBrokers(t *testing.T, f func(b *broker)) {
	t.Helper()
	t.Parallel()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		f(startBroker(t))
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		f(realBroker(t))
	})
}

func startBroker(t *testing.T) *broker {
	t.Helper()
	b := &broker{t: t, dir: t.TempDir(), addr: testkit.Reserve(t, 1)[0], topic: record.TopicMessages, group: "group"}
	b.start(t)
	t.Cleanup(func() { b.stop(t) })
	return b
}

// realEnv is the value of a variable that says where a real server is;
// without it the test is skipped, or fails where STARLING_TEST_REAL asks for
// the real servers.
func realEnv(t *testing.T, key string) string {
	t.Helper()
	v := os.Getenv(key)
	switch {
	case v != "":
	case os.Getenv("STARLING_TEST_REAL") != "":
		t.Fatalf("%s is not set, and STARLING_TEST_REAL is", key)
	default:
		t.Skipf("%s is not set", key)
	}
	return v
}

// realBroker is one Apache Kafka for all tests: topics and groups are apart.
func realBroker(t *testing.T) *broker {
	t.Helper()
	unique := "test-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	b := &broker{t: t, addr: realEnv(t, "STARLING_TEST_KAFKA"), topic: unique, group: unique}
	c := b.config()
	if _, err := mq.CreateTopics(t.Context(), c, append(c.Topics(), b.spec())); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *broker) spec() mq.TopicSpec {
	c := b.config()
	return mq.TopicSpec{Name: b.topic, Partitions: c.Partitions, Retention: c.Retention}
}

func (b *broker) part(n int32) record.PartitionID {
	return record.PartitionID{Topic: b.topic, Number: n}
}

func (b *broker) start(t *testing.T) {
	t.Helper()
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: b.dir, KafkaAddr: b.addr, Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	b.s = s
}

func (b *broker) stop(t *testing.T) {
	t.Helper()
	if err := b.s.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

func (b *broker) config() mq.Config {
	var c mq.Config
	c.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError), "kafka.")
	c.Brokers = config.Strings{b.addr}
	c.SingleBroker, c.Embedded = true, b.s != nil
	if len(b.addrs) > 1 {
		c.Brokers, c.SingleBroker = b.addrs, false
	}
	c.MessageTimeout = time.Minute // a busy machine is no failure here
	return c
}

func newProducer(t *testing.T, c mq.Config) mq.Producer {
	t.Helper()
	p, err := mq.NewProducer(t.Context(), c, zaptest.NewLogger(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// produce writes the values and waits for all answers.
func produce(t *testing.T, p mq.Producer, id record.PartitionID, values ...string) []mq.Delivery {
	t.Helper()
	out := make([]mq.Delivery, 0, len(values))
	var mu sync.Mutex
	for _, v := range values {
		err := p.Produce(id, time.Now().UnixMilli(), []byte(v), func(d mq.Delivery) {
			mu.Lock()
			defer mu.Unlock()
			out = append(out, d)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "last answer", func() bool { mu.Lock(); defer mu.Unlock(); return len(out) == len(values) })
	return out
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func numbers(prefix string, from, to int) []string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprintf("%s%05d", prefix, i))
	}
	return out
}
