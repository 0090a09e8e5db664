package listen

import (
	"errors"
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// notifier is a one-shot epoll set of sockets that were full. One goroutine
// waits on it and tells the connections.
type notifier struct {
	ep, wake int
	watched  prometheus.Gauge
	running  sync.WaitGroup

	mu     sync.Mutex // below a Conn's mutex
	closed bool       // ep is not ours any more
	conns  map[int]*Conn
}

func newNotifier(watched prometheus.Gauge) (*notifier, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll set: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create eventfd: %w", err), unix.Close(ep))
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, wake, &ev); err != nil {
		return nil, errors.Join(fmt.Errorf("watch eventfd: %w", err), unix.Close(wake), unix.Close(ep))
	}
	return &notifier{ep: ep, wake: wake, watched: watched, conns: map[int]*Conn{}}, nil
}

// start runs the waiting goroutine until stop.
func (n *notifier) start() { n.running.Go(n.run) }

// stop ends the goroutine and waits for it.
func (n *notifier) stop() {
	_, _ = unix.Write(n.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	n.running.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true // a connection that did not end in time may still come
	_ = unix.Close(n.wake)
	_ = unix.Close(n.ep)
}

func (n *notifier) run() {
	events := make([]unix.EpollEvent, 128)
	for {
		k, err := unix.EpollWait(n.ep, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // only a bug closes the set before stop
		}
		for i := range max(k, 0) {
			fd := int(events[i].Fd)
			if fd == n.wake {
				return
			}
			n.mu.Lock()
			c := n.conns[fd]
			n.mu.Unlock()
			if c != nil {
				c.s.Writable()
			}
		}
	}
}

// watch arms the descriptor once. The caller owns it (Conn.mu).
func (n *notifier) watch(c *Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	op := unix.EPOLL_CTL_MOD
	if n.conns[c.fd] != c {
		op = unix.EPOLL_CTL_ADD
		n.conns[c.fd] = c
		n.watched.Inc()
	}
	ev := unix.EpollEvent{Events: unix.EPOLLOUT | unix.EPOLLONESHOT, Fd: int32(c.fd)}
	_ = unix.EpollCtl(n.ep, op, c.fd, &ev) // its end shows on the loop
}

// forget lets go of the descriptor, which is about to be closed.
func (n *notifier) forget(c *Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.conns[c.fd] != c {
		return
	}
	delete(n.conns, c.fd)
	n.watched.Dec()
	_ = unix.EpollCtl(n.ep, unix.EPOLL_CTL_DEL, c.fd, nil)
}
