package uplink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/session"
)

const (
	pollEvery    = 500 * time.Millisecond
	loginPause   = 100 * time.Millisecond
	loginAttempt = 2 * time.Second
)

// ErrNoLogic is returned by Login when no logic answered in time.
var ErrNoLogic = errors.New("no logic answered")

// Config of the uplink.
type Config struct {
	Server      wire.ServerID // of this edge, told to logics
	Addrs       []string      // fixed list; none: found by leases
	QueueFrames int           // frames waiting for one stream
	LoginWait   time.Duration // for a log-in, all attempts together
}

// Finder lists live leases (registry.Registry).
type Finder interface {
	Live(ctx context.Context, tier string) ([]registry.Lease, error)
}

// Sink takes what comes back. Frames belong to it.
type Sink interface {
	// Answers delivers a batch in order.
	Answers(frames []*rpcpb.Down)
	// Broken says that all that is in flight on p gets no answer.
	Broken(p session.Peer)
	// Decided takes what has been decided. The first of a stream is all that
	// counts.
	Decided(es []control.Entry, first bool)
}

// Client keeps the streams. Make it with New.
type Client struct {
	cfg     Config
	finder  Finder
	sink    Sink
	log     *zap.Logger
	metrics *metrics
	turn    atomic.Uint32
	learned bool // some logic has told what was decided; follow's own

	mu    sync.Mutex
	links map[string]*link // by address

	running sync.WaitGroup
	cancel  context.CancelFunc
}

// New prepares a client; Start connects.
func New(cfg Config, finder Finder, sink Sink, reg prometheus.Registerer, log *zap.Logger) *Client {
	c := &Client{
		cfg: cfg, finder: finder, sink: sink, log: log, metrics: newMetrics(reg), links: map[string]*link{},
	}
	c.metrics.capacity.Set(float64(cfg.QueueFrames))
	return c
}

// Start looks for logics once and then all the time, until Stop.
func (c *Client) Start(ctx context.Context) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	c.refresh(run)
	c.running.Go(func() { c.follow(run) })
	if len(c.cfg.Addrs) > 0 {
		return
	}
	c.running.Go(func() {
		t := time.NewTicker(pollEvery)
		defer t.Stop()
		for {
			select {
			case <-run.Done():
				return
			case <-t.C:
				c.refresh(run)
			}
		}
	})
}

// Stop ends all streams and waits.
func (c *Client) Stop() {
	c.cancel()
	c.running.Wait()
}

// Ready says why frames cannot be passed on, nil when they can.
func (c *Client) Ready() error {
	if c.Pin() == nil {
		return errors.New("no stream to any logic")
	}
	return nil
}

// Pin picks a logic in turn, nil if none is connected.
func (c *Client) Pin() session.Peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.pickLocked(); l != nil {
		return l.peer
	}
	return nil
}

// pickLocked prefers logics that do not drain.
func (c *Client) pickLocked() *link {
	var fit, last []*link
	for _, l := range c.links {
		switch {
		case l.peer == nil:
		case l.drains || !l.wanted:
			last = append(last, l)
		default:
			fit = append(fit, l)
		}
	}
	if len(fit) == 0 {
		fit = last
	}
	if len(fit) == 0 {
		return nil
	}
	return fit[int(c.turn.Add(1))%len(fit)]
}

// Login asks a logic, and another when one fails, until LoginWait is over.
func (c *Client) Login(ctx context.Context, req *rpcpb.LoginRequest) (*rpcpb.LoginReply, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.LoginWait)
	defer cancel()
	var last error
	for {
		c.mu.Lock()
		l := c.pickLocked()
		c.mu.Unlock()
		if l != nil {
			one, done := context.WithTimeout(ctx, loginAttempt)
			reply, err := l.logic.Login(one, req)
			done()
			if err == nil {
				c.metrics.logins.WithLabelValues("ok").Inc()
				return reply, nil
			}
			last = err
		}
		select {
		case <-ctx.Done():
			c.metrics.logins.WithLabelValues("unavailable").Inc()
			return nil, fmt.Errorf("log in: %w", errors.Join(ErrNoLogic, last))
		case <-time.After(loginPause):
		}
	}
}

// refresh makes the links what the leases say.
func (c *Client) refresh(ctx context.Context) {
	live := map[string]bool{} // address → draining
	if len(c.cfg.Addrs) > 0 {
		for _, a := range c.cfg.Addrs {
			live[a] = false
		}
	} else {
		leases, err := c.finder.Live(ctx, registry.TierLogic)
		if err != nil {
			c.log.Debug("look for logics", zap.Error(err))
			return
		}
		for _, l := range leases {
			live[l.RPCAddr] = l.Draining
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for addr, l := range c.links {
		drains, ok := live[addr]
		l.wanted, l.drains = ok, drains
		if !ok && l.peer == nil {
			l.cancel()
			delete(c.links, addr)
		}
	}
	for addr, drains := range live {
		if c.links[addr] != nil {
			continue
		}
		l, err := c.dial(addr)
		if err != nil {
			c.log.Warn("dial logic", zap.String("addr", addr), zap.Error(err))
			continue
		}
		l.drains = drains
		var own context.Context
		own, l.cancel = context.WithCancel(ctx)
		c.links[addr] = l
		c.running.Go(func() { l.run(own) })
	}
}

func (c *Client) stillWanted(l *link) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !l.wanted && c.links[l.addr] == l {
		delete(c.links, l.addr)
	}
	return l.wanted
}

func (c *Client) ready(l *link, p *Peer) {
	c.mu.Lock()
	l.peer = p
	c.mu.Unlock()
	c.metrics.streams.Inc()
}

func (c *Client) unready(l *link) {
	c.mu.Lock()
	l.peer = nil
	c.mu.Unlock()
	c.metrics.streams.Dec()
	c.metrics.broken.Inc()
}
