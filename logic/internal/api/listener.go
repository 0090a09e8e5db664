package api

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net"
	"sync"

	"github.com/starling-im/starling/common/wire"
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

// Write puts hertz's own answers, to what it could not read, into the form of
// all others. They are text, written at once, and end the connection; nothing
// else here is text.
func (c *conn) Write(b []byte) (int, error) {
	head, _, ok := bytes.Cut(b, []byte("\r\n\r\n"))
	if !ok || !bytes.HasPrefix(head, []byte("HTTP/1.1 4")) || !bytes.Contains(head, []byte("\r\nContent-Type: text/plain")) {
		return c.Conn.Write(b) //nolint:wrapcheck // hertz looks at it
	}
	status, we := "400 Bad Request", wire.Errorf(wire.CodeBadRequest, "not an HTTP request that can be read, or not sent in time")
	for _, large := range []string{"413", "431"} {
		if bytes.HasPrefix(head, []byte("HTTP/1.1 "+large)) {
			status, we = "413 Request Entity Too Large", wire.Errorf(wire.CodeTooLarge, "body is over 256 KiB, or headers are over 16 KiB")
		}
	}
	body, err := wire.Marshal(map[string]*wire.Error{"error": we})
	if err != nil {
		return c.Conn.Write(b) //nolint:wrapcheck // as above
	}
	answer := fmt.Sprintf("HTTP/1.1 %s\r\n%s: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, requestIDHeader, rand.Text(), jsonType, len(body), body)
	if _, err := c.Conn.Write([]byte(answer)); err != nil {
		return 0, err //nolint:wrapcheck // as above
	}
	return len(b), nil
}
