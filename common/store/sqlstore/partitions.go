package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/starling-im/starling/common/store"
)

// How many partitions stand ready beyond the present one.
const (
	monthsAhead = 6
	daysAhead   = 3
)

// month is the year and month of a time, as the partitions count them.
func month(ts int64) int64 {
	t := time.UnixMilli(ts).UTC()
	return int64(t.Year())*100 + int64(t.Month())
}

// part is a native partition: it holds what is below, and not in the one before.
type part struct {
	name  string
	below int64 // 0: MAXVALUE
}

// Prepare makes the partitions of the months and days of now and those ahead.
// One process does it at a time, the others have nothing to do then. With
// SQLite there are none.
func (s *Store) Prepare(ctx context.Context, now int64) error {
	return s.prepare(ctx, now, false)
}

// prepare with force waits for other processes, and takes rows out of the last
// partition, which stops all that write there.
func (s *Store) prepare(ctx context.Context, now int64, force bool) error {
	if s.writer != nil {
		return nil
	}
	t := time.UnixMilli(now).UTC()
	first := time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	var months, days []part
	for i := range monthsAhead + 1 {
		m := month(first.AddDate(0, i, 0).UnixMilli())
		months = append(months, part{fmt.Sprintf("p%d", m), month(first.AddDate(0, i+1, 0).UnixMilli())})
	}
	for i := range int64(daysAhead + 1) {
		day := now/store.DayMS + i
		days = append(days, part{fmt.Sprintf("p%d", day), day + 1})
	}
	err := s.alone(ctx, force, func(conn *sql.Conn) error {
		return errors.Join(extend(ctx, conn, "messages", months, force), extend(ctx, conn, "outcomes", days, force))
	})
	if err != nil {
		return fmt.Errorf("make partitions: %w", err)
	}
	return nil
}

// extend makes those partitions that are above all that stand.
func extend(ctx context.Context, conn *sql.Conn, table string, want []part, force bool) error {
	have, err := parts(ctx, conn, table)
	if err != nil {
		return err
	}
	var top int64
	for _, p := range have {
		top = max(top, p.below)
	}
	var list []string
	for _, p := range want {
		if p.below > top {
			list = append(list, fmt.Sprintf("PARTITION %s VALUES LESS THAN (%d)", p.name, p.below))
		}
	}
	if len(list) == 0 {
		return nil
	}
	if !force {
		var n int
		err := conn.QueryRowContext(ctx, "SELECT COUNT(*) FROM (SELECT 1 FROM "+table+" PARTITION (pmax) LIMIT 1) x").Scan(&n)
		if err != nil {
			return fmt.Errorf("look into the last partition of %s: %w", table, err)
		}
		if n > 0 {
			return fmt.Errorf("the last partition of %s holds rows, which moving would make turns wait for:"+
				" run `starling migrate` while no job runs", table)
		}
	}
	ddl := "ALTER TABLE " + table + " REORGANIZE PARTITION pmax INTO (" + strings.Join(list, ", ") + //nolint:gosec // made of numbers
		", PARTITION pmax VALUES LESS THAN MAXVALUE)"
	if _, err := conn.ExecContext(ctx, ddl); err != nil {
		return fmt.Errorf("%s: %w", table, err)
	}
	return nil
}

// parts returns the partitions of a table in order.
func parts(ctx context.Context, conn *sql.Conn, table string) (list []part, err error) {
	const q = `SELECT partition_name, IF(partition_description = 'MAXVALUE', 0, CAST(partition_description AS SIGNED))
		FROM information_schema.partitions WHERE table_schema = DATABASE() AND table_name = ? AND partition_name IS NOT NULL
		ORDER BY partition_ordinal_position`
	rows, err := conn.QueryContext(ctx, q, table)
	if err != nil {
		return nil, fmt.Errorf("read the partitions of %s: %w", table, err)
	}
	err = each(rows, func(r *sql.Rows) error {
		var p part
		err := r.Scan(&p.name, &p.below)
		list = append(list, p)
		return err //nolint:wrapcheck // told below
	})
	if err != nil {
		return nil, fmt.Errorf("read the partitions of %s: %w", table, err)
	}
	return list, nil
}

// drop retires the partitions that hold nothing at or above bound; before each
// one first is called.
func drop(ctx context.Context, conn *sql.Conn, table string, bound int64, first func(p part) error) error {
	have, err := parts(ctx, conn, table)
	if err != nil {
		return err
	}
	for _, p := range have {
		if p.below == 0 || p.below > bound {
			continue
		}
		if err := first(p); err != nil {
			return err
		}
		if _, err := conn.ExecContext(ctx, "ALTER TABLE "+table+" DROP PARTITION "+p.name); err != nil {
			return fmt.Errorf("drop partition %s of %s: %w", p.name, table, err)
		}
	}
	return nil
}

// alone runs f on a connection of its own, and not if another process is in
// here, unless wait is set. A change of a table that has to
// wait for a transaction lets all others wait behind it: it gives up soon, and
// is made at the next time.
func (s *Store) alone(ctx context.Context, wait bool, f func(conn *sql.Conn) error) (err error) {
	conn, err := s.read.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("lock the schema: %w", err)
	}
	defer discard(conn) // with its lock and settings
	set, seconds := "SET SESSION wait_timeout = 3600, SESSION lock_wait_timeout = 2", 0
	if wait {
		// A minute: all others wait behind it meanwhile.
		set, seconds = "SET SESSION wait_timeout = 3600, SESSION lock_wait_timeout = 60", lockSeconds
	}
	if _, err := conn.ExecContext(ctx, set); err != nil {
		return fmt.Errorf("lock the schema: %w", err)
	}
	got, err := getLock(ctx, conn, seconds)
	if err != nil {
		return err
	}
	if !got {
		if wait {
			return errLocked
		}
		return nil
	}
	// The server may hear of the end of a connection late.
	defer func() { err = errors.Join(err, sessionLock{}.SessionUnlock(context.WithoutCancel(ctx), conn)) }()
	return f(conn)
}

const (
	lockSeconds = 60
	lockName    = "CONCAT('starling:', LEFT(DATABASE(), 55))" // a lock's name has 64 characters at most
)

var errLocked = errors.New("lock the schema: another process has been changing it for a minute; wait for it")

func getLock(ctx context.Context, conn *sql.Conn, seconds int) (bool, error) {
	var got sql.NullInt64
	if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK("+lockName+", ?)", seconds).Scan(&got); err != nil {
		return false, fmt.Errorf("lock the schema: %w", err)
	}
	return got.Int64 == 1, nil
}

// sessionLock keeps two processes from migrating at once. It ends with its
// connection.
type sessionLock struct{}

// SessionLock waits for the lock.
func (sessionLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	got, err := getLock(ctx, conn, lockSeconds)
	if err == nil && !got {
		err = errLocked
	}
	return err
}

// SessionUnlock gives it back.
func (sessionLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	if _, err := conn.ExecContext(ctx, "DO RELEASE_LOCK("+lockName+")"); err != nil {
		return fmt.Errorf("unlock the schema: %w", err)
	}
	return nil
}
