package mq

import (
	"context"
	"errors"
	"flag"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/embedded"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/testkit"
)

// TestDescribeWhileAway: a client that knows its controller and asks about
// topics while it is away does not dial it without a pause.
func TestDescribeWhileAway(t *testing.T) {
	addr := testkit.Reserve(t, 1)[0]
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), KafkaAddr: addr})
	if err != nil {
		t.Fatal(err)
	}
	var cfg Config
	cfg.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError), "kafka.")
	cfg.Brokers, cfg.SingleBroker, cfg.Embedded = config.Strings{addr}, true, true
	m := cfg.base()
	a, err := kafka.NewAdminClient(&m)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	names := []string{record.TopicMessages}
	if have, err := describeNames(t.Context(), a, &cfg, names); err != nil || len(have) != 1 {
		t.Fatal(have, err)
	}

	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	dials := countDials(t, addr)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := describeNames(ctx, a, &cfg, names); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if n := dials.Load(); n > 30 {
		t.Errorf("dialed %d times in 3 s", n)
	}
}

// countDials listens where the broker was, and ends each connection at once.
func countDials(t *testing.T, addr string) *atomic.Int64 {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return &n
}
