package consume

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
)

// metric returns the values of all series of a gauge or counter.
func (r *rig) metric(t *testing.T, name string) (values []float64) {
	t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			values = append(values, m.GetGauge().GetValue()+m.GetCounter().GetValue())
		}
	}
	return values
}

// A partition that another has claimed but that the group still gives to us is
// claimed again, by joining the group anew: nobody else would.
func TestFencedButStillAssigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start(t)
		r.assign(p0)
		r.j.take()
		r.m.fenced = []record.PartitionID{p0}
		r.messages(entry(p0, 5))
		r.want(t, "turn [0:5]", "deliver releases 0")
		if err := r.Ready(); err == nil {
			t.Error("ready, though records of a partition are passed over")
		}
		if got := r.metric(t, "starling_job_partitions"); !slices.Equal(got, []float64{0}) {
			t.Errorf("%v partitions are shown as owned", got)
		}
		if got := r.metric(t, "starling_job_applied_offset"); len(got) != 0 {
			t.Errorf("offsets %v are shown that were not applied", got)
		}
		time.Sleep(fencePatience - time.Second)
		r.want(t)
		time.Sleep(2 * time.Second)
		r.want(t, "machine releases 0", "deliver releases 0") // it has left
		r.assign(p0)
		r.want(t, "claim 0 id 0-20 5", "deliver claims 0 at 5")
		r.messages(entry(p0, 5))
		r.want(t, "turn [0:5]", "act [0:5]")
		if err := r.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
		time.Sleep(2 * fencePatience)
		r.want(t, "commit [0:6]")
		r.stop(t)
	})
}

// Where the group moves the partition, nothing more happens.
func TestFencedAndRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start(t)
		r.assign(p0, p1)
		r.m.fenced = []record.PartitionID{p1}
		r.messages(entry(p1, 5))
		r.do(func(_ context.Context, o mq.Owner) error {
			o.Revoked([]record.PartitionID{p1}, true)
			return nil
		})
		r.j.take()
		time.Sleep(2 * fencePatience)
		r.want(t, "commit [0:5]")
		if err := r.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
		r.stop(t)
	})
}

// Many claims that take their time are no reason to give up.
func TestManySlowClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.m.slow = claimPatience
		r.start(t)
		r.c.steps <- func(ctx context.Context, o mq.Owner) error {
			starts, err := o.Assigned(ctx, []mq.Assignment{{PartitionID: p0}, {PartitionID: p1}})
			if err != nil || len(starts) != 2 {
				t.Errorf("starts %v, %v", starts, err)
			}
			return err
		}
		time.Sleep(3 * claimPatience)
		r.stop(t)
	})
}

// A claim that the store does not answer for long is given up with the
// membership: by then the partition may be another's, and the log longer.
func TestClaimForTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start(t)
		r.m.fail = []error{nil} // the first partition is claimed
		for range 1000 {
			r.m.fail = append(r.m.fail, errors.New("away"))
		}
		began := time.Now()
		r.c.steps <- func(ctx context.Context, o mq.Owner) error {
			_, err := o.Assigned(ctx, []mq.Assignment{
				{PartitionID: p0, Committed: 5, High: 20}, {PartitionID: p1, Committed: 5, High: 20},
			})
			if took := time.Since(began); took < claimPatience || took > claimPatience+2*retryMax {
				t.Errorf("given up after %v", took)
			}
			return err
		}
		time.Sleep(claimPatience / 2)
		if err := r.Ready(); err == nil {
			t.Error("ready, though nothing can be claimed")
		}
		time.Sleep(claimPatience)
		synctest.Wait()
		if err := r.Ready(); err != nil {
			t.Errorf("the next membership, which has nothing to do yet, is not ready: %v", err)
		}
		r.m.fail = nil
		if got := r.j.take(); !slices.Equal(got[len(got)-2:], []string{"machine releases 0", "deliver releases 0"}) {
			t.Errorf("at the end %v; what was claimed is not let go of", got[len(got)-2:])
		}
		r.assign(p0) // the next membership
		r.want(t, "claim 0 id 0-20 5", "deliver claims 0 at 5")
		if got := r.metric(t, "starling_job_rejoins_total"); !slices.Equal(got, []float64{1}) {
			t.Errorf("joined again %v times", got)
		}
		r.stop(t)
	})
}
