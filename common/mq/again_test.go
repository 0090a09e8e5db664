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
func TestJoinsAgain(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	p := newProducer(t, b.config())
	o := &owner{t: t, ledger: newLedger(), commit: true, owned: map[record.PartitionID]int64{}}
	x, err := mq.NewConsumer(b.config(), "group", []string{record.TopicMessages}, zaptest.NewLogger(t), prometheus.NewRegistry())
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
		produce(t, p, part(0), value)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- x.Run(ctx, &refusing{owner: o}) }()
		eventually(t, value, func() bool { return len(o.ledger.values(part(0))) > round })
		cancel()
		if err := <-done; err != nil {
			t.Fatalf("Run ended with %v", err)
		}
		if n := o.count(); n > 0 {
			t.Errorf("Run has ended and the owner still has %d partitions", n)
		}
	}
	if d := cmp.Diff(want, o.ledger.values(part(0))); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
}
