package consume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/job/internal/machine"
)

// remindEvery is how often contradictions that stand are logged again.
const remindEvery = time.Minute

// epochTime is what the store gets to say whose a contradicted partition is.
const epochTime = time.Second

// contradict lets go of a partition whose log does not fit the store: applying
// a record of it could lose or repeat messages, so its records wait for a
// person, here and with whoever gets the partition next. All others go on.
// What was committed of it is still acted.
func (s *Shard) contradict(ctx context.Context, le *machine.LogError) error {
	p := le.PartitionID
	s.d.Machine.Release(p)
	s.mu.Lock()
	_, owned := s.owned[p]
	delete(s.owned, p)
	delete(s.fenced, p)
	s.contradicted[p] = le
	s.reminded = time.Now()
	s.m.owned.Set(float64(len(s.owned)))
	s.mu.Unlock()
	s.m.contradicted.WithLabelValues(labels(p)...).Set(1)
	s.complain(le)
	if !owned {
		return nil
	}
	return s.hand(ctx, job{release: []record.PartitionID{p}})
}

// reconciledLocked forgets contradictions: the partitions have left, or are to
// be claimed anew.
func (s *Shard) reconciledLocked(ps ...record.PartitionID) {
	for _, p := range ps {
		delete(s.contradicted, p)
		s.m.contradicted.DeleteLabelValues(labels(p)...)
	}
}

// remind logs the contradictions that stand, now and then. A partition that
// somebody else has claimed since has left without a word, and is theirs to
// complain of.
func (s *Shard) remind(ctx context.Context) {
	s.mu.Lock()
	var list []*machine.LogError
	if time.Since(s.reminded) >= remindEvery {
		list = s.contradictionsLocked()
		s.reminded = time.Now()
	}
	s.mu.Unlock()
	// One time for all: offsets are committed by whoever is waiting here.
	ctx, cancel := context.WithTimeout(ctx, epochTime)
	defer cancel()
	for _, le := range list {
		if s.elsewhere(ctx, le) {
			s.mu.Lock()
			if s.contradicted[le.PartitionID] == le { // and not found anew meanwhile
				s.reconciledLocked(le.PartitionID)
			}
			s.mu.Unlock()
			continue
		}
		s.complain(le)
	}
}

func (s *Shard) elsewhere(ctx context.Context, le *machine.LogError) bool {
	epoch, err := s.d.Machine.Epoch(ctx, le.PartitionID)
	return err == nil && epoch > le.Epoch
}

func (s *Shard) complain(le *machine.LogError) {
	s.d.Log.Error("the log and the store contradict each other: the partition is not taken, its records wait; docs/runbook.md tells the way out",
		zap.Stringer("partition", le.PartitionID), zap.Error(le))
}

func (s *Shard) contradictionsLocked() []*machine.LogError {
	return slices.SortedFunc(maps.Values(s.contradicted), func(a, b *machine.LogError) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Number, b.Number))
	})
}

// contradictedLocked says which partitions are not taken, nil if there are none.
func (s *Shard) contradictedLocked() error {
	list := s.contradictionsLocked()
	if len(list) == 0 {
		return nil
	}
	errs := make([]error, len(list))
	for i, le := range list {
		errs[i] = le
	}
	return fmt.Errorf("partitions are not taken, because the log and the store contradict each other; docs/runbook.md tells the way out: %w", errors.Join(errs...))
}
