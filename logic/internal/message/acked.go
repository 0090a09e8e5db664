package message

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/registry"
)

const (
	ackedQueue = 65_536
	ackedBatch = 512
	ackedWait  = time.Second
	// ackedPause lets marks gather: a call to Redis for each of them is 6 % of
	// logic's work at 1,000 messages/s, and who retries sooner costs a record.
	ackedPause = 20 * time.Millisecond
)

// refusedHere stands in place of a send_ack's time: it was not written.
const refusedHere = -1

// ackedMark is an acknowledged reservation on its way to the index.
type ackedMark struct {
	r  registry.Reservation
	ts int64
}

// mark never blocks: a mark that is left out costs one more record if the
// client retries, and the machine drops that one.
func (s *Service) mark(r registry.Reservation, ts int64) {
	select {
	case s.acked <- ackedMark{r, ts}:
	default:
		s.d.Metrics.ackedDropped.Inc()
	}
}

// Run marks acknowledged reservations in batches until ctx ends, then what is
// left.
func (s *Service) Run(ctx context.Context) error {
	batch := make([]ackedMark, 0, ackedBatch)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			s.markBatch(context.WithoutCancel(ctx), s.take(batch[:0]))
			return nil
		case <-pause.C:
		}
		select {
		case <-ctx.Done():
			s.markBatch(context.WithoutCancel(ctx), s.take(batch[:0]))
			return nil
		case m := <-s.acked:
			batch = s.take(append(batch[:0], m))
			s.markBatch(context.WithoutCancel(ctx), batch)
		}
		if len(batch) < ackedBatch {
			pause.Reset(ackedPause)
		} else {
			pause.Reset(0)
		}
	}
}

// take adds what waits, up to a batch.
func (s *Service) take(batch []ackedMark) []ackedMark {
	for len(batch) < ackedBatch {
		select {
		case m := <-s.acked:
			batch = append(batch, m)
		default:
			return batch
		}
	}
	return batch
}

func (s *Service) markBatch(ctx context.Context, batch []ackedMark) {
	s.d.Metrics.ackedDepth.Set(float64(len(s.acked)))
	if len(batch) == 0 {
		return
	}
	rs, ts := make([]registry.Reservation, len(batch)), make([]int64, len(batch))
	for i, m := range batch {
		rs[i], ts[i] = m.r, m.ts
	}
	ctx, cancel := context.WithTimeout(ctx, ackedWait)
	defer cancel()
	if err := s.d.Index.MarkAcked(ctx, rs, ts); err != nil {
		s.d.Metrics.ackedDropped.Add(float64(len(batch)))
		s.d.Log.Debug("reservations not marked", zap.Error(err), zap.Int("count", len(batch)))
	}
}
