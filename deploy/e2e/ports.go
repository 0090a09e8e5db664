package e2e

import (
	"net"
	"syscall"
	"testing"
)

// addresses returns settings that give every listener of a system an address of
// its own, and those of the API and of the WebSocket.
func addresses(t testing.TB) (env []string, api, ws string) {
	t.Helper()
	keys := []string{"LOGIC_HTTP", "EDGE_LISTEN", "LOGIC_GRPC", "EDGE_GRPC", "LOGIC_ADMIN", "EDGE_ADMIN", "JOB_ADMIN"}
	addrs := reserve(t, len(keys))
	for i, key := range keys {
		env = append(env, "STARLING_"+key+"_ADDR="+addrs[i])
	}
	return env, addrs[0], addrs[1]
}

// reserve returns n loopback addresses that are the test's alone until it
// ends, also while the process that listens on them is down. Their sockets are
// bound but never listen: the kernel hands such a port to nobody who asks for
// any port, yet lets one that names it listen (SO_REUSEADDR on both sides, see
// socket(7)); and who dials it meanwhile is refused.
func reserve(t testing.TB, n int) []string {
	t.Helper()
	addrs := make([]string, n)
	for i := range addrs {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Close(fd) })
		if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			t.Fatal(err)
		}
		bound, err := syscall.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		addrs[i] = (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: bound.(*syscall.SockaddrInet4).Port}).String()
	}
	return addrs
}
