package starling

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/wire"
)

func TestDialAuth(t *testing.T) {
	var got wire.Auth
	url := serve(t, func(p *peer) {
		f, _ := p.next()
		if err := wire.Decode(f.Body, &got); err != nil {
			p.t.Error(err)
		}
		p.text(wire.OpAuthOK, f.Seq, wire.AuthOK{User: "alice", HeartbeatMS: 1000, HistoryEpoch: "e1"})
		p.drain()
	})
	c := dial(t, url, func(o *Options) { o.Region = "eu" })
	if diff := cmp.Diff(wire.Auth{Token: "tok", Device: "web-1", Platform: "web", Region: "eu", V: 1}, got); diff != "" {
		t.Errorf("auth (-want +got):\n%s", diff)
	}
	if ok := c.AuthOK(); ok.User != "alice" || ok.HistoryEpoch != "e1" {
		t.Errorf("AuthOK = %+v", ok)
	}
	if c.Err() != nil {
		t.Errorf("Err of an open connection: %v", c.Err())
	}
}

func TestDialHeaderAuth(t *testing.T) {
	url := serve(t, func(p *peer) {
		if h := p.req.Header.Get("Authorization"); h != "Bearer tok" {
			p.t.Errorf("Authorization = %q", h)
		}
		if q := p.req.URL.Query().Encode(); q != "device=web-1&platform=web" {
			p.t.Errorf("query = %q", q)
		}
		p.text(wire.OpAuthOK, 0, wire.AuthOK{User: "alice"})
		p.drain()
	})
	if c := dial(t, url, func(o *Options) { o.HeaderAuth = true }); c.AuthOK().User != "alice" {
		t.Errorf("AuthOK = %+v", c.AuthOK())
	}
}

func TestDialRefused(t *testing.T) {
	for _, seq := range []int32{0, 1} { // a server may not know the seq any more
		url := serve(t, func(p *peer) {
			p.next()
			p.text(wire.OpError, seq, wire.Errorf(wire.CodeUnauthenticated, "expired"))
			_ = p.conn.Close(wire.CloseUnauthenticated, "expired")
		})
		_, err := Dial(withTimeout(t), Options{URL: url})
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != wire.CodeUnauthenticated {
			t.Errorf("Dial = %v, want unauthenticated", err)
		}
	}
}

func TestDialClosed(t *testing.T) {
	url := serve(t, func(p *peer) {
		p.next()
		_ = p.conn.Close(wire.CloseTryLater, "full")
	})
	_, err := Dial(withTimeout(t), Options{URL: url})
	var e *CloseError
	if !errors.As(err, &e) || e.Code != wire.CloseTryLater || e.StayAway() {
		t.Errorf("Dial = %v, want a close with 1013", err)
	}
}

func TestDialErrors(t *testing.T) {
	mute := serve(t, func(p *peer) { p.drain() })
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(short, Options{URL: mute}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that says nothing: %v", err)
	}
	for _, opt := range []Options{
		{URL: "ws://127.0.0.1:1/ws"}, {URL: ":"}, {URL: mute, LocalAddr: "localhost"},
	} {
		if _, err := Dial(withTimeout(t), opt); err == nil {
			t.Errorf("Dial(%+v) succeeded", opt)
		}
	}
}

func TestLocalAddrAndNetDial(t *testing.T) {
	var remote atomic.Value
	url := serve(t, func(p *peer) {
		remote.Store(p.req.RemoteAddr)
		p.logIn()
		p.drain()
	})
	dial(t, url, func(o *Options) { o.LocalAddr = "127.0.0.1" })
	if host, _, _ := net.SplitHostPort(remote.Load().(string)); host != "127.0.0.1" {
		t.Errorf("connected from %s", host)
	}
	var dialed atomic.Int32
	dial(t, url, func(o *Options) {
		o.NetDial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dialed.Add(1)
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
	})
	if dialed.Load() != 1 {
		t.Errorf("NetDial was called %d times", dialed.Load())
	}
}

// echo acknowledges sends, out of order by pairs, and answers the rest.
func echo(p *peer) {
	p.logIn()
	var held []func()
	for {
		f, ok := p.next()
		if !ok {
			return
		}
		switch f.Op {
		case wire.OpSend:
			var s wire.Send
			if err := wire.Decode(f.Body, &s); err != nil {
				p.t.Error(err)
			}
			held = append(held, func() { p.text(wire.OpSendAck, f.Seq, wire.SendAck{ClientID: s.ClientID, ID: 1, Conv: "p:a:b"}) })
			if len(held) == 2 {
				held[1]()
				held[0]()
				held = nil
			}
		case wire.OpPing:
			p.text(wire.OpPong, f.Seq, wire.Pong{TS: 42})
		case wire.OpSync:
			p.text(wire.OpSyncOK, f.Seq, wire.SyncOK{Token: "t2", More: true})
		default:
			p.text(wire.OpError, f.Seq, wire.Errorf(wire.CodeUnsupported, "no"))
		}
	}
}

