package starling

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// peer is the server's side of one connection of a test.
type peer struct {
	t    testing.TB
	conn *websocket.Conn
	req  *http.Request
	ctx  context.Context
}

// serve starts a server that runs script for each connection, and returns its
// URL. The connection is dropped when script returns.
func serve(tb testing.TB, script func(p *peer)) string {
	tb.Helper()
	h, stop := handler(tb, script)
	srv := httptest.NewServer(h)
	tb.Cleanup(func() { stop(); srv.Close() })
	return "ws" + strings.TrimPrefix(srv.URL, "http") + "/ws"
}

func handler(tb testing.TB, script func(p *peer)) (h http.Handler, stop func()) {
	tb.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // the test sees the failed dial
		}
		defer func() { _ = conn.CloseNow() }()
		conn.SetReadLimit(wire.MaxFrame)
		script(&peer{t: tb, conn: conn, req: r, ctx: ctx})
	}), stop
}

// next reads the client's next frame; ok is false at the connection's end.
func (p *peer) next() (f wire.Frame, ok bool) {
	t, b, err := p.conn.Read(p.ctx)
	if err != nil {
		return wire.Frame{}, false
	}
	if t == websocket.MessageBinary {
		f, n, err := wire.DecodeBinary(b)
		if err != nil || n != len(b) {
			p.t.Errorf("client sent a bad binary frame: %v", err)
		}
		return f, true
	}
	f, werr := wire.DecodeText(b)
	if werr != nil {
		p.t.Errorf("client sent %s: %v", b, werr)
	}
	return f, true
}

// text and binary send a frame; a failure is seen by the client's test.
func (p *peer) text(op wire.Op, seq int32, body any) {
	_ = p.conn.Write(p.ctx, websocket.MessageText, wire.AppendText(nil, p.frame(op, seq, body)))
}

func (p *peer) binary(fs ...wire.Frame) {
	var b []byte
	for _, f := range fs {
		b = wire.AppendBinary(b, f)
	}
	_ = p.conn.Write(p.ctx, websocket.MessageBinary, b)
}

func (p *peer) frame(op wire.Op, seq int32, body any) wire.Frame {
	b, err := wire.Marshal(body)
	if err != nil {
		p.t.Error(err)
	}
	return wire.Frame{Op: op, Seq: seq, Body: b}
}

// logIn answers the auth frame.
func (p *peer) logIn() {
	f, ok := p.next()
	if !ok || f.Op != wire.OpAuth {
		p.t.Errorf("first frame is %+v, want auth", f)
	}
	p.text(wire.OpAuthOK, f.Seq, wire.AuthOK{User: "alice", Device: "web-1", Conn: "7", HeartbeatMS: 60_000, TS: 1, V: 1})
}

// drain reads until the client is gone.
func (p *peer) drain() {
	for ok := true; ok; {
		_, ok = p.next()
	}
}

// dial connects with the given changes to the options.
func dial(tb testing.TB, url string, edit ...func(*Options)) *Client {
	tb.Helper()
	opt := Options{URL: url, Token: "tok", Device: "web-1", Platform: "web"}
	for _, e := range edit {
		e(&opt)
	}
	c, err := Dial(withTimeout(tb), opt)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

func withTimeout(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

// ended waits for the end of a connection and returns how it was.
func ended(tb testing.TB, c *Client) *CloseError {
	tb.Helper()
	select {
	case <-c.Done():
	case <-withTimeout(tb).Done():
		tb.Fatal("connection did not end")
	}
	e, ok := c.Err().(*CloseError) //nolint:errorlint // Err promises the type itself
	if !ok {
		tb.Fatalf("Err = %v, want a *CloseError", c.Err())
	}
	return e
}
