package sim

import (
	"context"
	"fmt"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// jobStore is the store as one job sees it: a call may fail before or after it
// was done, or be the one that the job dies in. Bugs of the machine are
// planted here, by what it is made to see and write.
type jobStore struct {
	store.Machine
	j      *job
	owed   []*store.Turn                               // bugActBeforeCommit: not yet committed
	before map[wire.ConvID]*store.Conversation         // bugCacheKept: heads from before a commit
	states map[record.PartitionID]store.PartitionState // and partitions
	lowest map[record.PartitionID]int64                // bugRedoNewSeq: applied as claimed
	doubt  bool                                        // bugLateCommitFences: the guard did not let it pass
}

// call does one operation between faults.
func (s *jobStore) call(f func() error) error {
	w := s.j.w
	if s.j.doomed() || !w.calm && w.chance(1) {
		return fmt.Errorf("before: %w", errFault)
	}
	if err := f(); err != nil {
		return err
	}
	if s.j.doomed() || !w.calm && w.chance(1) {
		return fmt.Errorf("after: %w", errFault)
	}
	return nil
}

func (s *jobStore) Claim(ctx context.Context, p record.PartitionID, topicID string, first int64) (st store.PartitionState, err error) {
	s.j.w.land()
	err = s.call(func() error {
		st, err = s.Machine.Claim(ctx, p, topicID, first)
		return err
	})
	if s.j.w.bug == bugRedoNewSeq && err == nil && st.Applied >= 0 {
		st.Applied = max(-1, min(st.Applied, s.j.w.committed[p]-1))
		if s.lowest == nil {
			s.lowest = make(map[record.PartitionID]int64)
		}
		s.lowest[p] = st.Applied
	}
	return st, err
}

func (s *jobStore) State(ctx context.Context, p record.PartitionID) (st store.PartitionState, err error) {
	err = s.call(func() error {
		st, err = s.Machine.State(ctx, p)
		return err
	})
	if s.doubt {
		s.doubt = false
		st.Epoch++
	}
	if old, ok := s.states[p]; ok && s.j.w.bug == bugCacheKept {
		return old, err
	}
	return st, err
}

func (s *jobStore) Lookup(ctx context.Context, ks []store.OutcomeKey, ids []wire.ConvID) (f store.Found, err error) {
	err = s.call(func() error {
		f, err = s.Machine.Lookup(ctx, ks, ids)
		return err
	})
	for k, o := range f.Outcomes {
		switch {
		case s.j.w.bug == bugReplayedTwice && o.Code == "":
			o.Code = wire.CodeInternal
			f.Outcomes[k] = o
		case s.j.w.bug == bugReplayDropped && o.Code == wire.CodeInternal:
			o.Code = wire.CodeForbidden
			f.Outcomes[k] = o
		}
		if low, ok := s.lowest[o.Partition]; s.j.w.bug == bugRepeatsUnchecked || ok && o.Offset > low {
			delete(f.Outcomes, k)
		}
	}
	for id, c := range f.Conversations {
		if s.j.w.bug == bugSeqGap {
			c.MaxSeq++
		}
		if s.j.w.bug == bugBlockForgotten {
			c.BlockedByA, c.BlockedByB = false, false
		}
		if old := s.before[id]; old != nil && s.j.w.bug == bugCacheKept {
			c.MaxSeq = old.MaxSeq
		}
	}
	return f, err
}

func (s *jobStore) ActiveMembers(ctx context.Context, conv int64) (ms []store.Member, err error) {
	err = s.call(func() error {
		ms, err = s.Machine.ActiveMembers(ctx, conv)
		return err
	})
	return s.everyone(ms, s.j.w.users), err
}

func (s *jobStore) Intervals(ctx context.Context, conv int64, us []wire.UserID) (ms []store.Member, err error) {
	err = s.call(func() error {
		ms, err = s.Machine.Intervals(ctx, conv, us)
		return err
	})
	return s.everyone(ms, us), err
}

// everyone makes all users members (bugMembersUnchecked).
func (s *jobStore) everyone(ms []store.Member, us []wire.UserID) []store.Member {
	if s.j.w.bug != bugMembersUnchecked {
		return ms
	}
	known := make(map[wire.UserID]bool)
	for _, m := range ms {
		known[m.User] = m.LeftSeq == 0
	}
	for _, u := range us {
		if !known[u] {
			ms = append(ms, store.Member{User: u, Role: store.RoleMember, JoinedSeq: 1})
		}
	}
	return ms
}

func (s *jobStore) Rows(ctx context.Context, conv, from, to int64) (rs []store.Row, err error) {
	err = s.call(func() error {
		rs, err = s.Machine.Rows(ctx, conv, from, to)
		return err
	})
	return rs, err
}

func (s *jobStore) RowByID(ctx context.Context, conv int64, id wire.MsgID) (r store.Row, err error) {
	err = s.call(func() error {
		r, err = s.Machine.RowByID(ctx, conv, id)
		return err
	})
	return r, err
}

func (s *jobStore) Commit(ctx context.Context, t *store.Turn) (fenced []record.PartitionID, err error) {
	w := s.j.w
	switch w.bug {
	case bugActBeforeCommit:
		s.owed = append(s.owed, t)
		return nil, nil
	case bugGuardSkipped, bugRedoNewSeq:
		s.unguarded(t)
	case bugCacheKept:
		s.remember(ctx, t)
		s.unguarded(t)
	case bugRefusalNotKept:
		t.Refusals = nil
	case bugRefusalStays:
		for i := range t.Voided {
			t.Voided[i].ID++
		}
	default:
	}
	w.land()
	if (w.bug == noBug || w.bug == bugLateCommitFences) && !w.calm && w.chance(1) {
		w.tell("%s: a commit is on its way while its answer is lost", s.j.name)
		w.flight = t
		return nil, fmt.Errorf("on its way: %w", errFault)
	}
	err = s.call(func() error {
		fenced, err = s.Machine.Commit(ctx, t)
		return err
	})
	s.doubt = w.bug == bugLateCommitFences && len(fenced) > 0
	if err == nil {
		s.before, s.states = nil, nil
	}
	return fenced, err
}

// land lets a commit through whose answer was lost: it holds the rows' locks, so
// it is done before any other write of them, but later than any read.
func (w *world) land() {
	if w.flight != nil {
		_, _ = w.st.Commit(context.Background(), w.flight)
		w.flight = nil
	}
}

// late commits what should have been before its effects (bugActBeforeCommit).
func (s *jobStore) late() {
	if len(s.j.pending) > 0 {
		return
	}
	for _, t := range s.owed {
		_, _ = s.Machine.Commit(s.j.ctx, t)
	}
	s.owed = nil
}

// unguarded makes any owner's turn pass.
func (s *jobStore) unguarded(t *store.Turn) {
	for i := range t.Partitions {
		mv := &t.Partitions[i]
		st, err := s.Machine.State(context.Background(), mv.PartitionID)
		if err != nil {
			continue
		}
		mv.Epoch, mv.From = st.Epoch, st.Applied
		mv.To = max(mv.To, mv.From)
	}
}

// remember keeps what the machine should forget when a commit fails.
func (s *jobStore) remember(ctx context.Context, t *store.Turn) {
	if s.before != nil {
		return
	}
	s.before = make(map[wire.ConvID]*store.Conversation)
	s.states = make(map[record.PartitionID]store.PartitionState)
	for _, c := range t.Conversations {
		if f, err := s.Machine.Lookup(ctx, nil, []wire.ConvID{c.Conv}); err == nil && f.Conversations[c.Conv] != nil {
			s.before[c.Conv] = f.Conversations[c.Conv]
		}
	}
	for i := range t.Partitions {
		if st, err := s.Machine.State(ctx, t.Partitions[i].PartitionID); err == nil {
			s.states[st.PartitionID] = st
		}
	}
}
