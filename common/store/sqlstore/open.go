package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // registers the driver

	"github.com/starling-im/starling/common/store"
)

// Errors of Open and Migrate.
var (
	// ErrSchemaOld is returned by Open for a schema that Migrate has to make or
	// to bring up first.
	ErrSchemaOld = errors.New("the schema is older than this binary: run `starling migrate`")
	// ErrSchemaNew is returned by Open and Migrate for a schema that a newer
	// binary made.
	ErrSchemaNew = errors.New("the schema is newer than this binary: use the newer binary, or restore a backup")
)

//go:embed migrations
var migrations embed.FS

var _ store.Store = (*Store)(nil)

// Store is one shard in a database.
type Store struct {
	d      *dialect
	t      *tables
	read   *pool
	writer *writer // SQLite's; nil: writes go through read, too
}

// Open connects to a shard whose schema is of this binary's version.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s, err := connect(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	if err := s.checkSchema(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Migrate makes the schema or brings it up to this binary's version. Several
// processes may call it at once.
func Migrate(ctx context.Context, cfg Config) (err error) {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if cfg.Driver == DriverSQLite {
		f, err := os.OpenFile(cfg.DSN.Reveal(), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return fmt.Errorf("create the database: %w", err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("create the database: %w", err)
		}
	}
	s, err := connect(ctx, &cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	switch err := s.checkSchema(ctx); {
	case err == nil: // what comes after the schema may be missing all the same
	case !errors.Is(err, ErrSchemaOld):
		return err
	default:
		p, err := s.provider()
		if err != nil {
			return err
		}
		if _, err := p.Up(ctx); err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
	}
	var epoch [8]byte
	_, _ = rand.Read(epoch[:]) // never fails
	if err := s.setMeta(ctx, metaEpoch, hex.EncodeToString(epoch[:])); err != nil {
		return err
	}
	return s.MakeMonths(ctx, time.Now(), 6)
}

func connect(ctx context.Context, cfg *Config) (*Store, error) {
	if cfg.Driver == DriverMySQL {
		return connectMySQL(ctx, cfg)
	}
	if _, err := os.Stat(cfg.DSN.Reveal()); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open the database: %w: %w", err, ErrSchemaOld)
		}
		return nil, fmt.Errorf("open the database: %w", err)
	}
	dbs := make([]*sql.DB, 3)
	for i, source := range []string{cfg.sqlite(true), cfg.sqlite(false), cfg.sqlite(true)} {
		db, err := sql.Open("sqlite", source)
		if err != nil {
			return nil, fmt.Errorf("open the database: %w", err) // none has a connection yet
		}
		dbs[i] = db
	}
	w, r := dbs[0], dbs[1]
	w.SetMaxOpenConns(1)
	r.SetMaxOpenConns(cfg.conns())
	r.SetMaxIdleConns(cfg.conns())
	if err := w.PingContext(ctx); err != nil { // sets WAL before the readers come
		return nil, errors.Join(fmt.Errorf("open the database: %w", err), w.Close(), r.Close(), dbs[2].Close())
	}
	d := sqliteDialect()
	return &Store{
		d: d, t: newTables(d),
		read:   &pool{db: r, prepared: true, stmts: make(map[string]*sql.Stmt)},
		writer: &writer{db: w, token: make(chan struct{}, 1), check: newCheckpointer(ctx, dbs[2])},
	}, nil
}

func connectMySQL(ctx context.Context, cfg *Config) (*Store, error) {
	m, err := cfg.mysql()
	if err != nil {
		return nil, fmt.Errorf("read the dsn: %w", err)
	}
	c, err := mysql.NewConnector(m)
	if err != nil {
		return nil, fmt.Errorf("read the dsn: %w", err)
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(cfg.conns())
	db.SetMaxIdleConns(cfg.conns())
	db.SetConnMaxLifetime(10 * time.Minute)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", m.Addr, err), db.Close())
	}
	d := mysqlDialect()
	return &Store{d: d, t: newTables(d), read: &pool{db: db}}, nil
}

// provider is goose over the embedded migrations of the dialect.
func (s *Store) provider() (*goose.Provider, error) {
	sub, err := fs.Sub(migrations, "migrations/"+s.d.name)
	if err != nil {
		return nil, fmt.Errorf("read the migrations: %w", err)
	}
	opts := []goose.ProviderOption{goose.WithDisableGlobalRegistry(true)}
	dialect, db := goose.DialectMySQL, s.read.db
	if s.writer != nil {
		dialect, db = goose.DialectSQLite3, s.writer.db
	} else {
		opts = append(opts, goose.WithSessionLocker(sessionLock{}))
	}
	p, err := goose.NewProvider(dialect, db, sub, opts...)
	if err != nil {
		return nil, fmt.Errorf("read the migrations: %w", err)
	}
	return p, nil
}

// checkSchema compares the versions, changing nothing.
func (s *Store) checkSchema(ctx context.Context) error {
	p, err := s.provider()
	if err != nil {
		return err
	}
	sources := p.ListSources()
	target := sources[len(sources)-1].Version
	have, err := s.schemaVersion(ctx)
	switch {
	case err != nil:
		return err
	case have < target:
		return fmt.Errorf("schema version %d, this binary's %d: %w", have, target, ErrSchemaOld)
	case have > target:
		return fmt.Errorf("schema version %d, this binary's %d: %w", have, target, ErrSchemaNew)
	}
	return nil
}

// schemaVersion is what goose's table says, 0 where there is none.
func (s *Store) schemaVersion(ctx context.Context) (version int64, err error) {
	tables := "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'goose_db_version'"
	if s.d.name == DriverMySQL {
		tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'goose_db_version'"
	}
	var n int
	if err := s.read.db.QueryRowContext(ctx, tables).Scan(&n); err != nil {
		return 0, fmt.Errorf("read the schema's version: %w", err)
	}
	if n == 0 {
		return 0, nil
	}
	const q = "SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version WHERE is_applied = 1"
	if err := s.read.db.QueryRowContext(ctx, q).Scan(&version); err != nil {
		return 0, fmt.Errorf("read the schema's version: %w", err)
	}
	return version, nil
}

// Ping says whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	if err := s.read.db.QueryRowContext(ctx, "SELECT 1").Scan(&one); err != nil {
		return fmt.Errorf("ping the database: %w", err)
	}
	return nil
}

// Close releases the connections.
func (s *Store) Close() error {
	err := s.read.close()
	if s.writer != nil {
		err = errors.Join(err, s.writer.close())
	}
	if err != nil {
		return fmt.Errorf("close the database: %w", err)
	}
	return nil
}
