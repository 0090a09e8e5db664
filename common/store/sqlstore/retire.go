package sqlstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/starling-im/starling/common/store"
)

// raiseRows is how many conversations are looked at, or messages deleted, at a
// time.
const raiseRows = 500

// Purge retires the verdicts of days that ended before a time (ms), and deletes
// older refusals, a thousand at a time, so that a turn waits for no more than
// that.
func (s *Store) Purge(ctx context.Context, before int64) error {
	if s.writer == nil {
		err := s.alone(ctx, false, func(conn *sql.Conn) error {
			if err := drop(ctx, conn, "outcomes", before/store.DayMS, func(part) error { return nil }); err != nil {
				return err
			}
			return s.purge(ctx, "refusals", "user, id", before)
		})
		if err != nil {
			return fmt.Errorf("purge: %w", err)
		}
		return nil
	}
	if err := s.purge(ctx, "outcomes", "conv, sender, client_id, day", before/store.DayMS*store.DayMS); err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	if err := s.purge(ctx, "refusals", "user, id", before); err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	return nil
}

func (s *Store) purge(ctx context.Context, table, key string, before int64) error {
	text, changes := s.d.purge(table, key), "SELECT changes()"
	if s.writer == nil {
		changes = "SELECT ROW_COUNT()"
	}
	for n := purgeRows; n == purgeRows; {
		err := s.retry(ctx, func() error {
			return s.transact(ctx, []statement{{sql: text, args: []any{before}}}, nil, func(t txn) ([]statement, error) {
				return nil, t.query(ctx, []statement{{sql: changes}}, func(r *sql.Rows) error { return r.Scan(&n) })
			})
		})
		if err != nil {
			return fmt.Errorf("delete old %s: %w", table, err)
		}
	}
	return nil
}

// Retire removes the messages of months that ended before a time (ms). The
// seqs of a conversation grow with time, so what goes is its beginning: min_seq
// is raised first, and whoever reads in between sees more than is promised.
func (s *Store) Retire(ctx context.Context, before int64) error {
	bound := month(before)
	if s.writer != nil {
		if err := s.deleteMonths(ctx, bound); err != nil {
			return fmt.Errorf("retire messages: %w", err)
		}
		return nil
	}
	err := s.alone(ctx, false, func(conn *sql.Conn) error {
		return drop(ctx, conn, "messages", bound, func(p part) error { return s.raise(ctx, p) })
	})
	if err != nil {
		return fmt.Errorf("retire messages: %w", err)
	}
	return nil
}

// raise moves min_seq beyond what a partition holds. Each row is changed by
// itself, so that no turn waits for more than one.
func (s *Store) raise(ctx context.Context, p part) error {
	const set = "UPDATE conversations SET min_seq = GREATEST(min_seq, ?) WHERE id = ?"
	var last int64
	for {
		read := statement{
			sql: "SELECT conv_id, MAX(seq) FROM messages PARTITION (" + p.name + ") WHERE conv_id > ?" +
				" GROUP BY conv_id ORDER BY conv_id LIMIT ?",
			args: []any{last, raiseRows},
		}
		list, err := all(ctx, s, []statement{read}, func(r *sql.Rows) (statement, error) {
			var top int64
			err := r.Scan(&last, &top)
			return statement{sql: set, args: []any{top + 1, last}}, err //nolint:wrapcheck // told below
		})
		if err != nil {
			return fmt.Errorf("read the ends of partition %s: %w", p.name, err)
		}
		err = s.send(list, func(text string) error {
			return s.retry(ctx, func() error {
				_, err := s.read.db.ExecContext(ctx, text)
				return err //nolint:wrapcheck // told below
			})
		})
		if err != nil {
			return fmt.Errorf("raise min_seq: %w", err)
		}
		if len(list) < raiseRows {
			return nil
		}
	}
}

// deleteMonths goes through all conversations, the first kept row of each being
// where its min_seq says.
func (s *Store) deleteMonths(ctx context.Context, bound int64) error {
	for last := int64(0); ; {
		list, err := all(ctx, s, []statement{{
			sql:  "SELECT id FROM conversations WHERE id > ? ORDER BY id LIMIT ?",
			args: []any{last, raiseRows},
		}}, func(r *sql.Rows) (id int64, err error) { return id, r.Scan(&id) })
		if err != nil {
			return fmt.Errorf("read the conversations: %w", err)
		}
		for _, id := range list {
			if err := s.deleteBelow(ctx, id, bound); err != nil {
				return err
			}
			last = id
		}
		if len(list) < raiseRows {
			return nil
		}
	}
}

func (s *Store) deleteBelow(ctx context.Context, id, bound int64) error {
	for {
		top, err := one(ctx, s, statement{
			sql: "SELECT COALESCE(MAX(seq), 0) FROM (SELECT seq, month FROM messages WHERE conv_id = ? ORDER BY seq LIMIT ?)" +
				" WHERE month < ?",
			args: []any{id, raiseRows, bound},
		}, func(r *sql.Rows) (top int64, err error) { return top, r.Scan(&top) })
		if err != nil {
			return fmt.Errorf("read the beginning of conversation %d: %w", id, err)
		}
		if top == 0 {
			return nil
		}
		err = s.write(ctx, []statement{
			{sql: "UPDATE conversations SET min_seq = max(min_seq, ?) WHERE id = ?", args: []any{top + 1, id}},
			{sql: "DELETE FROM messages WHERE conv_id = ? AND seq <= ?", args: []any{id, top}},
		})
		if err != nil {
			return fmt.Errorf("delete the beginning of conversation %d: %w", id, err)
		}
	}
}
