package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/prometheus/client_golang/prometheus"
	_ "modernc.org/sqlite" // registers the driver

	"github.com/starling-im/starling/common/store"
)

var _ store.Store = (*Store)(nil)

// Store is one shard in a database.
type Store struct {
	cfg     Config
	addr    string // of MySQL, for errors
	d       *dialect
	t       *tables
	read    *pool
	writer  *writer // SQLite's; nil: writes go through read, too
	replica *replica
	packet  atomic.Int64 // MySQL's max_allowed_packet
	metrics *metrics
}

// New makes the pools of a shard and contacts nobody: Check does, and until it
// has passed, the store is to be used for nothing else. reg may be nil; a
// process with several shards gives each a registerer with a label of its own.
func New(cfg Config, reg prometheus.Registerer) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, d: sqliteDialect(), metrics: newMetrics(reg)}
	s.packet.Store(leastPacket)
	var err error
	if cfg.Driver == DriverMySQL {
		err = s.poolsMySQL(reg, idleSession)
	} else {
		err = s.poolsSQLite(reg)
	}
	if err != nil {
		return nil, err
	}
	s.t = newTables(s.d)
	return s, nil
}

// Open is New and Check.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s, err := New(cfg, nil)
	if err != nil {
		return nil, err
	}
	if err := s.Check(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) poolsSQLite(reg prometheus.Registerer) error {
	dbs := make([]*sql.DB, 3)
	for i, source := range []string{s.cfg.sqlite(true), s.cfg.sqlite(false), s.cfg.sqlite(true)} {
		db, err := sql.Open("sqlite", source)
		if err != nil {
			return fmt.Errorf("open the database: %w", err) // none has a connection yet
		}
		dbs[i] = db
	}
	w, r := dbs[0], dbs[1]
	w.SetMaxOpenConns(1)
	r.SetMaxOpenConns(s.cfg.conns())
	r.SetMaxIdleConns(s.cfg.conns())
	showPool(reg, "reader", r)
	showPool(reg, "writer", w)
	s.read = &pool{db: r, prepared: true, stmts: make(map[string]*sql.Stmt)}
	s.writer = &writer{db: w, token: make(chan struct{}, 1), log: dbs[2]}
	return nil
}

// poolsMySQL makes the pools; idle is how long the server keeps a session
// without a statement.
func (s *Store) poolsMySQL(reg prometheus.Registerer, idle time.Duration) error {
	s.d = mysqlDialect()
	db, addr, err := s.cfg.pool(s.cfg.DSN.Reveal(), idle)
	if err != nil {
		return err
	}
	s.addr, s.read = addr, &pool{db: db}
	showPool(reg, "primary", db)
	if dsn := s.cfg.ReplicaDSN.Reveal(); dsn != "" {
		db, _, err := s.cfg.pool(dsn, idle)
		if err != nil {
			return err
		}
		s.replica = &replica{db: db}
		showPool(reg, "replica", db)
	}
	return nil
}

func (c *Config) pool(dsn string, idle time.Duration) (db *sql.DB, addr string, err error) {
	m, err := c.mysql(dsn)
	if err != nil {
		return nil, "", fmt.Errorf("read the dsn: %w", err)
	}
	m.Params["wait_timeout"] = seconds(idle)
	connector, err := mysql.NewConnector(m)
	if err != nil {
		return nil, "", fmt.Errorf("read the dsn: %w", err)
	}
	db = sql.OpenDB(connector)
	db.SetMaxOpenConns(c.conns())
	db.SetMaxIdleConns(c.conns())
	db.SetConnMaxIdleTime(idleInPool)
	db.SetConnMaxLifetime(10 * time.Minute)
	return db, m.Addr, nil
}

// Ping says whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	if err := s.read.db.QueryRowContext(ctx, "SELECT 1").Scan(&one); err != nil {
		return fmt.Errorf("ping the database: %w", err)
	}
	return nil
}

// Clock returns the server's time minus ours, right to half of a round trip,
// which is taken for the way there. SQLite has our clock.
func (s *Store) Clock(ctx context.Context) (offset time.Duration, err error) {
	if s.writer != nil {
		return 0, nil
	}
	conn, err := s.read.db.Conn(ctx) // first: a dial is no part of the trip
	if err != nil {
		return 0, fmt.Errorf("read the server's clock: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	var micros int64
	before := time.Now()
	if err := conn.QueryRowContext(ctx, "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)").Scan(&micros); err != nil {
		return 0, fmt.Errorf("read the server's clock: %w", err)
	}
	trip := time.Since(before)
	return time.UnixMicro(micros).Sub(before.Add(trip / 2)), nil
}

// Close releases the connections.
func (s *Store) Close() error {
	err := s.read.close()
	if s.writer != nil {
		err = errors.Join(err, s.writer.close())
	}
	if s.replica != nil {
		err = errors.Join(err, s.replica.db.Close())
	}
	if err != nil {
		return fmt.Errorf("close the database: %w", err)
	}
	return nil
}
