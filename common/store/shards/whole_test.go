package shards_test

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/store/shards"
	"github.com/starling-im/starling/common/wire"
)

// whole is a set with a machine that commits to every shard what it holds, so
// that the stores' suite can run on it. Each shard keeps the row of every
// partition, and all rows move together.
type whole struct {
	shards.Store
	parts []*memstore.Store
}

func at(conv wire.ConvID) int { return int(record.PartitionOf(string(conv), partitions)) / 2 }

// Conversation ids say in which shard they are.
func outer(id int64, shard int) int64     { return 2*id + int64(shard) }
func inner(id int64) (_ int64, shard int) { return id / 2, int(id % 2) }

func (w *whole) Claim(ctx context.Context, p record.PartitionID, topicID string, first int64) (st store.PartitionState, err error) {
	for _, s := range w.parts {
		if st, err = s.Claim(ctx, p, topicID, first); err != nil {
			break
		}
	}
	return st, err
}

func (w *whole) State(ctx context.Context, p record.PartitionID) (store.PartitionState, error) {
	return w.parts[0].State(ctx, p)
}

func (w *whole) Conversations(ctx context.Context, convs []wire.ConvID) (map[wire.ConvID]*store.Conversation, error) {
	out := make(map[wire.ConvID]*store.Conversation)
	for i, s := range w.parts {
		m, err := s.Conversations(ctx, convs)
		if err != nil {
			return nil, err
		}
		for conv, c := range m {
			c.ID = outer(c.ID, i)
			out[conv] = c
		}
	}
	return out, nil
}

func (w *whole) Conversation(ctx context.Context, conv wire.ConvID) (*store.Conversation, error) {
	c, err := w.Store.Conversation(ctx, conv)
	if err == nil {
		c.ID = outer(c.ID, at(conv))
	}
	return c, err
}

func (w *whole) UserConversations(
	ctx context.Context, u wire.UserID, d wire.DeviceID, after wire.ConvID, limit int, unread bool,
) ([]store.UserConv, error) {
	list, err := w.Store.UserConversations(ctx, u, d, after, limit, unread)
	for i := range list {
		list[i].ID = outer(list[i].ID, at(list[i].Conv))
	}
	return list, err
}

func (w *whole) ActiveMembers(ctx context.Context, conv int64) ([]store.Member, error) {
	id, i := inner(conv)
	return w.parts[i].ActiveMembers(ctx, id)
}

func (w *whole) Intervals(ctx context.Context, conv int64, users []wire.UserID) ([]store.Member, error) {
	id, i := inner(conv)
	return w.parts[i].Intervals(ctx, id, users)
}

func (w *whole) Outcomes(ctx context.Context, keys []store.OutcomeKey) (map[store.OutcomeKey]store.Outcome, error) {
	out := make(map[store.OutcomeKey]store.Outcome)
	for _, s := range w.parts {
		m, err := s.Outcomes(ctx, keys)
		if err != nil {
			return nil, err
		}
		maps.Copy(out, m)
	}
	return out, nil
}

func (w *whole) Rows(ctx context.Context, conv, from, to int64) ([]store.Row, error) {
	id, i := inner(conv)
	return w.parts[i].Rows(ctx, id, from, to)
}

func (w *whole) RowByID(ctx context.Context, conv int64, id wire.MsgID) (store.Row, error) {
	c, i := inner(conv)
	return w.parts[i].RowByID(ctx, c, id)
}

// Commit gives each shard its part of a turn.
func (w *whole) Commit(ctx context.Context, t *store.Turn) ([]record.PartitionID, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	heads := make(map[*store.Conversation]*store.Conversation)
	in := func(c *store.Conversation) *store.Conversation {
		if heads[c] == nil {
			own := *c
			own.ID, _ = inner(c.ID)
			heads[c] = &own
		}
		return heads[c]
	}
	parts := make([]store.Turn, len(w.parts))
	for i := range parts {
		parts[i].Partitions = t.Partitions
	}
	for _, c := range t.Conversations {
		p := &parts[at(c.Conv)]
		p.Conversations = append(p.Conversations, in(c))
	}
	for _, m := range t.Members {
		p := &parts[at(m.Conv.Conv)]
		m.Conv = in(m.Conv)
		p.Members = append(p.Members, m)
	}
	for _, r := range t.Rows {
		p := &parts[at(r.Conv.Conv)]
		r.Conv = in(r.Conv)
		p.Rows = append(p.Rows, r)
	}
	for _, u := range t.Updates {
		p := &parts[at(u.Conv.Conv)]
		u.Conv = in(u.Conv)
		p.Updates = append(p.Updates, u)
	}
	for _, o := range t.Outcomes {
		p := &parts[at(o.Conv)]
		p.Outcomes = append(p.Outcomes, o)
	}
	for _, r := range t.Refusals {
		p := &parts[at(r.Conv)]
		p.Refusals = append(p.Refusals, r)
	}
	// The shard that has most to say comes first: if it refuses, nothing was done.
	order := []int{0, 1}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(len(parts[b].Rows), len(parts[a].Rows)) })
	for _, i := range order {
		if fenced, err := w.parts[i].Commit(ctx, &parts[i]); err != nil || len(fenced) > 0 {
			return fenced, err
		}
	}
	for c, own := range heads {
		c.ID = outer(own.ID, at(c.Conv))
	}
	return nil, nil
}

func (w *whole) Partitions(ctx context.Context) ([]store.PartitionState, error) {
	return w.parts[0].Partitions(ctx)
}

func (w *whole) CheckLayout(ctx context.Context, layout map[string]string) error {
	return w.parts[0].CheckLayout(ctx, layout)
}

func (w *whole) each(f func(s *memstore.Store) error) error {
	var errs []error
	for _, s := range w.parts {
		errs = append(errs, f(s))
	}
	return errors.Join(errs...)
}

func (w *whole) Purge(ctx context.Context, before int64) error {
	return w.each(func(s *memstore.Store) error { return s.Purge(ctx, before) })
}

func (w *whole) Prepare(ctx context.Context, now int64) error {
	return w.each(func(s *memstore.Store) error { return s.Prepare(ctx, now) })
}

func (w *whole) Retire(ctx context.Context, before int64) error {
	return w.each(func(s *memstore.Store) error { return s.Retire(ctx, before) })
}

func (w *whole) Close() error { return nil }
