package verify

import (
	"context"
	"errors"
	"net"
	"time"
)

// sloth is a connection that is read with long pauses.
type sloth struct {
	net.Conn
	r      *run
	life   context.Context //nolint:containedctx // ends the pauses
	cancel context.CancelFunc
	next   time.Time
	narrow bool // its buffer is slowBuffer
}

var errNarrow = errors.New("the slow device changes to a wide connection")

// slowBuffer is what the kernel may take for a slow device, in bytes: little, so
// that its pauses are felt. A page of sync takes seconds through it however it is
// read, so once the work is over the device takes another, wide connection.
const slowBuffer = 16 << 10

// slowDial connects with small buffers, so that pauses are felt.
func (r *run) slowDial(ctx context.Context, network, addr string) (net.Conn, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err //nolint:wrapcheck // the dialer's own
	}
	s := &sloth{Conn: c, r: r, next: time.Now().Add(r.slowFor())}
	if t, ok := c.(*net.TCPConn); ok && r.working() {
		s.narrow = true
		_ = t.SetReadBuffer(slowBuffer) // best effort
	}
	s.life, s.cancel = context.WithCancel(r.life)
	return s, nil
}

// Read pauses now and then, while the work lasts.
func (s *sloth) Read(b []byte) (int, error) {
	if s.narrow && !s.r.working() {
		return 0, errNarrow
	}
	if time.Now().After(s.next) && s.r.working() {
		pause(s.life, s.r.slowFor())
		s.next = time.Now().Add(s.r.slowFor())
	}
	return s.Conn.Read(b) //nolint:wrapcheck // the connection's own
}

// Close ends a pause too.
func (s *sloth) Close() error {
	s.cancel()
	return s.Conn.Close() //nolint:wrapcheck // the connection's own
}
