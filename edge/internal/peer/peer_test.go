package peer

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

type leases struct {
	mu   sync.Mutex
	live []registry.Lease
}

func (l *leases) Live(context.Context, string) ([]registry.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.live, nil
}

// other is an edge that notes whom it is asked to end.
type other struct {
	rpcpb.UnimplementedEdgeServer
	kicked chan *rpcpb.KickRequest
}

func (o *other) Kick(_ context.Context, r *rpcpb.KickRequest) (*rpcpb.KickReply, error) {
	o.kicked <- r
	return &rpcpb.KickReply{}, nil
}

func serve(t *testing.T) (*other, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o, s := &other{kicked: make(chan *rpcpb.KickRequest, 8)}, rpc.NewServer()
	rpcpb.RegisterEdgeServer(s, o)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(ln) })
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	return o, ln.Addr().String()
}

// A replaced connection's edge is told; one without the lease that the route
// names, or none, is not, and who does not answer holds up nobody for long.
func TestReplace(t *testing.T) {
	o, addr := serve(t)
	l := &leases{live: []registry.Lease{
		{Server: "edge-2", Epoch: 7, RPCAddr: addr},
		{Server: "edge-3", Epoch: 1, RPCAddr: "127.0.0.1:1"},
	}}
	reg := prometheus.NewRegistry()
	c := New(l, reg, zap.NewNop())
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { c.Run(ctx) })
	defer wg.Wait()
	defer cancel()

	c.Replace("ann", registry.Route{Server: "edge-2", Epoch: 6, Conn: 1}, 9) // of an older life
	c.Replace("ann", registry.Route{Server: "edge-9", Epoch: 1, Conn: 2}, 9)
	c.Replace("ann", registry.Route{Server: "edge-3", Epoch: 1, Conn: 3}, 9)
	c.Replace("ann", registry.Route{Server: "edge-2", Epoch: 7, Conn: 4}, 9)
	select {
	case k := <-o.kicked:
		if k.GetUser() != "ann" || k.GetConn() != 4 || k.GetBy() != 9 {
			t.Errorf("asked for %v", k)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the edge was not told")
	}
	for result, want := range map[string]float64{"done": 1, "gone": 2, "failed": 1} {
		for deadline := time.Now().Add(10 * time.Second); c.count(t, result) != want; {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v, want %v", result, c.count(t, result), want)
			}
			<-time.After(time.Millisecond)
		}
	}
	if len(o.kicked) != 0 {
		t.Error("more than that one was asked for")
	}
}

func (c *Caller) count(t *testing.T, result string) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.kicks.WithLabelValues(result).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// An edge that is gone is hung up on, and called again where it comes back.
func TestComesBack(t *testing.T) {
	o, addr := serve(t)
	l := &leases{live: []registry.Lease{{Server: "edge-2", Epoch: 7, RPCAddr: addr}}}
	c := New(l, prometheus.NewRegistry(), zap.NewNop())
	kick := func(epoch uint64) {
		c.mu.Lock()
		c.read = time.Time{}
		c.mu.Unlock()
		c.call(t.Context(), kick{"ann", registry.Route{Server: "edge-2", Epoch: epoch, Conn: 4}, 9})
	}
	kick(7)
	<-o.kicked
	l.live = nil
	kick(7)
	if len(c.edges) != 0 {
		t.Errorf("still known: %v", c.edges)
	}
	l.live = []registry.Lease{{Server: "edge-2", Epoch: 8, RPCAddr: addr}}
	kick(8)
	<-o.kicked
	for _, e := range c.edges {
		c.hangUp(e)
	}
}
