package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudwego/netpoll"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/session"
	"github.com/starling-im/starling/edge/internal/ws"
)

const (
	shards    = 8
	tickEvery = 250 * time.Millisecond
	// idleAfter is how long nothing must come before the input buffer is given
	// back.
	idleAfter = time.Second
)

// Config says where to listen and what to take.
type Config struct {
	Addr        string
	Plain       bool          // the binary framing on TCP, without WebSocket
	Gate        *Gate         // shared with the edge's other servers; nil: one of its own
	Origins     []string      // allowed Origin headers; none: any
	HeadBytes   int           // of the request head
	HeadTimeout time.Duration // from accept to the upgrade
	CutTime     time.Duration // in which connections that Close has cut end
}

// Server accepts connections and gives each a session.
type Server struct {
	cfg      Config
	env      *session.Env
	log      *zap.Logger
	now      func() int64
	metrics  *metrics
	notifier *notifier
	acceptor *acceptor

	shards  [shards]shard
	turn    atomic.Uint32
	live    atomic.Int64
	emptied chan struct{} // gets a value when live falls to 0
	cancel  context.CancelFunc
	running sync.WaitGroup
}

type shard struct {
	mu    sync.Mutex
	conns map[*Conn]struct{}
}

// New prepares a server for sessions of env; Listen and Serve start it.
func New(cfg Config, env *session.Env, reg prometheus.Registerer, log *zap.Logger) *Server {
	srv := &Server{
		cfg: cfg, env: env, log: log, now: env.Now, metrics: newMetrics(reg),
		emptied: make(chan struct{}, 1),
	}
	for i := range srv.shards {
		srv.shards[i].conns = map[*Conn]struct{}{}
	}
	return srv
}

// Listen binds the address; connections wait in the kernel until Serve.
func (srv *Server) Listen(ctx context.Context) (err error) {
	srv.acceptor, err = newAcceptor(ctx, srv.cfg, srv.metrics)
	return err
}

// Unlisten gives the address back, of a server that will not serve.
func (srv *Server) Unlisten() error { return srv.acceptor.Close() }

// Serve starts to accept and returns.
func (srv *Server) Serve(ctx context.Context) error {
	var err error
	if srv.notifier, err = newNotifier(srv.metrics.watched); err != nil {
		return errors.Join(err, srv.acceptor.Close())
	}
	loop, err := netpoll.NewEventLoop(nil, netpoll.WithOnPrepare(srv.prepare))
	if err != nil {
		srv.notifier.start()
		srv.notifier.stop()
		return errors.Join(fmt.Errorf("make event loop: %w", err), srv.acceptor.Close())
	}
	srv.notifier.start()
	scan, cancel := context.WithCancel(context.WithoutCancel(ctx))
	srv.cancel = cancel
	srv.running.Go(func() {
		// It ends, with an error that says just that, when the socket is shut.
		err := loop.Serve(srv.acceptor)
		srv.log.Debug("accepting ended", zap.Error(err))
	})
	for i := range srv.shards {
		srv.running.Go(func() { srv.scan(scan, &srv.shards[i]) })
	}
	return nil
}

// Addr is where the server listens; valid after Listen.
func (srv *Server) Addr() net.Addr { return srv.acceptor.Addr() }

// Live counts the connections.
func (srv *Server) Live() int64 { return srv.live.Load() }

// prepare makes the Conn of a new connection, before netpoll watches it.
func (srv *Server) prepare(nc netpoll.Connection) context.Context {
	c := &Conn{srv: srv, nc: nc, since: srv.now(), parser: ws.Parser{Max: wire.MaxFrame}}
	if f, ok := nc.(netpoll.Conn); ok {
		c.fd = f.Fd()
	}
	if a, ok := nc.RemoteAddr().(peerAddr); ok {
		c.ip = netip.Addr(a)
	}
	c.s = session.New(srv.env, c)
	if srv.cfg.Plain {
		c.s.Plain()
		c.upgraded.Store(true)
	}
	c.dirty.Store(c.since) // the fresh input node is given back, too
	_ = nc.AddCloseCallback(c.onClose)
	_ = nc.SetOnRequest(c.onRequest)
	srv.live.Add(1)
	srv.metrics.live.Inc()
	sh := &srv.shards[srv.turn.Add(1)%shards]
	c.shard = sh
	sh.mu.Lock()
	sh.conns[c] = struct{}{}
	sh.mu.Unlock()
	return nil
}

// remove forgets a connection.
func (srv *Server) remove(c *Conn) {
	c.shard.mu.Lock()
	delete(c.shard.conns, c)
	c.shard.mu.Unlock()
	srv.acceptor.gate.leave(c.ip)
	srv.metrics.live.Dec()
	if srv.live.Add(-1) == 0 {
		select {
		case srv.emptied <- struct{}{}:
		default:
		}
	}
}

// scan ticks the connections of a shard.
func (srv *Server) scan(ctx context.Context, sh *shard) {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	var conns []*Conn
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		conns = sh.list(conns[:0])
		now := srv.now()
		for i, c := range conns {
			c.tick(now)
			conns[i] = nil
		}
	}
}

func (sh *shard) list(into []*Conn) []*Conn {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for c := range sh.conns {
		into = append(into, c)
	}
	return into
}

// StopAccepting closes the door; connections stay.
func (srv *Server) StopAccepting() { srv.acceptor.stop() }

// Close ends all sessions with r, waits until they have left or ctx ends, then
// cuts what is left, and releases everything.
func (srv *Server) Close(ctx context.Context, r session.Reason) error {
	srv.StopAccepting()
	srv.each(func(c *Conn) { c.s.Close(r) })
	if srv.empty(ctx) != nil {
		srv.each((*Conn).Abort)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), srv.cfg.CutTime)
	defer cancel()
	err := srv.empty(last)
	srv.cancel()
	srv.running.Wait()
	srv.notifier.stop()
	return errors.Join(err, srv.acceptor.Close())
}

func (srv *Server) each(f func(*Conn)) {
	var conns []*Conn
	for i := range srv.shards {
		conns = srv.shards[i].list(conns[:0])
		for _, c := range conns {
			f(c)
		}
	}
}

// empty waits until there is no connection.
func (srv *Server) empty(ctx context.Context) error {
	for srv.live.Load() > 0 {
		select {
		case <-srv.emptied:
		case <-ctx.Done():
			return fmt.Errorf("wait for %d connections to end: %w", srv.live.Load(), ctx.Err())
		}
	}
	return nil
}
