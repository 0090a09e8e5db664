package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/wire"
)

// metaControl is the newest version of the table control. The row is locked while
// entries are stored: versions become visible in their order.
const metaControl = "control_version"

const controlCols = "version, kind, user, device, conn, at, until_ms, name, value"

// AppendControl stores entries under the next versions.
func (s *Store) AppendControl(ctx context.Context, es []control.Entry) (int64, error) {
	var last int64
	first := []statement{
		{sql: s.metaSQL(), args: []any{metaControl, "0"}},
		{sql: "SELECT value FROM meta WHERE name = ?" + s.d.lock, args: []any{metaControl}},
	}
	scan := func(r *sql.Rows) error {
		var v string
		if err := r.Scan(&v); err != nil {
			return fmt.Errorf("scan the version: %w", err)
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return fmt.Errorf("read the version: %w", err)
		}
		last = n
		return nil
	}
	err := s.retry(ctx, func() error {
		return s.transact(ctx, first[:1], nil, func(t txn) ([]statement, error) {
			if err := t.query(ctx, first[1:], scan); err != nil {
				return nil, err
			}
			return s.controlRows(es, &last), nil
		})
	})
	if err != nil {
		return 0, fmt.Errorf("store %d decisions: %w", len(es), err)
	}
	return last, nil
}

// controlRows gives entries the versions after last, and moves it.
func (s *Store) controlRows(es []control.Entry, last *int64) []statement {
	var list []statement
	for i := range es {
		e := &es[i]
		*last++
		subject := e.Subject()
		list = append(list,
			statement{sql: "DELETE FROM control WHERE subject = ?", args: []any{subject}},
			statement{sql: "INSERT INTO control (subject, over_at, " + controlCols + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", args: []any{
				subject, e.OverAt(), *last, string(e.Kind), string(e.User), string(e.Device), int64(e.Conn), e.At, e.Until, e.Name, e.Value, // conn: the bits are kept
			}})
	}
	return append(list, statement{sql: "UPDATE meta SET value = ? WHERE name = ?", args: []any{strconv.FormatInt(*last, 10), metaControl}})
}

// ControlSince returns the entries after a version.
func (s *Store) ControlSince(ctx context.Context, version int64, limit int) ([]control.Entry, error) {
	list, err := all(ctx, s, []statement{{
		sql:  "SELECT " + controlCols + " FROM control WHERE version > ? ORDER BY version LIMIT ?",
		args: []any{version, max(0, limit)},
	}}, func(r *sql.Rows) (e control.Entry, err error) {
		var conn int64
		err = r.Scan(&e.Version, (*string)(&e.Kind), (*string)(&e.User), (*string)(&e.Device), &conn, &e.At, &e.Until, &e.Name, &e.Value)
		e.Conn = wire.ConnID(conn) // the bits are kept
		return e, err              //nolint:wrapcheck // told below
	})
	if err != nil {
		return nil, fmt.Errorf("read decisions after %d: %w", version, err)
	}
	return list, nil
}

// PurgeControl deletes entries that are over.
func (s *Store) PurgeControl(ctx context.Context, now int64) error {
	err := s.write(ctx, []statement{{sql: "DELETE FROM control WHERE over_at < ?", args: []any{now}}})
	if err != nil {
		return fmt.Errorf("purge decisions: %w", err)
	}
	return nil
}
