package consume

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/job/internal/machine"
)

// taken assigns partitions and returns the numbers of those that got a start.
func (r *rig) taken(t *testing.T, ps ...record.PartitionID) (numbers []int32) {
	t.Helper()
	r.do(func(ctx context.Context, o mq.Owner) error {
		var as []mq.Assignment
		for _, p := range ps {
			as = append(as, mq.Assignment{PartitionID: p, TopicID: "id", Committed: 5, High: 20})
		}
		starts, err := o.Assigned(ctx, as)
		for p := range maps.Keys(starts) {
			numbers = append(numbers, p.Number)
		}
		return err
	})
	slices.Sort(numbers)
	return numbers
}

// A partition whose log does not fit the store is not taken; the job says so
// and goes on with the others, until the partition is assigned anew.
func TestContradictedAtTheClaim(t *testing.T) {
	for name, cause := range map[string]error{
		"short": machine.ErrLogShort, "topic": machine.ErrTopicID, "gap": machine.ErrLogGap,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				core, logs := observer.New(zapcore.ErrorLevel)
				r.Shard.d.Log = zap.New(core)
				r.m.fail = []error{&machine.LogError{PartitionID: p0, Err: cause}}
				r.start(t)
				if got := r.taken(t, p0, p1); !slices.Equal(got, []int32{1}) {
					t.Errorf("partitions %v are read", got)
				}
				r.want(t, "claim 0 fails", "machine releases 0", "claim 1 id 0-20 5", "deliver claims 1 at 5")
				r.messages(entry(p1, 5))
				time.Sleep(3*time.Minute + time.Second)
				r.want(t, "turn [1:5]", "act [1:5]", "commit [1:6]")
				if n := logs.Len(); n != 4 {
					t.Errorf("logged %d times in three minutes", n)
				}
				err := r.Ready()
				if !errors.Is(err, cause) || !strings.Contains(err.Error(), "im_messages/0") || !strings.Contains(err.Error(), "docs/runbook.md") {
					t.Errorf("ready says %v", err)
				}
				if got := r.metric(t, "starling_job_contradicted_partitions"); !slices.Equal(got, []float64{1}) {
					t.Errorf("contradicted partitions: %v", got)
				}
				if got := r.metric(t, "starling_job_partitions"); !slices.Equal(got, []float64{1}) {
					t.Errorf("owned: %v", got)
				}
				if got := r.taken(t, p0); !slices.Equal(got, []int32{0}) { // mended
					t.Errorf("assigned anew, partitions %v are read", got)
				}
				if err := r.Ready(); err != nil {
					t.Errorf("not ready: %v", err)
				}
				if got := r.metric(t, "starling_job_contradicted_partitions"); len(got) != 0 {
					t.Errorf("contradicted partitions: %v", got)
				}
				r.stop(t)
			})
		})
	}
}

// A partition that was not taken leaves without a word: who claims it next
// raises its epoch.
func TestContradictedAndGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.m.fail = []error{&machine.LogError{PartitionID: p0, Err: machine.ErrTopicID, Epoch: 7}}
		r.m.epoch.Store(7)
		r.start(t)
		r.taken(t, p0)
		time.Sleep(2 * remindEvery)
		if err := r.Ready(); !errors.Is(err, machine.ErrTopicID) {
			t.Errorf("ready says %v", err)
		}
		r.m.epoch.Store(8)
		time.Sleep(2 * remindEvery)
		if err := r.Ready(); err != nil {
			t.Errorf("another has it: %v", err)
		}
		if got := r.metric(t, "starling_job_contradicted_partitions"); len(got) != 0 {
			t.Errorf("contradicted partitions: %v", got)
		}
		r.stop(t)
	})
}

// Where the contradiction shows only in a turn, what was committed of the
// partition is acted, the others of the turn are applied, and it is not read on.
func TestContradictedInATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start(t)
		r.assign(p0, p1)
		r.messages(entry(p0, 5))
		r.j.take()
		r.m.fail = []error{&machine.LogError{PartitionID: p0, Err: machine.ErrLogGap}}
		r.messages(entry(p0, 8), entry(p1, 5))
		got := r.j.take()
		slices.Sort(got) // the actor is another goroutine
		// The fake applies what it is given; the machine passes p0 over by then.
		want := []string{"act [0:8 1:5]", "deliver releases 0", "machine releases 0", "turn [0:8 1:5]", "turn [0:8 1:5] fails"}
		if !slices.Equal(got, want) {
			t.Errorf("happened %q", got)
		}
		if err := r.Ready(); !errors.Is(err, machine.ErrLogGap) {
			t.Errorf("ready says %v", err)
		}
		time.Sleep(time.Second)
		r.want(t, "commit [1:6]") // not of p0
		r.do(func(_ context.Context, o mq.Owner) error { o.Revoked([]record.PartitionID{p0}, false); return nil })
		if err := r.Ready(); err != nil {
			t.Errorf("the partition has left: %v", err)
		}
		r.stop(t)
	})
}

// Partitions of other shards that the group assigns here are left alone.
func TestPartitionsOfOtherShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.Shard.d.Holds = func(p record.PartitionID) bool { return p == p1 }
		r.start(t)
		if got := r.taken(t, p0, p1); !slices.Equal(got, []int32{1}) {
			t.Errorf("partitions %v are read", got)
		}
		r.want(t, "claim 1 id 0-20 5", "deliver claims 1 at 5")
		if got := r.taken(t, p0); len(got) != 0 {
			t.Errorf("partitions %v are read", got)
		}
		if err := r.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
		r.stop(t)
	})
}

// The group is joined once the store is what it has to be; until then the
// shard says what is wrong, and it can be stopped.
func TestChecksTheStoreFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		away := errors.New("shard b: away")
		var back atomic.Bool
		r.Shard.d.Check = func(context.Context) error {
			if back.Load() {
				return nil
			}
			return away
		}
		r.start(t)
		time.Sleep(time.Minute)
		if err := r.Ready(); !errors.Is(err, away) {
			t.Errorf("ready says %v", err)
		}
		back.Store(true)
		time.Sleep(2*retryMax + time.Millisecond) // no tick of the commits at the same time
		r.assign(p0)                              // only a member is assigned something
		r.want(t, "claim 0 id 0-20 5", "deliver claims 0 at 5")
		if err := r.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
		r.stop(t)

		r = newRig(t)
		r.Shard.d.Check = func(context.Context) error { return errors.New("away") }
		r.start(t)
		time.Sleep(time.Minute)
		r.stop(t)
		r.want(t, "close")
	})
}
