// Package redistest starts real Redis servers for tests: one alone, a Cluster
// of masters with or without replicas, and a master with a replica under
// Sentinels. Imported by tests alone.
//
// Each server is a process of its own on loopback, with a folder that the test
// removes, and is killed when the test ends. Where there is no redis-server the
// test is skipped, or fails if STARLING_TEST_REAL=1. Not safe for concurrent
// use of one Server.
package redistest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starling-im/starling/common/testkit"
)

// patience is how long a server may take to do what it was asked for.
const patience = 30 * time.Second

// Need skips a test that has no redis-server, or fails it where real servers
// are wanted.
func Need(tb testing.TB) {
	tb.Helper()
	if _, err := exec.LookPath("redis-server"); err == nil {
		return
	}
	const why = "redis-server is not on the PATH: install it (Debian: redis-server)"
	if os.Getenv("STARLING_TEST_REAL") == "1" {
		tb.Fatal(why)
	}
	tb.Skip(why)
}

// Server is one redis-server.
type Server struct {
	tb   testing.TB
	args []string
	dir  string
	cmd  *exec.Cmd
	cli  []string // options of redis-cli
	bus  string   // of a Cluster's node: the address of its bus

	Addr string
}

// Start starts a server that keeps its data in memory alone; args follow the
// defaults and win over them.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	Need(tb)
	return StartOn(tb, testkit.Reserve(tb, 1)[0], args...)
}

// StartOn is Start on an address that is the test's own.
func StartOn(tb testing.TB, addr string, args ...string) *Server {
	tb.Helper()
	Need(tb)
	return start(tb, addr, args...)
}

func port(addr string) int {
	_, p, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(p)
	return n
}

func start(tb testing.TB, addr string, args ...string) *Server {
	tb.Helper()
	s := &Server{tb: tb, dir: tb.TempDir(), Addr: addr}
	s.args = append([]string{
		"--port", strconv.Itoa(port(addr)), "--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--appendonly", "no", "--daemonize", "no",
	}, args...)
	tb.Cleanup(s.Kill)
	s.Restart()
	return s
}

// Secure makes redis-cli use these options (--tls, -a).
func (s *Server) Secure(cli ...string) { s.cli = cli }

// Kill ends the server at once (SIGKILL).
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Restart starts it, again on its address, and waits until it listens.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Kill()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.cmd = exec.Command("redis-server", s.args...) //nolint:noctx // killed by Kill
	s.cmd.Stdout, s.cmd.Stderr = log, log
	// The server must not outlive a test that is killed.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = s.cmd.Start()
	_ = log.Close()
	if err != nil {
		s.cmd = nil
		s.tb.Fatal(err)
	}
	Eventually(s.tb, "redis-server listens", func() bool {
		var d net.Dialer
		c, err := d.DialContext(context.WithoutCancel(s.tb.Context()), "tcp", s.Addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// Freeze stops its process (SIGSTOP): it takes connections and says nothing.
func (s *Server) Freeze() { _ = s.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw ends Freeze.
func (s *Server) Thaw() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

// Try runs one command by redis-cli.
func (s *Server) Try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.tb.Context()), patience)
	defer cancel()
	all := append([]string{"-h", "127.0.0.1", "-p", strconv.Itoa(port(s.Addr))}, s.cli...)
	out, err := exec.CommandContext(ctx, "redis-cli", append(all, args...)...).CombinedOutput()
	text := string(bytes.TrimSpace(out))
	if err != nil {
		return text, fmt.Errorf("redis-cli %v: %w: %s", args, err, text)
	}
	return text, nil
}

// Do is Try that must not fail.
func (s *Server) Do(args ...string) string {
	s.tb.Helper()
	out, err := s.Try(args...)
	if err != nil || strings.HasPrefix(out, "ERR") || strings.HasPrefix(out, "NOAUTH") {
		s.tb.Fatalf("%v: %s, %v", args, out, err)
	}
	return out
}

// Eventually waits for something that the servers do by themselves.
func Eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("%s: not within %v", what, patience)
		}
	}
}
