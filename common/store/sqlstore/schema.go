package sqlstore

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/pressly/goose/v3"
)

// Errors of Check and Migrate.
var (
	// ErrSchemaOld is returned by Check for a schema that Migrate has to make or
	// to bring up first.
	ErrSchemaOld = errors.New("the schema is older than this binary: run `starling migrate`")
	// ErrSchemaNew is returned, with ErrRefused, by Check and Migrate for a
	// schema that a newer binary made.
	ErrSchemaNew = errors.New("the schema is newer than this binary: use the newer binary, or restore a backup")
)

//go:embed migrations
var migrations embed.FS

// migrateSession is how long a session of Migrate may wait for another one.
const migrateSession = time.Hour

// Migrate makes the schema or brings it up to this binary's version. Several
// processes may call it at once.
func Migrate(ctx context.Context, cfg Config) (err error) {
	cfg.Timeout = 0 // a change of a large table takes what it takes
	s, err := New(cfg, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if cfg.Driver == DriverSQLite {
		f, err := os.OpenFile(cfg.DSN.Reveal(), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return fmt.Errorf("create the database: %w", err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("create the database: %w", err)
		}
	} else {
		if err := s.read.close(); err != nil {
			return fmt.Errorf("close the first pool: %w", err)
		}
		if err := s.poolsMySQL(nil, migrateSession); err != nil {
			return err
		}
	}
	switch err := s.Check(ctx); {
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
	return s.prepare(ctx, time.Now().UnixMilli(), true)
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
		return fmt.Errorf("%w: schema version %d, this binary's %d: %w", ErrRefused, have, target, ErrSchemaNew)
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
