package mq_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
)

// refusing is an owner that takes no partition for a while.
type refusing struct {
	*owner
	err error
}

func (r *refusing) Assigned(ctx context.Context, as []mq.Assignment) (map[record.PartitionID]int64, error) {
	if r.err != nil {
		return nil, r.err
	}
	return r.owner.Assigned(ctx, as)
}

func (r *refusing) Revoked(ps []record.PartitionID, lost bool) {
	if r.err == nil {
		r.owner.Revoked(ps, lost)
	}
}

// TestJoinsAgain: one consumer leaves and joins the group several times, also
// after its owner refused an assignment. Nothing is left out or comes twice.
func TestJoinsAgain(t *testing.T) { onBrokers(t, joinsAgain) }

func joinsAgain(b *broker) {
	t := b.t
	p := newProducer(t, b.config())
	o := &owner{t: t, ledger: newLedger(), commit: true, owned: map[record.PartitionID]int64{}}
	x, err := mq.NewConsumer(b.config(), b.group, []string{b.topic}, zaptest.NewLogger(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}()
	o.consumer = x
	var want []string
	for round := range 3 {
		refuse := fmt.Errorf("not in round %d", round)
		if err := x.Run(t.Context(), &refusing{o, refuse}); !errors.Is(err, refuse) {
			t.Fatalf("Run ended with %v", err)
		}
		value := fmt.Sprint("round ", round)
		want = append(want, value)
		produce(t, p, b.part(0), value)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- x.Run(ctx, &refusing{owner: o}) }()
		eventually(t, value, func() bool { return len(o.ledger.values(b.part(0))) > round })
		cancel()
		if err := <-done; err != nil {
			t.Fatalf("Run ended with %v", err)
		}
		if n := o.count(); n > 0 {
			t.Errorf("Run has ended and the owner still has %d partitions", n)
		}
	}
	if d := cmp.Diff(want, o.ledger.values(b.part(0))); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
}

// TestDeclined: a partition without a start is not read and not spoken of,
// stays with the member, and is offered again with the next assignment.
func TestDeclined(t *testing.T) { onBrokers(t, declined) }

func declined(b *broker) {
	t := b.t
	p := newProducer(t, b.config())
	for q := range int32(4) {
		produce(t, p, b.part(q), numbers("", 0, 10)...)
	}
	l := newLedger()
	o := &owner{ledger: l, decline: map[record.PartitionID]bool{b.part(2): true}}
	leave := join(t, b, b.config(), o)
	eventually(t, "the others are read", func() bool { return l.count() == 30 })
	for q := range int32(4) {
		produce(t, p, b.part(q), numbers("", 10, 20)...)
	}
	eventually(t, "the others are read on", func() bool { return l.count() == 60 })
	o.consumer.Commit(map[record.PartitionID]int64{b.part(2): 7}) // ignored
	if n := len(l.values(b.part(2))); n > 0 {
		t.Errorf("%d records of the declined partition", n)
	}
	// A second member takes its half: if the declined one is in it, it is read there.
	other := &owner{ledger: l, decline: o.decline}
	leaveOther := join(t, b, b.config(), other)
	eventually(t, "shared", func() bool { return o.count()+other.count() == 3 && other.count() > 0 && o.count() < 3 })
	if err := leaveOther(); err != nil {
		t.Fatal(err)
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if o.wasLost() || other.wasLost() {
		t.Error("partitions were lost in an orderly rebalance")
	}
	all := &owner{ledger: l}
	join(t, b, b.config(), all)
	eventually(t, "all is read", func() bool { return l.count() == 80 })
	for _, a := range all.seen() {
		if a.Number == 2 && a.Committed != -1 {
			t.Errorf("the declined partition has commit %d", a.Committed)
		}
	}
	for q := range int32(4) {
		if d := cmp.Diff(numbers("", 0, 20), l.values(b.part(q))); d != "" {
			t.Errorf("partition %d: %s", q, d)
		}
	}
}

// TestAcceptsWhatItDeclined: the same client reads a partition that it
// declined before.
func TestAcceptsWhatItDeclined(t *testing.T) { onBrokers(t, acceptsWhatItDeclined) }

func acceptsWhatItDeclined(b *broker) {
	t := b.t
	produce(t, newProducer(t, b.config()), b.part(0), "a")
	o := &owner{t: t, ledger: newLedger(), owned: map[record.PartitionID]int64{}, decline: map[record.PartitionID]bool{}}
	for q := range int32(4) {
		o.decline[b.part(q)] = true
	}
	x, err := mq.NewConsumer(b.config(), b.group, []string{b.topic}, zaptest.NewLogger(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}()
	o.consumer = x
	for _, want := range []int{0, 1} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- x.Run(ctx, o) }()
		eventually(t, "assigned", func() bool { return len(o.seen()) == 4*(want+1) })
		eventually(t, "read", func() bool { return o.ledger.count() == want })
		cancel()
		if err := <-done; err != nil {
			t.Fatalf("Run ended with %v", err)
		}
		o.mu.Lock()
		o.decline = nil
		o.mu.Unlock()
	}
}
