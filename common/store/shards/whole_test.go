package shards_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

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
	ids   sync.Map // int64 to wire.ConvID: a single shard would refuse another one's
}

func at(conv wire.ConvID) int { return int(record.PartitionOf(string(conv), partitions)) / 2 }

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

func (w *whole) Lookup(ctx context.Context, keys []store.OutcomeKey, convs []wire.ConvID) (store.Found, error) {
	out := store.Found{Outcomes: make(map[store.OutcomeKey]store.Outcome), Conversations: make(map[wire.ConvID]*store.Conversation)}
	for _, s := range w.parts {
		f, err := s.Lookup(ctx, keys, convs)
		if err != nil {
			return store.Found{}, err
		}
		maps.Copy(out.Outcomes, f.Outcomes)
		maps.Copy(out.Conversations, f.Conversations)
	}
	return out, nil
}

func (w *whole) ActiveMembers(ctx context.Context, conv int64) (out []store.Member, err error) {
	for _, s := range w.parts {
		m, e := s.ActiveMembers(ctx, conv)
		out, err = append(out, m...), errors.Join(err, e)
	}
	return out, err
}

func (w *whole) Intervals(ctx context.Context, conv int64, users []wire.UserID) (out []store.Member, err error) {
	for _, s := range w.parts {
		m, e := s.Intervals(ctx, conv, users)
		out, err = append(out, m...), errors.Join(err, e)
	}
	return out, err
}

func (w *whole) Rows(ctx context.Context, conv, from, to int64) (out []store.Row, err error) {
	for _, s := range w.parts {
		r, e := s.Rows(ctx, conv, from, to)
		out, err = append(out, r...), errors.Join(err, e)
	}
	return out, err
}

func (w *whole) RowByID(ctx context.Context, conv int64, id wire.MsgID) (r store.Row, err error) {
	for _, s := range w.parts {
		if r, err = s.RowByID(ctx, conv, id); err == nil {
			break
		}
	}
	return r, err
}

// Commit gives each shard its part of a turn.
func (w *whole) Commit(ctx context.Context, t *store.Turn) ([]record.PartitionID, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	for _, c := range t.Conversations {
		if conv, taken := w.ids.LoadOrStore(c.ID, c.Conv); taken && conv != c.Conv {
			return nil, &store.DeterministicError{Err: fmt.Errorf("id %d is taken", c.ID)}
		}
	}
	parts := make([]store.Turn, len(w.parts))
	for i := range parts {
		parts[i].Partitions = t.Partitions
	}
	for _, c := range t.Conversations {
		p := &parts[at(c.Conv)]
		p.Conversations = append(p.Conversations, c)
	}
	for _, m := range t.Members {
		p := &parts[at(m.Conv.Conv)]
		p.Members = append(p.Members, m)
	}
	for _, r := range t.Rows {
		p := &parts[at(r.Conv.Conv)]
		p.Rows = append(p.Rows, r)
	}
	for _, u := range t.Updates {
		p := &parts[at(u.Conv.Conv)]
		p.Updates = append(p.Updates, u)
	}
	for _, b := range t.Blocks {
		p := &parts[at(wire.PrivateConv(b.Owner, b.Peer))]
		p.Blocks = append(p.Blocks, b)
	}
	for _, o := range t.Voided {
		p := &parts[at(o.Conv)]
		p.Voided = append(p.Voided, o)
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

func (w *whole) PurgeControl(ctx context.Context, now int64) error {
	return w.each(func(s *memstore.Store) error { return s.PurgeControl(ctx, now) })
}
