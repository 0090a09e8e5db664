package cluster

import (
	"fmt"
	"net"
	"syscall"
)

// ports keeps loopback addresses for processes that come and go. Their sockets are
// bound but never listen: the kernel gives such a port to nobody who asks for any,
// yet lets one that names it listen (SO_REUSEADDR on both sides, see socket(7)).
type ports struct{ fds []int }

func (p *ports) reserve() (string, error) {
	syscall.ForkLock.RLock() // as the net package does where there is no SOCK_CLOEXEC
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return "", fmt.Errorf("reserve a port: %w", err)
	}
	p.fds = append(p.fds, fd)
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return "", fmt.Errorf("reserve a port: %w", err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", fmt.Errorf("reserve a port: %w", err)
	}
	at, err := syscall.Getsockname(fd)
	if err != nil {
		return "", fmt.Errorf("reserve a port: %w", err)
	}
	in, ok := at.(*syscall.SockaddrInet4)
	if !ok {
		return "", fmt.Errorf("reserve a port: %T is no IPv4 address", at)
	}
	return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: in.Port}).String(), nil
}

func (p *ports) release() {
	for _, fd := range p.fds {
		_ = syscall.Close(fd)
	}
	p.fds = nil
}
