package memstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// Commit applies a turn, or nothing of it.
func (s *Store) Commit(ctx context.Context, t *store.Turn) ([]record.PartitionID, error) {
	if err := t.Check(); err != nil {
		return nil, fmt.Errorf("Commit: %w", err)
	}
	var fenced []record.PartitionID
	err := s.do(ctx, "Commit", func() error {
		if fenced = s.fencedLocked(t); len(fenced) > 0 {
			return nil
		}
		if err := s.checkLocked(t); err != nil {
			return &store.DeterministicError{Err: err}
		}
		s.applyLocked(t)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(fenced) == 0 {
		for _, c := range t.Conversations {
			c.New = false
		}
	}
	return fenced, nil
}

func (s *Store) fencedLocked(t *store.Turn) (fenced []record.PartitionID) {
	for i := range t.Partitions {
		p := &t.Partitions[i]
		if st := s.partitions[p.PartitionID]; st == nil || st.Epoch != p.Epoch || st.Applied != p.From {
			fenced = append(fenced, p.PartitionID)
		}
	}
	return fenced
}

// checkLocked is the unique keys: whatever it lets pass can be applied.
func (s *Store) checkLocked(t *store.Turn) error {
	fresh, ids := make(map[wire.ConvID]bool), make(map[int64]bool)
	for _, c := range t.Conversations {
		old := s.convs[c.Conv]
		switch {
		case !c.New && (old == nil || old.ID != c.ID):
			return fmt.Errorf("conversation %q does not have id %d", c.Conv, c.ID)
		case !c.New:
		case old != nil || fresh[c.Conv]:
			return fmt.Errorf("conversation %q exists", c.Conv)
		case s.byID[c.ID] != nil || ids[c.ID]:
			return fmt.Errorf("conversation %q cannot have the id %d of another", c.Conv, c.ID)
		default:
			fresh[c.Conv], ids[c.ID] = true, true
		}
	}
	type rowKey struct {
		conv wire.ConvID
		seq  int64
	}
	rows := make(map[rowKey]bool, len(t.Rows))
	for i := range t.Rows {
		r := &t.Rows[i]
		k := rowKey{r.Conv.Conv, r.Seq}
		if old := s.byID[r.Conv.ID]; rows[k] || old != nil && old.row(r.Seq) != nil {
			return fmt.Errorf("row %q/%d exists", r.Conv.Conv, r.Seq)
		}
		rows[k] = true
	}
	if err := s.checkOutcomesLocked(t); err != nil {
		return err
	}
	return s.checkMembersLocked(t)
}

func (s *Store) checkOutcomesLocked(t *store.Turn) error {
	type dayKey struct {
		store.OutcomeKey
		day int64
	}
	seen := make(map[dayKey]bool, len(t.Outcomes))
	for i := range t.Outcomes {
		o := &t.Outcomes[i]
		k := dayKey{o.OutcomeKey, o.TS / store.DayMS}
		sameDay := func(old store.Outcome) bool { return old.TS/store.DayMS == k.day && !voids(t, old) }
		if seen[k] || slices.ContainsFunc(s.outcomes[o.OutcomeKey], sameDay) {
			return fmt.Errorf("outcome of %q in %q exists", o.ClientID, o.Conv)
		}
		seen[k] = true
	}
	return nil
}

// voids says whether a turn takes a verdict back.
func voids(t *store.Turn, o store.Outcome) bool {
	return slices.ContainsFunc(t.Voided, func(v store.Outcome) bool {
		return v.OutcomeKey == o.OutcomeKey && v.TS/store.DayMS == o.TS/store.DayMS
	})
}

// checkMembersLocked refuses a second open interval of one user.
func (s *Store) checkMembersLocked(t *store.Turn) error {
	type userKey struct {
		conv wire.ConvID
		user wire.UserID
	}
	after := make(map[userKey]map[int64]bool) // joined_seq -> open
	for i := range t.Members {
		m := &t.Members[i]
		k := userKey{m.Conv.Conv, m.User}
		if after[k] == nil {
			after[k] = make(map[int64]bool)
			if c := s.byID[m.Conv.ID]; c != nil {
				for _, old := range c.members[m.User] {
					after[k][old.JoinedSeq] = old.LeftSeq == 0
				}
			}
		}
		after[k][m.JoinedSeq] = m.LeftSeq == 0
	}
	for k, intervals := range after {
		open := 0
		for _, o := range intervals {
			if o {
				open++
			}
		}
		if open > 1 {
			return fmt.Errorf("user %q would have %d open intervals in %q", k.user, open, k.conv)
		}
	}
	return nil
}

func (s *Store) applyLocked(t *store.Turn) {
	for i := range t.Partitions {
		p := &t.Partitions[i]
		st := s.partitions[p.PartitionID]
		st.Applied = p.To
		st.AppliedTS = max(st.AppliedTS, t.LastVerdict(p.PartitionID))
		st.Stored += p.Add.Stored
		st.Updates += p.Add.Updates
		st.Commands += p.Add.Commands
		st.Repeats += p.Add.Repeats
		st.Refused += p.Add.Refused
		st.SetAside += p.Add.SetAside
	}
	for _, c := range t.Conversations {
		s.putHeadLocked(c)
	}
	of := func(c *store.Conversation) *conversation { return s.byID[c.ID] }
	for i := range t.Members {
		if c := of(t.Members[i].Conv); c != nil {
			s.putMemberLocked(c, t.Members[i].Member)
		}
	}
	for i := range t.Rows {
		if c := of(t.Rows[i].Conv); c != nil {
			c.put(cloneRow(&t.Rows[i].Row))
		}
	}
	for i := range t.Updates {
		u := &t.Updates[i]
		if c := of(u.Conv); c != nil {
			if r := c.row(u.TargetSeq); r != nil {
				r.Status, r.Content, r.Version = u.Status, u.Content, u.Version
			}
		}
	}
	s.applyVerdictsLocked(t)
}

func (s *Store) applyVerdictsLocked(t *store.Turn) {
	for _, v := range t.Voided {
		s.outcomes[v.OutcomeKey] = slices.DeleteFunc(s.outcomes[v.OutcomeKey], func(o store.Outcome) bool { return voids(t, o) })
		delete(s.verdicts, senderID{v.From, v.ID})
		s.refusals[v.From] = slices.DeleteFunc(s.refusals[v.From], func(r store.Refusal) bool { return r.ID == v.ID })
	}
	for _, o := range t.Outcomes {
		days := append(s.outcomes[o.OutcomeKey], o)
		slices.SortFunc(days, func(a, b store.Outcome) int { return cmp.Compare(a.TS, b.TS) })
		s.outcomes[o.OutcomeKey] = days
		s.verdicts[senderID{o.From, o.ID}] = o
	}
	for _, r := range t.Refusals {
		list := slices.DeleteFunc(s.refusals[r.User], func(old store.Refusal) bool { return old.ID == r.ID })
		s.refusals[r.User] = append(list, r)
	}
	for _, b := range t.Blocks {
		list := slices.DeleteFunc(s.blocks[b.Owner], func(old store.Block) bool { return old.Peer == b.Peer })
		if b.Since > 0 {
			list = append(list, b.Block)
			slices.SortFunc(list, func(a, b store.Block) int { return cmp.Compare(a.Peer, b.Peer) })
		}
		s.blocks[b.Owner] = list
	}
}

func (s *Store) putHeadLocked(head *store.Conversation) {
	c := s.byID[head.ID]
	if c == nil {
		c = &conversation{
			ids:     make(map[wire.MsgID]int64),
			members: make(map[wire.UserID][]store.Member),
			cursors: make(map[wire.UserID]map[wire.DeviceID]cursor),
		}
		s.byID[head.ID] = c
		s.convs[head.Conv] = c
	}
	kept := c.MinSeq
	c.Conversation = *cloneHead(head)
	c.New, c.MinSeq = false, max(kept, c.MinSeq)
}

func (s *Store) putMemberLocked(c *conversation, m store.Member) {
	list := c.members[m.User]
	i, ok := slices.BinarySearchFunc(list, m.JoinedSeq, func(m store.Member, seq int64) int { return cmp.Compare(m.JoinedSeq, seq) })
	if ok {
		list[i] = m
	} else {
		list = slices.Insert(list, i, m)
	}
	c.members[m.User] = list
	if s.users[m.User] == nil {
		s.users[m.User] = make(map[int64]*conversation)
	}
	s.users[m.User][c.ID] = c
}

func (c *conversation) put(r store.Row) {
	c.rows = slices.Insert(c.rows, c.find(r.Seq), r)
	if r.Kind == store.KindMessage {
		c.ids[r.ID] = r.Seq
	}
}
