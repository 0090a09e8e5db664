package mq

import (
	"errors"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap/zaptest"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/testkit"
)

// state returns what of a partition is on its way, and what waits.
func (p *producer) state(id record.PartitionID) (inFlight, waiting int) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	l := p.cur.lane(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inFlight, len(l.waiting)
}

// TestLane: where no broker answers, the client has five records of each
// partition, and what waits behind them ends when they do, not as long after.
func TestLane(t *testing.T) {
	var cfg Config
	cfg.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError), "kafka.")
	cfg.Brokers, cfg.SingleBroker = config.Strings(testkit.Reserve(t, 1)), true
	cfg.MessageTimeout = 3 * time.Second
	p, err := newProducer(t.Context(), cfg, zaptest.NewLogger(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	begin := time.Now()
	answered := make(chan string, 200)
	for part := range int32(2) {
		id := record.PartitionID{Topic: record.TopicMessages, Number: part}
		for i := range 50 {
			err := p.Produce(id, 1, []byte("v"), func(d Delivery) {
				answered <- fmt.Sprintf("%d/%d %v", part, i, errors.Is(d.Err, ErrUnavailable))
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if in, waiting := p.state(id); in != laneWindow || waiting != 50-laneWindow {
			t.Errorf("partition %d: %d on their way, %d wait", part, in, waiting)
		}
	}
	answers := map[string]int{}
	for range 100 {
		answers[<-answered]++
	}
	if took := time.Since(begin); took >= 2*cfg.MessageTimeout {
		t.Errorf("answered after %v", took)
	}
	for part := range 2 {
		for i := range 50 {
			if n := answers[fmt.Sprintf("%d/%d true", part, i)]; n != 1 {
				t.Errorf("record %d/%d has %d answers", part, i, n)
			}
		}
	}
}

// TestLaneGoesOn: what waited goes on when what was before it is answered, in
// order, however much it is: also more than goes at once.
func TestLaneGoesOn(t *testing.T) {
	p, err := newProducer(t.Context(), embeddedConfig(t), zaptest.NewLogger(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	id := record.PartitionID{Topic: record.TopicMessages}
	const n = 3 * laneRecords / 2
	large := make([]byte, laneBytes)
	offsets := make(chan int64, n+2)
	put := func(value []byte) {
		t.Helper()
		err := p.Produce(id, 1, value, func(d Delivery) {
			if d.Err != nil {
				t.Error(d.Err)
			}
			offsets <- d.Offset
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		put([]byte("v"))
	}
	put(large) // each fills a request
	put(large)
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for want := range int64(n + 2) {
		if got := <-offsets; got != want {
			t.Fatalf("record %d has offset %d", want, got)
		}
	}
	for in, waiting := p.state(id); in != 0 || waiting != 0; in, waiting = p.state(id) {
		<-time.After(time.Millisecond) // the lane is told after the caller
	}
}

// TestLaneKeepsOrder: a record goes behind those that wait, which go when all
// before them is answered, as much at once as one request holds; a refused one
// does not stop the next. The answers are the test's: there is no broker.
func TestLaneKeepsOrder(t *testing.T) {
	kp, err := kafka.NewProducer(&kafka.ConfigMap{"bootstrap.servers": testkit.Reserve(t, 1)[0], "message.max.bytes": 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer kp.Close()
	c, id := &client{Producer: kp}, record.PartitionID{Topic: record.TopicMessages}
	l := c.lane(id)
	put := func(n, size int) {
		t.Helper()
		for range n {
			if err := c.put(&pending{id: id, value: make([]byte, size)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	after := func(answers, refused, inFlight, waiting int) {
		t.Helper()
		for range answers {
			refused -= len(c.next(id, nil))
		}
		if refused != 0 || l.inFlight != inFlight || len(l.waiting) != waiting {
			t.Fatalf("after %d answers: %d are on their way, %d wait, want %d and %d; %d refusals are missing",
				answers, l.inFlight, len(l.waiting), inFlight, waiting, refused)
		}
	}
	put(laneWindow+1, 1)
	after(1, 0, laneWindow-1, 1) // not all before it is answered
	put(1, 1)
	after(0, 0, laneWindow-1, 2) // and none goes before it
	after(laneWindow-1, 0, 2, 0)
	put(laneWindow-2, 1)
	put(laneRecords+1, 1)
	after(laneWindow, 0, laneRecords, 1)
	after(laneRecords, 0, 1, 0)
	put(laneWindow-1, 1)
	put(1, 2<<20) // more than the client takes
	put(2, laneBytes)
	after(laneWindow, 1, 1, 1)
	after(1, 0, 1, 0)
	after(1, 0, 0, 0)
}
