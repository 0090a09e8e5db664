package listen

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/session"
)

func TestMain(m *testing.M) {
	testkit.VerifyMain(m,
		// netpoll's loops live as long as the process.
		goleak.IgnoreAnyFunction("github.com/cloudwego/netpoll.(*defaultPoll).Wait"),
	)
}

const patience = 30 * time.Second

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// hub lets everybody in; the token is the user.
type hub struct {
	mu       sync.Mutex
	next     wire.ConnID
	sessions map[*session.Session]wire.UserID
	reasons  map[session.Reason]int
}

func (h *hub) Authenticate(s *session.Session, a wire.Auth) {
	if a.Token == "bomb" {
		panic("a bug")
	}
	h.mu.Lock()
	h.next++
	id := session.Identity{User: wire.UserID(a.Token), Device: "web", Conn: h.next}
	h.mu.Unlock()
	if !s.Identify(id, time.Now().Add(time.Hour).UnixMilli()) {
		return
	}
	h.mu.Lock()
	h.sessions[s] = id.User
	h.mu.Unlock()
	s.Open(wire.AuthOK{User: id.User})
}

func (h *hub) Renew(*session.Session, wire.Auth) (wire.AuthOK, *wire.Error) {
	return wire.AuthOK{}, nil
}

func (h *hub) Ask(wire.ConnID, wire.Frame) (bool, *wire.Error) { return true, nil }

func (h *hub) Pin() session.Peer { return nil }

func (h *hub) Closed(s *session.Session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sessions, s)
	h.reasons[s.Reason()]++
}

func (h *hub) ended(r session.Reason) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reasons[r]
}

// all returns the open sessions and their users.
func (h *hub) all() map[*session.Session]wire.UserID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.sessions)
}

func (h *hub) of(u wire.UserID) *session.Session {
	for s, user := range h.all() {
		if user == u {
			return s
		}
	}
	return nil
}

type rig struct {
	t   *testing.T
	srv *Server
	hub *hub
	env *session.Env
	reg *prometheus.Registry
}

func start(t *testing.T, change func(*Config, *session.Limits)) *rig {
	t.Helper()
	if err := ConfigureNetpoll(2); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	h := &hub{sessions: map[*session.Session]wire.UserID{}, reasons: map[session.Reason]int{}}
	cfg := Config{Addr: "127.0.0.1:0", HeadBytes: 4096, HeadTimeout: patience, CutTime: patience}
	env := &session.Env{
		Limits: session.Limits{
			QueueBytes: 64 << 20, AuthTimeout: patience, AuthBytes: 8192, Heartbeat: time.Minute,
			WriteTimeout: patience, CloseGrace: 300 * time.Millisecond,
		},
		Hub: h, Metrics: session.NewMetrics(reg), Log: zap.NewNop(), Now: func() int64 { return time.Now().UnixMilli() },
	}
	if change != nil {
		change(&cfg, &env.Limits)
	}
	r := &rig{t: t, srv: New(cfg, env, reg, zap.NewNop()), hub: h, env: env, reg: reg}
	if err := r.srv.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.srv.Serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.close(patience) })
	return r
}

// close stops the server, once.
func (r *rig) close(budget time.Duration) {
	if r.srv == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), budget)
	defer cancel()
	if err := r.srv.Close(ctx, session.Shutdown); err != nil {
		r.t.Errorf("close: %v", err)
	}
	r.srv = nil
}

func (r *rig) rejected(reason string) float64 { return r.metric("rejected_total", reason) }

// metric sums a metric of the edge, of one label's value unless it is empty.
func (r *rig) metric(name, label string) (sum float64) {
	r.t.Helper()
	ms, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, m := range ms {
		for _, v := range m.GetMetric() {
			if m.GetName() == "starling_edge_"+name && (label == "" || v.GetLabel()[0].GetValue() == label) {
				sum += v.GetCounter().GetValue() + v.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// client is a socket with a reader.
type client struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (r *rig) dial() *client {
	r.t.Helper()
	c, err := r.tryDial()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (r *rig) tryDial() (*client, error) {
	var d net.Dialer
	c, err := d.DialContext(r.t.Context(), "tcp", r.srv.Addr().String())
	if err != nil {
		return nil, err //nolint:wrapcheck // a test
	}
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return &client{t: r.t, Conn: c, r: bufio.NewReaderSize(c, 64<<10)}, nil
}

const goodHead = "Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, s); err != nil {
		c.t.Fatal(err)
	}
}

// upgrade asks for a WebSocket, with a user if there is one, and returns the
// first line of the answer.
func (c *client) upgrade(user string) (string, error) {
	auth := ""
	if user != "" {
		auth = "Authorization: Bearer " + user + "\r\n"
	}
	if _, err := io.WriteString(c.Conn, "GET /ws?device=web HTTP/1.1\r\n"+goodHead+auth+"\r\n"); err != nil {
		return "", err //nolint:wrapcheck // a test
	}
	first, err := c.r.ReadString('\n')
	for line := first; err == nil && line != "\r\n"; {
		line, err = c.r.ReadString('\n')
	}
	return first, err //nolint:wrapcheck // a test
}

// login connects as user and reads up to auth_ok.
func (r *rig) login(user string) *client {
	r.t.Helper()
	c := r.dial()
	if _, err := c.upgrade(user); err != nil {
		r.t.Fatal(err)
	}
	if _, p, err := c.frame(); err != nil {
		r.t.Fatalf("waiting for auth_ok: %q, %v", p, err)
	}
	return c
}

// frame reads one frame of the server.
func (c *client) frame() (opcode byte, p []byte, err error) {
	var h [10]byte
	if _, err = io.ReadFull(c.r, h[:2]); err != nil {
		return 0, nil, err //nolint:wrapcheck // a test
	}
	n := uint64(h[1])
	switch n {
	case 126:
		_, err = io.ReadFull(c.r, h[:2])
		n = uint64(binary.BigEndian.Uint16(h[:]))
		h[0] = 0x81
	case 127:
		_, err = io.ReadFull(c.r, h[:8])
		n = binary.BigEndian.Uint64(h[:])
		h[0] = 0x81
	}
	if err != nil {
		return 0, nil, err //nolint:wrapcheck // a test
	}
	p = make([]byte, n)
	_, err = io.ReadFull(c.r, p)
	return h[0] & 0x0f, p, err //nolint:wrapcheck // a test
}

// closeCode reads up to the close frame; 0: the end came without one.
func (c *client) closeCode() int {
	for {
		op, p, err := c.frame()
		if err != nil {
			return 0
		}
		if op == 8 {
			return int(binary.BigEndian.Uint16(p))
		}
	}
}

// masked is a client's frame with a mask of zeroes.
func masked(first byte, payload string) string {
	b := []byte{first}
	if n := len(payload); n < 126 {
		b = append(b, 0x80|byte(n))
	} else {
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	}
	return string(append(b, 0, 0, 0, 0)) + payload
}

// push is a message for one user.
func push(user wire.UserID, seq int64, size int) *session.Shared {
	return &session.Shared{Op: wire.OpMsg, Conv: "p:a:b", Seq: seq, Body: fmt.Appendf(nil, `{"to":%q,"seq":%d,"x":"%0*d"}`, user, seq, size, 0)}
}
