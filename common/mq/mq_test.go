package mq_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap/zaptest"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) {
	if at := os.Getenv(memberEnv); at != "" {
		runMember(at)
		return
	}
	testkit.VerifyMain(m)
}

func TestOrderAndTimestamps(t *testing.T) { onBrokers(t, orderAndTimestamps) }

func orderAndTimestamps(b *broker) {
	t := b.t
	p := newProducer(t, b.config())
	const n = 500
	before := time.Now().UnixMilli()
	for i := range n {
		for q := range int32(4) {
			v := fmt.Sprintf("%d-%05d", q, i)
			if err := p.Produce(b.part(q), before+int64(i), []byte(v), func(d mq.Delivery) {
				if d.Err != nil || d.Offset != int64(i) || d.TS != before+int64(i) {
					t.Errorf("record %s: %+v", v, d)
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	o := &owner{}
	join(t, b, b.config(), o)
	eventually(t, "all read", func() bool { return o.ledger.count() == 4*n })
	for q := range int32(4) {
		if d := cmp.Diff(numbers(fmt.Sprintf("%d-", q), 0, n), o.ledger.values(b.part(q))); d != "" {
			t.Errorf("partition %d: %s", q, d)
		}
		e := o.ledger.entries(b.part(q))[7]
		if stamped := e.TS == before+7; e.Offset != 7 || b.s != nil && !stamped || b.s == nil && (e.TS < before || e.TS > time.Now().UnixMilli()) {
			t.Errorf("entry %v offset %d has time %d; the first was sent at %d", e.PartitionID, e.Offset, e.TS, before)
		}
	}
	if n := p.Partitions(b.topic); n != 4 {
		t.Errorf("%d partitions", n)
	}
	if err := p.Ready(); err != nil {
		t.Errorf("ready: %v", err)
	}
}

func TestAssignment(t *testing.T) { onBrokers(t, assignment) }

func assignment(b *broker) {
	t := b.t
	p := newProducer(t, b.config())
	produce(t, p, b.part(1), "a", "b", "c")
	first := &owner{commit: true}
	leave := join(t, b, b.config(), first)
	eventually(t, "read", func() bool { return first.ledger.count() == 3 })
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	produce(t, p, b.part(1), "d")
	second := &owner{ledger: first.ledger}
	join(t, b, b.config(), second)
	eventually(t, "read on", func() bool { return second.ledger.count() == 4 })
	for _, a := range second.seen() {
		want := mq.Assignment{PartitionID: a.PartitionID, TopicID: first.seen()[0].TopicID, Committed: -1}
		if a.Number == 1 {
			want.Committed, want.High = 3, 4
		}
		if d := cmp.Diff(want, a); d != "" {
			t.Errorf("%v: %s", a.PartitionID, d)
		}
	}
	if id := first.seen()[0].TopicID; len(id) < 16 || strings.Trim(id, "A=") == "" {
		t.Errorf("topic id is %q", id)
	}
}

// TestTopicID: a topic made again under its name has another id.
func TestTopicID(t *testing.T) { onBrokers(t, topicID) }

func topicID(b *broker) {
	t := b.t
	o := &owner{}
	leave := join(t, b, b.config(), o)
	eventually(t, "assigned", func() bool { return o.count() == 4 })
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(b.addr))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kadm.NewClient(c).DeleteTopic(t.Context(), b.topic); err != nil {
		t.Fatal(err)
	}
	c.Close()
	cfg := b.config()
	if _, err := mq.CreateTopics(t.Context(), cfg, []mq.TopicSpec{b.spec()}); err != nil {
		t.Fatal(err)
	}
	again := &owner{}
	join(t, b, cfg, again)
	eventually(t, "assigned again", func() bool { return again.count() == 4 })
	if o.seen()[0].TopicID == again.seen()[0].TopicID {
		t.Errorf("both topics have id %s", o.seen()[0].TopicID)
	}
}

// TestCommitGrows: a lower offset does not take a higher one back, and
// partitions not owned are ignored.
func TestCommitGrows(t *testing.T) { onBrokers(t, commitGrows) }

func commitGrows(b *broker) {
	t := b.t
	p := newProducer(t, b.config())
	produce(t, p, b.part(0), numbers("", 0, 10)...)
	o := &owner{}
	leave := join(t, b, b.config(), o)
	eventually(t, "read", func() bool { return o.ledger.count() == 10 })
	o.consumer.Commit(map[record.PartitionID]int64{b.part(0): 8, b.part(99): 5})
	o.consumer.Commit(map[record.PartitionID]int64{b.part(0): 3})
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	o.consumer.Commit(map[record.PartitionID]int64{b.part(0): 10}) // not owned any more
	next := &owner{ledger: o.ledger}
	join(t, b, b.config(), next)
	eventually(t, "assigned", func() bool { return next.count() == 4 })
	for _, a := range next.seen() {
		if a.Number == 0 && a.Committed != 8 {
			t.Errorf("committed %d, not 8", a.Committed)
		}
	}
}

// TestCommitInTheBackground: offsets are committed within seconds, without a
// rebalance.
func TestCommitInTheBackground(t *testing.T) { onBrokers(t, commitInTheBackground) }

func commitInTheBackground(b *broker) {
	t := b.t
	produce(t, newProducer(t, b.config()), b.part(0), "a", "b")
	o := &owner{commit: true}
	join(t, b, b.config(), o)
	c, err := kgo.NewClient(kgo.SeedBrokers(b.addr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "committed", func() bool {
		os, err := kadm.NewClient(c).FetchOffsets(t.Context(), b.group)
		off, ok := os.Lookup(b.topic, 0)
		return err == nil && ok && off.At == 2
	})
}

// TestRebalance: members come and go while records flow; each record is
// handled once, in order, as the offsets are the owner's.
func TestRebalance(t *testing.T) { onBrokers(t, rebalance) }

func rebalance(b *broker) {
	t := b.t
	p := newProducer(t, b.config())
	l, n := newLedger(), 0
	flow := func() {
		for q := range int32(4) {
			produce(t, p, b.part(q), numbers("", n, n+50)...)
		}
		n += 50
	}
	a := &owner{ledger: l, commit: true}
	join(t, b, b.config(), a)
	flow()
	eventually(t, "alone", func() bool { return a.count() == 4 && l.count() == 4*n })
	c := &owner{ledger: l, commit: true}
	leaveC := join(t, b, b.config(), c)
	for a.count() != 2 || c.count() != 2 {
		flow()
	}
	eventually(t, "together", func() bool { return l.count() == 4*n })
	if err := leaveC(); err != nil {
		t.Fatal(err)
	}
	for a.count() != 4 {
		flow()
	}
	flow()
	eventually(t, "alone again", func() bool { return l.count() == 4*n })
	for q := range int32(4) {
		if d := cmp.Diff(numbers("", 0, n), l.values(b.part(q))); d != "" {
			t.Errorf("partition %d: %s", q, d)
		}
	}
	if a.wasLost() || c.wasLost() {
		t.Error("partitions were lost in an orderly rebalance")
	}
}

// TestStartAtHigh: an at-most-once owner gets only what comes after it.
func TestStartAtHigh(t *testing.T) { onBrokers(t, startAtHigh) }

func startAtHigh(b *broker) {
	t := b.t
	p := newProducer(t, b.config())
	produce(t, p, b.part(0), "old")
	o := &owner{high: true}
	join(t, b, b.config(), o)
	eventually(t, "assigned", func() bool { return o.count() == 4 })
	produce(t, p, b.part(0), "new")
	eventually(t, "read", func() bool { return o.ledger.count() == 1 })
	if d := cmp.Diff([]string{"new"}, o.ledger.values(b.part(0))); d != "" {
		t.Error(d)
	}
}

func TestOwnerFails(t *testing.T) { onBrokers(t, ownerFails) }

func ownerFails(b *broker) {
	t := b.t
	produce(t, newProducer(t, b.config()), b.part(0), "a")
	o := &owner{fail: errors.New("broken")}
	leave := join(t, b, b.config(), o)
	eventually(t, "let go", func() bool { return len(o.seen()) > 0 && o.count() == 0 })
	if err := leave(); !errors.Is(err, o.fail) {
		t.Errorf("Run ended with %v", err)
	}
}

// TestBlockedOwner: an owner that blocks for longer than the session timeout
// keeps its partitions, and nothing is lost or comes twice.
func TestBlockedOwner(t *testing.T) { onBrokers(t, blockedOwner) }

func blockedOwner(b *broker) {
	t := b.t
	p := newProducer(t, b.config())
	c := b.config()
	c.BatchMessages = 10
	o := &owner{block: make(chan struct{}), blocked: make(chan struct{}, 1)}
	join(t, b, c, o)
	eventually(t, "assigned", func() bool { return o.count() == 4 })
	produce(t, p, b.part(0), numbers("", 0, 100)...)
	<-o.blocked
	begin := time.Now()
	eventually(t, "session timeout", func() bool { return time.Since(begin) > 12*time.Second }) // past stallAfter too
	close(o.block)
	eventually(t, "read", func() bool { return o.ledger.count() == 100 })
	if d := cmp.Diff(numbers("", 0, 100), o.ledger.values(b.part(0))); d != "" {
		t.Error(d)
	}
	if len(o.seen()) != 4 || o.wasLost() {
		t.Errorf("assigned %d times, lost %v", len(o.seen()), o.wasLost())
	}
}

// TestBrokerGone: what is sent to a dead broker is answered ErrUnavailable
// within the message timeout, once; when the broker is back, so is the log.
func TestBrokerGone(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	c := b.config()
	c.MessageTimeout = 5 * time.Second // produce waits for 20 s
	p := newProducer(t, c)
	o := &owner{}
	join(t, b, b.config(), o)
	eventually(t, "produced before", func() bool { return produce(t, p, b.part(0), "before")[0].Err == nil })
	eventually(t, "read before", func() bool { return slices.Contains(o.ledger.values(b.part(0)), "before") })
	b.stop(t)
	for _, d := range produce(t, p, b.part(0), "lost 1", "lost 2") {
		if !errors.Is(d.Err, mq.ErrUnavailable) {
			t.Errorf("answer is %v", d.Err)
		}
	}
	if err := p.Ready(); !errors.Is(err, mq.ErrUnavailable) {
		t.Errorf("ready without a broker: %v", err)
	}
	b.start(t)
	eventually(t, "ready", func() bool { return p.Ready() == nil })
	eventually(t, "produced after", func() bool { return produce(t, p, b.part(0), "after")[0].Err == nil })
	eventually(t, "read after", func() bool { return slices.Contains(o.ledger.values(b.part(0)), "after") })
}

func TestFull(t *testing.T) { onBrokers(t, full) }

func full(b *broker) {
	t := b.t
	c := b.config()
	c.QueueMessages = 5
	p := newProducer(t, c)
	answering, goOn := make(chan struct{}), make(chan struct{})
	answerAll := sync.OnceFunc(func() { close(goOn) })
	defer answerAll()
	if err := p.Produce(b.part(0), 1, nil, func(mq.Delivery) { close(answering); <-goOn }); err != nil {
		t.Fatal(err)
	}
	<-answering // and nothing more is answered
	answers := make(chan mq.Delivery, 10)
	add := func() bool { return p.Produce(b.part(0), 1, nil, func(d mq.Delivery) { answers <- d }) == nil }
	for range 5 {
		eventually(t, "room", add) // what was answered just now may still count in librdkafka's own queue
	}
	err := p.Produce(b.part(0), 1, nil, func(mq.Delivery) { t.Error("a refused record was answered") })
	if !errors.Is(err, mq.ErrFull) || !errors.Is(err, mq.ErrUnavailable) {
		t.Errorf("sixth of five: %v", err)
	}
	answerAll()
	for range 5 {
		if d := <-answers; d.Err != nil {
			t.Error(d.Err)
		}
	}
	eventually(t, "room again", add)
	<-answers
	err = p.Produce(b.part(0), 1, make([]byte, 2<<20), func(mq.Delivery) { t.Error("a refused record was answered") })
	if err == nil || errors.Is(err, mq.ErrUnavailable) {
		t.Errorf("a record too large, which no retry helps: %v", err)
	}
}

func TestCloseAnswers(t *testing.T) {
	t.Parallel()
	b := broker{addr: testkit.Reserve(t, 1)[0], topic: record.TopicMessages} // not there: nothing is acknowledged before Close
	p := newProducer(t, b.config())
	var mu sync.Mutex
	answers := map[int]int{}
	for i := range 20 {
		if err := p.Produce(b.part(0), 1, nil, func(d mq.Delivery) {
			mu.Lock()
			defer mu.Unlock()
			answers[i]++
			if !errors.Is(d.Err, mq.ErrUnavailable) {
				t.Errorf("answer is %v", d.Err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	p.Close()
	for i := range 20 {
		if answers[i] != 1 {
			t.Errorf("record %d has %d answers", i, answers[i])
		}
	}
	if err := p.Produce(b.part(0), 1, nil, nil); !errors.Is(err, mq.ErrUnavailable) {
		t.Errorf("produce after close: %v", err)
	}
	if err := p.Ready(); err == nil {
		t.Error("ready after close")
	}
	p.Close()
}

func TestValidate(t *testing.T) {
	b := broker{addr: "127.0.0.1:9"}
	if c := b.config(); c.Validate() != nil {
		t.Errorf("defaults with a broker: %v", c.Validate())
	}
	bad := mq.Config{Brokers: config.Strings{"nowhere"}, Security: "sasl_ssl", Linger: -1}
	err := bad.Validate()
	for _, key := range []string{"brokers", "partitions", "retention", "linger", "message-timeout", "queue-messages", "batch-messages", "session-timeout", "sasl-username", "sasl-mechanism"} {
		if err == nil || !strings.Contains(err.Error(), "kafka."+key+": ") {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
	if _, err := mq.NewProducer(t.Context(), mq.Config{}, zaptest.NewLogger(t), nil); err == nil {
		t.Error("NewProducer took an empty config")
	}
	if _, err := mq.NewConsumer(mq.Config{}, "g", nil, zaptest.NewLogger(t), nil); err == nil {
		t.Error("NewConsumer took an empty config")
	}
	if err := mq.CheckTopics(t.Context(), mq.Config{}, nil); err == nil {
		t.Error("CheckTopics took an empty config")
	}
}
