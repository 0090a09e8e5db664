package consume

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/route"
)

// Where a new owner of im_push begins.
func TestPushesStart(t *testing.T) {
	p := NewPushes(zap.NewNop(), prometheus.NewRegistry(), nil)
	for name, tc := range map[string]struct {
		a    mq.Assignment
		want int64
	}{
		"never committed":   {mq.Assignment{Committed: -1, High: 9}, 9},
		"handed over":       {mq.Assignment{Committed: 5, High: 9}, 5},
		"nothing since":     {mq.Assignment{Committed: 9, High: 9}, 9},
		"of another topic":  {mq.Assignment{Committed: 50, High: 9}, 9},
		"cut off":           {mq.Assignment{Committed: 5, Low: 6, High: 9}, 9},
		"of long ago":       {mq.Assignment{Committed: 5, High: handoverEntries + 6}, handoverEntries + 6},
		"just not too long": {mq.Assignment{Committed: 5, High: handoverEntries + 5}, 5},
	} {
		tc.a.PartitionID = p0
		starts, err := p.Assigned(t.Context(), []mq.Assignment{tc.a})
		if err != nil || starts[p0] != tc.want {
			t.Errorf("%s: start %v, %v, want %d", name, starts[p0], err, tc.want)
		}
	}
}

// runner runs a script as the owner's consumer.
type runner struct {
	fakeConsumer
	script    func(ctx context.Context, o mq.Owner) error
	committed map[record.PartitionID]int64
}

func (r *runner) Run(ctx context.Context, o mq.Owner) error { return r.script(ctx, o) }

func (r *runner) Commit(offsets map[record.PartitionID]int64) { r.committed = offsets }

// A partition that is given back in order goes on where it was, without what is
// old; one that is lost commits nothing, so that nothing is pushed twice.
func TestPushesHandover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entry := func(offset int64, user string, age time.Duration) record.Entry {
			b, err := proto.Marshal(&recordpb.Push{Version: record.Version, Users: []string{user}, Op: int32(wire.OpReceipt)})
			if err != nil {
				t.Fatal(err)
			}
			return record.Entry{PartitionID: p0, Offset: offset, TS: time.Now().Add(-age).UnixMilli(), Value: b}
		}
		var got []string
		p := NewPushes(zap.NewNop(), prometheus.NewRegistry(), func(_ context.Context, es []route.Push) error {
			for _, e := range es {
				got = append(got, fmt.Sprintf("%s at %d", e.GetUsers()[0], e.Offset))
			}
			return nil
		})
		r := &runner{fakeConsumer: fakeConsumer{journal: &journal{}}}
		r.script = func(ctx context.Context, o mq.Owner) error {
			if _, err := o.Assigned(ctx, []mq.Assignment{{PartitionID: p0, Committed: 5, High: 8}, {PartitionID: p1, Committed: -1, High: 3}}); err != nil {
				return err
			}
			if err := o.Messages(ctx, []record.Entry{
				entry(5, "old", handover+time.Millisecond), entry(6, "young", handover-time.Millisecond), entry(7, "new", 0),
				entry(8, "late, but not handed over", time.Hour),
			}); err != nil {
				return err
			}
			o.Revoked([]record.PartitionID{p0}, false)
			if len(r.committed) != 1 || r.committed[p0] != 9 {
				t.Errorf("committed %v, want 9 of the one given back", r.committed)
			}
			r.committed = nil
			o.Revoked([]record.PartitionID{p1}, true)
			return nil
		}
		if err := p.Run(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if want := []string{"young at 6", "new at 7", "late, but not handed over at 8"}; !slices.Equal(got, want) {
			t.Errorf("pushed %q, want %q", got, want)
		}
		if r.committed != nil {
			t.Errorf("what was lost committed %v", r.committed)
		}
	})
}
