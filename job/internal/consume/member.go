package consume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/starling-im/starling/common/record"
)

const (
	// claimPatience is how long one claim is tried in one membership of the
	// group. Beyond it others may own the partition, and what the brokers said
	// of the log is old: all is asked anew by joining again.
	claimPatience = 30 * time.Second
	// fencePatience is how long a fenced partition may stay assigned to us: the
	// group tells within its session timeout of another owner that it chose.
	fencePatience = 15 * time.Second
)

// errRejoin ends a membership of the group; the next one claims everything
// that it is assigned anew.
var errRejoin = errors.New("partitions have to be claimed anew")

// member is one membership of the group, from join to leave. errRejoin: there
// has to be another.
func (s *Shard) member(ctx context.Context) error {
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	s.mu.Lock()
	s.leave, s.trouble = leave, nil
	s.reconciledLocked(slices.Collect(maps.Keys(s.contradicted))...)
	s.mu.Unlock()
	err := s.d.Consumer.Run(ctx, s)
	if cause := context.Cause(ctx); errors.Is(cause, errRejoin) && (err == nil || errors.Is(err, ctx.Err())) {
		return cause
	}
	return err
}

// owns says whether a partition is owned still.
func (s *Shard) owns(p record.PartitionID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, owned := s.owned[p]
	return owned
}

// fence lets go of partitions that have another owner by now, after what was
// committed of them.
func (s *Shard) fence(ctx context.Context, ps []record.PartitionID) error {
	if len(ps) == 0 {
		return nil
	}
	s.m.fenced.Add(float64(len(ps)))
	s.mu.Lock()
	for _, p := range ps {
		delete(s.owned, p)
		s.fenced[p] = time.Now()
	}
	s.m.owned.Set(float64(len(s.owned)))
	s.mu.Unlock()
	return s.hand(ctx, job{release: ps})
}

// reclaim ends the membership when a fenced partition stays assigned to us:
// whoever claimed it last is not whom the group chose, and its records would be
// applied by nobody.
func (s *Shard) reclaim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, since := range s.fenced {
		if time.Since(since) > fencePatience {
			s.leave(fmt.Errorf("%w: %v was claimed by another, but stays assigned here", errRejoin, p))
			return
		}
	}
}
