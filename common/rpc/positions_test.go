package rpc

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/rpc/rpcpb"
)

var (
	pA = record.PartitionID{Topic: "im_messages", Number: 0}
	pB = record.PartitionID{Topic: "im_messages", Number: 1}
)

func TestPositionsAdmit(t *testing.T) {
	var p Positions
	for i, c := range []struct {
		at   *rpcpb.Position
		lost bool
		want bool
	}{
		{nil, false, true}, // no position: always
		{position(pA, 5), false, true},
		{position(pA, 5), false, false}, // again
		{position(pA, 4), false, false}, // late, of a former owner
		{position(pA, 4), true, false},  // what was lost is here already
		{position(pB, 0), false, true},  // another partition
		{position(pB, 0), false, false},
		{position(pA, 9), true, true},
		{position(pA, 8), false, false},
		{nil, false, true},
	} {
		if got := p.Admit(c.at, c.lost); got != c.want {
			t.Errorf("step %d: Admit(%v, %v) = %v", i, c.at, c.lost, got)
		}
	}
	want := []*rpcpb.Position{position(pA, 9), position(pB, 0)}
	if d := cmp.Diff(want, p.Snapshot(), protocmp.Transform()); d != "" {
		t.Errorf("snapshot (-want +got):\n%s", d)
	}
	if repeats, losses := p.Counts(); repeats != 5 || losses != 1 {
		t.Errorf("counted %d repeats and %d losses", repeats, losses)
	}
}

func TestPositionsChanged(t *testing.T) {
	var p Positions
	if got := p.Changed(); got != nil {
		t.Fatalf("nothing moved, got %v", got)
	}
	p.Admit(position(pA, 1), false)
	p.Admit(position(pB, 1), false)
	p.Admit(position(pA, 2), false)
	mine, version := p.Since(0)
	want := []*rpcpb.Position{position(pA, 2), position(pB, 1)}
	if d := cmp.Diff(want, mine, protocmp.Transform()); d != "" {
		t.Errorf("since 0 (-want +got):\n%s", d)
	}
	if d := cmp.Diff(want, p.Changed(), protocmp.Transform()); d != "" {
		t.Errorf("changed (-want +got):\n%s", d)
	}
	if got := p.Changed(); got != nil {
		t.Errorf("told before, got %v", got)
	}
	p.Admit(position(pB, 1), false) // dropped: no change
	p.Admit(position(pB, 3), false)
	moved := []*rpcpb.Position{position(pB, 3)}
	if d := cmp.Diff(moved, p.Changed(), protocmp.Transform()); d != "" {
		t.Errorf("changed (-want +got):\n%s", d)
	}
	// One that asks by version is not robbed by the other.
	got, _ := p.Since(version)
	if d := cmp.Diff(moved, got, protocmp.Transform()); d != "" {
		t.Errorf("since %d (-want +got):\n%s", version, d)
	}
}

// Of several streams that carry the same frames each offset is admitted once.
func TestPositionsConcurrent(t *testing.T) {
	var p Positions
	var wg sync.WaitGroup
	admitted := make([][]int64, 4)
	for i := range admitted {
		wg.Go(func() {
			for o := range int64(1000) {
				if p.Admit(position(pA, o), false) {
					admitted[i] = append(admitted[i], o)
				}
				if o%100 == 0 {
					p.Changed()
				}
			}
		})
	}
	wg.Wait()
	seen := make(map[int64]bool)
	for _, os := range admitted {
		for _, o := range os {
			if seen[o] {
				t.Fatalf("offset %d admitted twice", o)
			}
			seen[o] = true
		}
	}
	if got := p.Snapshot()[0].GetOffset(); got != 999 {
		t.Errorf("position %d, want 999", got)
	}
}
