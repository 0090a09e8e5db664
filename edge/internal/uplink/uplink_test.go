package uplink

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/edge/internal/session"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// logic counts what it gets; hold keeps it from receiving.
type logic struct {
	rpcpb.UnimplementedLogicServer

	addr string
	srv  *grpc.Server
	mu   sync.Mutex
	got  []int32
	fail int // log-ins that fail
	hold chan struct{}

	decides []control.Entry // nil: a logic of before decisions
	follows int
	cut     chan struct{} // closed: the stream of decisions ends
}

func (l *logic) Control(_ *rpcpb.ControlRequest, s grpc.ServerStreamingServer[rpcpb.ControlBatch]) error {
	l.mu.Lock()
	es, cut := l.decides, l.cut
	l.follows++
	l.mu.Unlock()
	if es == nil {
		return status.Error(codes.Unimplemented, "older") //nolint:wrapcheck // as gRPC has it
	}
	if err := s.Send(rpc.ControlBatch(es, false)); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	select {
	case <-cut:
	case <-s.Context().Done():
	}
	return nil
}

func (l *logic) followed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.follows
}

func startLogic(t *testing.T) *logic {
	t.Helper()
	l := &logic{srv: rpc.NewServer(), hold: make(chan struct{})}
	close(l.hold)
	rpcpb.RegisterLogicServer(l.srv, l)
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.addr = ln.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.srv.Serve(ln) })
	t.Cleanup(func() {
		l.srv.Stop()
		wg.Wait()
	})
	return l
}

func (l *logic) Login(context.Context, *rpcpb.LoginRequest) (*rpcpb.LoginReply, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail > 0 {
		l.fail--
		return nil, errors.New("no")
	}
	return &rpcpb.LoginReply{HistoryEpoch: l.addr}, nil
}

func (l *logic) Uplink(s grpc.BidiStreamingServer[rpcpb.UpBatch, rpcpb.DownBatch]) error {
	for {
		select {
		case <-l.hold:
		case <-s.Context().Done():
			return nil
		}
		b, err := s.Recv()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		l.mu.Lock()
		down := &rpcpb.DownBatch{}
		for _, u := range b.GetFrames() {
			l.got = append(l.got, u.GetSeq())
			down.Frames = append(down.Frames, &rpcpb.Down{Conn: u.GetConn(), Seq: u.GetSeq()})
		}
		l.mu.Unlock()
		if err := s.Send(down); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
}

// finder and sink in one.
type side struct {
	mu      sync.Mutex
	leases  []registry.Lease
	err     error
	answers []int32
	broken  []session.Peer
	decided []decision
}

// decision is a call of Decided.
type decision struct {
	n     int
	first bool
}

func (s *side) Live(context.Context, string) ([]registry.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases, s.err
}

func (s *side) Answers(fs []*rpcpb.Down) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range fs {
		s.answers = append(s.answers, f.GetSeq())
	}
}

func (s *side) Broken(p session.Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = append(s.broken, p)
}

func (s *side) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *side) Decided(es []control.Entry, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decided = append(s.decided, decision{len(es), first})
}

func (s *side) counts() (answers, broken int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.answers), len(s.broken)
}

func start(t *testing.T, s *side, queue int, addrs ...string) *Client {
	t.Helper()
	return startWith(t, s, Config{Addrs: addrs, QueueFrames: queue, LoginWait: time.Minute})
}

func startWith(t *testing.T, s *side, cfg Config) *Client {
	t.Helper()
	cfg.Server = "e1"
	c := New(cfg, s, s, prometheus.NewRegistry(), zap.NewNop())
	c.Start(t.Context())
	t.Cleanup(c.Stop)
	return c
}

