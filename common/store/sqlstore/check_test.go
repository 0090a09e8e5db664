package sqlstore

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/storetest"
)

// TestServer is what a server does that is missing, wrong, or has other
// settings. The tests share its data and restart it.
func TestServer(t *testing.T) {
	s := newServer(t)
	for _, c := range []struct {
		name string
		test func(on serverTest)
	}{
		{"check", testCheck},
		{"wrong tables", testWrongTables},
		{"wrong settings", testWrongSettings},
		{"clock", testClock},
		{"turns against each other", testDeadlock},
		{"a frozen owner", testFrozen},
		{"connections that the server closed", testClosed},
		{"small packets", testPackets},
		{"no room for prepared statements", testUnprepared},
		{"partitions", testPartitions},
		{"literals", testLiterals},
		{"replica", testReplica},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(serverTest{t, s}) })
	}
}

// From nobody there to a store that works, with one New.
func testCheck(on serverTest) {
	t, s := on.t, on.server
	s.stop()
	cfg := s.config("im:geheim", "im0")
	st, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	waits(t, "nobody there", st.Check(t.Context()), "refused") // by the kernel
	s.start(t)
	refused(t, "no database", st.Check(t.Context()), "database of mysql.dsn")
	refused(t, "no database, and all rights", check(t, s.config("root", "im0")), "create the database")
	s.exec(t, "CREATE DATABASE im0; GRANT ALL ON im0.* TO im@'127.0.0.1'")
	if err := st.Check(t.Context()); !errors.Is(err, ErrSchemaOld) || errors.Is(err, ErrRefused) {
		t.Errorf("no schema: %v", err)
	}
	refused(t, "wrong password", check(t, s.config("im:geheim2", "im0")), "user and password")
	refused(t, "nobody's user", check(t, s.config("nobody:geheim", "im0")), "user and password")
	refused(t, "unknown variable", check(t, s.config("im:geheim", "im0?no_such_variable=1")), "out of mysql.dsn")
	refused(t, "another charset", check(t, s.config("im:geheim", "im0?charset=latin1")), "charset")
	refused(t, "no TLS", check(t, s.config("im:geheim", "im0?tls=true")), "mysql.dsn")
	if err := Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := st.Check(t.Context()); err != nil {
		t.Errorf("migrated: %v", err)
	}
	if err := check(t, s.config("im:geheim", "im0?SQL_MODE='NO_BACKSLASH_ESCAPES'")); err != nil {
		t.Errorf("our sql_mode gave way: %v", err)
	}
	s.exec(t, "DELETE FROM im0.goose_db_version ORDER BY version_id DESC LIMIT 1")
	if err := st.Check(t.Context()); !errors.Is(err, ErrSchemaOld) {
		t.Errorf("an older schema: %v", err)
	}
	// A run that was cut off before it was noted is made again.
	if err := Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	s.exec(t, "INSERT INTO im0.goose_db_version (version_id, is_applied) VALUES (999, 1)")
	err = st.Check(t.Context())
	if !errors.Is(err, ErrSchemaNew) {
		t.Errorf("a newer schema: %v", err)
	}
	refused(t, "a newer schema", err, "newer binary")
}

func testWrongTables(on serverTest) {
	t, s := on.t, on.server
	s.start(t)
	cfg, st := s.migrated(t)
	name := fmt.Sprintf("im%d", s.databases)
	s.exec(t, "ALTER TABLE "+name+".members MODIFY role VARCHAR(16) NOT NULL")
	refused(t, "a text", st.Check(t.Context()), "members.role")
	s.exec(t, "ALTER TABLE "+name+".members MODIFY role VARBINARY(16) NOT NULL; ALTER TABLE "+name+".workers ENGINE=MyISAM")
	refused(t, "an engine without transactions", check(t, cfg), "InnoDB")
	s.exec(t, "ALTER TABLE "+name+".workers ENGINE=InnoDB")
	if err := check(t, cfg); err != nil {
		t.Error(err)
	}
}