func TestSendMatchesAnswers(t *testing.T) {
	c := dial(t, serve(t, echo))
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			id := fmt.Sprint("c", i)
			ack, err := c.Send(withTimeout(t), wire.Send{To: "bob", ClientID: id, Type: wire.TypeText})
			if err != nil || ack.ClientID != id || ack.ID != 1 {
				t.Errorf("send %s: %+v, %v", id, ack, err)
			}
		})
	}
	wg.Wait()
}

func TestSendFillsClientID(t *testing.T) {
	c := dial(t, serve(t, echo))
	got := make(chan wire.SendAck, 2)
	for range 2 {
		if err := c.SendAsync(wire.Send{To: "bob"}, func(a wire.SendAck, err error) {
			if err != nil {
				t.Error(err)
			}
			got <- a
		}); err != nil {
			t.Fatal(err)
		}
	}
	a, b := <-got, <-got
	if !wire.ValidClientID(a.ClientID) || a.ClientID == b.ClientID {
		t.Errorf("client ids %q and %q", a.ClientID, b.ClientID)
	}
}

func TestCalls(t *testing.T) {
	c := dial(t, serve(t, echo))
	if pong, err := c.Ping(withTimeout(t)); err != nil || pong.TS != 42 {
		t.Errorf("Ping = %+v, %v", pong, err)
	}
	if ok, err := c.Sync(withTimeout(t), wire.Sync{}); err != nil || ok.Token != "t2" || !ok.More {
		t.Errorf("Sync = %+v, %v", ok, err)
	}
	_, err := c.Call(withTimeout(t), wire.OpRecall, wire.RecallBody{Conv: "g:a", ID: 1})
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.CodeUnsupported {
		t.Errorf("Call = %v, want unsupported", err)
	}
	if _, err := c.Call(withTimeout(t), wire.OpPing, math.Inf(1)); err == nil {
		t.Error("a body that is no JSON was sent")
	}
}

func TestErrorByClientID(t *testing.T) {
	c := dial(t, serve(t, func(p *peer) {
		p.logIn()
		p.next()
		p.text(wire.OpError, 0, &wire.Error{Code: wire.CodeUnavailable, ClientID: "other"})
		p.text(wire.OpError, 0, &wire.Error{Code: wire.CodeUnavailable, ClientID: "c1", RetryAfterMS: 500})
		p.drain()
	}))
	_, err := c.Send(withTimeout(t), wire.Send{To: "bob", ClientID: "c1"})
	var e *wire.Error
	if !errors.As(err, &e) || e.RetryAfterMS != 500 {
		t.Errorf("Send = %v, want unavailable of c1", err)
	}
}

func TestCallGivesUp(t *testing.T) {
	release := make(chan struct{})
	pushed := make(chan wire.Frame, 1)
	c := dial(t, serve(t, func(p *peer) {
		p.logIn()
		f, _ := p.next()
		<-release
		p.text(wire.OpPong, f.Seq, wire.Pong{})
		p.drain()
	}), func(o *Options) { o.OnPush = func(f wire.Frame) { pushed <- f } })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Ping(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Ping = %v, want canceled", err)
	}
	close(release)
	if f := <-pushed; f.Op != wire.OpPong {
		t.Errorf("late answer = %+v", f)
	}
	if c.Err() != nil {
		t.Errorf("giving up a call cost the connection: %v", c.Err())
	}
}

func TestPushOrderBothFramings(t *testing.T) {
	const n = 50
	got := make(chan int64, 3*n)
	c := dial(t, serve(t, func(p *peer) {
		p.logIn()
		for i := range int64(n) {
			p.text(wire.OpMsg, 0, wire.Msg{Seq: 3 * i})
			p.binary(p.frame(wire.OpMsg, 0, wire.Msg{Seq: 3*i + 1}), p.frame(wire.OpMsg, 0, wire.Msg{Seq: 3*i + 2}))
		}
		_ = p.conn.Write(p.ctx, websocket.MessageText, []byte(`{"op":"of-tomorrow","body":{}}`))
		p.drain()
	}), func(o *Options) {
		o.OnPush = func(f wire.Frame) {
			var m wire.Msg
			if err := wire.Decode(f.Body, &m); err != nil || f.Op != wire.OpMsg {
				t.Errorf("push %+v: %v", f, err)
			}
			got <- m.Seq
		}
	})
	for i := range int64(3 * n) {
		if seq := <-got; seq != i {
			t.Fatalf("push %d has seq %d", i, seq)
		}
	}
	if c.Err() != nil {
		t.Errorf("an unknown operation ended the connection: %v", c.Err())
	}
}

