package deliver

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/machine"
)

// fakeEdge serves pushes as an edge does.
type fakeEdge struct {
	rpcpb.UnimplementedEdgeServer
	name string
	addr string
	srv  *grpc.Server

	pos   rpc.Positions
	stuck atomic.Bool // reads nothing
	deaf  atomic.Bool // confirms nothing

	readers sync.WaitGroup
	mu      sync.Mutex
	streams int
	got     []int64 // offsets that brought items, in order
	lost    int
	cut     chan struct{} // closed: all streams end
}

func startEdge(t *testing.T, name string) *fakeEdge {
	t.Helper()
	e := &fakeEdge{name: name, cut: make(chan struct{})}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.addr = l.Addr().String()
	e.srv = rpc.NewServer()
	rpcpb.RegisterEdgeServer(e.srv, e)
	var wg sync.WaitGroup
	wg.Go(func() { _ = e.srv.Serve(l) })
	t.Cleanup(func() { e.srv.Stop(); wg.Wait(); e.readers.Wait() })
	return e
}

var errCut = errors.New("cut")

func (e *fakeEdge) Push(st grpc.BidiStreamingServer[rpcpb.PushBatch, rpcpb.PushReply]) error {
	e.mu.Lock()
	e.streams++
	cut := e.cut
	e.mu.Unlock()
	if err := st.Send(&rpcpb.PushReply{Hello: &rpcpb.EdgeHello{Server: e.name, Positions: e.pos.Snapshot()}}); err != nil {
		return err
	}
	e.readers.Go(func() { e.read(st) }) // ends after the handler, with the stream
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var version uint64
	for {
		select {
		case <-cut:
			return errCut
		case <-st.Context().Done():
			return nil
		case <-tick.C:
		}
		if e.deaf.Load() {
			continue
		}
		ps, v := e.pos.Since(version)
		version = v
		if len(ps) > 0 {
			if err := st.Send(&rpcpb.PushReply{Positions: ps}); err != nil {
				return err
			}
		}
	}
}

func (e *fakeEdge) read(st grpc.BidiStreamingServer[rpcpb.PushBatch, rpcpb.PushReply]) {
	for {
		if e.stuck.Load() {
			<-st.Context().Done()
			return
		}
		b, err := st.Recv()
		if err != nil {
			return
		}
		e.mu.Lock()
		for _, f := range b.GetFrames() {
			if !e.pos.Admit(f.GetAt(), f.GetLost()) {
				continue
			}
			if f.GetLost() {
				e.lost++
			} else if len(f.GetItems()) > 0 {
				e.got = append(e.got, f.GetAt().GetOffset())
			}
		}
		e.mu.Unlock()
	}
}

// cutAll ends all streams.
func (e *fakeEdge) cutAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.cut)
	e.cut = make(chan struct{})
}

func (e *fakeEdge) seen() ([]int64, int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.got), e.lost
}

func (e *fakeEdge) opened() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.streams
}

// live writes a lease that names the edge's address.
func (b *bed) live(e *fakeEdge) {
	b.t.Helper()
	l := registry.Lease{Tier: registry.TierEdge, Server: wire.ServerID(e.name), Epoch: 1, RPCAddr: e.addr}
	if _, err := b.reg.Renew(b.t.Context(), l, time.Minute); err != nil {
		b.t.Fatal(err)
	}
}

