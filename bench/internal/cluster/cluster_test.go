package cluster

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func TestFlags(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"starling", "edge", "logic"} {
		if err := os.WriteFile(filepath.Join(bin, name), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	local := t.TempDir()
	if err := os.WriteFile(filepath.Join(local, "env"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cfg  Config
		want string // "": good
	}{
		{Config{}, ""},
		{Config{Kind: KindAll, Bin: bin}, ""},
		{Config{Kind: "both", Bin: bin}, "must be all or split"},
		{Config{Kind: KindAll, Bin: bin, Local: local}, "-local"},
		{Config{Bin: bin}, "-bin"},
		{Config{Kind: KindAll}, "make build"}, // beside the test's binary is none
		{Config{Kind: KindSplit, Bin: bin}, "-local"},
		{Config{Kind: KindSplit, Bin: bin, Local: t.TempDir()}, "deploy/local/up"},
		{Config{Kind: KindSplit, Bin: bin, Local: local}, "no job there"},
	} {
		err := c.cfg.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: error %v, want %q", c.cfg, err, c.want)
		}
	}
}

// TestChild is a process of a cluster: it says that it is ready, and ends by
// SIGTERM with the exit code that its environment names.
func TestChild(t *testing.T) {
	addr := os.Getenv("STARLING_CHILD_ADDR")
	if addr == "" {
		t.Skip("is run by other tests")
	}
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, syscall.SIGTERM)
	srv := &http.Server{Addr: addr, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/crash" {
			os.Exit(3)
		}
	})}
	done := make(chan error, 1)
	go func() { done <- srv.ListenAndServe() }()
	<-sigs
	srv.Close()
	<-done
	if os.Getenv("STARLING_CHILD_BAD") != "" {
		os.Stderr.WriteString("WARNING: DATA RACE\n")
		os.Exit(1)
	}
	os.Exit(0)
}

// one is a cluster of one process, which is the test's own binary.
func one(t *testing.T, settings map[string]string) (*Cluster, *bytes.Buffer) {
	t.Helper()
	var said bytes.Buffer
	c := &Cluster{dir: t.TempDir(), say: &said}
	urls, err := c.listen(settings, "CHILD")
	if err != nil {
		t.Fatal(err)
	}
	c.add(&Process{Name: "edge-1", Tier: "edge", Admins: []string{urls["CHILD"]}, args: []string{"-test.run=^TestChild$"}}, settings)
	c.Processes[0].binary = os.Args[0]
	t.Cleanup(func() { c.Close(context.WithoutCancel(t.Context())) })
	if err := c.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c, &said
}

func TestRestore(t *testing.T) {
	c, _ := one(t, map[string]string{})
	p := c.Process("edge-1")
	first := p.Pid()
	p.Kill()
	if p.Pid() != 0 {
		t.Error("a killed process runs")
	}
	if err := c.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := p.Pid()
	if second == 0 || second == first {
		t.Errorf("process %d after %d", second, first)
	}
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := c.Restore(t.Context()); err != nil {
		t.Fatalf("it stands still: %v", err)
	}
	if p.Pid() != second {
		t.Error("what stood still was started anew")
	}
	c.Close(t.Context())
	if failures := c.Failures(); len(failures) > 0 {
		t.Errorf("failures %q", failures)
	}
}

