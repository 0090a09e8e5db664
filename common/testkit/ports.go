package testkit

import (
	"net"
	"syscall"
	"testing"
)

// Reserve returns n loopback addresses that are the test's alone until it
// ends, also while the process that listens on them is down. Their sockets are
// bound but never listen: the kernel hands such a port to nobody who asks for
// any port, yet lets one that names it listen (SO_REUSEADDR on both sides, see
// socket(7)); and who dials it meanwhile is refused.
func Reserve(tb testing.TB, n int) []string {
	tb.Helper()
	addrs := make([]string, n)
	for i := range addrs {
		syscall.ForkLock.RLock() // as the net package does where there is no SOCK_CLOEXEC
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		if err == nil {
			syscall.CloseOnExec(fd)
		}
		syscall.ForkLock.RUnlock()
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = syscall.Close(fd) })
		if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
			tb.Fatal(err)
		}
		if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			tb.Fatal(err)
		}
		bound, err := syscall.Getsockname(fd)
		if err != nil {
			tb.Fatal(err)
		}
		addrs[i] = (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: bound.(*syscall.SockaddrInet4).Port}).String()
	}
	return addrs
}
