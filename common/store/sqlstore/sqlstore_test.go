package sqlstore_test

import (
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/sqlstore"
	"github.com/starling-im/starling/common/store/storetest"
	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func sqliteConfig(path string) sqlstore.Config {
	return sqlstore.Config{Driver: sqlstore.DriverSQLite, DSN: config.NewSecret(path)}
}

func open(tb testing.TB, cfg sqlstore.Config) *sqlstore.Store {
	tb.Helper()
	s, err := sqlstore.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func openSQLite(tb testing.TB) *sqlstore.Store {
	tb.Helper()
	cfg := sqliteConfig(filepath.Join(tb.TempDir(), "a #?%.db"))
	if err := sqlstore.Migrate(tb.Context(), cfg); err != nil {
		tb.Fatal(err)
	}
	s := open(tb, cfg)
	tb.Cleanup(func() { closed(tb, s) })
	return s
}

func closed(tb testing.TB, s *sqlstore.Store) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Error(err)
	}
}

func TestSQLite(t *testing.T) {
	storetest.Run(t, func(tb testing.TB) store.Store {
		tb.Helper()
		return openSQLite(tb)
	})
}

// TestMySQL empties the database that STARLING_TEST_MYSQL_DSN names.
func TestMySQL(t *testing.T) {
	cfg := mysqlConfig(t)
	storetest.Run(t, func(tb testing.TB) store.Store {
		tb.Helper()
		dropAll(tb, cfg)
		if err := sqlstore.Migrate(tb.Context(), cfg); err != nil {
			tb.Fatal(err)
		}
		s := open(tb, cfg)
		tb.Cleanup(func() { closed(tb, s) })
		return s
	})
}

func mysqlConfig(tb testing.TB) sqlstore.Config {
	tb.Helper()
	dsn := os.Getenv("STARLING_TEST_MYSQL_DSN")
	if dsn == "" {
		if os.Getenv("STARLING_TEST_REAL") == "1" {
			tb.Fatal("STARLING_TEST_MYSQL_DSN is not set")
		}
		tb.Skip("STARLING_TEST_MYSQL_DSN is not set")
	}
	return sqlstore.Config{Driver: sqlstore.DriverMySQL, DSN: config.NewSecret(dsn)}
}

func dropAll(tb testing.TB, cfg sqlstore.Config) {
	tb.Helper()
	db, err := sql.Open("mysql", cfg.DSN.Reveal())
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, name := range []string{
		"meta", "conversations", "members", "messages", "outcomes", "refusals", "cursors", "log_partitions", "workers", "blocks", "control", "goose_db_version",
	} {
		if _, err := db.ExecContext(tb.Context(), "DROP TABLE IF EXISTS "+name); err != nil {
			tb.Fatal(err)
		}
	}
}

func TestReopenSQLite(t *testing.T) {
	cfg := sqliteConfig(filepath.Join(t.TempDir(), "s.db"))
	if err := sqlstore.Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	s := open(t, cfg)
	storetest.Seed(t, s)
	epoch, err := s.HistoryEpoch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	closed(t, s)
	if err := sqlstore.Migrate(t.Context(), cfg); err != nil { // changes nothing
		t.Fatal(err)
	}
	s = open(t, cfg)
	defer closed(t, s)
	storetest.Verify(t, s)
	if again, err := s.HistoryEpoch(t.Context()); err != nil || again != epoch {
		t.Errorf("history epoch %q, %v; was %q", again, err, epoch)
	}
}

// exec changes the database behind the store's back.
func exec(t *testing.T, path, query string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(t.Context(), query); err != nil {
		t.Fatal(err)
	}
}

func TestSchemaVersions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	cfg := sqliteConfig(path)
	if _, err := sqlstore.Open(t.Context(), cfg); !errors.Is(err, sqlstore.ErrSchemaOld) {
		t.Errorf("no file: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("Open made a file")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := sqlstore.Open(t.Context(), cfg)
	if !errors.Is(err, sqlstore.ErrSchemaOld) || !strings.Contains(fmt.Sprint(err), "starling migrate") {
		t.Errorf("an empty file: %v", err)
	}
	if err := sqlstore.Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	exec(t, path, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)")
	if _, err := sqlstore.Open(t.Context(), cfg); !errors.Is(err, sqlstore.ErrSchemaNew) {
		t.Errorf("opened a newer schema: %v", err)
	}
	if err := sqlstore.Migrate(t.Context(), cfg); !errors.Is(err, sqlstore.ErrSchemaNew) {
		t.Errorf("migrated a newer schema: %v", err)
	}
}

// A process that died between the schema and what Migrate writes into it left
// a store that nobody could log in to.
func TestMigrateCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	cfg := sqliteConfig(path)
	if err := sqlstore.Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	exec(t, path, "DELETE FROM meta")
	if err := sqlstore.Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	s := open(t, cfg)
	defer closed(t, s)
	if epoch, err := s.HistoryEpoch(t.Context()); err != nil || epoch == "" {
		t.Errorf("history epoch %q, %v", epoch, err)
	}
}

func TestNoDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("this is no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlstore.Open(t.Context(), sqliteConfig(path)); err == nil {
		t.Error("opened a text")
	}
	if err := sqlstore.Migrate(t.Context(), sqliteConfig(filepath.Join(path, "below", "a.db"))); err == nil {
		t.Error("migrated in no folder")
	}
}

func TestConfig(t *testing.T) {
	var cfg sqlstore.Config
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	cfg.RegisterFlags(fs, "mysql.")
	if err := fs.Parse([]string{"-mysql.dsn=im:geheim@tcp(db:3306)/im"}); err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
	if s := fmt.Sprintf("%v %+v %#v", cfg, cfg, fs.Lookup("mysql.dsn").Value); strings.Contains(s, "geheim") {
		t.Errorf("shows the password: %s", s)
	}
	bad := sqlstore.Config{Driver: "oracle", Conns: -1, Timeout: -1}
	for _, key := range []string{"mysql.driver", "mysql.dsn", "mysql.conns", "mysql.timeout"} {
		if err := bad.Validate(); !strings.Contains(fmt.Sprint(err), key) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
	for _, dsn := range []string{"im:geheim@tcp(db:3306", "im:geheim@tcp(db:3306)/"} {
		cfg.DSN = config.NewSecret(dsn)
		err := cfg.Validate()
		if err == nil || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}
