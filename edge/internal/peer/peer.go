// Package peer is what edges say to each other: that a device which had a
// connection at one edge has logged in at another, so that the older one ends
// at once. It is advice: what is not said, because the other edge does not
// answer or the queue is full, comes out when that edge announces its sessions
// the next time.
//
// A Caller is safe for concurrent use. It holds one connection to each edge it
// has spoken to for as long as that edge has a lease.
package peer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
)

const (
	queued     = 4096
	callers    = 4
	callTime   = time.Second
	leasesLast = time.Second // leases that were read are good for so long,
	// and for less where a route names one that is not among them.
	leasesApart = 20 * time.Millisecond
)

// Leases is what a Caller needs of the registry.
type Leases interface {
	Live(ctx context.Context, tier string) ([]registry.Lease, error)
}

// Caller calls other edges. Make it with New, start it with Run.
type Caller struct {
	leases Leases
	log    *zap.Logger
	queue  chan kick
	kicks  *prometheus.CounterVec

	mu    sync.Mutex
	read  time.Time
	edges map[wire.ServerID]*edge
}

// edge is another one, as its lease tells.
type edge struct {
	lease registry.Lease
	cc    *grpc.ClientConn // nil: not spoken to yet
}

type kick struct {
	user  wire.UserID
	route registry.Route
	by    wire.ConnID
}

// New returns a Caller that does not run yet.
func New(leases Leases, reg prometheus.Registerer, log *zap.Logger) *Caller {
	c := &Caller{leases: leases, log: log, queue: make(chan kick, queued), edges: map[wire.ServerID]*edge{}}
	f := promauto.With(reg)
	c.kicks = f.NewCounterVec(prometheus.CounterOpts{
		Name: "starling_edge_peer_kicks_total", Help: "Older connections of a device that other edges were told of, by result: done, gone (that edge has no lease), failed, dropped (the queue was full).",
	}, []string{"result"})
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "starling_edge_peer_queue_kicks", Help: "Older connections that other edges have still to be told of.",
	}, func() float64 { return float64(len(c.queue)) })
	f.NewGauge(prometheus.GaugeOpts{
		Name: "starling_edge_peer_queue_capacity_kicks", Help: "Kicks that may wait.",
	}).Set(queued)
	return c
}

// Replace asks the edge of a route to end it, because by, a newer connection of
// the device, is here. It never blocks.
func (c *Caller) Replace(user wire.UserID, r registry.Route, by wire.ConnID) {
	select {
	case c.queue <- kick{user, r, by}:
	default:
		c.kicks.WithLabelValues("dropped").Inc()
	}
}

// Run calls until ctx ends.
func (c *Caller) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case k := <-c.queue:
					c.call(ctx, k)
				}
			}
		})
	}
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.edges {
		c.hangUp(e)
	}
}

func (c *Caller) call(ctx context.Context, k kick) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	client, err := c.client(ctx, k.route)
	if err == nil && client == nil {
		c.kicks.WithLabelValues("gone").Inc()
		return
	}
	if err == nil {
		_, err = client.Kick(ctx, &rpcpb.KickRequest{User: string(k.user), Conn: uint64(k.route.Conn), By: uint64(k.by)})
	}
	if err != nil {
		c.kicks.WithLabelValues("failed").Inc()
		c.log.Debug("tell another edge of a newer connection", zap.String("edge", string(k.route.Server)), zap.Error(err))
		return
	}
	c.kicks.WithLabelValues("done").Inc()
}

// client returns who to call; nil where the route's edge lives no more.
func (c *Caller) client(ctx context.Context, r registry.Route) (rpcpb.EdgeClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.read) > leasesLast {
		if err := c.refreshLocked(ctx); err != nil {
			return nil, err
		}
	}
	e := c.edges[r.Server]
	if (e == nil || e.lease.Epoch < r.Epoch) && time.Since(c.read) > leasesApart { // it may be newer than what was read
		if err := c.refreshLocked(ctx); err != nil {
			return nil, err
		}
		e = c.edges[r.Server]
	}
	if e == nil || e.lease.Epoch != r.Epoch {
		return nil, nil
	}
	if e.cc == nil {
		cc, err := rpc.Dial(e.lease.RPCAddr)
		if err != nil {
			return nil, fmt.Errorf("call edge %s: %w", r.Server, err)
		}
		e.cc = cc
	}
	return rpcpb.NewEdgeClient(e.cc), nil
}

// refreshLocked reads the leases and hangs up on who has none any more.
func (c *Caller) refreshLocked(ctx context.Context) error {
	live, err := c.leases.Live(ctx, registry.TierEdge)
	if err != nil {
		return fmt.Errorf("find edges: %w", err)
	}
	c.read = time.Now()
	edges := make(map[wire.ServerID]*edge, len(live))
	for _, l := range live {
		e := c.edges[l.Server]
		if e == nil || e.lease.RPCAddr != l.RPCAddr {
			e = &edge{}
		}
		e.lease = l
		edges[l.Server] = e
	}
	for id, e := range c.edges {
		if edges[id] != e {
			c.hangUp(e)
		}
	}
	c.edges = edges
	return nil
}

func (c *Caller) hangUp(e *edge) {
	if e.cc == nil {
		return
	}
	if err := e.cc.Close(); err != nil {
		c.log.Debug("hang up on an edge", zap.Error(err))
	}
}
