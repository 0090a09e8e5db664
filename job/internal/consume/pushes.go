package consume

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
)

// Pushes reads im_push: each entry is pushed at most once, nothing is
// committed, and a new owner begins at the end.
type Pushes struct {
	log  *zap.Logger
	push func(ctx context.Context, entries []*recordpb.Push) error
	bad  prometheus.Counter
}

// NewPushes returns the reader; push takes the entries in order.
func NewPushes(log *zap.Logger, reg prometheus.Registerer, push func(context.Context, []*recordpb.Push) error) *Pushes {
	return &Pushes{log: log, push: push, bad: promauto.With(reg).NewCounter(prometheus.CounterOpts{
		Name: "starling_job_push_undecoded_total", Help: "Entries of im_push that could not be read.",
	})}
}

// Run works until ctx ends and closes the consumer.
func (p *Pushes) Run(ctx context.Context, c mq.Consumer) error {
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
		starts[a.PartitionID] = a.High
	}
	return starts, nil
}

// Revoked implements mq.Owner.
func (p *Pushes) Revoked([]record.PartitionID, bool) {}

// Messages implements mq.Owner.
func (p *Pushes) Messages(ctx context.Context, ms []record.Entry) error {
	entries := make([]*recordpb.Push, 0, len(ms))
	for i := range ms {
		e, err := decodePush(ms[i].Value)
		if err != nil {
			p.bad.Inc()
			p.log.Warn("entry left out", zap.Stringer("partition", ms[i].PartitionID),
				zap.Int64("offset", ms[i].Offset), zap.Error(err))
			continue
		}
		entries = append(entries, e)
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
