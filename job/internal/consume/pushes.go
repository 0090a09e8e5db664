package consume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/job/internal/route"
)

// handover is how old an entry may be that comes from before a partition was
// assigned here: longer than a rebalance takes, short enough that an owner who
// dies soon after one has little pushed twice.
const handover = 3 * time.Second

// handoverEntries is how many are read again for it at most: a commit that is
// further behind is not of the owner before.
const handoverEntries = 10_000

// Pushes reads im_push: each entry is pushed at most once. Who gives a partition
// back in order commits how far it is, and the next owner goes on from there,
// but for entries older than handover; where nothing was committed it begins at
// the end. An owner that died, or whose last commit failed, leaves an older
// commit behind: what it had pushed since goes out again, and edges drop it. They
// also drop what a former owner sends late, after the next one's: once at most.
type Pushes struct {
	log   *zap.Logger
	push  func(ctx context.Context, entries []route.Push) error
	bad   prometheus.Counter
	stale prometheus.Counter

	// Of the consumer's callbacks, which come one at a time:
	consumer mq.Consumer
	next     map[record.PartitionID]int64
	high     map[record.PartitionID]int64 // end of the log when it was assigned
}

// NewPushes returns the reader; push takes the entries in order.
func NewPushes(log *zap.Logger, reg prometheus.Registerer, push func(context.Context, []route.Push) error) *Pushes {
	f := promauto.With(reg)
	return &Pushes{
		log: log, push: push, next: make(map[record.PartitionID]int64), high: make(map[record.PartitionID]int64),
		bad: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_push_undecoded_total", Help: "Entries of im_push that could not be read.",
		}),
		stale: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_push_stale_total", Help: "Entries of im_push left out because they were written too long before their partition was assigned here.",
		}),
	}
}

// Run works until ctx ends and closes the consumer.
func (p *Pushes) Run(ctx context.Context, c mq.Consumer) error {
	p.consumer = c
	err := c.Run(ctx, p)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil
	}
	if cerr := c.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close consumer: %w", cerr))
	}
	return err
}

// Assigned implements mq.Owner.
func (p *Pushes) Assigned(_ context.Context, as []mq.Assignment) (map[record.PartitionID]int64, error) {
	starts := make(map[record.PartitionID]int64, len(as))
	for _, a := range as {
		start := a.High
		if a.Committed >= a.Low && a.Committed < a.High && a.High-a.Committed <= handoverEntries {
			start = a.Committed
		}
		starts[a.PartitionID], p.next[a.PartitionID], p.high[a.PartitionID] = start, start, a.High
	}
	return starts, nil
}

// Revoked implements mq.Owner.
func (p *Pushes) Revoked(ps []record.PartitionID, lost bool) {
	offsets := make(map[record.PartitionID]int64, len(ps))
	for _, id := range ps {
		if next, ok := p.next[id]; ok {
			offsets[id] = next
		}
		delete(p.next, id)
		delete(p.high, id)
	}
	if !lost {
		p.consumer.Commit(offsets)
	}
}

// Messages implements mq.Owner.
func (p *Pushes) Messages(ctx context.Context, ms []record.Entry) error {
	entries := make([]route.Push, 0, len(ms))
	oldest := time.Now().Add(-handover).UnixMilli()
	for i := range ms {
		p.next[ms[i].PartitionID] = ms[i].Offset + 1
		if ms[i].Offset < p.high[ms[i].PartitionID] && ms[i].TS < oldest {
			p.stale.Inc()
			continue
		}
		e, err := decodePush(ms[i].Value)
		if err != nil {
			p.bad.Inc()
			p.log.Warn("entry left out", zap.Stringer("partition", ms[i].PartitionID),
				zap.Int64("offset", ms[i].Offset), zap.Error(err))
			continue
		}
		entries = append(entries, route.Push{Push: e, At: ms[i].PartitionID, Offset: ms[i].Offset})
	}
	if len(entries) == 0 {
		return nil
	}
	return p.push(ctx, entries)
}

func decodePush(b []byte) (*recordpb.Push, error) {
	e := new(recordpb.Push)
	if err := proto.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("decode push: %w", err)
	}
	if e.GetVersion() != record.Version || e.GetOp() <= 0 {
		return nil, fmt.Errorf("decode push: %w: version %d, op %d", record.ErrUnknown, e.GetVersion(), e.GetOp())
	}
	return e, nil
}
