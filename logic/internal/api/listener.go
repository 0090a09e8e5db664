package api

import (
	"net"
	"sync"
)

// listener remembers its connections, so that those which idle in keep-alive
// can be closed at the end.
type listener struct {
	net.Listener
	once sync.Once

	mu    sync.Mutex
	conns map[*conn]struct{}
}

type conn struct {
	net.Conn
	l    *listener
	once sync.Once
}

func newListener(ln net.Listener) *listener {
	return &listener{Listener: ln, conns: map[*conn]struct{}{}}
}

// Accept returns the next connection.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err //nolint:wrapcheck // hertz looks at its text
	}
	tc := &conn{Conn: c, l: l}
	l.mu.Lock()
	l.conns[tc] = struct{}{}
	l.mu.Unlock()
	return tc, nil
}

// Close closes the listener once.
func (l *listener) Close() error {
	var err error
	l.once.Do(func() { err = l.Listener.Close() })
	return err //nolint:wrapcheck // a net.OpError says what it was
}

func (l *listener) stopAccepting() { _ = l.Close() }

func (l *listener) closeAll() {
	l.mu.Lock()
	list := make([]*conn, 0, len(l.conns))
	for c := range l.conns {
		list = append(list, c)
	}
	l.mu.Unlock()
	for _, c := range list {
		_ = c.Conn.Close() // its reader wakes and hertz closes the rest
	}
}

// Close closes the connection and forgets it.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.l.mu.Lock()
		delete(c.l.conns, c)
		c.l.mu.Unlock()
	})
	return c.Conn.Close() //nolint:wrapcheck // a net.OpError says what it was
}
