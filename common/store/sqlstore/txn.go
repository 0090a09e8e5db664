package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
)

// statement is a piece of SQL that waits to be sent.
type statement struct {
	sql  string
	args []any
}

// errNothing ends a transaction without a commit and without an error.
var errNothing = errors.New("nothing to commit")

// pool reads; it keeps statements prepared, which saves a fifth of a short read.
type pool struct {
	db *sql.DB

	mu    sync.Mutex
	stmts map[string]*sql.Stmt // nil once closed
}

func newPool(db *sql.DB) *pool { return &pool{db: db, stmts: make(map[string]*sql.Stmt)} }

// stmt returns a text prepared. The texts are few: counts of terms are rounded
// up. Nobody waits for the server under the lock.
func (p *pool) stmt(ctx context.Context, text string) (*sql.Stmt, error) {
	p.mu.Lock()
	st, closed := p.stmts[text], p.stmts == nil
	p.mu.Unlock()
	if closed {
		return nil, sql.ErrConnDone
	}
	if st != nil {
		return st, nil
	}
	st, err := p.db.PrepareContext(ctx, text)
	if err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stmts == nil {
		return nil, errors.Join(sql.ErrConnDone, st.Close()) //nolint:sqlclosecheck // nobody else has it
	}
	if other := p.stmts[text]; other != nil {
		_ = st.Close() // another call was first
		return other, nil
	}
	p.stmts[text] = st
	return st, nil
}

func (p *pool) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, st := range p.stmts {
		errs = append(errs, st.Close())
	}
	p.stmts = nil
	return errors.Join(append(errs, p.db.Close())...)
}

// query reads through the pool and calls scan for each row.
func (s *Store) query(ctx context.Context, st statement, scan func(r *sql.Rows) error) error {
	rows, err := s.read.query(ctx, st.sql, s.d.bind(st.args))
	if err != nil {
		return err
	}
	return each(rows, scan)
}

// question is a statement and what becomes of its rows.
type question struct {
	statement
	scan func(r *sql.Rows) error
}

// ask makes one round trip of several questions, where the database is a server.
func (s *Store) ask(ctx context.Context, list []question) error {
	sts := make([]statement, len(list))
	for i := range list {
		sts[i] = list[i].statement
	}
	if s.writer != nil || len(list) == 1 {
		for i := range list {
			if err := s.query(ctx, sts[i], list[i].scan); err != nil {
				return err
			}
		}
		return nil
	}
	next := -1
	return s.send(sts, func(text string) error {
		rows, err := s.read.db.QueryContext(ctx, text)
		if err != nil {
			return err //nolint:wrapcheck // callers say what they tried
		}
		return eachOf(rows, func() { next++ }, func(r *sql.Rows) error { return list[next].scan(r) })
	})
}

func (p *pool) query(ctx context.Context, text string, args []any) (*sql.Rows, error) {
	st, err := p.stmt(ctx, text) //nolint:sqlclosecheck // kept till close
	var rows *sql.Rows
	if err == nil {
		rows, err = st.QueryContext(ctx, args...)
	}
	if err != nil && unprepared(err) {
		rows, err = p.db.QueryContext(ctx, text, args...)
	}
	return rows, err //nolint:wrapcheck // callers say what they tried
}

// each scans all rows of all results and closes them.
func each(rows *sql.Rows, scan func(r *sql.Rows) error) error {
	return eachOf(rows, func() {}, scan)
}

// eachOf is each that says when a result begins.
func eachOf(rows *sql.Rows, begin func(), scan func(r *sql.Rows) error) error {
	defer func() { _ = rows.Close() }() // Err has told
	for {
		begin()
		for rows.Next() {
			if err := scan(rows); err != nil {
				return err
			}
		}
		if !rows.NextResultSet() {
			return rows.Err()
		}
	}
}

// txn is a transaction on the writer.
type txn interface {
	query(ctx context.Context, list []statement, scan func(r *sql.Rows) error) error
	exec(ctx context.Context, list []statement) error
	// commit executes and commits. Whatever it returns, the transaction is over.
	commit(ctx context.Context, list []statement) error
	rollback(ctx context.Context)
}

// transact reads first (with locks, where the dialect has them) and commits
// what body returns after that. errNothing of body is no error.
func (s *Store) transact(
	ctx context.Context, first []statement, scan func(r *sql.Rows) error, body func(t txn) ([]statement, error),
) error {
	t, err := s.begin(ctx, first, scan)
	if err != nil {
		return s.d.judge(err)
	}
	list, err := body(t)
	if err != nil {
		t.rollback(ctx)
		if errors.Is(err, errNothing) {
			return nil
		}
		return s.d.judge(err)
	}
	return s.d.judge(t.commit(ctx, list))
}

