package obs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/buildinfo"
)

// AdminConfig is where the admin port listens.
type AdminConfig struct {
	Addr string // host:port; port 0 takes a free one
	Key  string // the setting's name, for error messages; may be empty
	// Modules, if given, is what /modules shows as JSON.
	Modules func() any
	// Ledger, if given, is what /ledger shows as JSON.
	Ledger func(ctx context.Context) any
}

// Admin serves /metrics, /healthz, /readyz, /modules, /ledger and /debug/pprof over
// plain HTTP. It is for operators: bind it to loopback or an inner network.
type Admin struct {
	cfg   AdminConfig
	log   *zap.Logger
	srv   *http.Server
	ready func() error

	serving sync.WaitGroup
	mu      sync.Mutex
	addr    string
}

// NewAdmin prepares the server; Start listens. ready says why the process
// should get no work, nil when it should.
func NewAdmin(cfg AdminConfig, gatherer prometheus.Gatherer, ready func() error, log *zap.Logger) (*Admin, error) {
	if _, _, err := net.SplitHostPort(cfg.Addr); err != nil {
		return nil, fmt.Errorf("%s: %w; use host:port, for example 127.0.0.1:3190", cfg.key(), err)
	}
	a := &Admin{cfg: cfg, log: log, ready: ready, addr: cfg.Addr}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /healthz", a.healthz)
	mux.HandleFunc("GET /readyz", a.readyz)
	if cfg.Modules != nil {
		mux.HandleFunc("GET /modules", func(w http.ResponseWriter, _ *http.Request) { a.show(w, cfg.Modules()) })
	}
	if cfg.Ledger != nil {
		mux.HandleFunc("GET /ledger", func(w http.ResponseWriter, r *http.Request) { a.show(w, cfg.Ledger(r.Context())) })
	}
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	a.srv = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          zap.NewStdLog(log),
	}
	return a, nil
}

func (c *AdminConfig) key() string {
	if c.Key == "" {
		return "admin address"
	}
	return c.Key
}

// Start listens and serves until Stop.
func (a *Admin) Start(ctx context.Context) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", a.cfg.Addr)
	if err != nil {
		return ListenError(a.cfg.key(), a.cfg.Addr, err)
	}
	a.mu.Lock()
	a.addr = ln.Addr().String()
	a.mu.Unlock()
	a.serving.Go(func() {
		if err := a.srv.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("admin server ended", zap.Error(err))
		}
	})
	return nil
}

// Stop finishes the requests in hand, within ctx.
func (a *Admin) Stop(ctx context.Context) error {
	err := a.srv.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("shut the admin server: %w", err), a.srv.Close())
	}
	a.serving.Wait()
	return err
}

// Addr is where it listens; before Start, where it will.
func (a *Admin) Addr() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.addr
}

func (a *Admin) healthz(w http.ResponseWriter, _ *http.Request) {
	a.reply(w, http.StatusOK, "ok "+buildinfo.Read().String())
}

func (a *Admin) readyz(w http.ResponseWriter, _ *http.Request) {
	if a.ready != nil {
		if err := a.ready(); err != nil {
			a.reply(w, http.StatusServiceUnavailable, err.Error())
			return
		}
	}
	a.reply(w, http.StatusOK, "ready")
}

func (a *Admin) reply(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if _, err := w.Write([]byte(text + "\n")); err != nil {
		a.log.Debug("admin answer not written", zap.Error(err))
	}
}

func (a *Admin) show(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		a.log.Debug("admin answer not written", zap.Error(err))
	}
}

// ListenError makes one line of a listener's failure: the setting, what is
// wrong and what to do. Errors other than a used or forbidden port keep their
// own text.
func ListenError(key, addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s: %s is in use; stop what listens there or set %s to another address: %w", key, addr, key, err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: no right to listen on %s; set %s to a port above 1023: %w", key, addr, key, err)
	default:
		return fmt.Errorf("%s: listen on %s: %w", key, addr, err)
	}
}
