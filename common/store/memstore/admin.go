package memstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/starling-im/starling/common/store"
)

// HistoryEpoch returns what New made up.
func (s *Store) HistoryEpoch(ctx context.Context) (string, error) {
	return get(ctx, s, "HistoryEpoch", func() (string, error) { return s.epoch, nil })
}

// LeaseWorker takes the owner's own id, else one never used, else the one
// unused for longest.
func (s *Store) LeaseWorker(ctx context.Context, owner string, now, until int64) (id int, lastUsed int64, err error) {
	err = s.do(ctx, "LeaseWorker", func() error {
		best, bestUntil := -1, int64(0)
		for i := range store.WorkerIDs {
			w, ok := s.workers[i]
			if ok && w.owner == owner {
				best, bestUntil = i, w.until
				break
			}
			free := !ok || w.until < now-store.WorkerGraceMS
			if free && (best < 0 || w.until < bestUntil) {
				best, bestUntil = i, w.until
			}
		}
		if best < 0 {
			return errors.New("all worker ids are in use")
		}
		s.workers[best] = worker{owner: owner, until: max(until, bestUntil)}
		id, lastUsed = best, bestUntil
		return nil
	})
	return id, lastUsed, err
}

// RenewWorker moves a lease.
func (s *Store) RenewWorker(ctx context.Context, id int, owner string, until int64) error {
	return s.do(ctx, "RenewWorker", func() error {
		w, ok := s.workers[id]
		if !ok || w.owner != owner {
			return store.ErrFenced
		}
		s.workers[id] = worker{owner: owner, until: max(until, w.until)}
		return nil
	})
}

// ReleaseWorker ends a lease.
func (s *Store) ReleaseWorker(ctx context.Context, id int, owner string, lastUsed int64) error {
	return s.do(ctx, "ReleaseWorker", func() error {
		w, ok := s.workers[id]
		if !ok || w.owner != owner {
			return store.ErrFenced
		}
		s.workers[id] = worker{until: min(lastUsed, w.until)}
		return nil
	})
}

// Partitions returns all partition rows by topic and number.
func (s *Store) Partitions(ctx context.Context) ([]store.PartitionState, error) {
	return get(ctx, s, "Partitions", func() ([]store.PartitionState, error) {
		var out []store.PartitionState
		for _, st := range s.partitions {
			out = append(out, *st)
		}
		slices.SortFunc(out, func(a, b store.PartitionState) int {
			return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Number, b.Number))
		})
		return out, nil
	})
}

// CheckLayout stores the values of new names and refuses other values of
// known ones.
func (s *Store) CheckLayout(ctx context.Context, layout map[string]string) error {
	return s.do(ctx, "CheckLayout", func() error {
		for _, name := range slices.Sorted(maps.Keys(layout)) { // the first is told
			want := layout[name]
			if have, ok := s.layout[name]; ok && have != want {
				return fmt.Errorf("%s: %s, but %s is stored: %w", name, want, have, store.ErrLayout)
			}
		}
		if s.layout == nil {
			s.layout = make(map[string]string)
		}
		maps.Copy(s.layout, layout)
		return nil
	})
}

// Prepare has nothing to do.
func (s *Store) Prepare(ctx context.Context, _ int64) error {
	return s.do(ctx, "Prepare", func() error { return nil })
}

// Retire removes the beginnings of conversations.
func (s *Store) Retire(ctx context.Context, before int64) error {
	t := time.UnixMilli(before).UTC()
	bound := time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC).UnixMilli()
	return s.do(ctx, "Retire", func() error {
		for _, c := range s.byID {
			c.rows = slices.DeleteFunc(c.rows, func(r store.Row) bool {
				if r.TS >= bound {
					return false
				}
				c.MinSeq = max(c.MinSeq, r.Seq+1)
				if r.Kind == store.KindMessage {
					delete(c.ids, r.ID)
				}
				return true
			})
		}
		return nil
	})
}

// Purge deletes the outcomes of days, and refusals, that are older.
func (s *Store) Purge(ctx context.Context, before int64) error {
	day := before / store.DayMS
	return s.do(ctx, "Purge", func() error {
		for k, days := range s.outcomes {
			days = slices.DeleteFunc(days, func(o store.Outcome) bool { return o.TS/store.DayMS < day })
			if len(days) == 0 {
				delete(s.outcomes, k)
			} else {
				s.outcomes[k] = days
			}
		}
		for k, o := range s.verdicts {
			if o.TS/store.DayMS < day {
				delete(s.verdicts, k)
			}
		}
		for u, list := range s.refusals {
			s.refusals[u] = slices.DeleteFunc(list, func(r store.Refusal) bool { return r.TS < before })
		}
		return nil
	})
}

// Ping does nothing but call the hook.
func (s *Store) Ping(ctx context.Context) error {
	return s.do(ctx, "Ping", func() error { return nil })
}

// Close does nothing: what was stored stays readable.
func (s *Store) Close() error { return nil }
