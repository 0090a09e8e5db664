// Package e2e runs the same scenarios against whole systems: real processes,
// real sockets, nothing mocked. A System is one installation under test; a
// scenario is a function that takes one and knows nothing of how it is run.
// Scenarios use users and groups of their own, so they may share a System and
// run at the same time.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/starling-im/starling/common/testkit"
)

// startTimeout bounds how long a process may take until it is ready.
const startTimeout = 60 * time.Second

// System is the binary `starling` with everything in one process, its data in
// a folder that outlives it.
type System struct {
	Binary string
	Dir    string
	API    string // base URL of logic's HTTP API
	WS     string // URL of the edge's WebSocket

	env   []string
	cmd   *exec.Cmd
	ended chan error // gets the process' end, once
	log   *os.File
	users atomic.Int64
}

// Start runs binary on a new data folder and ports of its own, with further
// settings, and ends it with the test.
func Start(t testing.TB, binary string, settings ...string) *System {
	t.Helper()
	env, api, ws := addresses(t)
	s := &System{Binary: binary, Dir: t.TempDir(), API: "http://" + api, WS: "ws://" + ws + "/ws"}
	// The settings of the test are not the system's.
	environ := slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "STARLING_") })
	// A busy machine must not pass for a broken Redis, Kafka or edge, after
	// which answers are rightly others.
	patient := []string{
		"STARLING_REDIS_TIMEOUT=10s", "STARLING_KAFKA_MESSAGE_TIMEOUT=60s", "STARLING_LOGIC_LOOK_BUDGET=10s",
		"STARLING_LOGIC_WAIT_BUDGET=12s", "STARLING_EDGE_LOGIN_WAIT=30s", "STARLING_EDGE_LEASE_TTL=30s",
	}
	s.env = slices.Concat(environ, env, []string{"STARLING_LOG_LEVEL=warn"}, patient, settings)
	s.Up(t)
	t.Cleanup(func() {
		s.Stop(t)
		if t.Failed() {
			s.dumpLog(t)
		}
	})
	return s
}

// addresses returns settings that give every listener of a system an address of
// its own, and those of the API and of the WebSocket.
func addresses(t testing.TB) (env []string, api, ws string) {
	t.Helper()
	keys := []string{"LOGIC_HTTP", "EDGE_LISTEN", "LOGIC_GRPC", "EDGE_GRPC", "LOGIC_ADMIN", "EDGE_ADMIN", "JOB_ADMIN"}
	addrs := testkit.Reserve(t, len(keys))
	for i, key := range keys {
		env = append(env, "STARLING_"+key+"_ADDR="+addrs[i])
	}
	return env, addrs[0], addrs[1]
}

// Up starts the process again on the same data and waits until it is ready.
func (s *System) Up(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(filepath.Dir(s.Dir), filepath.Base(s.Dir)+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s.log = log
	s.cmd = exec.Command(s.Binary, "-data", s.Dir)
	s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = s.env, log, log
	// The process must not outlive the test binary, however that ends.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.ended = make(chan error, 1)
	go func(cmd *exec.Cmd, ended chan<- error) { ended <- cmd.Wait() }(s.cmd, s.ended) // Kill or Stop receives it
	Eventually(t, startTimeout, "the system is ready", func() error {
		select {
		case err := <-s.ended:
			s.cmd = nil
			s.dumpLog(t)
			t.Fatalf("the process has ended by itself: %v", err)
		default:
		}
		for _, url := range []string{s.API + "/readyz", s.admin("EDGE"), s.admin("JOB")} {
			resp, err := http.Get(url)
			if err != nil {
				return err
			}
			b, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s: %s %s", url, resp.Status, b)
			}
		}
		return nil
	})
}

func (s *System) admin(tier string) string {
	for _, e := range s.env {
		if v, ok := strings.CutPrefix(e, "STARLING_"+tier+"_ADMIN_ADDR="); ok {
			return "http://" + v + "/readyz"
		}
	}
	return ""
}

// Kill ends the process with SIGKILL, as a power cut would.
func (s *System) Kill(t testing.TB) {
	t.Helper()
	_ = s.cmd.Process.Kill()
	<-s.ended
	s.cmd = nil
	_ = s.log.Close()
}

// Stop ends the process in order; it must exit 0 within its budget.
func (s *System) Stop(t testing.TB) {
	t.Helper()
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("process ended by SIGTERM: %v", err)
		}
	case <-time.After(40 * time.Second):
		_ = s.cmd.Process.Signal(syscall.SIGQUIT)
		t.Error("process did not end within 40 s of SIGTERM; its goroutines are in the log")
		<-s.ended
	}
	s.cmd = nil
	_ = s.log.Close()
}

func (s *System) dumpLog(t testing.TB) {
	b, err := os.ReadFile(s.log.Name())
	if err != nil {
		t.Log(err)
		return
	}
	if len(b) > 16<<10 {
		b = b[len(b)-16<<10:]
	}
	t.Logf("log of the system:\n%s", b)
}

// Name returns a name that no other scenario uses.
func (s *System) Name(base string) string {
	return fmt.Sprintf("%s-%d", base, s.users.Add(1))
}

// HTTP calls the API and decodes the answer into out (nil: ignored). It
// returns the status.
func (s *System) HTTP(t testing.TB, method, path, token string, body, out any, header ...string) int {
	t.Helper()
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.API+path, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if out != nil {
		if err := json.Unmarshal(b, out); err != nil {
			t.Fatalf("%s %s: HTTP %d: %v in %s", method, path, resp.StatusCode, err, b)
		}
	}
	if resp.StatusCode/100 != 2 {
		t.Logf("%s %s: HTTP %d %s", method, path, resp.StatusCode, b)
	}
	return resp.StatusCode
}

// Token logs a user in by name.
func (s *System) Token(t testing.TB, user, device string) string {
	t.Helper()
	var out struct{ Token string }
	if code := s.HTTP(t, http.MethodPost, "/v1/login", "", map[string]string{"user": user, "device": device}, &out); code != http.StatusOK {
		t.Fatalf("login of %s: HTTP %d", user, code)
	}
	return out.Token
}

// Eventually tries until check returns nil, at most for within.
func Eventually(t testing.TB, within time.Duration, what string, check func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %v", within, what, err)
		}
		<-tick.C
	}
}