// What goes wrong by itself is kept.
func TestFailures(t *testing.T) {
	c, _ := one(t, map[string]string{"CHILD_BAD": "yes"})
	c.Close(t.Context())
	all := strings.Join(c.Failures(), "\n")
	for _, want := range []string{"edge-1 ended by SIGTERM: exit status 1", `1 times "DATA RACE" in the log of edge-1`} {
		if !strings.Contains(all, want) {
			t.Errorf("failures %q, want %q", all, want)
		}
	}

	c, said := one(t, map[string]string{})
	if resp, err := http.Get(c.Processes[0].Admins[0] + "/crash"); err == nil {
		resp.Body.Close()
		t.Error("it did not crash")
	}
	if err := await(t.Context(), func() error {
		if c.Processes[0].Pid() != 0 {
			return context.DeadlineExceeded
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c.Close(t.Context())
	if all := strings.Join(c.Failures(), "\n"); !strings.Contains(all, "edge-1 ended by itself: exit status 3") || !strings.Contains(said.String(), "by itself") {
		t.Errorf("failures %q, said %q", all, said)
	}
}

func TestNotReady(t *testing.T) {
	c := &Cluster{dir: t.TempDir(), say: new(bytes.Buffer)}
	c.add(&Process{Name: "edge-1", Tier: "edge", Admins: []string{"http://127.0.0.1:1"}, args: []string{"-test.run=^TestChild$"}}, nil)
	c.Processes[0].binary = os.Args[0] // skips, and ends
	if err := c.Restore(t.Context()); err == nil || !strings.Contains(err.Error(), "edge-1 is not ready: it has ended") {
		t.Errorf("restored: %v", err)
	}
	c.Close(t.Context())
}

// A server of deploy/local is found by its pid file, if it is the one that was started.
func TestServers(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"kafka-1", "kafka-2"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	list := servers(dir, "127.0.0.1:1")
	if len(list) != 4 || list[3].Name != "kafka-2" {
		t.Fatalf("servers %+v", list)
	}
	s := list[0]
	if s.pid() != 0 {
		t.Error("without a file it has a pid")
	}
	file := filepath.Join(dir, "redis.pid")
	if err := os.WriteFile(file, []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s.pid() != 0 {
		t.Error("init passes for Redis")
	}
	if err := s.End(t.Context(), syscall.SIGKILL); err != nil {
		t.Errorf("end what has ended: %v", err)
	}
}

func TestFlushRedis(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := make(chan string, 2)
	go func() {
		for _, answer := range []string{"+OK\r\n", "-NOAUTH\r\n"} {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(10 * time.Second))
			b := make([]byte, 64)
			n, _ := c.Read(b)
			got <- string(b[:n])
			c.Write([]byte(answer))
			c.Close()
		}
	}()
	c := &Cluster{redis: ln.Addr().String()}
	if err := c.FlushRedis(t.Context()); err != nil || <-got != "FLUSHALL\r\n" {
		t.Errorf("flush: %v", err)
	}
	if err := c.FlushRedis(t.Context()); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("flush: %v, want what Redis says", err)
	}
}

func TestReadEnv(t *testing.T) {
	dir := t.TempDir()
	text := "export STARLING_REDIS_ADDRS=127.0.0.1:1\nexport STARLING_MYSQL_DSN='im:im@tcp(127.0.0.1:2)/im'\n"
	if err := os.WriteFile(filepath.Join(dir, "env"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	env, err := readEnv(dir)
	if err != nil || env["STARLING_MYSQL_DSN"] != "im:im@tcp(127.0.0.1:2)/im" || env["STARLING_REDIS_ADDRS"] != "127.0.0.1:1" {
		t.Errorf("env %v, %v", env, err)
	}
	c := &Cluster{}
	settings := map[string]string{}
	if err := c.leadToServers(t.Context(), tierJob, "job-1", env, settings); err != nil {
		t.Fatal(err)
	}
	if len(c.Links) != 2 || settings["MYSQL_DSN"] != "im:im@tcp("+c.Links[1].Addr()+")/im" || settings["REDIS_ADDRS"] != c.Links[0].Addr() {
		t.Errorf("settings %v", settings)
	}
	c.Close(t.Context())
	if err := c.leadToServers(t.Context(), tierJob, "job-1", map[string]string{"STARLING_REDIS_ADDRS": "127.0.0.1:1", "STARLING_MYSQL_DSN": "im:im@/im"}, settings); err == nil {
		t.Error("a DSN without an address is taken")
	}
	c.Close(t.Context())
}
