package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/starling-im/starling/common/wire"
)

// Framings of a transcript's run.
const (
	framingText   = "json"
	framingBinary = "binary"
	framingTCP    = "tcp"
)

// speaker is one connection of a transcript, in one of the framings. A reader of
// its own gathers what comes.
type speaker struct {
	t       testing.TB
	framing string
	ws      *websocket.Conn
	nc      net.Conn
	seq     int32
	last    int32 // seq of the last request

	awake  sync.Mutex // held while it sleeps
	asleep bool
	in     chan wire.Frame
	ended  error // why reading ended, once in is closed
}

// speak connects; nothing is sent yet.
func (s *System) speak(t testing.TB, framing string) *speaker {
	t.Helper()
	c := &speaker{t: t, framing: framing, in: make(chan wire.Frame, 4096)}
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	at := s.WS()
	d := net.Dialer{Control: littleWaits}
	var err error
	if framing == framingTCP {
		c.nc, err = d.DialContext(ctx, "tcp", s.tcpOf(t, at))
	} else {
		client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext}}
		c.ws, _, err = websocket.Dial(ctx, at, &websocket.DialOptions{HTTPClient: client}) //nolint:bodyclose // a 101 has none
	}
	if err != nil {
		t.Fatalf("connect by %s: %v", framing, err)
	}
	if c.ws != nil {
		c.ws.SetReadLimit(wire.MaxServerFrame + 1024)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.read(t.Context())
	}()
	t.Cleanup(func() {
		c.close()
		<-done
	})
	return c
}

// littleWaits has the kernel keep little for who does not read.
func littleWaits(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 32<<10)
	}); cerr != nil {
		return cerr //nolint:wrapcheck // Dial says of what
	}
	return err //nolint:wrapcheck // Dial says of what
}

// tcpOf is where the edge of a WebSocket URL takes the binary framing alone.
func (s *System) tcpOf(t testing.TB, ws string) string {
	t.Helper()
	u, err := url.Parse(ws)
	if err != nil {
		t.Fatal(err)
	}
	addr, ok := s.TCPs[u.Host]
	if !ok {
		t.Fatalf("no TCP address of the edge at %s", u.Host)
	}
	return addr
}

// sleep stops the reading, and wake has it go on.
func (c *speaker) sleep() {
	c.awake.Lock()
	c.asleep = true
}

func (c *speaker) wake() {
	if c.asleep {
		c.asleep = false
		c.awake.Unlock()
	}
}

func (c *speaker) close() {
	c.wake()
	if c.ws != nil {
		_ = c.ws.Close(websocket.StatusNormalClosure, "")
		_ = c.ws.CloseNow()
	} else {
		_ = c.nc.Close()
	}
}

// send sends bytes as one message, or as they are.
func (c *speaker) send(b []byte) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	var err error
	switch c.framing {
	case framingText:
		err = c.ws.Write(ctx, websocket.MessageText, b)
	case framingBinary:
		err = c.ws.Write(ctx, websocket.MessageBinary, b)
	default:
		_ = c.nc.SetWriteDeadline(time.Now().Add(wait))
		_, err = c.nc.Write(b)
	}
	if err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// request encodes a request under the next seq.
func (c *speaker) request(op, body string) []byte {
	c.seq++
	c.last = c.seq
	if c.framing == framingText {
		return fmt.Appendf(nil, `{"op":%q,"seq":%d,"body":%s}`, op, c.seq, body)
	}
	n, ok := wire.OpByName(op)
	if !ok {
		n = 9999 // one that the protocol does not have
	}
	return wire.AppendBinary(nil, wire.Frame{Op: n, Seq: c.seq, Body: []byte(body)})
}

func (c *speaker) read(ctx context.Context) {
	defer close(c.in)
	var buf []byte
	for {
		c.awake.Lock()
		c.awake.Unlock() //nolint:staticcheck // only waits
		fs, err := c.next(ctx, &buf)
		if err != nil {
			c.ended = err
			return
		}
		for _, f := range fs {
			c.in <- f
		}
	}
}

func (c *speaker) next(ctx context.Context, buf *[]byte) (fs []wire.Frame, err error) {
	if c.ws == nil {
		part := make([]byte, 64<<10)
		n, rerr := c.nc.Read(part)
		*buf = append(*buf, part[:n]...)
		for {
			f, size, derr := wire.DecodeServerBinary(*buf)
			if errors.Is(derr, wire.ErrIncomplete) {
				break
			}
			if derr != nil {
				return nil, fmt.Errorf("decode: %w", derr)
			}
			fs, *buf = append(fs, f), (*buf)[size:]
		}
		if len(fs) > 0 {
			return fs, nil
		}
		return nil, rerr //nolint:wrapcheck // nil, or the end
	}
	typ, b, err := c.ws.Read(ctx)
	if err != nil {
		return nil, err //nolint:wrapcheck // judged by its close code
	}
	if typ == websocket.MessageText {
		f, werr := wire.DecodeServerText(b)
		if werr != nil {
			return nil, werr
		}
		return []wire.Frame{f}, nil
	}
	for f, err := range wire.ServerFrames(b) {
		if err != nil {
			return nil, fmt.Errorf("decode: %w", err)
		}
		fs = append(fs, f)
	}
	return fs, nil
}
