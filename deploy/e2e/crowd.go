package e2e

import (
	"bufio"
	"context"
	endian "encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
)

// Crowd is many connections over plain TCP that cost little: each counts what it
// is given and keeps nothing of it.
type Crowd struct {
	t     testing.TB
	conns []net.Conn
	each  []atomic.Int32 // msg frames of each connection
	work  sync.WaitGroup

	Up       atomic.Int64 // authenticated
	Messages atomic.Int64 // msg frames of all
	Lagged   atomic.Int64 // lagged frames of all
	Ended    atomic.Int64 // connections that the server ended
	lastMsg  atomic.Int64 // when the last msg came, ns
	lastEnd  atomic.Int64 // when the last connection ended, ns
}

// dialers is how many of a crowd log in at once.
const dialers = 64

// Crowd connects n devices, spread over the edges, and waits until all are logged
// in. user and device name the i-th.
func (s *System) Crowd(t testing.TB, n int, name func(i int) (user, device string)) *Crowd {
	t.Helper()
	keys, err := token.LoadOrCreate(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	c := &Crowd{t: t, conns: make([]net.Conn, n), each: make([]atomic.Int32, n)}
	t.Cleanup(c.Close)
	var next atomic.Int64
	var dialing sync.WaitGroup
	for range dialers {
		dialing.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && !t.Failed(); i = int(next.Add(1)) - 1 {
				user, device := name(i)
				raw, err := keys.Mint(token.Claims{User: wire.UserID(user), Device: wire.DeviceID(device)}, time.Hour)
				if err == nil {
					c.conns[i], err = c.login(i, s.tcpOf(t, s.WS()), raw)
				}
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
				}
			}
		})
	}
	dialing.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return c
}

func (c *Crowd) login(i int, addr, raw string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), wait)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	body := fmt.Appendf(nil, `{"token":%q,"platform":"crowd"}`, raw)
	if _, err := nc.Write(wire.AppendBinary(nil, wire.Frame{Op: wire.OpAuth, Seq: 1, Body: body})); err != nil {
		return nc, fmt.Errorf("log in: %w", err)
	}
	ready := make(chan struct{})
	c.work.Go(func() { c.read(i, nc, sync.OnceFunc(func() { close(ready) })) })
	select {
	case <-ready:
		return nc, nil
	case <-ctx.Done():
		return nc, fmt.Errorf("log in: %w", ctx.Err())
	}
}

// read takes frames by their headers alone.
func (c *Crowd) read(i int, nc net.Conn, ready func()) {
	br := bufio.NewReaderSize(nc, 1024)
	var head [wire.HeaderLen]byte
	for {
		if _, err := io.ReadFull(br, head[:]); err != nil {
			c.lastEnd.Store(time.Now().UnixNano())
			c.Ended.Add(1)
			return
		}
		size := int(endian.BigEndian.Uint32(head[:])) - len(head)
		if _, err := br.Discard(size); err != nil {
			c.Ended.Add(1)
			return
		}
		switch wire.Op(endian.BigEndian.Uint32(head[8:])) {
		case wire.OpAuthOK:
			c.Up.Add(1)
			ready()
		case wire.OpMsg:
			c.lastMsg.Store(time.Now().UnixNano())
			c.Messages.Add(1)
			c.each[i].Add(1)
		case wire.OpLagged:
			c.Lagged.Add(1)
		default:
		}
	}
}

// EachHas says whether every connection has been given n msg frames, no more and
// no less.
func (c *Crowd) EachHas(n int32) error {
	for i := range c.each {
		if had := c.each[i].Load(); had != n {
			return fmt.Errorf("connection %d has %d messages, want %d; all have %d, lagged came %d times", i, had, n, c.Messages.Load(), c.Lagged.Load())
		}
	}
	return nil
}

// LastMessage is when the newest msg of all came.
func (c *Crowd) LastMessage() time.Time { return time.Unix(0, c.lastMsg.Load()) }

// LastEnd is when the server ended the last connection.
func (c *Crowd) LastEnd() time.Time { return time.Unix(0, c.lastEnd.Load()) }

// Close ends all connections and waits for their readers.
func (c *Crowd) Close() {
	for _, nc := range c.conns {
		if nc != nil {
			_ = nc.Close()
		}
	}
	c.work.Wait()
}

// edgesOf says how many of the crowd each edge has.
func (c *Crowd) edgesOf() string {
	n := map[string]int{}
	for _, nc := range c.conns {
		n[nc.RemoteAddr().String()]++
	}
	var out []string
	for addr, k := range n {
		out = append(out, fmt.Sprintf("%d at %s", k, addr))
	}
	return strings.Join(out, ", ")
}
