package mq_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starling-im/starling/common/mq"
)

// TestThroughput prints how soon records of 1 KB are acknowledged and read at
// a steady rate, by partitions and linger. It asserts only that all arrive.
func TestThroughput(t *testing.T) {
	run := func(t *testing.T, addrs ...string) {
		t.Helper()
		for _, partitions := range []int32{1, 4} {
			for _, rate := range []int{1000, 5000} {
				for _, linger := range []time.Duration{0, time.Millisecond} {
					t.Run(fmt.Sprintf("partitions=%d,rate=%d,linger=%v", partitions, rate, linger), func(t *testing.T) {
						throughput(brokerAt(t, addrs), partitions, rate, linger)
					})
				}
			}
		}
	}
	t.Run("one", func(t *testing.T) { run(t, realEnv(t, "STARLING_TEST_KAFKA")) })
	t.Run("three", func(t *testing.T) {
		if v := os.Getenv("STARLING_TEST_KAFKA_3"); v != "" {
			run(t, strings.Split(v, ",")...)
			return
		}
		run(t, startCluster(t, 3).addrs...)
	})
}

func brokerAt(t *testing.T, addrs []string) *broker {
	t.Helper()
	b := &broker{t: t, addr: addrs[0], addrs: addrs, topic: fmt.Sprintf("test-%d", time.Now().UnixNano())}
	b.group = b.topic
	if _, err := mq.CreateTopics(t.Context(), b.config(), []mq.TopicSpec{b.spec()}); err != nil {
		t.Fatal(err)
	}
	return b
}

func throughput(b *broker, partitions int32, rate int, linger time.Duration) {
	t := b.t
	c := b.config()
	c.Linger = linger
	p := newProducer(t, c)
	o := &owner{}
	join(t, b, c, o)
	eventually(t, "assigned", func() bool { return o.count() == 4 })
	for q := range partitions {
		produce(t, p, b.part(q), "first") // connects
	}
	const seconds = 3
	var mu sync.Mutex
	acks := make([]time.Duration, 0, rate*seconds)
	value := make([]byte, 1024)
	begin := time.Now()
	for n := 0; n < rate*seconds; {
		due := min(rate*seconds, int(time.Since(begin).Seconds()*float64(rate)))
		for ; n < due; n++ {
			sent := time.Now()
			if err := p.Produce(b.part(int32(n)%partitions), sent.UnixMilli(), value, func(d mq.Delivery) {
				took := time.Since(sent)
				mu.Lock()
				defer mu.Unlock()
				if d.Err != nil {
					t.Error(d.Err)
				}
				acks = append(acks, took)
			}); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(200 * time.Microsecond)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	written := time.Since(begin)
	eventually(t, "read", func() bool { return o.ledger.count() == rate*seconds+int(partitions) })
	read := time.Since(begin)
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(acks)
	at := func(q float64) time.Duration { return acks[int(q*float64(len(acks)-1))].Round(10 * time.Microsecond) }
	t.Logf("acknowledged p50 %v p99 %v max %v; all acknowledged after %v, read after %v", at(0.5), at(0.99), at(1), written.Round(time.Millisecond), read.Round(time.Millisecond))
}
