package sqlstore

import (
	"context"
	"database/sql"
	"sync/atomic"
	"time"

	"github.com/starling-im/starling/common/store"
)

// replica reads history where it does not matter if a row comes late: the
// primary is asked instead. It never holds anybody up for long.
type replica struct {
	db    *sql.DB
	until atomic.Int64 // ms: not asked before, because it failed
}

const (
	replicaTime = 250 * time.Millisecond
	replicaRest = time.Second
)

// reading runs statements on one server or another.
type reading func(ctx context.Context, st statement) ([]store.Row, error)

// fromReplica returns what read finds, and true if the replica has all that the
// primary had when head was read, the newest recall and edit included.
func (s *Store) fromReplica(ctx context.Context, head *store.Conversation, read func(reading) ([]store.Row, error)) ([]store.Row, bool) {
	if s.replica == nil {
		return nil, false
	}
	now := time.Now()
	if now.UnixMilli() < s.replica.until.Load() {
		s.metrics.replica.WithLabelValues("resting").Inc()
		return nil, false
	}
	short, cancel := context.WithTimeout(ctx, replicaTime)
	defer cancel()
	complete, err := s.replica.has(short, head)
	var rows []store.Row
	if err == nil && complete {
		rows, err = read(func(_ context.Context, st statement) ([]store.Row, error) { return s.replica.rows(short, s.d, st) })
	}
	result := "ok"
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, false // nobody waits any more
	case err != nil && short.Err() != nil:
		result = "slow"
	case err != nil:
		result = "failed"
	case !complete:
		result = "behind"
	}
	if err != nil {
		s.replica.until.Store(now.Add(replicaRest).UnixMilli())
	}
	s.metrics.replica.WithLabelValues(result).Inc()
	return rows, result == "ok"
}

// has says whether the newest row is there, and so all before it.
func (p *replica) has(ctx context.Context, head *store.Conversation) (bool, error) {
	if head.MaxSeq < head.MinSeq { // all was retired
		return true, nil
	}
	var n int
	err := p.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM messages WHERE conv_id = ? AND seq = ?", head.ID, head.MaxSeq).Scan(&n)
	return n > 0, err //nolint:wrapcheck // only counted
}

func (p *replica) rows(ctx context.Context, d *dialect, st statement) (out []store.Row, err error) {
	rows, err := p.db.QueryContext(ctx, st.sql, d.bind(st.args)...)
	if err != nil {
		return nil, err //nolint:wrapcheck // only counted
	}
	err = each(rows, func(r *sql.Rows) error {
		row, err := scanRow(r)
		out = append(out, row)
		return err
	})
	return out, err
}
