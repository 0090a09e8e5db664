package mq

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/starling-im/starling/common/record"
)

// A record that the client gives once more, in the same batch or after it, is
// not handed over again.
func TestHandOverLeavesRepeatsOut(t *testing.T) {
	p, q := record.PartitionID{Topic: "t", Number: 1}, record.PartitionID{Topic: "t", Number: 2}
	r := &run{
		consumer: &consumer{m: newConsumerMetrics(prometheus.NewRegistry(), "g")},
		batches:  make(chan []record.Entry, 1),
		next:     map[record.PartitionID]int64{p: 4, q: 7},
	}
	hand := func(offsets ...int64) []int64 {
		for _, o := range offsets {
			r.buf = append(r.buf, record.Entry{PartitionID: p, Offset: o})
		}
		r.handOver()
		var got []int64
		select {
		case b := <-r.batches:
			for _, e := range b {
				got = append(got, e.Offset)
			}
		default:
		}
		r.busy = false
		return got
	}
	for _, c := range []struct{ in, want []int64 }{
		{[]int64{4, 5, 4, 5, 6}, []int64{4, 5, 6}},
		{[]int64{6, 5}, nil},
		{[]int64{7, 9}, []int64{7, 9}}, // a gap is the log's own
	} {
		if d := cmp.Diff(c.want, hand(c.in...)); d != "" {
			t.Errorf("%v: %s", c.in, d)
		}
	}
	if r.next[p] != 10 || r.next[q] != 7 {
		t.Errorf("next %v", r.next)
	}
}
