package edge

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/starling-im/starling/common/app"
	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) {
	testkit.VerifyMain(m,
		// netpoll's loops live as long as the process.
		goleak.IgnoreAnyFunction("github.com/cloudwego/netpoll.(*defaultPoll).Wait"),
	)
}

const patience = 30 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// fakeLogic answers sends with acks and everything else as told.
type fakeLogic struct {
	rpcpb.UnimplementedLogicServer

	addr string
	srv  *grpc.Server

	mu      sync.Mutex
	groups  map[string][]string
	joined  int64 // first seq of every membership
	mute    bool  // answers nothing
	refuse  bool  // fails log-ins
	ups     []*rpcpb.Up
	edges   []string
	kill    context.CancelFunc
	onLogin func(*rpcpb.LoginRequest)

	control []control.Entry
	decided chan struct{} // closed when there is more in control
	follows []context.CancelFunc
}

func startLogic(t *testing.T) *fakeLogic {
	t.Helper()
	l := &fakeLogic{groups: map[string][]string{}, srv: rpc.NewServer(), decided: make(chan struct{})}
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

func (l *fakeLogic) Login(_ context.Context, r *rpcpb.LoginRequest) (*rpcpb.LoginReply, error) {
	l.mu.Lock()
	groups, refuse, hook, joined := l.groups[r.GetUser()], l.refuse, l.onLogin, l.joined
	l.mu.Unlock()
	if hook != nil {
		hook(r)
	}
	if refuse {
		return nil, errors.New("no")
	}
	reply := &rpcpb.LoginReply{Groups: groups, HistoryEpoch: "h1"}
	for range groups {
		reply.JoinedSeqs = append(reply.JoinedSeqs, joined)
	}
	return reply, nil
}

func (l *fakeLogic) Uplink(s grpc.BidiStreamingServer[rpcpb.UpBatch, rpcpb.DownBatch]) error {
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	md, _ := metadata.FromIncomingContext(ctx)
	l.mu.Lock()
	l.edges = append(l.edges, md.Get("server")...)
	l.kill = cancel
	l.mu.Unlock()
	in := make(chan *rpcpb.UpBatch)
	go func() {
		defer close(in)
		for {
			b, err := s.Recv()
			if err != nil {
				return
			}
			select {
			case in <- b:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return errors.New("killed")
		case b, ok := <-in:
			if !ok {
				return io.EOF
			}
			if err := l.answer(s, b); err != nil {
				return err
			}
		}
	}
}

func (l *fakeLogic) answer(s grpc.BidiStreamingServer[rpcpb.UpBatch, rpcpb.DownBatch], b *rpcpb.UpBatch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := &rpcpb.DownBatch{}
	for _, u := range b.GetFrames() {
		l.ups = append(l.ups, u)
		if l.mute {
			continue
		}
		var send wire.Send
		if wire.Op(u.GetOp()) == wire.OpSend && wire.Decode(u.GetBody(), &send) == nil {
			body, _ := wire.Marshal(wire.SendAck{ClientID: send.ClientID, ID: wire.MsgID(len(l.ups)), Conv: "p:a:b", TS: 1})
			out.Frames = append(out.Frames, &rpcpb.Down{Conn: u.GetConn(), Op: int32(wire.OpSendAck), Seq: u.GetSeq(), Body: body, Answers: u.GetOp()})
		}
	}
	if len(out.GetFrames()) == 0 {
		return nil
	}
	return s.Send(out)
}

// Control implements rpcpb.LogicServer.
func (l *fakeLogic) Control(_ *rpcpb.ControlRequest, s grpc.ServerStreamingServer[rpcpb.ControlBatch]) error {
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	l.mu.Lock()
	l.follows = append(l.follows, cancel)
	l.mu.Unlock()
	for sent := -1; ; {
		l.mu.Lock()
		es, more := l.control, l.decided
		l.mu.Unlock()
		if len(es) > sent {
			if err := s.Send(rpc.ControlBatch(es[max(sent, 0):], false)); err != nil {
				return err
			}
			sent = len(es)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		}
	}
}

// cut ends the streams of decisions.
func (l *fakeLogic) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, end := range l.follows {
		end()
	}
}

// decide makes decisions.
func (l *fakeLogic) decide(es ...control.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range es {
		e.Version, e.At = int64(len(l.control)+1), time.Now().UnixMilli()
		l.control = append(l.control, e)
	}
	close(l.decided)
	l.decided = make(chan struct{})
}

func (l *fakeLogic) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *fakeLogic) seen() []*rpcpb.Up {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*rpcpb.Up(nil), l.ups...)
}