func TestBinaryAckRead(t *testing.T) {
	got := make(chan wire.Frame, 3)
	c := dial(t, serve(t, func(p *peer) {
		p.logIn() // which answers in text: both framings are read
		for range 3 {
			f, _ := p.next()
			got <- f
		}
		p.drain()
	}), func(o *Options) { o.Binary = true })
	if err := errors.Join(c.Ack("g:a", 5), c.Read("g:a", 6)); err != nil {
		t.Fatal(err)
	}
	raw := wire.AppendText(nil, wire.Frame{Op: wire.OpPing, Seq: 99})
	if err := c.WriteRaw(withTimeout(t), websocket.MessageText, raw); err != nil {
		t.Fatal(err)
	}
	want := []wire.Frame{
		{Op: wire.OpAck, Body: []byte(`{"conv":"g:a","seq":5}`)},
		{Op: wire.OpRead, Body: []byte(`{"conv":"g:a","seq":6}`)},
		{Op: wire.OpPing, Seq: 99, Body: []byte(`{}`)},
	}
	if diff := cmp.Diff(want, []wire.Frame{<-got, <-got, <-got}); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
}

func TestServerCloses(t *testing.T) {
	c := dial(t, serve(t, func(p *peer) {
		p.logIn()
		p.next()
		p.text(wire.OpKick, 0, wire.Kick{Reason: "replaced"})
		_ = p.conn.Close(wire.CloseReplaced, "replaced")
	}))
	_, err := c.Send(withTimeout(t), wire.Send{To: "bob"})
	e := ended(t, c)
	if e.Code != wire.CloseReplaced || e.Reason != "replaced" || !e.StayAway() {
		t.Errorf("Err = %v, want 4009", e)
	}
	if !errors.Is(err, e) {
		t.Errorf("the send in flight got %v, want %v", err, e)
	}
	if _, err := c.Ping(withTimeout(t)); !errors.Is(err, e) {
		t.Errorf("a call afterwards got %v, want %v", err, e)
	}
	if err := c.Ack("g:a", 1); !errors.Is(err, e) {
		t.Errorf("an ack afterwards got %v, want %v", err, e)
	}
	if !strings.Contains(e.Error(), "4009 replaced") {
		t.Errorf("text %q", e.Error())
	}
}

func TestConnectionBreaks(t *testing.T) {
	for name, breakIt := range map[string]func(p *peer){
		"dropped":    func(*peer) {},
		"bad text":   func(p *peer) { _ = p.conn.Write(p.ctx, websocket.MessageText, []byte("{")); p.drain() },
		"bad binary": func(p *peer) { _ = p.conn.Write(p.ctx, websocket.MessageBinary, []byte("{")); p.drain() },
	} {
		c := dial(t, serve(t, func(p *peer) { p.logIn(); breakIt(p) }))
		if e := ended(t, c); e.Code != closeAbnormal || e.StayAway() || e.Unwrap() == nil {
			t.Errorf("%s: %v, want 1006", name, e)
		}
	}
}

func TestCloseAndAbort(t *testing.T) {
	codes := make(chan websocket.StatusCode, 2)
	url := serve(t, func(p *peer) {
		p.logIn()
		_, _, err := p.conn.Read(p.ctx)
		codes <- websocket.CloseStatus(err)
	})
	c := dial(t, url)
	c.Close()
	if e := ended(t, c); e.Code != wire.CloseBye {
		t.Errorf("after Close: %v", e)
	}
	c.Close() // twice is harmless
	if code := <-codes; code != websocket.StatusNormalClosure {
		t.Errorf("server saw close code %d, want 1000", code)
	}
	c = dial(t, url)
	c.Abort()
	if e := ended(t, c); e.Code != closeAbnormal {
		t.Errorf("after Abort: %v", e)
	}
	if code := <-codes; code != -1 {
		t.Errorf("server saw close code %d, want none", code)
	}
}

// TestEveryCallbackOnce cuts the connection amid sends: each one that SendAsync
// took is answered once, the others never.
func TestEveryCallbackOnce(t *testing.T) {
	c := dial(t, serve(t, func(p *peer) {
		p.logIn()
		for range 20 {
			p.next()
		}
	}))
	const n = 200
	calls := make([]atomic.Int32, n)
	taken := make([]bool, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			taken[i] = c.SendAsync(wire.Send{To: "bob"}, func(_ wire.SendAck, err error) {
				if err == nil {
					t.Error("a send that nobody answered succeeded")
				}
				calls[i].Add(1)
			}) == nil
		})
	}
	wg.Wait()
	ended(t, c)
	for i := range calls {
		if got := calls[i].Load(); (got == 1) != taken[i] || got > 1 {
			t.Errorf("send %d: taken %t, called %d times", i, taken[i], got)
		}
	}
}

func TestSeqWraps(t *testing.T) {
	c := dial(t, serve(t, echo))
	c.mu.Lock()
	c.seq = math.MaxInt32 - 1
	c.mu.Unlock()
	for range 3 {
		if _, err := c.Ping(withTimeout(t)); err != nil {
			t.Fatal(err)
		}
	}
	if c.seq != 2 {
		t.Errorf("seq = %d after the greatest and two more, want 2", c.seq)
	}
}
