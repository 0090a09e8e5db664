package starling

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-im/starling/common/wire"
)

// pipes are a listener and its dialer for tests in fake time, which does not
// go on while a goroutine waits for a socket.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }
func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	mine, theirs := net.Pipe()
	p <- theirs
	return mine, nil
}

// dialPipe is serve and dial in fake time.
func dialPipe(t *testing.T, script func(p *peer), edit ...func(*Options)) *Client {
	t.Helper()
	h, stop := handler(t, script)
	p, srv := make(pipes), &http.Server{Handler: h}
	go func() { _ = srv.Serve(p) }()
	t.Cleanup(func() { stop(); _ = srv.Close() })
	return dial(t, "ws://pipe/ws", append(edit, func(o *Options) { o.NetDial = p.dial })...)
}

const heartbeat = time.Second

// heartbeats log in and report pings.
func heartbeats(answer bool, pings chan<- struct{}) func(p *peer) {
	return func(p *peer) {
		f, _ := p.next()
		p.text(wire.OpAuthOK, f.Seq, wire.AuthOK{HeartbeatMS: heartbeat.Milliseconds()})
		for {
			f, ok := p.next()
			if !ok {
				return
			}
			select {
			case pings <- struct{}{}:
			default:
			}
			if answer {
				p.text(wire.OpPong, f.Seq, wire.Pong{})
			}
		}
	}
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pings := make(chan struct{}, 1)
		c := dialPipe(t, heartbeats(true, pings), func(o *Options) {
			o.OnPush = func(f wire.Frame) { t.Errorf("the heartbeat's answer was pushed: %+v", f) }
		})
		for range 5 {
			select {
			case <-pings:
			case <-c.Done():
				t.Fatalf("ended: %v", c.Err())
			case <-time.After(heartbeat):
				t.Fatal("no ping within a heartbeat")
			}
		}
		if c.Err() != nil {
			t.Errorf("Err = %v", c.Err())
		}
	})
}

func TestHeartbeatSilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, begin := dialPipe(t, heartbeats(false, nil)), time.Now()
		if e := ended(t, c); e.Code != closeAbnormal || !errors.Is(e, errSilent) {
			t.Errorf("Err = %v, want %v", e, errSilent)
		}
		if d := time.Since(begin); d < 2*heartbeat || d > 3*heartbeat {
			t.Errorf("given up after %v", d)
		}
	})
}

func TestNoHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pings := make(chan struct{}, 1)
		c := dialPipe(t, heartbeats(false, pings), func(o *Options) { o.NoHeartbeat = true })
		select {
		case <-pings:
			t.Error("sent a ping")
		case <-c.Done():
			t.Errorf("ended: %v", c.Err())
		case <-time.After(5 * heartbeat):
		}
	})
}
