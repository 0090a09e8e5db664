package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/starling-im/starling/common/store"
)

// Names in meta.
const (
	metaEpoch  = "history_epoch"
	metaLayout = "layout:" // and what of it
)

func (s *Store) metaSQL() string {
	return "INSERT INTO meta (name, value) VALUES (?, ?)" + s.d.upsert("name", "name=meta.name")
}

// setMeta stores a value where there is none.
func (s *Store) setMeta(ctx context.Context, name, value string) error {
	set := []statement{{sql: s.metaSQL(), args: []any{name, value}}}
	if err := s.write(ctx, set); err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	return nil
}

// HistoryEpoch returns what Migrate made up.
func (s *Store) HistoryEpoch(ctx context.Context) (string, error) {
	v, err := one(ctx, s, statement{sql: "SELECT value FROM meta WHERE name = ?", args: []any{metaEpoch}},
		func(r *sql.Rows) (v string, err error) { return v, r.Scan(&v) })
	if err != nil {
		return "", fmt.Errorf("read the history epoch: %w", err)
	}
	return v, nil
}

// CheckLayout stores the values of new names and refuses other values of
// known ones.
func (s *Store) CheckLayout(ctx context.Context, layout map[string]string) error {
	names := slices.Sorted(maps.Keys(layout))
	var reads, writes []statement
	for _, n := range names {
		name := metaLayout + n
		reads = append(reads, statement{sql: "SELECT name, value FROM meta WHERE name = ?" + s.d.lock, args: []any{name}})
		writes = append(writes, statement{sql: s.metaSQL(), args: []any{name, layout[n]}})
	}
	check := func(r *sql.Rows) error {
		var name, have string
		if err := r.Scan(&name, &have); err != nil {
			return fmt.Errorf("scan the layout: %w", err)
		}
		name = name[len(metaLayout):]
		if want := layout[name]; have != want {
			return fmt.Errorf("%s: %s, but %s is stored: %w", name, want, have, store.ErrLayout)
		}
		return nil
	}
	if len(names) == 0 {
		return nil
	}
	// Written after the check, and checked again: another process may have
	// been first.
	err := s.retry(ctx, func() error {
		return s.transact(ctx, reads, check, func(t txn) ([]statement, error) {
			if err := t.exec(ctx, writes); err != nil {
				return nil, err
			}
			return nil, t.query(ctx, reads, check)
		})
	})
	if err != nil {
		return fmt.Errorf("check the layout: %w", err)
	}
	return nil
}

// Partitions returns all partition rows by topic and number.
func (s *Store) Partitions(ctx context.Context) ([]store.PartitionState, error) {
	list, err := all(ctx, s, []statement{{sql: "SELECT " + partitionCols + " FROM log_partitions ORDER BY topic, number"}}, scanPartition)
	if err != nil {
		return nil, fmt.Errorf("read the partitions: %w", err)
	}
	return list, nil
}

type lease struct {
	id    int
	owner string
	until int64
}

// errTaken says that another process took the worker id at the same time.
var errTaken = errors.New("worker id was taken by another process")

// LeaseWorker takes the owner's own id, else one never used, else the one
// unused for longest.
func (s *Store) LeaseWorker(ctx context.Context, owner string, now, until int64) (id int, lastUsed int64, err error) {
	for range 8 {
		err = s.retry(ctx, func() (err error) {
			id, lastUsed, err = s.leaseWorker(ctx, owner, now, until)
			return err
		})
		var dup *store.DeterministicError
		if !errors.Is(err, errTaken) && !errors.As(err, &dup) {
			break
		}
	}
	if err != nil {
		return 0, 0, fmt.Errorf("lease a worker id: %w", err)
	}
	return id, lastUsed, nil
}

func (s *Store) leaseWorker(ctx context.Context, owner string, now, until int64) (id int, lastUsed int64, err error) {
	var have []lease
	read := []statement{{sql: "SELECT id, owner, until_ms FROM workers ORDER BY id" + s.d.lock}}
	scan := func(r *sql.Rows) error {
		var l lease
		err := r.Scan(&l.id, &l.owner, &l.until)
		have = append(have, l)
		return err //nolint:wrapcheck // told by the caller
	}
	err = s.transact(ctx, read, scan, func(txn) ([]statement, error) {
		l, fresh := choose(have, owner, now)
		if l.id < 0 {
			return nil, errors.New("all worker ids are in use")
		}
		id, lastUsed = l.id, l.until
		to := max(until, l.until)
		if fresh {
			return []statement{{sql: "INSERT INTO workers (id, owner, until_ms) VALUES (?, ?, ?)", args: []any{id, owner, to}}}, nil
		}
		return []statement{{sql: "UPDATE workers SET owner = ?, until_ms = ? WHERE id = ?", args: []any{owner, to, id}}}, nil
	})
	return id, lastUsed, err
}

// choose picks a worker id; -1 if none is free.
func choose(have []lease, owner string, now int64) (l lease, fresh bool) {
	used := make(map[int]bool, len(have))
	best := lease{id: -1}
	for _, h := range have {
		used[h.id] = true
		if h.owner == owner {
			return h, false
		}
		if h.until < now-store.WorkerGraceMS && (best.id < 0 || h.until < best.until) {
			best = h
		}
	}
	for i := range store.WorkerIDs {
		if !used[i] {
			return lease{id: i}, true
		}
	}
	return best, false
}

// RenewWorker moves a lease.
func (s *Store) RenewWorker(ctx context.Context, worker int, owner string, until int64) error {
	err := s.changeLease(ctx, worker, owner, func(l lease) lease {
		l.until = max(until, l.until) // a renewal that comes late shortens nothing
		return l
	})
	if err != nil {
		return fmt.Errorf("renew worker id %d: %w", worker, err)
	}
	return nil
}

// ReleaseWorker ends a lease. Nobody owns it then, so that a renewal that comes
// late finds it gone.
func (s *Store) ReleaseWorker(ctx context.Context, worker int, owner string, lastUsed int64) error {
	err := s.changeLease(ctx, worker, owner, func(l lease) lease {
		return lease{until: min(lastUsed, l.until)}
	})
	if err != nil {
		return fmt.Errorf("release worker id %d: %w", worker, err)
	}
	return nil
}

// changeLease changes what the owner still has, else it is ErrFenced.
func (s *Store) changeLease(ctx context.Context, worker int, owner string, change func(l lease) lease) error {
	return s.retry(ctx, func() error { return s.changeLeaseOnce(ctx, worker, owner, change) })
}

func (s *Store) changeLeaseOnce(ctx context.Context, worker int, owner string, change func(l lease) lease) error {
	var have []lease
	read := []statement{{sql: "SELECT owner, until_ms FROM workers WHERE id = ?" + s.d.lock, args: []any{worker}}}
	scan := func(r *sql.Rows) error {
		var l lease
		err := r.Scan(&l.owner, &l.until)
		have = append(have, l)
		return err //nolint:wrapcheck // told by the callers
	}
	return s.transact(ctx, read, scan, func(txn) ([]statement, error) {
		if len(have) == 0 || have[0].owner != owner {
			return nil, store.ErrFenced
		}
		l := change(have[0])
		return []statement{{sql: "UPDATE workers SET owner = ?, until_ms = ? WHERE id = ?", args: []any{l.owner, l.until, worker}}}, nil
	})
}