func testWrongSettings(on serverTest) {
	t, s := on.t, on.server
	s.start(t)
	cfg, _ := s.migrated(t)
	// Ours stand above the server's own.
	s.start(t, "--sql-mode=", "--autocommit=0", "--wait-timeout=86400", "--default-time-zone=+05:00")
	st := opened(t, cfg)
	var wait int
	if err := st.read.db.QueryRowContext(t.Context(), "SELECT @@wait_timeout").Scan(&wait); err != nil || wait != int(idleSession/time.Second) {
		t.Errorf("wait_timeout %d, %v", wait, err)
	}
	if off, err := st.Clock(t.Context()); err != nil || off.Abs() > time.Second {
		t.Errorf("clock %v, %v", off, err)
	}
	s.start(t, "--read-only")
	waits(t, "read-only", check(t, cfg), "primary")
	s.start(t, "--max-allowed-packet=512K")
	refused(t, "packets", check(t, cfg), "max_allowed_packet")
	s.start(t, "--version=10.6.18-MariaDB")
	refused(t, "an old version", check(t, cfg), "MariaDB 10.11+")
	s.start(t, "--max-connections=10", "--extra-max-connections=1")
	var hold []*Store
	var err error
	for range 12 { // one of them is root's
		var st *Store
		if st, err = New(cfg, nil); err != nil {
			t.Fatal(err)
		}
		hold = append(hold, st)
		if err = st.Check(t.Context()); err != nil {
			break
		}
	}
	waits(t, "too many connections", err, "Too many connections")
	for _, st := range hold {
		_ = st.Close()
	}
}

func TestVersions(t *testing.T) {
	for version, ok := range map[string]bool{
		"8.0.36": true, "8.4.0-commercial": true, "9.4.0": true, "10.11.6-MariaDB-0+deb12u1": true, "11.8.2-MariaDB": true,
		"5.5.5-10.11.6-MariaDB": true, "8.0.36-0ubuntu0.22.04.1": true, "12.0-MariaDB": true,
		"5.7.44-log": false, "10.6.18-MariaDB": false, "5.5.5-10.5.1-MariaDB": false, "10.9.2-MariaDB": false, "": false, "x": false,
	} {
		if err := checkVersion(version); ok != (err == nil) {
			t.Errorf("%q: %v", version, err)
		}
	}
}

func TestClassify(t *testing.T) {
	for err, want := range map[error]bool{
		&mysql.MySQLError{Number: 1045}:     true,
		&mysql.MySQLError{Number: 1053}:     false, // shutdown
		&mysql.MySQLError{Number: 1040}:     false, // too many connections
		&tls.CertificateVerificationError{}: true,
		mysql.ErrNativePassword:             true,
		mysql.ErrInvalidConn:                false,
		errors.New("any"):                   false,
	} {
		if got := errors.Is(classify(fmt.Errorf("connect: %w", err)), ErrRefused); got != want {
			t.Errorf("%v: refused %t", err, got)
		}
	}
}

func TestReplicaSetting(t *testing.T) {
	for dsn, bad := range map[string]bool{"": false, "im:geheim@tcp(b:3306)/im": false, "im:geheim@tcp(b": true} {
		cfg := configAt("a:3306", "im", "im")
		cfg.ReplicaDSN = config.NewSecret(dsn)
		err := cfg.Validate()
		if bad != (err != nil) || bad && (!strings.Contains(err.Error(), "mysql.replica-dsn") || strings.Contains(err.Error(), "geheim")) {
			t.Errorf("%q: %v", dsn, err)
		}
	}
	cfg := Config{Driver: DriverSQLite, DSN: config.NewSecret("file"), ReplicaDSN: config.NewSecret("x@tcp(a)/b")}
	if err := cfg.Validate(); err == nil {
		t.Error("SQLite with a replica")
	}
}

// The whole contract on a server that keeps next to no statements prepared.
func testUnprepared(on serverTest) {
	t, s := on.t, on.server
	s.start(t, "--max-prepared-stmt-count=2")
	storetest.Run(t, func(tb testing.TB) store.Store {
		tb.Helper()
		_, st := s.migrated(tb)
		return st
	})
}

// testClock is of a server whose time stands still in 2023.
func testClock(on serverTest) {
	t, s := on.t, on.server
	s.start(t)
	cfg, st := s.migrated(t)
	if off, err := st.Clock(t.Context()); err != nil || off.Abs() > 200*time.Millisecond {
		t.Errorf("the same clock: %v, %v", off, err)
	}
	cfg.DSN = config.NewSecret(cfg.DSN.Reveal() + "?timestamp=1700000000")
	st = opened(t, cfg)
	want := time.Until(time.Unix(1_700_000_000, 0))
	if off, err := st.Clock(t.Context()); err != nil || (off-want).Abs() > time.Second {
		t.Errorf("another clock: %v, %v; want %v", off, err, want)
	}
}
