package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// busyResponse goes to a connection over the limits; it may be lost.
const busyResponse = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

// acceptor is netpoll's listener: it applies the limits before netpoll spends
// anything on a connection.
type acceptor struct {
	file    *os.File
	fd      int
	addr    net.Addr
	max     int
	maxIP   int
	metrics *metrics

	closed atomic.Bool
	mu     sync.Mutex // guards live, perIP
	live   int
	perIP  map[netip.Addr]int
}

// newAcceptor listens on addr.
func newAcceptor(ctx context.Context, cfg Config, m *metrics) (*acceptor, error) {
	var lc net.ListenConfig
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
	return &acceptor{
		file: f, fd: fd, addr: ln.Addr(), max: cfg.MaxConns, maxIP: cfg.MaxPerIP,
		metrics: m, perIP: map[netip.Addr]int{},
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
		a.metrics.rejected.WithLabelValues("descriptors").Inc()
		return nil, err // as it is: netpoll pauses on exactly these
	default:
		return nil, nil //nolint:nilnil // gone again, or interrupted
	}
	ip := addrOf(sa)
	if reason := a.admit(ip); reason != "" {
		a.metrics.rejected.WithLabelValues(reason).Inc()
		_, _ = unix.Write(fd, []byte(busyResponse))
		_ = unix.Close(fd)
		return nil, nil //nolint:nilnil // nothing that netpoll should see
	}
	a.metrics.accepted.Inc()
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	return &accepted{fd: fd, local: a.addr, remote: peerAddr(ip)}, nil
}

// admit counts a connection in, or says which limit it meets.
func (a *acceptor) admit(ip netip.Addr) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.max > 0 && a.live >= a.max:
		return "max_connections"
	case a.maxIP > 0 && a.perIP[ip] >= a.maxIP:
		return "max_per_ip"
	}
	a.live++
	if a.maxIP > 0 {
		a.perIP[ip]++
	}
	return ""
}

// leave counts a connection out.
func (a *acceptor) leave(ip netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.live--
	if a.maxIP > 0 {
		if a.perIP[ip]--; a.perIP[ip] <= 0 {
			delete(a.perIP, ip)
		}
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
	if err := a.file.Close(); err != nil {
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