// modules is a Registrar that keeps what is registered.
type modules map[string]app.Module

func (m modules) Register(name string, mod app.Module, _ ...string) { m[name] = mod }

// rig is an edge with all that is around it.
type rig struct {
	t     *testing.T
	ctx   context.Context
	edge  app.Module
	addrs Addrs
	reg   *memregistry.Registry
	logic *fakeLogic
	keys  *token.Keyring
	prom  *prometheus.Registry
	stop  func()
}

func startRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	return start(t, change, limits.Default())
}

func startLimited(t *testing.T, change func(*limits.Config)) *rig {
	t.Helper()
	l := limits.Default()
	change(&l)
	return start(t, nil, l)
}

func start(t *testing.T, change func(*Config), l limits.Config) *rig {
	t.Helper()
	r := &rig{t: t, ctx: testContext(t), reg: memregistry.New(), logic: startLogic(t), prom: prometheus.NewRegistry()}
	var err error
	if r.keys, err = token.LoadOrCreate(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	_, err = r.reg.Renew(r.ctx, registry.Lease{Tier: registry.TierLogic, Server: "logic-1", Epoch: 1, RPCAddr: r.logic.addr}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var cfg Config
	fs := flag.NewFlagSet("test", flag.ContinueOnError)
	cfg.RegisterFlags(fs, Prefix)
	cfg.ListenAddr, cfg.TCPAddr, cfg.GRPCAddr, cfg.AdminAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.ID = "edge-1"
	// Long: a test sets what it is about.
	cfg.AuthTimeout, cfg.LoginWait, cfg.LeaseTTL, cfg.cutTime = time.Minute, time.Minute, time.Minute, patience
	cfg.Heartbeat, cfg.WriteTimeout = 10*time.Minute, 10*time.Minute
	cfg.OnListen = func(a Addrs) { r.addrs = a }
	if change != nil {
		change(&cfg)
	}
	ms := modules{}
	err = Register(ms, cfg, Deps{Log: zap.NewNop(), Metrics: r.prom, Gatherer: r.prom, Registry: r.reg, Tokens: r.keys.Verifier(), Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	r.edge = ms[Module]
	for _, name := range []string{ModuleAdmin, Module} {
		if err := ms[name].Start(r.ctx); err != nil {
			t.Fatal(err)
		}
	}
	r.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, name := range []string{Module, ModuleAdmin} {
			if err := ms[name].Stop(ctx); err != nil {
				t.Errorf("stop %s: %v", name, err)
			}
		}
	})
	t.Cleanup(r.stop)
	eventually(t, "the edge is ready", func() bool { return r.edge.Ready() == nil })
	return r
}

func (r *rig) token(user, device string) string {
	r.t.Helper()
	raw, err := r.keys.Mint(token.Claims{User: wire.UserID(user), Device: wire.DeviceID(device)}, time.Hour)
	if err != nil {
		r.t.Fatal(err)
	}
	return raw
}

// client is one device.
type client struct {
	t    *testing.T
	ctx  context.Context
	ws   *websocket.Conn
	conn uint64
	bin  bool
	seq  int32
}

func (r *rig) dial(opts *websocket.DialOptions) *client {
	r.t.Helper()
	c, err := r.tryDial(opts)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *rig) tryDial(opts *websocket.DialOptions) (*client, error) {
	c, resp, err := websocket.Dial(r.ctx, "ws://"+r.addrs.WS+"/ws", opts)
	if err != nil {
		return nil, err //nolint:wrapcheck // a test
	}
	closeBody(resp)
	c.SetReadLimit(1 << 20)
	r.t.Cleanup(func() { _ = c.CloseNow() })
	return &client{t: r.t, ctx: r.ctx, ws: c}, nil
}

// closeBody closes a body that a dialler may have left out.
func closeBody(resp *http.Response) {
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
}

// login connects and authenticates by the first frame.
func (r *rig) login(user, device string) *client {
	r.t.Helper()
	c := r.dial(nil)
	c.auth(r.token(user, device))
	return c
}

// loginInTime logs in with an AuthTimeout so short that the edge may be late.
func (r *rig) loginInTime(user, device string) (c *client) {
	r.t.Helper()
	opts := &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + r.token(user, device)}}}
	eventually(r.t, "a log-in is in time", func() bool {
		var err error
		if c, err = r.tryDial(opts); err != nil {
			return false
		}
		f, err := c.read()
		return err == nil && f.Op == wire.OpAuthOK
	})
	return c
}