func TestFramesKeepTheirOrderInBatches(t *testing.T) {
	l, s := startLogic(t), &side{}
	c := start(t, s, 10000, l.addr)
	eventually(t, "a stream stands", func() bool { return c.Ready() == nil })
	p := c.Pin()
	const n = 3000
	for i := range int32(n) {
		if err := p.Send(&rpcpb.Up{Seq: i}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all are answered", func() bool { a, _ := s.counts(); return a == n })
	for i := range int32(n) {
		if l.got[i] != i || s.answers[i] != i {
			t.Fatalf("place %d has frame %d and answer %d", i, l.got[i], s.answers[i])
		}
	}
}

func TestFullQueueIsSaidAndSendNeverBlocks(t *testing.T) {
	l, s := startLogic(t), &side{}
	l.hold = make(chan struct{})
	c := start(t, s, 100, l.addr)
	eventually(t, "a stream stands", func() bool { return c.Ready() == nil })
	p := c.Pin()
	body := make([]byte, 64<<10) // more than gRPC's windows take
	var err error
	for range 10000 {
		if err = p.Send(&rpcpb.Up{Body: body}); err != nil {
			break
		}
	}
	if !errors.Is(err, session.ErrPeerFull) {
		t.Fatalf("got %v, want full", err)
	}
}

func TestBrokenStreamIsToldOnceAndMadeAnew(t *testing.T) {
	l, s := startLogic(t), &side{}
	s.leases = []registry.Lease{{RPCAddr: l.addr}}
	c := start(t, s, 100)
	eventually(t, "a stream stands", func() bool { return c.Ready() == nil })
	old := c.Pin()
	l.srv.Stop()
	eventually(t, "it is told", func() bool { _, b := s.counts(); return b == 1 })
	if s.broken[0] != old {
		t.Error("another peer is told broken")
	}
	if err := old.Send(&rpcpb.Up{}); !errors.Is(err, session.ErrPeerBroken) {
		t.Errorf("a broken peer takes frames: %v", err)
	}
	if c.Ready() == nil || c.Pin() != nil {
		t.Error("a broken stream is offered")
	}
	other := startLogic(t)
	s.set(func() { s.leases = []registry.Lease{{RPCAddr: other.addr}} })
	eventually(t, "the other logic is found", func() bool { return c.Ready() == nil })
	if _, b := s.counts(); b != 1 {
		t.Errorf("broken was told %d times", b)
	}
}

func TestDrainingAndVanishedLogics(t *testing.T) {
	a, b, s := startLogic(t), startLogic(t), &side{}
	s.leases = []registry.Lease{{RPCAddr: a.addr}, {RPCAddr: b.addr}}
	c := start(t, s, 100)
	names := func() map[string]bool {
		seen := map[string]bool{}
		for range 8 {
			if p, ok := c.Pin().(*Peer); ok && p != nil {
				seen[p.name] = true
			}
		}
		return seen
	}
	eventually(t, "both are used", func() bool { return len(names()) == 2 })
	s.set(func() { s.leases = []registry.Lease{{RPCAddr: a.addr, Draining: true}, {RPCAddr: b.addr}} })
	eventually(t, "the draining one gets no new ones", func() bool { n := names(); return len(n) == 1 && n[b.addr] })
	// The registry forgets all: the streams that stand go on.
	s.set(func() { s.leases = nil })
	time.Sleep(2 * pollEvery)
	if c.Ready() != nil {
		t.Error("a living stream was given up with its lease")
	}
	s.set(func() { s.err = errors.New("away") })
	time.Sleep(2 * pollEvery)
	if c.Ready() != nil {
		t.Error("a living stream was given up with the registry")
	}
}

func TestLoginTriesUntilTheTimeIsOver(t *testing.T) {
	l, s := startLogic(t), &side{}
	l.fail = math.MaxInt
	c := startWith(t, s, Config{Addrs: []string{l.addr}, LoginWait: 3 * loginPause})
	if _, err := c.Login(t.Context(), &rpcpb.LoginRequest{}); !errors.Is(err, ErrNoLogic) {
		t.Fatalf("got %v", err)
	}
	l.mu.Lock()
	l.fail = 2
	l.mu.Unlock()
	c = start(t, s, 100, l.addr)
	r, err := c.Login(t.Context(), &rpcpb.LoginRequest{})
	if err != nil || r.GetHistoryEpoch() != l.addr {
		t.Fatalf("%v, %v", r, err)
	}
}

// A logic of before decisions lets log-ins go on; but what a newer one has told
// stays.
func TestOlderLogicTakesNoDecisionBack(t *testing.T) {
	l, s := startLogic(t), &side{}
	start(t, s, 100, l.addr)
	decided := func() []decision {
		s.mu.Lock()
		defer s.mu.Unlock()
		return append([]decision(nil), s.decided...)
	}
	eventually(t, "nothing is decided", func() bool { d := decided(); return len(d) > 0 && d[0] == decision{0, true} })
	l.mu.Lock()
	l.decides, l.cut = []control.Entry{{Version: 1, Kind: control.Ban, User: "eve"}}, make(chan struct{})
	l.mu.Unlock()
	var n int
	eventually(t, "a ban is told", func() bool { d := decided(); n = len(d); return d[n-1] == decision{1, true} })
	l.mu.Lock()
	l.decides, l.follows = nil, 0
	close(l.cut)
	l.mu.Unlock()
	eventually(t, "the older logic is followed", func() bool { return l.followed() > 2 })
	if d := decided(); len(d) != n {
		t.Errorf("then it is told %v", d[n:])
	}
}