// run starts the streams and stops them at the end of the test.
func (b *bed) run() *Streams {
	s := NewStreams(b.Deliverer)
	ctx, cancel := context.WithCancel(b.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	b.t.Cleanup(func() { cancel(); wg.Wait() })
	return s
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	end := time.After(10 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func streamBed(t *testing.T) *bed {
	t.Helper()
	b := newBed(t)
	b.cfg.EdgePoll = 10 * time.Millisecond
	return b
}

func TestStreamsDeliverThroughCuts(t *testing.T) {
	b := streamBed(t)
	e := startEdge(t, "e1")
	b.live(e)
	b.online("b", "e1")
	s := b.run()
	eventually(t, "the stream stands", func() bool { return s.Up() == 1 })
	b.Deliverer.Claim(part, 100)
	const n = 400
	for i := range int64(n) {
		b.act(effects(100+i, private(i+1)))
		if i%80 == 40 {
			was := e.opened()
			e.cutAll()
			eventually(t, "a new stream", func() bool { return e.opened() > was })
		}
	}
	eventually(t, "all is confirmed", func() bool { return b.Committable()[part] == 100+n })
	got, lost := e.seen()
	if lost != 1 { // at the claim: the edge has no position of the partition yet
		t.Errorf("told lost %d times, want once", lost)
	}
	for i, o := range got {
		if o != 100+int64(i) {
			t.Fatalf("frame %d has offset %d: %v", i, o, got)
		}
	}
	if len(got) != n {
		t.Errorf("%d frames, want %d", len(got), n)
	}
}

// An idle edge learns the position within a beat, so a commit never waits for
// an edge that gets nothing.
func TestStreamsBeat(t *testing.T) {
	b := streamBed(t)
	e := startEdge(t, "e1")
	b.live(e)
	s := b.run()
	b.Deliverer.Claim(part, 0)
	eventually(t, "the stream stands", func() bool { return s.Up() == 1 })
	b.act(effects(0), effects(1))
	eventually(t, "the position is confirmed", func() bool { return b.Committable()[part] == 2 })
}

// A partition that comes to a process whose stream stands: what the former
// owner did not bring is told lost, because the stream is opened anew.
func TestStreamsReopenAtAClaim(t *testing.T) {
	b := streamBed(t)
	e := startEdge(t, "e1")
	e.pos.Admit(&rpcpb.Position{Topic: other.Topic, Partition: other.Number, Offset: 6}, false)
	b.live(e)
	b.online("b", "e1")
	s := b.run()
	eventually(t, "the stream stands", func() bool { return s.Up() == 1 })
	b.Deliverer.Claim(other, 10) // 7–9 were committed and never came here
	f := effects(10, private(1))
	f.At = other
	b.act(f)
	eventually(t, "the frame arrives", func() bool { got, _ := e.seen(); return len(got) == 1 })
	if _, lost := e.seen(); lost != 1 {
		t.Errorf("told lost %d times, want once", lost)
	}
}

func TestStreamsLeaseEnds(t *testing.T) {
	b := streamBed(t)
	e1, e2 := startEdge(t, "e1"), startEdge(t, "e2")
	b.live(e1)
	b.live(e2)
	b.online("b", "e2")
	s := b.run()
	b.Deliverer.Claim(part, 0)
	eventually(t, "both streams stand", func() bool { return s.Up() == 2 })
	e2.deaf.Store(true)
	b.act(effects(0, private(1)))
	eventually(t, "e1 has confirmed", func() bool {
		_, ok := b.Outbox("e1").Unconfirmed(part)
		return !ok
	})
	if got := b.Committable()[part]; got != 0 {
		t.Errorf("committable %d before e2 confirmed", got)
	}
	// Gone from the index while its stream stands: kept (the index may be empty).
	if err := b.reg.Release(t.Context(), registry.Lease{Tier: registry.TierEdge, Server: "e2", Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		b.Refresh(t.Context())
	}
	if b.Outbox("e2") == nil {
		t.Error("an edge with a stream was dropped at once")
	}
	// The process ends: the stream falls, the lease is not there, it is gone.
	e2.srv.Stop()
	eventually(t, "e2 is gone", func() bool { return b.Outbox("e2") == nil })
	eventually(t, "the commit goes on", func() bool { return b.Committable()[part] == 1 })
}

// A slow edge fills its own box and is told lost; the other does not wait.
func TestStreamsSlowEdge(t *testing.T) {
	b := streamBed(t)
	b.cfg.OutboxFrames = 50
	slow, quick := startEdge(t, "e1"), startEdge(t, "e2")
	slow.stuck.Store(true)
	b.live(slow)
	b.live(quick)
	b.online("a", "e1")
	b.online("b", "e2")
	s := b.run()
	b.Deliverer.Claim(part, 0)
	eventually(t, "both streams stand", func() bool { return s.Up() == 2 })
	const n = 1000
	body := make([]byte, 4<<10)
	for i := range int64(n) {
		it := private(i + 1)
		it.Body = body
		b.act(machine.Effects{At: part, Offset: i, Items: []machine.Item{it}})
		eventually(t, "the quick edge keeps up", func() bool { return b.Outbox("e2").Stats().Frames < 40 })
	}
	eventually(t, "the quick edge has all", func() bool { got, _ := quick.seen(); return len(got) == n })
	if _, lost := quick.seen(); lost > 0 {
		t.Error("the quick edge was told lost")
	}
	slow.stuck.Store(false)
	slow.cutAll()
	eventually(t, "all is confirmed or lost", func() bool { return b.Committable()[part] == n })
	got, lost := slow.seen()
	if lost == 0 || len(got) == n {
		t.Errorf("the slow edge got %d frames and was told lost %d times", len(got), lost)
	}
}

func TestStreamsWrongEdge(t *testing.T) {
	b := streamBed(t)
	e := startEdge(t, "e1")
	e.name = "somebody"
	b.live(&fakeEdge{name: "e1", addr: e.addr})
	s := b.run()
	eventually(t, "it is tried twice", func() bool { return e.opened() > 1 })
	if s.Up() != 0 {
		t.Error("an edge under another name was taken")
	}
}
