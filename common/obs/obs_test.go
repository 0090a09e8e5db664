package obs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/starling-im/starling/common/ledger"
	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func TestLoggerThrottlesEachMessage(t *testing.T) {
	var out bytes.Buffer
	log, err := newLogger(Config{Level: "info", Format: FormatJSON, PerSecond: 3}, &out)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { // else the second may end within the loop
		for range 1000 {
			log.Warn("push failed", zap.String("server_id", "edge-1"))
		}
		if n := strings.Count(out.String(), "push failed"); n != 3 {
			t.Errorf("%d lines of one message in a second, want 3", n)
		}
		time.Sleep(time.Second)
		log.Warn("push failed", zap.String("server_id", "edge-1"))
		if n := strings.Count(out.String(), "push failed"); n != 4 {
			t.Errorf("%d lines of one message a second later, want 4", n)
		}
	})
	log.Warn("something else")
	log.Debug("not at this level")
	if !strings.Contains(out.String(), "something else") || strings.Contains(out.String(), "not at this level") {
		t.Errorf("other messages: %s", out.String())
	}
	var line map[string]any
	first, _, _ := strings.Cut(out.String(), "\n")
	if err := json.Unmarshal([]byte(first), &line); err != nil || line["server_id"] != "edge-1" || line["time"] == nil || line["level"] != "warn" {
		t.Errorf("line %s: %v", first, err)
	}
}

func TestLoggerFormats(t *testing.T) {
	var out bytes.Buffer
	log, err := newLogger(Config{Level: "debug", Format: FormatConsole}, &out)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		log.Debug("for people")
	}
	if n := strings.Count(out.String(), "DEBUG"); n != 100 {
		t.Errorf("%d of 100 lines without a throttle", n)
	}
	if _, err := NewLogger(Config{Level: "info", Format: FormatJSON}); err != nil {
		t.Error(err)
	}
}

func TestLogConfig(t *testing.T) {
	var c Config
	c.RegisterFlags(flag.NewFlagSet("t", flag.ContinueOnError), "log.")
	if err := c.Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	bad := Config{Level: "loud", Format: "xml", PerSecond: -1}
	err := bad.Validate()
	for _, key := range []string{"log.level:", "log.format:", "log.per-second:"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s is missing in: %v", key, err)
		}
	}
	if _, err := NewLogger(bad); err == nil {
		t.Error("a bad config made a logger")
	}
}

// get returns status and body of a path of the admin port.
func get(t *testing.T, a *Admin, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.Addr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestAdmin(t *testing.T) {
	reg := prometheus.NewRegistry()
	promauto.With(reg).NewCounter(prometheus.CounterOpts{Name: "starling_test_total", Help: "A test."}).Inc()
	var unready atomic.Pointer[error]
	a, err := NewAdmin(AdminConfig{Addr: "127.0.0.1:0", Modules: func() any { return []string{"edge"} }, Ledger: func(context.Context) any { return "balanced" }}, reg,
		func() error {
			if e := unready.Load(); e != nil {
				return *e
			}
			return nil
		}, zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	for path, want := range map[string]string{
		"/metrics":             "starling_test_total 1",
		"/healthz":             "ok ",
		"/readyz":              "ready",
		"/modules":             `"edge"`,
		ledger.Path:            `"balanced"`, // where `starling ledger` asks
		"/debug/pprof/cmdline": "obs.test",
		"/debug/pprof/heap":    "",
	} {
		if status, body := get(t, a, path); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.200q, want %q", path, status, body, want)
		}
	}
	reason := errors.New("redis: no answer")
	unready.Store(&reason)
	if status, body := get(t, a, "/readyz"); status != http.StatusServiceUnavailable || body != "redis: no answer\n" {
		t.Errorf("/readyz while not ready: %d %q", status, body)
	}
	if status, _ := get(t, a, "/healthz"); status != http.StatusOK {
		t.Errorf("/healthz while not ready: %d; the process is alive", status)
	}
	if status, _ := get(t, a, "/other"); status != http.StatusNotFound {
		t.Errorf("/other: %d", status)
	}
}

func TestAdminPortInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := NewAdmin(AdminConfig{Addr: ln.Addr().String(), Key: "edge.admin-addr"}, prometheus.NewRegistry(), nil, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	err = a.Start(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "edge.admin-addr: "+ln.Addr().String()+" is in use; ") || strings.Contains(err.Error(), "\n") {
		t.Errorf("Start() = %v", err)
	}
	if err := a.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAdminBadAddress(t *testing.T) {
	if _, err := NewAdmin(AdminConfig{Addr: "3190"}, prometheus.NewRegistry(), nil, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "use host:port") {
		t.Errorf("NewAdmin = %v", err)
	}
	a, err := NewAdmin(AdminConfig{Addr: "no.such.host.invalid:1", Key: "k"}, prometheus.NewRegistry(), nil, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "k: ") {
		t.Errorf("Start() = %v", err)
	}
}