// write commits statements, again if they lost against others.
func (s *Store) write(ctx context.Context, list []statement) error {
	return s.retry(ctx, func() error {
		return s.transact(ctx, nil, nil, func(txn) ([]statement, error) { return list, nil })
	})
}

func (s *Store) begin(ctx context.Context, first []statement, scan func(r *sql.Rows) error) (txn, error) {
	var t txn
	var err error
	if s.writer != nil {
		t, err = s.writer.begin(ctx)
	} else {
		t, err = s.beginMySQL(ctx)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("begin: %w", err)
	case len(first) == 0:
		return t, nil
	case scan == nil:
		err = t.exec(ctx, first)
	default:
		err = t.query(ctx, first, scan)
	}
	if err != nil {
		t.rollback(ctx)
		if lost(err) {
			err = fmt.Errorf("%w: %w", errBeforeCommit, err)
		}
		return nil, err
	}
	return t, nil
}

// writer is the one connection that writes SQLite. It is its own txn, held by
// whoever has taken the token.
type writer struct {
	db    *sql.DB
	token chan struct{} // capacity 1; full: taken

	log   *sql.DB       // the checkpointer's
	check *checkpointer // made at the first write
	pages int           // written since the last checkpoint, roughly

	conn  *sql.Conn // taken at the first write, kept
	stmts map[string]*sql.Stmt
}

func (w *writer) begin(ctx context.Context) (txn, error) {
	select {
	case w.token <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := w.open(ctx); err != nil {
		<-w.token
		return nil, err
	}
	return w, nil
}

func (w *writer) open(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if w.conn == nil {
		conn, err := w.db.Conn(ctx)
		if err != nil {
			return err //nolint:wrapcheck // the caller says what it tried
		}
		w.conn, w.stmts = conn, make(map[string]*sql.Stmt)
		w.check = newCheckpointer(ctx, w.log)
	}
	return w.exec(ctx, []statement{{sql: "BEGIN IMMEDIATE"}})
}

func (w *writer) stmt(ctx context.Context, text string) (*sql.Stmt, error) {
	if st := w.stmts[text]; st != nil {
		return st, nil
	}
	st, err := w.conn.PrepareContext(ctx, text)
	if err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	w.stmts[text] = st
	return st, nil
}

// query and exec cannot be cancelled: nothing here waits but for the disk, and
// watching the context would cost a goroutine a statement.
func (w *writer) query(ctx context.Context, list []statement, scan func(r *sql.Rows) error) error {
	ctx = context.WithoutCancel(ctx)
	for _, st := range list {
		p, err := w.stmt(ctx, st.sql) //nolint:sqlclosecheck // kept till close
		if err != nil {
			return err
		}
		rows, err := p.QueryContext(ctx, st.args...)
		if err != nil {
			return err //nolint:wrapcheck // callers say what they tried
		}
		if err := each(rows, scan); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) exec(ctx context.Context, list []statement) error {
	ctx = context.WithoutCancel(ctx)
	for _, st := range list {
		p, err := w.stmt(ctx, st.sql) //nolint:sqlclosecheck // kept till close
		if err != nil {
			return err
		}
		if _, err := p.ExecContext(ctx, st.args...); err != nil {
			return fmt.Errorf("%.40s: %w", st.sql, err)
		}
	}
	return nil
}

func (w *writer) commit(ctx context.Context, list []statement) error {
	if err := w.exec(ctx, append(list, statement{sql: "COMMIT"})); err != nil {
		w.rollback(ctx)
		return err
	}
	w.pages += 5
	for _, st := range list {
		w.pages += len(st.args) / 16
	}
	if w.pages > pagesAhead {
		w.pages = 0
		w.check.due()
	}
	<-w.token
	return nil
}

func (w *writer) rollback(ctx context.Context) {
	// No transaction is open any more after some errors, which is as well.
	_, _ = w.conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
	<-w.token
}

func (w *writer) close() error {
	w.token <- struct{}{}
	defer func() { <-w.token }()
	errs := []error{}
	if w.check != nil {
		errs = append(errs, w.check.close())
	}
	for _, st := range w.stmts {
		errs = append(errs, st.Close())
	}
	if w.conn != nil {
		errs = append(errs, w.conn.Close())
	}
	w.conn, w.stmts = nil, nil
	return errors.Join(append(errs, w.db.Close(), w.log.Close())...)
}
