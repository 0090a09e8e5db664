// Package api is the HTTP API of docs/protocol.md section 4, and the page at
// "/". It turns requests into calls of the use cases and their results into
// JSON; it decides nothing but who may call what (routes.go, deny by default).
//
// A Server is safe for concurrent use. Bounds: MaxBody of a request, CallTime
// of a call; connections are the operating system's.
package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/cloudwego/hertz/pkg/app/server"
	"github.com/cloudwego/hertz/pkg/common/hlog"
	"github.com/cloudwego/hertz/pkg/network/standard"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/common/obs"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/block"
	"github.com/starling-im/starling/logic/internal/group"
	"github.com/starling-im/starling/logic/internal/history"
	"github.com/starling-im/starling/logic/internal/message"
	"github.com/starling-im/starling/logic/internal/presence"
)

// Bounds of requests.
const (
	MaxBody  = 256 << 10 // bytes; a larger body is too_large
	hardBody = 1 << 20   // bytes; beyond it nothing is read
	CallTime = 15 * time.Second

	idleTime   = time.Minute
	headerMost = 16 << 10
)

// Messages is the use case of sends and operations.
type Messages interface {
	Send(ctx context.Context, reqs []message.Request)
	OperationByID(ctx context.Context, u wire.UserID, id wire.MsgID) (message.Operation, error)
	OperationByKey(ctx context.Context, u wire.UserID, conv wire.ConvID, clientID string) (message.Operation, error)
}

// Live is the use case of broadcasts.
type Live interface {
	Broadcast(ctx context.Context, t wire.MsgType, content string) (wire.MsgID, error)
}

// Control is the use case of decisions (controller.Service).
type Control interface {
	Decide(ctx context.Context, es ...control.Entry) error
	Deny(u wire.UserID, d wire.DeviceID, issued time.Time) *wire.Error
	Bans(after wire.UserID, limit int) (bans []control.Entry, more bool)
	Settings() map[string]string
	Revoked(u wire.UserID, d wire.DeviceID) (at int64, devices int)
}

// Quota counts what a user does (message.Limits).
type Quota interface {
	Take(u wire.UserID) (wait time.Duration)
}

// Deps is what a Server works with. Tokens nil: this logic mints none. Embedded:
// anyone may log in under any name.
type Deps struct {
	Log      *zap.Logger
	Metrics  *Metrics
	Messages Messages
	Groups   *group.Service
	Blocks   *block.Service
	Live     Live
	Control  Control
	Limits   *limits.Live
	Quota    Quota
	History  *history.Service
	Presence *presence.Service
	Tokens   *token.Keyring
	Verifier *token.Verifier
	Embedded bool
	Ready    func() error
	Page     fs.FS
	Now      func() time.Time
}

// Server serves HTTP.
type Server struct {
	addr string
	d    Deps
	page map[string]asset

	h       *server.Hertz
	ln      *listener
	serving sync.WaitGroup
	failed  chan error // cap 1: serving ended by itself

	mu       sync.Mutex
	draining bool
	calls    int
	idle     chan struct{} // made by Drain, closed when calls is 0
}

// New returns a Server that will listen on addr (port 0: a free one).
func New(addr string, d Deps) (*Server, error) {
	switch {
	case d.Messages == nil, d.Groups == nil, d.Blocks == nil, d.Live == nil, d.Control == nil, d.Limits == nil, d.Quota == nil, d.History == nil, d.Presence == nil:
		return nil, errors.New("api: messages, groups, blocks, live, control, limits, quota, history and presence are needed")
	case d.Verifier == nil:
		return nil, errors.New("api: a token verifier is needed")
	}
	if d.Log == nil {
		d.Log = zap.NewNop()
	}
	if d.Metrics == nil {
		d.Metrics = NewMetrics(nil)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Ready == nil {
		d.Ready = func() error { return nil }
	}
	s := &Server{addr: addr, d: d, failed: make(chan error, 1)}
	if err := s.loadPage(); err != nil {
		return nil, err
	}
	return s, nil
}

// Start listens and serves until Stop.
func (s *Server) Start(ctx context.Context) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", s.addr)
	if err != nil {
		return obs.ListenError("logic.http-addr", s.addr, err) //nolint:wrapcheck // names key and remedy
	}
	s.ln = newListener(ln)
	hlog.SetOutput(io.Discard) // hertz logs to stderr otherwise; what matters is logged here
	s.h = server.New(
		server.WithTransport(standard.NewTransporter), server.WithListener(s.ln), server.WithDisablePrintRoute(true),
		server.WithMaxRequestBodySize(hardBody), server.WithMaxHeaderBytes(headerMost),
		server.WithReadTimeout(CallTime), server.WithIdleTimeout(idleTime), server.WithKeepAliveTimeout(idleTime),
		server.WithDisablePreParseMultipartForm(true), // would write files before anyone is asked for a token
		server.WithRedirectTrailingSlash(false), server.WithExitWaitTime(time.Second),
	)
	s.h.NoHijackConnPool = true
	s.register()
	s.serving.Go(func() {
		if err := s.h.Run(); err != nil {
			s.failed <- fmt.Errorf("serve HTTP: %w", err)
		}
	})
	s.d.Log.Info("http listens", zap.String("addr", s.Addr()))
	return nil
}

// Run waits for ctx, or for serving to fail.
func (s *Server) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.failed:
		return err
	}
}

// Addr returns where it listens.
func (s *Server) Addr() string {
	if s.ln == nil {
		return s.addr
	}
	return s.ln.Addr().String()
}

// Drain takes no new connections and waits for the calls in hand.
func (s *Server) Drain(ctx context.Context) error {
	if s.ln == nil {
		return nil
	}
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		return nil
	}
	s.draining = true
	idle := make(chan struct{})
	if s.calls == 0 {
		close(idle)
	} else {
		s.idle = idle
	}
	s.mu.Unlock()
	s.ln.stopAccepting()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for HTTP calls: %w", ctx.Err())
	}
}

// Stop closes every connection and waits for the server's goroutines.
func (s *Server) Stop(ctx context.Context) error {
	if s.ln == nil {
		return nil
	}
	err := s.Drain(ctx)
	s.ln.closeAll()
	if serr := s.h.Shutdown(ctx); serr != nil && !strings.Contains(serr.Error(), "not running") {
		err = errors.Join(err, fmt.Errorf("shut HTTP down: %w", serr))
	}
	s.serving.Wait()
	return err
}

// enter counts a call in.
func (s *Server) enter() (draining bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	return s.draining
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls--
	if s.calls == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// isNotFound says whether an error is the store's or a use case's not found.
func isNotFound(err error) bool {
	we := new(wire.Error)
	return errors.Is(err, store.ErrNotFound) || errors.As(err, &we) && we.Code == wire.CodeNotFound
}
