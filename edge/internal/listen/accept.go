package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// busyResponse goes to a connection over the limits; it may be lost.
const busyResponse = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

// receiveBuffer is what the kernel may hold of one connection's input (it takes
// twice that). netpoll doubles what it reads at once whenever a read was full,
// up to 8 MiB, and never takes it back: this is what bounds it.
const receiveBuffer = 64 << 10

// sendBuffer is what the kernel may hold of one connection's output (it takes
// twice that). By itself it would grow to 4 MiB: a slow client would pin that
// much, nothing of it counted by the session's queue, and be told to be
// writable only once a third of it has left, so late that it looks dead.
const sendBuffer = 128 << 10

// acceptor is netpoll's listener: it applies the limits before netpoll spends
// anything on a connection.
type acceptor struct {
	file    *os.File
	spare   *os.File // given up for a moment when descriptors run out; of the loop
	fd      int
	addr    net.Addr
	gate    *Gate
	metrics *metrics
	closed  atomic.Bool
}

// newAcceptor listens on addr.
func newAcceptor(ctx context.Context, cfg Config, m *metrics) (*acceptor, error) {
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var serr error
		err := rc.Control(func(fd uintptr) {
			serr = errors.Join( // connections inherit both
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer))
		})
		return errors.Join(err, serr)
	}}
	ln, err := lc.Listen(ctx, "tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Addr, err)
	}
	defer ln.Close() //nolint:errcheck // the duplicate below goes on listening
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("listen on %s: not TCP", cfg.Addr)
	}
	f, err := tcp.File()
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Addr, err)
	}
	fd := int(f.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", cfg.Addr, err), f.Close())
	}
	spare, err := os.Open(os.DevNull)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: keep a descriptor: %w", cfg.Addr, err), f.Close())
	}
	if cfg.Gate == nil {
		cfg.Gate = NewGate(0, nil)
	}
	return &acceptor{
		file: f, spare: spare, fd: fd, addr: ln.Addr(), gate: cfg.Gate, metrics: m,
	}, nil
}

// Accept implements netpoll.Listener: nil and no error when there is nothing.
func (a *acceptor) Accept() (net.Conn, error) {
	if a.closed.Load() {
		return nil, nil //nolint:nilnil // netpoll's way to say: nothing there
	}
	fd, sa, err := unix.Accept4(a.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	switch {
	case err == nil:
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		a.refuseOne()
		return nil, nil //nolint:nilnil // see refuseOne
	default:
		return nil, nil //nolint:nilnil // gone again, or interrupted
	}
	ip := addrOf(sa)
	if reason := a.gate.admit(ip); reason != "" {
		a.metrics.rejected.WithLabelValues(reason).Inc()
		_, _ = unix.Write(fd, []byte(busyResponse))
		_ = unix.Close(fd)
		return nil, nil //nolint:nilnil // nothing that netpoll should see
	}
	a.metrics.accepted.Inc()
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	return &accepted{fd: fd, local: a.addr, remote: peerAddr(ip)}, nil
}

// refuseOne turns one connection away though there is no descriptor for it.
// netpoll is not told: it would pause accepting, but the second time it happens
// only seem to, starting a goroutine for every turn of its loop, and a paused
// listener never says that it was shut.
func (a *acceptor) refuseOne() {
	if a.spare != nil {
		_ = a.spare.Close()
		a.spare = nil
	}
	fd, _, err := unix.Accept4(a.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err == nil {
		a.metrics.rejected.WithLabelValues("descriptors").Inc()
		_, _ = unix.Write(fd, []byte(busyResponse))
		_ = unix.Close(fd)
	}
	// Without it the next one waits in the kernel until there is a descriptor.
	if f, err := os.Open(os.DevNull); err == nil {
		a.spare = f
	}
}

// stop refuses new connections; the loop sees the end of the socket and lets
// go of it. The descriptor stays until Close, so its number is not reused.
func (a *acceptor) stop() {
	if !a.closed.Swap(true) {
		_ = unix.Shutdown(a.fd, unix.SHUT_RDWR)
	}
}

// Close implements netpoll.Listener.
func (a *acceptor) Close() error {
	var spare error
	if a.spare != nil {
		spare = a.spare.Close()
	}
	if err := errors.Join(a.file.Close(), spare); err != nil {
		return fmt.Errorf("close listener: %w", err)
	}
	return nil
}

// Addr implements netpoll.Listener.
func (a *acceptor) Addr() net.Addr { return a.addr }

// Fd implements netpoll.Listener.
func (a *acceptor) Fd() int { return a.fd }

func addrOf(sa unix.Sockaddr) netip.Addr {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr).Unmap()
	}
	return netip.Addr{}
}

// peerAddr is a net.Addr without a port: all that limits and logs need.
type peerAddr netip.Addr

// Network implements net.Addr.
func (peerAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (p peerAddr) String() string { return netip.Addr(p).String() }

// accepted is a connection on its way into netpoll, which takes descriptor and
// addresses out of it and does the rest itself.
type accepted struct {
	fd            int
	local, remote net.Addr
}

var errNotUsed = errors.New("netpoll reads and closes by itself")

// Fd implements netpoll.Conn.
func (c *accepted) Fd() int { return c.fd }

// Read implements net.Conn.
func (c *accepted) Read([]byte) (int, error) { return 0, errNotUsed }

// Write implements net.Conn.
func (c *accepted) Write([]byte) (int, error) { return 0, errNotUsed }

// Close implements net.Conn.
func (c *accepted) Close() error { return syscall.Close(c.fd) }

// LocalAddr implements net.Conn.
func (c *accepted) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *accepted) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *accepted) SetDeadline(time.Time) error { return errNotUsed }

// SetReadDeadline implements net.Conn.
func (c *accepted) SetReadDeadline(time.Time) error { return errNotUsed }

// SetWriteDeadline implements net.Conn.
func (c *accepted) SetWriteDeadline(time.Time) error { return errNotUsed }
