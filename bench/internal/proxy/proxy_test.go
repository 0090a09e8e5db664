package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// echo answers every byte with itself and counts them.
type echo struct {
	ln  net.Listener
	got atomic.Int64
}

func newEcho(t *testing.T) *echo {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{ln: ln}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				for b := make([]byte, 1); ; {
					if _, err := io.ReadFull(c, b); err != nil {
						return
					}
					e.got.Add(1)
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); work.Wait() })
	return e
}

func start(t *testing.T) (*echo, *Proxy) {
	t.Helper()
	e := newEcho(t)
	p, err := Listen(t.Context(), "127.0.0.1:0", e.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return e, p
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask asks for one byte and expects it back.
func ask(c net.Conn, b byte) error {
	if _, err := c.Write([]byte{b}); err != nil {
		return err
	}
	got := make([]byte, 1)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if got[0] != b {
		return errors.New("another byte came back")
	}
	return nil
}

// once dials and asks.
func once(p *Proxy) error {
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		return err
	}
	defer c.Close()
	return ask(c, 1)
}

func TestCut(t *testing.T) {
	_, p := start(t)
	c := dial(t, p)
	if err := ask(c, 1); err != nil {
		t.Fatal(err)
	}
	p.Set(Cut, 0)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("what stood: %v, want a reset", err)
	}
	if err := once(p); err == nil {
		t.Error("what comes is served")
	}
	p.Set(Open, 0)
	if err := ask(dial(t, p), 1); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestHang(t *testing.T) {
	e, p := start(t)
	c := dial(t, p)
	if err := ask(c, 1); err != nil {
		t.Fatal(err)
	}
	p.Set(Hang, 0)
	later := dial(t, p)
	for _, c := range []net.Conn{c, later} {
		if _, err := c.Write([]byte{2}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || e.got.Load() != 1 {
		t.Errorf("an answer (%v), the server got %d bytes", err, e.got.Load())
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	p.Set(Open, 0)
	for _, c := range []net.Conn{c, later} {
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
}

func TestSlow(t *testing.T) {
	_, p := start(t)
	c := dial(t, p)
	const delay = 30 * time.Millisecond
	p.Set(Slow, delay)
	began := time.Now()
	if err := ask(c, 1); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 2*delay {
		t.Errorf("took %v, want at least twice %v", took, delay)
	}
}

// Sooner or later a question is done and its answer is taken away.
func TestTwice(t *testing.T) {
	e, p := start(t)
	p.Set(Twice, 0)
	for range 3 {
		c := dial(t, p)
		answered := int64(0)
		before := e.got.Load()
		var err error
		for err == nil {
			if err = ask(c, 1); err == nil {
				answered++
			}
			if answered > 1000 {
				t.Fatal("every answer came")
			}
		}
		if done := e.got.Load() - before; done != answered+1 {
			t.Errorf("%d done, %d answered: the last was to be done and not answered", done, answered)
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the end is %v, want a reset", err)
		}
	}
}

// The end of either side is the other's, after all that was said.
func TestEnd(t *testing.T) {
	_, p := start(t)
	c := dial(t, p)
	if err := ask(c, 1); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %v, want the end", err)
	}
	gone, err := Listen(t.Context(), "127.0.0.1:0", "127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := once(gone); err == nil {
		t.Error("an answer from nobody")
	}
	if err := gone.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Listen(t.Context(), p.Addr(), "127.0.0.1:1"); err == nil {
		t.Error("two listen on one address")
	}
}