func (c *client) auth(tok string) {
	c.t.Helper()
	c.write(wire.OpAuth, wire.Auth{Token: tok})
	var ok wire.AuthOK
	c.expect(wire.OpAuthOK, &ok)
	for _, d := range ok.Conn {
		c.conn = c.conn*10 + uint64(d-'0')
	}
}

func (c *client) write(op wire.Op, body any) int32 {
	c.t.Helper()
	b, err := wire.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	c.seq++
	f := wire.Frame{Op: op, Seq: c.seq, Body: b}
	if c.bin {
		err = c.ws.Write(c.ctx, websocket.MessageBinary, wire.AppendBinary(nil, f))
	} else {
		err = c.ws.Write(c.ctx, websocket.MessageText, wire.AppendText(nil, f))
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return c.seq
}

func (c *client) read() (wire.Frame, error) {
	typ, b, err := c.ws.Read(c.ctx)
	if err != nil {
		return wire.Frame{}, err
	}
	if typ == websocket.MessageBinary {
		f, _, derr := wire.DecodeServerBinary(b)
		return f, derr
	}
	f, werr := wire.DecodeServerText(b)
	if werr != nil {
		return f, werr
	}
	return f, nil
}

// expect reads the next frame, which must be op.
func (c *client) expect(op wire.Op, into any) wire.Frame {
	c.t.Helper()
	f, err := c.read()
	if err != nil {
		c.t.Fatalf("waiting for %v: %v", op, err)
	}
	if f.Op != op {
		c.t.Fatalf("got %v %s, want %v", f.Op, f.Body, op)
	}
	if into != nil {
		if err := wire.Unmarshal(f.Body, into); err != nil {
			c.t.Fatal(err)
		}
	}
	return f
}

func (c *client) expectError(code wire.Code) wire.Error {
	c.t.Helper()
	var e wire.Error
	c.expect(wire.OpError, &e)
	if e.Code != code {
		c.t.Fatalf("error %s (%s), want %s", e.Code, e.Message, code)
	}
	return e
}

// expectClose reads until the close, which must have the code.
func (c *client) expectClose(code int) {
	c.t.Helper()
	for {
		_, err := c.read()
		if err == nil {
			continue
		}
		if got := websocket.CloseStatus(err); int(got) != code {
			c.t.Fatalf("closed with %d (%v), want %d", got, err, code)
		}
		return
	}
}

// ping asks and waits for the pong: what was sent before has been handled.
func (c *client) ping() {
	c.t.Helper()
	c.write(wire.OpPing, struct{}{})
	c.expect(wire.OpPong, nil)
}

// fakeJob is the job's end of a push stream.
type fakeJob struct {
	t      *testing.T
	stream rpcpb.Edge_PushClient
	hello  *rpcpb.EdgeHello

	mu        sync.Mutex
	positions map[int32]int64
	notHere   []*rpcpb.NotHere
	ended     bool
}

func (r *rig) job() *fakeJob {
	r.t.Helper()
	cc, err := rpc.Dial(r.addrs.GRPC)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.ctx)
	st, err := rpcpb.NewEdgeClient(cc).Push(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	first, err := st.Recv()
	if err != nil {
		r.t.Fatal(err)
	}
	j := &fakeJob{t: r.t, stream: st, hello: first.GetHello(), positions: map[int32]int64{}}
	var wg sync.WaitGroup
	wg.Go(j.receive)
	r.t.Cleanup(func() {
		cancel()
		wg.Wait()
		_ = cc.Close()
	})
	return j
}

func (j *fakeJob) receive() {
	for {
		m, err := j.stream.Recv()
		j.mu.Lock()
		if err != nil {
			j.ended = true
			j.mu.Unlock()
			return
		}
		for _, p := range m.GetPositions() {
			j.positions[p.GetPartition()] = p.GetOffset()
		}
		j.notHere = append(j.notHere, m.GetNotHere()...)
		j.mu.Unlock()
	}
}

func (j *fakeJob) position(partition int32) int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.positions[partition]
}

