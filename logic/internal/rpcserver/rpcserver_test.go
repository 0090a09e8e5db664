package rpcserver

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/starling-im/starling/common/idgen"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/controller"
	"github.com/starling-im/starling/logic/internal/history"
	"github.com/starling-im/starling/logic/internal/live"
	"github.com/starling-im/starling/logic/internal/logictest"
	"github.com/starling-im/starling/logic/internal/message"
	"github.com/starling-im/starling/logic/internal/receipt"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

type world struct {
	store   *memstore.Store
	log     *logictest.Log
	server  *Server
	sync    *gate
	control *controller.Service
	client  rpcpb.LogicClient
	stop    func() // ends the gRPC server in good order
}

// gate holds syncs until it is opened.
type gate struct {
	Syncer
	mu      sync.Mutex
	shut    chan struct{}
	bounded bool // the last call had a deadline
}

func (g *gate) Sync(ctx context.Context, u wire.UserID, d wire.DeviceID, req wire.Sync) (*wire.SyncOK, error) {
	g.mu.Lock()
	shut := g.shut
	_, g.bounded = ctx.Deadline()
	g.mu.Unlock()
	if shut != nil {
		select {
		case <-shut:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return g.Syncer.Sync(ctx, u, d, req)
}

func (g *gate) close() (open func()) {
	c := make(chan struct{})
	g.mu.Lock()
	g.shut = c
	g.mu.Unlock()
	return func() { close(c) }
}

func setup(t *testing.T) *world {
	t.Helper()
	w := &world{store: memstore.New()}
	reg := memregistry.New()
	w.log = logictest.New(t.Context(), w.store)
	g := idgen.New(1, 0, time.Now)
	g.Extend(time.Now().Add(time.Hour).UnixMilli())
	var cfg message.Config
	cfg.RegisterFlags(flag.NewFlagSet("t", flag.ContinueOnError), "logic.")
	cfg.LookBudget, cfg.WaitBudget = time.Minute, time.Minute
	msgs, err1 := message.New(cfg, message.Deps{Produce: w.log, Store: w.store, Index: reg, IDs: g, Limits: logictest.Limits(16 << 10)})
	push := live.NewPusher(w.log, nil)
	hist, err2 := history.New(history.Deps{Store: w.store, Index: reg})
	cur, err3 := receipt.New(receipt.Deps{Store: w.store, Index: reg, Push: push, LargeGroup: 500})
	lv, err5 := live.New(live.Deps{Push: push, Store: w.store, Index: reg, IDs: g, LargeGroup: 2, Limits: logictest.Limits(1024)})
	var err6 error
	w.control, err6 = controller.New(controller.Deps{Store: w.store})
	w.sync = &gate{Syncer: hist}
	var err4 error
	w.server, err4 = New(Deps{Messages: msgs, Sync: w.sync, Cursors: cur, Live: lv, Control: w.control, Store: w.store, Workers: 4})
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		t.Fatal(err)
	}
	gs := rpc.NewServer()
	rpcpb.RegisterLogicServer(gs, w.server)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cc, err := rpc.Dial(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	w.client = rpcpb.NewLogicClient(cc)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = gs.Serve(ln) })
	wg.Go(func() { _ = msgs.Run(ctx) })
	wg.Go(func() { _ = cur.Run(ctx) })
	wg.Go(func() { _ = w.control.Run(ctx) })
	w.stop = func() { w.server.Drain(); gs.GracefulStop() }
	t.Cleanup(func() {
		_ = cc.Close()
		gs.Stop()
		w.server.Wait()
		cancel()
		wg.Wait()
		w.log.Close()
	})
	return w
}

type clientStream struct {
	t *testing.T
	rpcpb.Logic_UplinkClient
	cancel context.CancelFunc
	queue  []*rpcpb.Down
}

func (w *world) open(t *testing.T) *clientStream {
	t.Helper()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "server", "edge-1"))
	t.Cleanup(cancel)
	st, err := w.client.Uplink(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &clientStream{t: t, Logic_UplinkClient: st, cancel: cancel}
}

func up(user string, seq int32, op wire.Op, body string) *rpcpb.Up {
	return &rpcpb.Up{Conn: 7, User: user, Device: "web", Seq: seq, Op: int32(op), Body: []byte(body)}
}

