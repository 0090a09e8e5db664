package deliver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
)

// Times of a stream.
const (
	beatInterval = time.Second            // positions while idle
	helloTimeout = 3 * time.Second        // an edge that does not say hello is tried again
	backoffMin   = 20 * time.Millisecond  // between two streams to an edge; doubles
	backoffMax   = 500 * time.Millisecond // an edge that comes back is found within this
)

// errReopen ends a stream whose edge must say hello again.
var errReopen = errors.New("the edge's positions are asked anew")

// Streams keeps one push stream to each live edge: it watches the leases,
// dials, resumes after the positions of each hello, sends what the outboxes
// hold the moment it is there, and takes the replies. An edge costs two
// goroutines and one connection.
type Streams struct {
	d   *Deliverer
	log *zap.Logger

	mu sync.Mutex
	up map[wire.ServerID]bool // streams that stand
}

// NewStreams returns the streams of a Deliverer; Run starts them.
func NewStreams(d *Deliverer) *Streams {
	return &Streams{d: d, log: d.d.Log, up: make(map[wire.ServerID]bool)}
}

// Up returns how many streams stand.
func (s *Streams) Up() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.up)
}

// target is an edge and where it is dialed.
type target struct {
	edge *Edge
	addr string
}

// runner is the goroutine that serves one target.
type runner struct {
	target
	cancel context.CancelFunc
	done   chan struct{}
}

// Run works until ctx ends and every stream is closed.
func (s *Streams) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	runners := make(map[wire.ServerID]*runner)
	gone := make(map[wire.ServerID]time.Time)
	poll := time.NewTicker(s.d.cfg.EdgePoll)
	defer poll.Stop()
	s.watch(ctx, gone)
	for {
		s.reconcile(ctx, &wg, runners)
		select {
		case <-ctx.Done():
			return
		case <-s.d.changed:
		case <-poll.C:
			s.watch(ctx, gone)
		}
	}
}

// watch reads the leases: new edges are added, edges whose lease ended are
// removed. An edge whose stream stands is kept for a while: an emptied index
// shows no lease until the next renewal.
func (s *Streams) watch(ctx context.Context, gone map[wire.ServerID]time.Time) {
	ls, err := s.d.d.Registry.Live(ctx, registry.TierEdge)
	if err != nil { // nobody can say who lives: all stay
		s.d.m.failed.WithLabelValues("leases").Inc()
		return
	}
	live := make(map[wire.ServerID]bool, len(ls))
	for _, l := range ls {
		live[l.Server] = true
		delete(gone, l.Server)
		s.d.AddEdge(l)
	}
	now := time.Now()
	for _, server := range s.d.Servers() {
		if live[server] {
			continue
		}
		since, ok := gone[server]
		if !ok {
			since, gone[server] = now, now
		}
		s.mu.Lock()
		up := s.up[server]
		s.mu.Unlock()
		if !up || now.Sub(since) >= s.d.cfg.EdgeGrace {
			delete(gone, server)
			s.d.RemoveEdge(server)
		}
	}
}

// reconcile has one runner for each edge, at its present address.
func (s *Streams) reconcile(ctx context.Context, wg *sync.WaitGroup, runners map[wire.ServerID]*runner) {
	targets := s.d.targets()
	for server, r := range runners {
		if targets[server] != r.target {
			r.cancel()
			<-r.done
			delete(runners, server)
		}
	}
	for server, tg := range targets {
		if runners[server] != nil {
			continue
		}
		rctx, cancel := context.WithCancel(ctx)
		r := &runner{target: tg, cancel: cancel, done: make(chan struct{})}
		runners[server] = r
		wg.Go(func() {
			defer close(r.done)
			defer cancel()
			s.serve(rctx, server, tg)
		})
	}
}

// serve keeps a stream to one edge until ctx ends.
func (s *Streams) serve(ctx context.Context, server wire.ServerID, tg target) {
	log := s.log.With(zap.String("server_id", string(server)))
	cc, err := rpc.Dial(tg.addr)
	if err != nil {
		log.Error("dial edge", zap.Error(err))
		return
	}
	defer func() { _ = cc.Close() }() // nothing is in it that counts
	wait := backoffMin
	for ctx.Err() == nil {
		stood, err := s.stream(ctx, server, tg.edge, cc)
		if stood {
			wait = backoffMin
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errReopen) {
			continue
		}
		log.Debug("push stream ended", zap.Error(err))
		s.d.m.streamEnds.Inc()
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		wait = min(2*wait, backoffMax)
	}
}

// stream runs one push stream to its end; stood says that it got a hello.
func (s *Streams) stream(ctx context.Context, server wire.ServerID, e *Edge, cc *grpc.ClientConn) (stood bool, err error) {
	ctx, cancel := context.WithCancel(rpc.WithServer(ctx, s.d.d.Server))
	defer cancel()
	select {
	case <-e.again: // asked for before this stream: its hello will do
	default:
	}
	hello := time.AfterFunc(helloTimeout, cancel)
	st, err := rpcpb.NewEdgeClient(cc).Push(ctx)
	if err != nil {
		return false, fmt.Errorf("open push stream: %w", err)
	}
	r, err := st.Recv()
	hello.Stop()
	if err != nil {
		return false, fmt.Errorf("wait for hello: %w", err)
	}
	if h := r.GetHello(); h.GetServer() != string(server) {
		return false, fmt.Errorf("edge says it is %q", h.GetServer())
	}
	s.d.Hello(server, r.GetHello())
	defer e.box.Down()
	s.setUp(server, true)
	defer s.setUp(server, false)

	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		ended <- s.receive(ctx, server, st)
		cancel() // a Send that waits for a full window ends too
	})
	err = s.send(ctx, e, st)
	cancel()
	wg.Wait()
	if !errors.Is(err, errReopen) {
		err = errors.Join(err, <-ended)
	}
	return true, err
}

// receive takes replies until the stream ends.
func (s *Streams) receive(ctx context.Context, server wire.ServerID, st grpc.BidiStreamingClient[rpcpb.PushBatch, rpcpb.PushReply]) error {
	for {
		r, err := st.Recv()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		s.d.Reply(ctx, server, r)
	}
}

// send sends what the outbox holds, at once; what comes while a send is under
// way goes together with the next.
func (s *Streams) send(ctx context.Context, e *Edge, st grpc.BidiStreamingClient[rpcpb.PushBatch, rpcpb.PushReply]) error {
	beat := time.NewTicker(beatInterval)
	defer beat.Stop()
	for {
		for b := e.box.Next(rpc.MaxBatchFrames); b != nil; b = e.box.Next(rpc.MaxBatchFrames) {
			if err := st.Send(b); err != nil {
				return fmt.Errorf("send: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("send: %w", ctx.Err())
		case <-e.again:
			return errReopen
		case <-e.wake:
		case <-beat.C:
			e.box.Beat()
		}
	}
}

func (s *Streams) setUp(server wire.ServerID, up bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if up {
		s.up[server] = true
	} else {
		delete(s.up, server)
	}
	s.d.m.streams.Set(float64(len(s.up)))
}

// targets returns where each edge is.
func (d *Deliverer) targets() map[wire.ServerID]target {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[wire.ServerID]target, len(d.edges))
	for s, e := range d.edges {
		out[s] = target{edge: e, addr: e.lease.RPCAddr}
	}
	return out
}