func (j *fakeJob) over() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.ended
}

func (j *fakeJob) away() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var us []string
	for _, n := range j.notHere {
		us = append(us, n.GetUsers()...)
	}
	return us
}

func (j *fakeJob) push(frames ...*rpcpb.PushFrame) {
	j.t.Helper()
	if err := j.stream.Send(&rpcpb.PushBatch{Frames: frames}); err != nil {
		j.t.Fatal(err)
	}
}

func at(offset int64, items ...*rpcpb.PushItem) *rpcpb.PushFrame {
	return &rpcpb.PushFrame{At: &rpcpb.Position{Topic: "im_messages", Partition: 1, Offset: offset}, Items: items}
}

// msg is an item with a message for users, or for a group.
func msg(seq int64, content, group string, users ...string) *rpcpb.PushItem {
	conv := wire.ConvID("p:a:b")
	if group != "" {
		conv = wire.GroupConv(wire.GroupID(group))
	}
	body, _ := wire.Marshal(wire.Msg{ID: wire.MsgID(seq), Conv: conv, Seq: seq, From: "a", Type: wire.TypeText, Content: content})
	return &rpcpb.PushItem{Users: users, Group: group, Op: int32(wire.OpMsg), Body: body, Conv: string(conv), Seq: seq}
}

// raw is a socket without a WebSocket library.
type raw struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (r *rig) raw() *raw {
	r.t.Helper()
	var d net.Dialer
	c, err := d.DialContext(r.ctx, "tcp", r.addrs.WS)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &raw{t: r.t, Conn: c, r: bufio.NewReader(c)}
}

func (c *raw) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, s); err != nil {
		c.t.Fatal(err)
	}
}

const goodHead = "Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

func (c *raw) upgrade() {
	c.t.Helper()
	c.send("GET /ws HTTP/1.1\r\n" + goodHead + "\r\n")
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		c.t.Fatalf("upgrade answered %d", resp.StatusCode)
	}
}

// closeCode reads frames until a close and returns its code and the last
// error's code before it; 0 if the socket just ends.
func (c *raw) closeCode() (code int, errCode string) {
	c.t.Helper()
	for {
		var h [2]byte
		if _, err := io.ReadFull(c.r, h[:]); err != nil {
			return 0, errCode
		}
		n := int(h[1])
		if n == 126 {
			var l [2]byte
			_, _ = io.ReadFull(c.r, l[:])
			n = int(l[0])<<8 | int(l[1])
		}
		p := make([]byte, n)
		if _, err := io.ReadFull(c.r, p); err != nil {
			return 0, errCode
		}
		if h[0]&0x0f == 8 {
			return int(p[0])<<8 | int(p[1]), errCode
		}
		if _, after, ok := strings.Cut(string(p), `"code":"`); ok {
			errCode, _, _ = strings.Cut(after, `"`)
		}
	}
}
