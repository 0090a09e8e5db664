package mq

import (
	"errors"
	"flag"
	"fmt"
	"testing"
	"time"

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
