// Package proxy stands between two that speak TCP and breaks their connections on
// demand: resets and refuses them, swallows bytes for a while, delays them, or
// takes an answer away after its question went through.
//
// A Proxy may be used by many goroutines at once. It passes bytes on in order and
// never changes them. When one side ends, both do, once all it had said is
// passed on.
package proxy

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// Mode says what a Proxy does with what passes.
type Mode int

// Modes.
const (
	Open  Mode = iota // passes everything on
	Cut               // resets what stands, and what comes
	Hang              // passes nothing on, as a network that is parted; when it is over all of it
	Slow              // passes each chunk on after a delay
	Twice             // resets in the place of an answer, now and then: the asker asks once more what was done
)

const chunk = 64 << 10 // bytes

// Proxy passes connections on to one address.
type Proxy struct {
	to   string
	ln   net.Listener
	work sync.WaitGroup

	mu      sync.Mutex
	mode    Mode
	delay   time.Duration
	changed chan struct{} // closed when mode changes
	pairs   map[*pair]bool
	made    int // connections so far
	closed  bool
}

// pair is a connection and its continuation.
type pair struct {
	client  net.Conn
	server  net.Conn      // nil: not yet dialled
	gone    chan struct{} // closed when both are
	answers int           // of Twice: how many more pass
}

// Listen begins to pass on to an address what comes to another.
func Listen(ctx context.Context, at, to string) (*Proxy, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", at)
	if err != nil {
		return nil, fmt.Errorf("proxy to %s: %w", to, err)
	}
	p := &Proxy{to: to, ln: ln, changed: make(chan struct{}), pairs: make(map[*pair]bool)}
	dialling := context.WithoutCancel(ctx)
	p.work.Go(func() { p.accept(dialling) })
	return p, nil
}

// Addr is where it listens.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Set changes what is done from now on. delay is of Slow alone.
func (p *Proxy) Set(mode Mode, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.setLocked(mode, delay)
}

func (p *Proxy) setLocked(mode Mode, delay time.Duration) {
	p.mode, p.delay = mode, delay
	close(p.changed)
	p.changed = make(chan struct{})
	for x := range p.pairs {
		p.made++
		x.answers = 1 + p.made*7%20
		if mode == Cut {
			p.resetLocked(x)
		}
	}
}

// Close resets all connections and waits until everything has ended.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if !p.closed {
		p.setLocked(Cut, 0)
		p.closed = true
	}
	p.mu.Unlock()
	err := p.ln.Close()
	p.work.Wait()
	if err != nil {
		return fmt.Errorf("close the proxy to %s: %w", p.to, err)
	}
	return nil
}

func (p *Proxy) accept(ctx context.Context) {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return // closed
		}
		x := &pair{client: c, gone: make(chan struct{})}
		p.mu.Lock()
		p.pairs[x] = true
		p.made++
		x.answers = 3 + p.made*7%40 // a connection is begun and used, then fails
		if p.mode == Cut {
			p.resetLocked(x)
		} else {
			p.work.Go(func() { p.serve(ctx, x) })
		}
		p.mu.Unlock()
	}
}

// serve is the life of one connection.
func (p *Proxy) serve(ctx context.Context, x *pair) {
	defer p.reset(x)
	if !p.pass(x, false) {
		return
	}
	var d net.Dialer
	s, err := d.DialContext(ctx, "tcp", p.to)
	if err != nil {
		return
	}
	p.mu.Lock()
	x.server = s
	if !p.pairs[x] { // reset meanwhile
		hardClose(s)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	var asking sync.WaitGroup
	asking.Go(func() { p.pump(x, x.client, s, false) })
	p.pump(x, s, x.client, true)
	asking.Wait()
}

// pump passes on one direction until it ends.
func (p *Proxy) pump(x *pair, from, to net.Conn, answers bool) {
	buf := make([]byte, chunk)
	for {
		n, err := from.Read(buf)
		if !p.pass(x, answers && n > 0) {
			p.reset(x)
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				p.reset(x)
				return
			}
		}
		if err != nil {
			p.end(x)
			return
		}
	}
}

// pass waits until a chunk may go on; false: its connection is to be reset.
func (p *Proxy) pass(x *pair, answer bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.mode == Hang && p.pairs[x] {
		p.waitLocked(x, nil)
	}
	if p.mode == Slow {
		t := time.NewTimer(p.delay)
		defer t.Stop()
		p.waitLocked(x, t.C)
	}
	if p.mode == Twice && answer {
		x.answers--
		if x.answers <= 0 {
			return false
		}
	}
	return p.pairs[x]
}

// waitLocked lets go of the lock until the mode changes, the connection is gone or
// it is time.
func (p *Proxy) waitLocked(x *pair, after <-chan time.Time) {
	changed := p.changed
	p.mu.Unlock()
	defer p.mu.Lock()
	select {
	case <-changed:
	case <-x.gone:
	case <-after:
	}
}

func (p *Proxy) reset(x *pair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resetLocked(x)
}

func (p *Proxy) resetLocked(x *pair) {
	if !p.forgetLocked(x) {
		return
	}
	hardClose(x.client)
	if x.server != nil {
		hardClose(x.server)
	}
}

// end closes both sides in order: what was written to them still arrives.
func (p *Proxy) end(x *pair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.forgetLocked(x) {
		_ = x.client.Close()
		_ = x.server.Close()
	}
}

func (p *Proxy) forgetLocked(x *pair) bool {
	if !p.pairs[x] {
		return false
	}
	delete(p.pairs, x)
	close(x.gone)
	return true
}

// hardClose sends a reset instead of an orderly end.
func hardClose(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}
