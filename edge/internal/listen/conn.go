package listen

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/cloudwego/netpoll"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/session"
	"github.com/starling-im/starling/edge/internal/ws"
)

// Conn is one connection: it implements session.Socket.
type Conn struct {
	srv   *Server
	shard *shard
	s     *session.Session
	nc    netpoll.Connection
	ip    netip.Addr
	fd    int
	since int64 // ms

	// dirty is when something was last read, 0 once the input buffer was given
	// back.
	dirty    atomic.Int64
	upgraded atomic.Bool

	readMu  sync.Mutex // held while netpoll's input is touched
	head    []byte     // the request head so far, or (Plain) a frame
	parser  ws.Parser
	discard bool // nothing that comes counts any more

	mu   sync.Mutex // held over system calls on fd
	gone bool       // fd is not ours any more
}

var _ session.Socket = (*Conn)(nil)

// onRequest takes all that has arrived. It runs on the loop and never waits:
// it asks netpoll only for what is there.
func (c *Conn) onRequest(_ context.Context, nc netpoll.Connection) error {
	c.read(nc.Reader())
	c.s.Flush()
	return nil
}

func (c *Conn) read(r netpoll.Reader) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			c.srv.metrics.panics.Inc()
			c.srv.log.Error("BUG: panic while handling input", zap.Any("panic", p), zap.Stack("stack"))
			c.discard = true
			c.Abort()
		}
	}()
	b, err := r.Next(r.Len())
	if err != nil {
		return
	}
	c.srv.metrics.received.Add(float64(len(b)))
	c.dirty.Store(c.srv.now())
	c.input(b)
	_ = r.Release() // gives read nodes back; cannot fail
}

// input handles bytes, which it may change.
func (c *Conn) input(b []byte) {
	if c.discard {
		return
	}
	if !c.upgraded.Load() { // the head has a bound of its own
		if b = c.handshake(b); len(b) == 0 {
			return
		}
	}
	if !c.s.Received(len(b)) {
		c.discard = true
		return
	}
	if c.srv.cfg.Plain {
		c.frames(b)
		return
	}
	if err := c.parser.Feed(b, c.s); err != nil {
		c.discard = true
		code := wire.CloseProtocol
		if e, ok := errors.AsType[*ws.Error](err); ok {
			code = e.Code
		}
		c.s.Broken(code)
	}
}

// frames hands whole frames on and keeps the rest, which is less than one. A
// frame that comes in many pieces is copied as a growing slice is, not each time.
func (c *Conn) frames(b []byte) {
	kept := len(c.head) > 0
	if kept {
		c.head = append(c.head, b...)
		b = c.head
	}
	switch n, ok := c.s.Frames(b); {
	case !ok:
		c.discard, c.head = true, nil
	case n == len(b):
		c.head = nil
	case n > 0 || !kept:
		c.head = append([]byte(nil), b[n:]...)
	}
}

// handshake collects the request head; after the upgrade it returns what came
// behind it.
func (c *Conn) handshake(b []byte) []byte {
	if len(c.head) > 0 {
		b = append(c.head, b...)
	}
	end := ws.HeadEnd(b)
	if end == 0 && len(b) <= c.srv.cfg.HeadBytes {
		c.head = append(c.head[:0], b...)
		return nil
	}
	c.head = nil
	if end == 0 || end > c.srv.cfg.HeadBytes {
		c.refuse(&ws.HTTPError{Status: http.StatusRequestHeaderFieldsTooLarge, Text: "request head is too large"})
		return nil
	}
	u, herr := ws.ParseUpgrade(b[:end], c.srv.cfg.Origins)
	if herr != nil {
		c.refuse(herr)
		return nil
	}
	c.upgraded.Store(true)
	c.s.Raw(u.Response())
	c.s.Upgraded(u)
	return b[end:]
}

func (c *Conn) refuse(herr *ws.HTTPError) {
	c.discard = true
	c.srv.log.Debug("upgrade refused", zap.Int("status", herr.Status), zap.String("why", herr.Text))
	c.s.Raw(herr.Response())
	c.s.Close(session.BadHandshake)
}

// tick looks at the deadlines and gives an idle input buffer back.
func (c *Conn) tick(now int64) {
	if !c.upgraded.Load() && now-c.since >= c.srv.cfg.HeadTimeout.Milliseconds() {
		c.s.Close(session.HandshakeLate)
	}
	if c.upgraded.Load() || c.s.State() == session.Closing {
		c.s.Tick(now)
	}
	if at := c.dirty.Load(); at != 0 && now-at >= idleAfter.Milliseconds() {
		c.giveBack(at)
	}
}

// giveBack releases netpoll's input node of an idle connection. netpoll does
// that only when its loop is not in this connection, hence not in read.
func (c *Conn) giveBack(at int64) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	c.mu.Lock() // netpoll's buffers live until onClose has run
	defer c.mu.Unlock()
	if !c.gone && c.dirty.CompareAndSwap(at, 0) {
		_ = c.nc.Reader().Release() // cannot fail
	}
}

// onClose runs before netpoll closes the descriptor.
func (c *Conn) onClose(netpoll.Connection) error {
	c.mu.Lock()
	c.gone = true
	c.srv.notifier.forget(c)
	c.mu.Unlock()
	c.s.Gone()
	c.srv.remove(c)
	return nil
}

// Write implements session.Socket.
func (c *Conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return 0, session.ErrGone
	}
	for {
		n, err := unix.Write(c.fd, b)
		if !errors.Is(err, unix.EINTR) {
			return written(n, len(b), err)
		}
	}
}

// Writev implements session.Socket.
func (c *Conn) Writev(bufs [][]byte) (int, error) {
	total := 0
	for _, b := range bufs {
		total += len(b)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return 0, session.ErrGone
	}
	for {
		n, err := unix.Writev(c.fd, bufs)
		if !errors.Is(err, unix.EINTR) {
			return written(n, total, err)
		}
	}
}

func written(n, want int, err error) (int, error) {
	switch {
	case err == nil && n == want:
		return n, nil
	case err == nil, errors.Is(err, unix.EAGAIN):
		return max(n, 0), session.ErrFull
	}
	return 0, session.ErrGone
}

// NotifyWritable implements session.Socket.
func (c *Conn) NotifyWritable() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gone {
		c.srv.notifier.watch(c)
	}
}

// CloseWrite implements session.Socket.
func (c *Conn) CloseWrite() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gone {
		_ = unix.Shutdown(c.fd, unix.SHUT_WR)
	}
}

// Abort implements session.Socket. What the kernel still holds is thrown away:
// the grace for it is over.
func (c *Conn) Abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gone {
		_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
	}
}
