package sqlstore

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/testkit"
)

// server is a MariaDB of the test's own, to be started with any options. Its
// users are root without a password and im with the password geheim.
type server struct {
	dir, addr string
	cmd       *exec.Cmd
	logs      bytes.Buffer
	databases int
}

// serverTest is a test of TestServer.
type serverTest struct {
	t      *testing.T
	server *server
}

// newServer makes the data of a server, which does not run yet.
func newServer(t *testing.T) *server {
	t.Helper()
	install, err := exec.LookPath("mariadb-install-db")
	if err == nil {
		_, err = exec.LookPath("mariadbd")
	}
	if err != nil {
		if os.Getenv("STARLING_TEST_REAL") == "1" {
			t.Fatalf("MariaDB is not installed: %v", err)
		}
		t.Skipf("MariaDB is not installed: %v", err)
	}
	dir, err := os.MkdirTemp("", "starling") //nolint:usetesting // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	s := &server{dir: dir, addr: testkit.Reserve(t, 1)[0]}
	t.Cleanup(func() {
		s.stop()
		_ = os.RemoveAll(dir)
	})
	args := []string{"--no-defaults", "--datadir=" + s.data(), "--auth-root-authentication-method=normal", "--skip-test-db"}
	out, err := exec.CommandContext(t.Context(), install, append(args, s.user()...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return s
}

func (s *server) data() string { return filepath.Join(s.dir, "data") }

func (s *server) user() []string {
	if os.Getuid() == 0 {
		return []string{"--user=root"}
	}
	return nil
}

// start runs it until stop, and returns when it answers.
func (s *server) start(t *testing.T, options ...string) {
	t.Helper()
	s.stop()
	_, port, _ := net.SplitHostPort(s.addr)
	args := append([]string{
		"--no-defaults", "--datadir=" + s.data(), "--port=" + port, "--bind-address=127.0.0.1", "--socket=" + filepath.Join(s.dir, "s"),
		"--skip-name-resolve", "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--character-set-server=latin1",
	}, s.user()...)
	s.logs.Reset()
	s.cmd = exec.Command("mariadbd", append(args, options...)...)
	s.cmd.Stdout, s.cmd.Stderr = &s.logs, &s.logs
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	db := s.root(t)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := db.PingContext(t.Context())
		if err == nil {
			break
		}
		if time.Now().After(end) {
			s.stop()
			t.Fatalf("MariaDB does not start: %v\n%s", err, s.logs.String())
		}
	}
	if _, err := db.ExecContext(t.Context(), "CREATE USER IF NOT EXISTS im@'127.0.0.1' IDENTIFIED BY 'geheim'"); err != nil && !strings.Contains(err.Error(), "read-only") {
		t.Fatal(err)
	}
}

func (s *server) stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // nothing in it is worth the time
	_ = s.cmd.Wait()
	s.cmd = nil
}

// root is a connection to everything.
func (s *server) root(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", "root@tcp("+s.addr+")/?multiStatements=true")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func (s *server) exec(t *testing.T, text string) {
	t.Helper()
	if _, err := s.root(t).ExecContext(t.Context(), text); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// database makes an empty one that im may use.
func (s *server) database(t *testing.T) (name string) {
	t.Helper()
	s.databases++
	name = fmt.Sprintf("im%d", s.databases)
	s.exec(t, "CREATE DATABASE "+name+"; GRANT ALL ON "+name+".* TO im@'127.0.0.1'")
	return name
}

func (s *server) config(user, database string) Config {
	return configAt(s.addr, user, database)
}

func configAt(addr, user, database string) Config {
	return Config{Driver: DriverMySQL, DSN: config.NewSecret(user + "@tcp(" + addr + ")/" + database), Timeout: 20 * time.Second}
}

// migrated is an open store on a database of its own.
func (s *server) migrated(t *testing.T) (Config, *Store) {
	t.Helper()
	cfg := s.config("im:geheim", s.database(t))
	if err := Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	return cfg, opened(t, cfg)
}

func opened(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// check is one Check of a new store.
func check(t *testing.T, cfg Config) error {
	t.Helper()
	s, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	err = s.Check(t.Context())
	if err != nil && strings.Contains(err.Error(), "geheim") {
		t.Errorf("shows the password: %v", err)
	}
	return err
}

func refused(t *testing.T, what string, err error, text string) {
	t.Helper()
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v; want it refused, with %q", what, err, text)
	}
}

func waits(t *testing.T, what string, err error, text string) {
	t.Helper()
	if err == nil || errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v; want one that may pass, with %q", what, err, text)
	}
}
