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
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
)

// System is one installation under test: one process with all tiers, or
// several. Its data outlive its processes.
type System struct {
	Dir       string            // data folder of the embedded default, and logs
	API       string            // base URL of the HTTP API of the first logic
	APIs      []string          // of every logic
	WSs       []string          // URLs of the WebSockets of every edge
	TCPs      map[string]string // host:port of an edge's WebSocket → of its plain TCP
	Processes []*Process

	names string // begins every name, where the data are older than the system
	users atomic.Int64

	mu          sync.Mutex // guards WSs and APIs while they change, and
	edge, logic int        // whose turn it is
}

// Start runs binary with everything in one process on embedded services, on a
// new data folder and ports of its own, with further settings, and ends it with
// the test.
func Start(t testing.TB, binary string, settings ...string) *System {
	t.Helper()
	s := &System{Dir: t.TempDir()}
	s.all(t, binary, append(patient(), settings...), "-data", s.Dir)
	s.run(t)
	return s
}

// all adds the process of target all.
func (s *System) all(t testing.TB, binary string, settings []string, args ...string) {
	t.Helper()
	env, addr := addresses(t, "LOGIC_HTTP", "EDGE_LISTEN", "EDGE_TCP", "LOGIC_GRPC", "EDGE_GRPC", "LOGIC_ADMIN", "EDGE_ADMIN", "JOB_ADMIN")
	p := s.add("all", binary, append(env, settings...), args...)
	p.Ready = []string{"http://" + addr["LOGIC_HTTP"] + "/readyz", "http://" + addr["EDGE_ADMIN"] + "/readyz", "http://" + addr["JOB_ADMIN"] + "/readyz"}
	s.faces(addr)
}

// faces takes note of where clients are served.
func (s *System) faces(addr map[string]string) {
	if a := addr["LOGIC_HTTP"]; a != "" {
		s.APIs = append(s.APIs, "http://"+a)
		s.API = s.APIs[0]
	}
	if a := addr["EDGE_LISTEN"]; a != "" {
		s.WSs = append(s.WSs, "ws://"+a+"/ws")
		if s.TCPs == nil {
			s.TCPs = map[string]string{}
		}
		s.TCPs[a] = addr["EDGE_TCP"]
	}
}

// add adds a process with settings of its own.
func (s *System) add(name, binary string, settings []string, args ...string) *Process {
	// The settings of the test are not the system's.
	environ := slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "STARLING_") })
	p := &Process{
		Name: name, binary: binary, args: args, logs: filepath.Join(filepath.Dir(s.Dir), filepath.Base(s.Dir)+"-"+name+".log"),
		env: slices.Concat(environ, []string{"STARLING_LOG_LEVEL=warn"}, settings),
	}
	s.Processes = append(s.Processes, p)
	return p
}

// patient are settings for a busy machine, which must not pass for a broken
// Redis, Kafka or edge, after which answers are rightly others.
func patient() []string {
	return []string{
		"STARLING_REDIS_TIMEOUT=10s", "STARLING_KAFKA_MESSAGE_TIMEOUT=60s", "STARLING_LOGIC_LOOK_BUDGET=10s",
		"STARLING_LOGIC_WAIT_BUDGET=12s", "STARLING_EDGE_LOGIN_WAIT=30s", "STARLING_EDGE_LEASE_TTL=30s",
	}
}

// run starts the system and ends it with the test.
func (s *System) run(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		s.Stop(t)
		if t.Failed() {
			for _, p := range s.Processes {
				p.DumpLog(t)
			}
		}
	})
	s.Up(t)
}

// addresses returns settings that give listeners an address of their own, and
// the addresses.
func addresses(t testing.TB, keys ...string) (env []string, addr map[string]string) {
	t.Helper()
	addr = make(map[string]string, len(keys))
	for i, a := range testkit.Reserve(t, len(keys)) {
		env = append(env, "STARLING_"+keys[i]+"_ADDR="+a)
		addr[keys[i]] = a
	}
	return env, addr
}

// Up starts the processes that don't run and waits until all are ready.
func (s *System) Up(t testing.TB) {
	t.Helper()
	for _, p := range s.Processes {
		if p.cmd == nil {
			p.Start(t)
		}
	}
	for _, p := range s.Processes {
		p.AwaitReady(t)
	}
}

// Kill ends every process with SIGKILL.
func (s *System) Kill(t testing.TB) {
	t.Helper()
	for _, p := range s.Processes {
		p.Kill(t)
	}
}

// Stop ends every process in order: edges first, as an operator would.
func (s *System) Stop(t testing.TB) {
	t.Helper()
	for _, p := range s.Processes {
		p.Stop(t)
	}
}

// Process returns one by its name.
func (s *System) Process(name string) *Process {
	for _, p := range s.Processes {
		if p.Name == name {
			return p
		}
	}
	panic("BUG: no process " + name)
}

// WS is the URL of an edge; the edges take turns.
func (s *System) WS() string { return s.turn(&s.edge, &s.WSs) }

// api is the base URL of a logic; the logics take turns.
func (s *System) api() string { return s.turn(&s.logic, &s.APIs) }

func (s *System) turn(n *int, of *[]string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	*n++
	return (*of)[*n%len(*of)]
}

// serveBy changes whom clients are led to.
func (s *System) serveBy(edges, logics []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.WSs, s.APIs = edges, logics
}

// Name returns a name that no other scenario uses.
func (s *System) Name(base string) string {
	return fmt.Sprintf("%s%s-%d", s.names, base, s.users.Add(1))
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
	req, err := http.NewRequestWithContext(ctx, method, s.api()+path, bytes.NewReader(raw))
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

// Mint makes a token by the system's own key; role and device may be empty.
func (s *System) Mint(t testing.TB, user, role, device string) string {
	t.Helper()
	keys, err := token.LoadOrCreate(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	c := token.Claims{User: wire.UserID(user), Device: wire.DeviceID(device)}
	if role != "" {
		c.Roles = []string{role}
	}
	raw, err := keys.Mint(c, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return raw
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
