package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// month is the year and month of a time, as the partitions count them.
func month(ts int64) int64 {
	t := time.UnixMilli(ts).UTC()
	return int64(t.Year())*100 + int64(t.Month())
}

// MakeMonths makes the partitions of messages for the month of now and those
// ahead, where they are missing and no later one stands. Without them rows go
// to the last partition, which works but cannot be retired by month. With
// SQLite there is nothing to do.
func (s *Store) MakeMonths(ctx context.Context, now time.Time, ahead int) (err error) {
	if s.writer != nil {
		return nil
	}
	conn, err := s.read.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("make partitions: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	var l sessionLock
	if err := l.SessionLock(ctx, conn); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.SessionUnlock(context.WithoutCancel(ctx), conn)) }()

	var top int64 // the newest partition holds what is below
	const q = `SELECT COALESCE(MAX(CAST(partition_description AS SIGNED)), 0) FROM information_schema.partitions
		WHERE table_schema = DATABASE() AND table_name = 'messages' AND partition_description <> 'MAXVALUE'`
	if err := conn.QueryRowContext(ctx, q).Scan(&top); err != nil {
		return fmt.Errorf("read the partitions: %w", err)
	}
	first := time.Date(now.UTC().Year(), now.UTC().Month(), 1, 0, 0, 0, 0, time.UTC)
	var parts []string
	for i := range ahead + 1 {
		m := first.AddDate(0, i, 0)
		below := month(m.AddDate(0, 1, 0).UnixMilli())
		if below > top {
			parts = append(parts, fmt.Sprintf("PARTITION p%d VALUES LESS THAN (%d)", month(m.UnixMilli()), below))
		}
	}
	if len(parts) == 0 {
		return nil
	}
	ddl := "ALTER TABLE messages REORGANIZE PARTITION pmax INTO (" + strings.Join(parts, ", ") + //nolint:gosec // made of numbers
		", PARTITION pmax VALUES LESS THAN MAXVALUE)"
	if _, err := conn.ExecContext(ctx, ddl); err != nil {
		return fmt.Errorf("make partitions: %w", err)
	}
	return nil
}

// sessionLock keeps two processes from changing the schema at once. It ends
// with its connection.
type sessionLock struct{}

// SessionLock waits for the lock.
func (sessionLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	var got sql.NullInt64
	if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK(CONCAT('starling:', DATABASE()), 60)").Scan(&got); err != nil {
		return fmt.Errorf("lock the schema: %w", err)
	}
	if got.Int64 != 1 {
		return errors.New("lock the schema: another process has been changing it for a minute; wait for it")
	}
	return nil
}

// SessionUnlock gives it back.
func (sessionLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	if _, err := conn.ExecContext(ctx, "DO RELEASE_LOCK(CONCAT('starling:', DATABASE()))"); err != nil {
		return fmt.Errorf("unlock the schema: %w", err)
	}
	return nil
}