func (s *clientStream) send(frames ...*rpcpb.Up) {
	s.t.Helper()
	if err := s.Send(&rpcpb.UpBatch{Frames: frames}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *clientStream) next() *rpcpb.Down {
	s.t.Helper()
	for len(s.queue) == 0 {
		b, err := s.Recv()
		if err != nil {
			s.t.Fatalf("receive: %v", err)
		}
		s.queue = b.GetFrames()
	}
	d := s.queue[0]
	s.queue = s.queue[1:]
	return d
}

// want takes the next answer and checks what it answers.
func want[T any](s *clientStream, seq int32, op, answers wire.Op) T {
	s.t.Helper()
	d := s.next()
	var v T
	if err := wire.Unmarshal(d.GetBody(), &v); err != nil {
		s.t.Fatal(err)
	}
	if d.GetSeq() != seq || wire.Op(d.GetOp()) != op || wire.Op(d.GetAnswers()) != answers || d.GetConn() != 7 {
		s.t.Fatalf("got %s %d answering %s with %s, want %s %d", wire.Op(d.GetOp()), d.GetSeq(), wire.Op(d.GetAnswers()), d.GetBody(), op, seq)
	}
	return v
}

func sendBody(id, content string) string {
	return fmt.Sprintf(`{"to":"bob","client_id":%q,"type":"text","content":%q}`, id, content)
}

func TestLogin(t *testing.T) {
	w := setup(t)
	r, err := w.client.Login(t.Context(), &rpcpb.LoginRequest{User: "alice"})
	if err != nil || r.GetHistoryEpoch() == "" || len(r.GetGroups()) != 0 {
		t.Errorf("login: %v %v", r, err)
	}
	if _, err := w.client.Login(t.Context(), &rpcpb.LoginRequest{User: "a:b"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a bad user: %v", err)
	}
}

func TestStreamWithoutAName(t *testing.T) {
	w := setup(t)
	st, err := w.client.Uplink(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a stream without a name: %v", err)
	}
}

func TestEachOperation(t *testing.T) {
	w := setup(t)
	s := w.open(t)
	s.send(up("alice", 1, wire.OpSend, sendBody("c1", "hi")))
	ack := want[wire.SendAck](s, 1, wire.OpSendAck, wire.OpSend)
	if r := w.log.Records()[0]; r.GetOrigin().GetServer() != "edge-1" || r.GetOrigin().GetConn() != 7 || r.GetOrigin().GetDevice() != "web" {
		t.Errorf("origin %v", r.GetOrigin())
	}
	_ = w.log.Flush(t.Context())
	s.send(up("bob", 2, wire.OpSync, `{}`))
	got := want[wire.SyncOK](s, 2, wire.OpSyncOK, wire.OpSync)
	if len(got.Conversations) != 1 || got.Conversations[0].Messages[0].Content != "hi" {
		t.Errorf("sync %+v", got)
	}
	// An ack just before a sync counts in it.
	s.send(up("bob", 0, wire.OpAck, `{"conv":"p:alice:bob","seq":1}`), up("bob", 3, wire.OpSync, `{}`))
	if got := want[wire.SyncOK](s, 3, wire.OpSyncOK, wire.OpSync); len(got.Conversations) != 0 {
		t.Errorf("sync after the ack %+v", got)
	}
	s.send(up("alice", 4, wire.OpEdit, fmt.Sprintf(`{"conv":"p:alice:bob","id":"%d","content":"ho"}`, ack.ID)))
	want[struct{}](s, 4, wire.OpOK, wire.OpEdit)
	s.send(up("alice", 5, wire.OpRecall, fmt.Sprintf(`{"conv":"p:alice:bob","id":"%d"}`, ack.ID)))
	want[struct{}](s, 5, wire.OpOK, wire.OpRecall)
	s.send(up("bob", 6, wire.OpRecall, fmt.Sprintf(`{"conv":"p:alice:bob","id":"%d"}`, ack.ID)))
	if e := want[wire.Error](s, 6, wire.OpError, wire.OpRecall); e.Code != wire.CodeForbidden {
		t.Errorf("another's recall: %+v", e)
	}
}

func TestBadFramesAreAnsweredAndTheStreamStays(t *testing.T) {
	w := setup(t)
	s := w.open(t)
	for i, c := range []struct {
		op   wire.Op
		body string
		code wire.Code
	}{
		{wire.OpSend, `{`, wire.CodeBadRequest},
		{wire.OpSend, `{"to":5,"client_id":"c","type":"text","content":"x"}`, wire.CodeBadRequest},
		{wire.OpSend, `[]`, wire.CodeBadRequest},
		{wire.OpAck, `{"conv":"nonsense","seq":1}`, wire.CodeBadRequest},
		{wire.OpRead, `{"conv":"p:alice:bob","seq":-1}`, wire.CodeBadRequest},
		{wire.OpRead, `{"conv":"p:bob:carl","seq":1}`, wire.CodeNotMember},
		{wire.OpSync, `{"limit":501}`, wire.CodeBadRequest},
		{wire.OpSync, `{"token":"zzz"}`, wire.CodeBadRequest},
		{wire.OpSync, `{"cursors":[]}`, wire.CodeBadRequest},
		{wire.OpRecall, `{"conv":"p:alice:bob"}`, wire.CodeBadRequest},
		{wire.OpEdit, `7`, wire.CodeBadRequest},
		{wire.OpTyping, `{"to":"bob","group":"g"}`, wire.CodeBadRequest},
		{wire.OpTyping, `[]`, wire.CodeBadRequest},
		{wire.OpTyping, `{"group":"none"}`, wire.CodeNotFound},
		{wire.OpRoomSend, `{"room":"r","type":"system","content":"x"}`, wire.CodeBadRequest},
		{wire.OpRoomSend, `{"room":5}`, wire.CodeBadRequest},
		{wire.OpJoin, `{"room":"r"}`, wire.CodeUnsupported},
		{wire.OpMsg, `{}`, wire.CodeUnsupported},
		{wire.Op(9999), `{}`, wire.CodeUnsupported},
	} {
		s.send(up("alice", int32(i+1), c.op, c.body))
		if e := want[wire.Error](s, int32(i+1), wire.OpError, c.op); e.Code != c.code {
			t.Errorf("%s %s: %+v, want %s", c.op, c.body, e, c.code)
		}
	}
	s.send(up("alice", 99, wire.OpSend, sendBody("c1", "hi")))
	want[wire.SendAck](s, 99, wire.OpSendAck, wire.OpSend)
}

func TestFromIsNotTheClientsToSay(t *testing.T) {
	w := setup(t)
	s := w.open(t)
	s.send(up("alice", 1, wire.OpSend, `{"from":"eve","to":"bob","client_id":"c","type":"text","content":"x"}`))
	want[wire.SendAck](s, 1, wire.OpSendAck, wire.OpSend)
	if from := w.log.Records()[0].GetFrom(); from != "alice" {
		t.Errorf("sent as %s", from)
	}
}

// Ten edges retry one send at once: one id for all, one message.
func TestTenRetriesAtOnce(t *testing.T) {
	w := setup(t)
	ids := make([]wire.MsgID, 10)
	var wg sync.WaitGroup
	for i := range ids {
		s := w.open(t)
		wg.Go(func() {
			s.send(up("alice", 1, wire.OpSend, sendBody("c1", "hi")))
			ids[i] = want[wire.SendAck](s, 1, wire.OpSendAck, wire.OpSend).ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("ids %v", ids)
		}
	}
	_ = w.log.Flush(t.Context())
	if c, err := w.store.Conversation(t.Context(), "p:alice:bob"); err != nil || c.MaxSeq != 1 {
		t.Errorf("%+v %v", c, err)
	}
}

func TestOrderOverManyBatches(t *testing.T) {
	w := setup(t)
	s := w.open(t)
	const n = 1000
	id := ""
	var batch []*rpcpb.Up
	for i := range n {
		if i == n/2 { // a recall in the middle, and of a batch, keeps its place
			batch = append(batch, up("alice", 7777, wire.OpRecall, `{"conv":"p:alice:bob","id":"1"}`))
		}
		batch = append(batch, up("alice", int32(i+1), wire.OpSend, sendBody(fmt.Sprintf("c%04d", i), "x")))
		if i%7 == 0 || i == n-1 {
			s.send(batch...)
			batch = nil
		}
	}
	for range n + 1 {
		s.next()
	}
	at := -1
	next := 0
	for i, r := range w.log.Records() {
		if r.GetUpdate() != nil {
			at = i
			continue
		}
		if id = fmt.Sprintf("c%04d", next); r.GetClientId() != id {
			t.Fatalf("record %d is %s, want %s", i, r.GetClientId(), id)
		}
		next++
	}
	if at != n/2 || next != n {
		t.Errorf("the recall stands at %d, %d sends", at, next)
	}
}

func TestSlowCallsDoNotHoldUpSends(t *testing.T) {
	w := setup(t)
	open := w.sync.close()
	s := w.open(t)
	for i := range 20 { // more than there are workers
		s.send(up("alice", int32(100+i), wire.OpSync, `{}`))
	}
	s.send(up("alice", 1, wire.OpSend, sendBody("c1", "hi")))
	want[wire.SendAck](s, 1, wire.OpSendAck, wire.OpSend)
	open()
	for range 20 {
		if d := s.next(); wire.Op(d.GetOp()) != wire.OpSyncOK {
			t.Errorf("got %v", d)
		}
	}
}

// A store that hangs must not keep the workers for good.
func TestSyncsHaveADeadline(t *testing.T) {
	w := setup(t)
	s := w.open(t)
	s.send(up("alice", 1, wire.OpSync, `{}`))
	want[wire.SyncOK](s, 1, wire.OpSyncOK, wire.OpSync)
	w.sync.mu.Lock()
	defer w.sync.mu.Unlock()
	if !w.sync.bounded {
		t.Error("a sync without a deadline")
	}
}

func TestSlowQueueIsBounded(t *testing.T) {
	w := setup(t)
	open := w.sync.close()
	defer open()
	s := w.open(t)
	var batch []*rpcpb.Up
	for i := range slowQueue + 100 {
		batch = append(batch, up("alice", int32(i+1), wire.OpSync, `{}`))
	}
	s.send(batch...)
	d := s.next()
	var e wire.Error
	if err := wire.Unmarshal(d.GetBody(), &e); err != nil || e.Code != wire.CodeOverloaded || e.RetryAfterMS <= 0 {
		t.Errorf("answer %v %v", d, err)
	}
}

// What the log acknowledges after its stream is gone goes nowhere, and the next
// stream works.
func TestCutStream(t *testing.T) {
	w := setup(t)
	w.log.Hold(true)
	s := w.open(t)
	s.send(up("alice", 1, wire.OpSend, sendBody("c1", "hi")), up("alice", 2, wire.OpSync, `{}`))
	for w.log.Waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	s.cancel()
	if _, err := s.Recv(); err == nil {
		if _, err = s.Recv(); err == nil {
			t.Fatal("a cut stream answers")
		}
	}
	w.log.Hold(false)
	_ = w.log.Flush(t.Context())
	s = w.open(t)
	s.send(up("alice", 1, wire.OpSend, sendBody("c1", "hi")))
	if ack := want[wire.SendAck](s, 1, wire.OpSendAck, wire.OpSend); int64(ack.ID) != w.log.Records()[0].GetId() {
		t.Errorf("the retry got id %d", ack.ID)
	}
}

func TestDrainAnswersWhatIsInHand(t *testing.T) {
	w := setup(t)
	w.log.Hold(true)
	s := w.open(t)
	s.send(up("alice", 1, wire.OpSend, sendBody("c1", "hi")))
	for w.log.Waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	done := make(chan struct{})
	go func() { defer close(done); w.stop() }()
	w.log.Hold(false)
	want[wire.SendAck](s, 1, wire.OpSendAck, wire.OpSend)
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the end of a drained stream: %v", err)
	}
	<-done
}

func TestTheEdgesOwnEnd(t *testing.T) {
	w := setup(t)
	w.log.Hold(true)
	s := w.open(t)
	s.send(up("alice", 1, wire.OpSend, sendBody("c1", "hi")))
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for w.log.Waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	w.log.Hold(false)
	want[wire.SendAck](s, 1, wire.OpSendAck, wire.OpSend)
}

// many answers as the queue must bound them.
type many struct {
	n    int
	body wire.SendAck
	done chan struct{}
}

func (m many) Send(_ context.Context, reqs []message.Request) {
	for range m.n {
		for i := range reqs {
			reqs[i].Done(&m.body, nil)
		}
	}
	close(m.done)
}

func (many) Change(context.Context, wire.UserID, *recordpb.Origin, string, wire.RecallBody) (*message.Pending, error) {
	return nil, wire.Errorf(wire.CodeUnsupported, "")
}

func TestAnswersAreBounded(t *testing.T) {
	a := newAnswers(NewMetrics(nil))
	for range outQueue {
		a.put(&rpcpb.Down{Body: []byte("x")})
	}
	select {
	case <-a.full:
		t.Fatal("full too soon")
	default:
	}
	a.put(&rpcpb.Down{})
	<-a.full
	n := 0
	for b := a.take(); b != nil; b = a.take() {
		n += len(b)
	}
	if n != outQueue {
		t.Errorf("%d answers came out", n)
	}
	a.close()
	a.put(&rpcpb.Down{})
	if a.take() != nil {
		t.Error("an answer after the end")
	}
}

func TestBatchesAreCut(t *testing.T) {
	a := newAnswers(NewMetrics(nil))
	for range 5 {
		a.put(&rpcpb.Down{Body: make([]byte, batchBytes/2)})
	}
	var sizes []int
	for b := a.take(); b != nil; b = a.take() {
		sizes = append(sizes, len(b))
	}
	if fmt.Sprint(sizes) != "[2 2 1]" {
		t.Errorf("batches of %v", sizes)
	}
}

// An edge that takes no answers is cut off; nothing hangs.
func TestEdgeThatDoesNotRead(t *testing.T) {
	w := setup(t)
	m := many{n: outBytes / (8 << 10), body: wire.SendAck{ClientID: strings.Repeat("c", 16<<10), Conv: "p:alice:bob", ID: 1}, done: make(chan struct{})}
	w.server.d.Messages = m
	s := w.open(t)
	s.send(up("alice", 1, wire.OpSend, sendBody("c", "x")))
	<-m.done
	for {
		if _, err := s.Recv(); err != nil {
			if status.Code(err) != codes.ResourceExhausted {
				t.Errorf("the end of the stream: %v", err)
			}
			return
		}
	}
}
