package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"time"

	"github.com/starling-im/starling/common/store"
)

// Bounds of what is sent to MySQL at once, in bytes.
const (
	driverPacket = 64 << 20 // what the driver sends at most
	together     = 4 << 20  // statements are sent together up to this
	leastPacket  = 1 << 20  // max_allowed_packet that we ask for
)

// packets returns how much is sent together, and how much at most: what the
// server said at Check, but for the frame and some air.
func (s *Store) packets() (soft, hard int) {
	hard = min(int(s.packet.Load()), driverPacket) - 1024
	return min(hard, together), hard
}

// newBatch collects statements, each of which fits into a packet.
func (s *Store) newBatch() batch {
	b := batch{d: s.d}
	if s.writer == nil {
		b.limit, _ = s.packets()
	}
	return b
}

type mysqlTxn struct {
	s       *Store
	conn    *sql.Conn
	started bool
}

func (s *Store) beginMySQL(ctx context.Context) (txn, error) {
	conn, err := s.read.db.Conn(ctx)
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller says what it tried
	}
	return &mysqlTxn{s: s, conn: conn}, nil
}

// start puts the beginning of the transaction before its first statements: one
// that writes and commits without a question is one round trip.
func (t *mysqlTxn) start(list []statement) []statement {
	if t.started {
		return list
	}
	t.started = true
	return append([]statement{
		{sql: "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"},
		{sql: "START TRANSACTION"},
	}, list...)
}

// send hands statements over in as few texts as the server takes.
func (s *Store) send(list []statement, f func(text string) error) error {
	soft, hard := s.packets()
	for len(list) > 0 {
		n, size := 0, 0
		for n < len(list) {
			w := len(list[n].sql) + 1 + weigh(list[n].args)
			if w > hard {
				return &store.DeterministicError{Err: fmt.Errorf(
					"a row of %d bytes is more than the server takes at once; raise its max_allowed_packet", w)}
			}
			if n > 0 && size+w > soft {
				break
			}
			size += w
			n++
		}
		text, err := join(list[:n])
		if err == nil {
			err = f(text)
		}
		if err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

func (t *mysqlTxn) query(ctx context.Context, list []statement, scan func(r *sql.Rows) error) error {
	return t.s.send(t.start(list), func(text string) error {
		rows, err := t.conn.QueryContext(ctx, text)
		if err != nil {
			return err //nolint:wrapcheck // callers say what they tried
		}
		return each(rows, scan)
	})
}

func (t *mysqlTxn) exec(ctx context.Context, list []statement) error {
	return t.s.send(t.start(list), func(text string) error {
		_, err := t.conn.ExecContext(ctx, text)
		return err //nolint:wrapcheck // callers say what they tried
	})
}

func (t *mysqlTxn) commit(ctx context.Context, list []statement) error {
	if err := t.exec(ctx, append(list, statement{sql: "COMMIT"})); err != nil {
		t.rollback(ctx)
		return err
	}
	return t.conn.Close()
}

// rollback frees the locks at once where the server answers; else they go with
// the connection.
func (t *mysqlTxn) rollback(ctx context.Context) {
	if !t.started {
		_ = t.conn.Close()
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, err := t.conn.ExecContext(ctx, "ROLLBACK"); err != nil {
		discard(t.conn)
		return
	}
	_ = t.conn.Close()
}

// discard closes a connection instead of giving it back.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = conn.Close()
}
