package testkit

import (
	"errors"
	"net"
	"strconv"
	"syscall"
	"testing"
)

// A reserved address can be listened on again and again by who names it, is
// refused meanwhile, and is handed to nobody else.
func TestReservedAddresses(t *testing.T) {
	addr := Reserve(t, 1)[0]
	for range 2 {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		_ = ln.Close()
		if _, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial while nobody listens: %v, want refused", err)
		}
	}
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	_, p, _ := net.SplitHostPort(addr)
	port, _ := strconv.Atoi(p)
	// The kernel may choose from this one port alone (IP_LOCAL_PORT_RANGE of
	// ip(7), Linux 6.3; older kernels choose from all, which shows nothing).
	const ipLocalPortRange = 51
	only := func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipLocalPortRange, port|port<<16)
		})
	}
	lc := net.ListenConfig{Control: only}
	if ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0"); err == nil {
		if ln.Addr().String() == addr {
			t.Error("a listener on any port got it")
		}
		_ = ln.Close()
	}
	d := net.Dialer{Control: only}
	if c, err := d.DialContext(t.Context(), "tcp", other.Addr().String()); err == nil {
		if c.LocalAddr().String() == addr {
			t.Error("an outgoing connection got it")
		}
		_ = c.Close()
	}
}
