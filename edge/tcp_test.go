package edge

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/starling-im/starling/common/wire"
)

// tcp is a client without WebSocket.
type tcp struct {
	t   *testing.T
	nc  net.Conn
	buf []byte
}

func (r *rig) tcp() *tcp {
	r.t.Helper()
	var d net.Dialer
	nc, err := d.DialContext(r.ctx, "tcp", r.addrs.TCP)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	return &tcp{t: r.t, nc: nc}
}

func (c *tcp) send(b []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func frame(op wire.Op, seq int32, body any) []byte {
	b, err := wire.Marshal(body)
	if err != nil {
		panic(err)
	}
	return wire.AppendBinary(nil, wire.Frame{Op: op, Seq: seq, Body: b})
}

func (c *tcp) read() (wire.Frame, error) {
	for {
		f, n, err := wire.DecodeServerBinary(c.buf)
		if err == nil {
			c.buf = c.buf[n:]
			return f, nil
		}
		if !errors.Is(err, wire.ErrIncomplete) {
			return f, err
		}
		more := make([]byte, 4096)
		k, err := c.nc.Read(more)
		if err != nil {
			return f, err
		}
		c.buf = append(c.buf, more[:k]...)
	}
}

func (c *tcp) expect(op wire.Op) wire.Frame {
	c.t.Helper()
	f, err := c.read()
	if err != nil || f.Op != op {
		c.t.Fatalf("got %v %s (%v), want %v", f.Op, f.Body, err, op)
	}
	return f
}

// ends reads until the end, which brings nothing more.
func (c *tcp) ends() {
	c.t.Helper()
	if f, err := c.read(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("got %v %s, %v", f.Op, f.Body, err)
	}
}

func TestTCP(t *testing.T) {
	r := startRig(t, nil)
	c := r.tcp()
	all := append(frame(wire.OpAuth, 1, wire.Auth{Token: r.token("bob", "web")}), frame(wire.OpPing, 2, struct{}{})...)
	for i := range all { // in whatever pieces it comes
		c.send(all[i : i+1])
	}
	if f := c.expect(wire.OpAuthOK); f.Seq != 1 {
		t.Errorf("seq %d", f.Seq)
	}
	c.expect(wire.OpPong)
	many := frame(wire.OpSend, 3, wire.Send{ClientID: "c", To: "alice", Type: wire.TypeText, Content: "hi"})
	many = append(many, frame(wire.OpJoin, 4, wire.Room{Room: "live"})...)
	many = append(many, frame(wire.OpMsg, 5, struct{}{})...)
	c.send(many)
	seen := map[wire.Op]int32{}
	for range 3 { // an ack comes from logic, an ok from the index, the error at once
		f, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		seen[f.Op] = f.Seq
	}
	if seen[wire.OpSendAck] != 3 || seen[wire.OpOK] != 4 || seen[wire.OpError] != 5 {
		t.Errorf("answers %v", seen)
	}
	r.job().push(at(1, msg(1, "pushed", "", "bob")))
	c.expect(wire.OpMsg)

	// A device is one, however it connects.
	r.login("bob", "web").ping()
	c.expect(wire.OpKick)
	c.ends()
}

func TestTCPBadInput(t *testing.T) {
	r := startRig(t, nil)
	big := frame(wire.OpAuth, 1, struct{}{})
	big[1] = 0x7f
	for name, b := range map[string][]byte{
		"HTTP":       []byte("GET /ws HTTP/1.1\r\nHost: x\r\n\r\n"),
		"zeros":      make([]byte, 64),
		"too big":    big,
		"bad header": append([]byte{0, 0, 0, 20, 0, 15}, make([]byte, 14)...),
	} {
		t.Run(name, func(t *testing.T) {
			c := r.tcp()
			c.t = t
			c.send(b)
			c.ends()
		})
	}
	c := r.tcp()
	c.send(frame(wire.OpPing, 9, struct{}{}))
	if f := c.expect(wire.OpError); f.Seq != 9 {
		t.Errorf("seq %d", f.Seq)
	}
	c.ends()
	half := r.tcp()
	half.send(frame(wire.OpAuth, 1, wire.Auth{Token: r.token("bob", "web")})[:30])
	_ = half.nc.(*net.TCPConn).CloseWrite()
	if _, err := io.ReadAll(half.nc); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("half a frame and the end keeps the connection")
	}
}

func TestTCPAuthTimeout(t *testing.T) {
	t.Parallel() // it waits
	r := startRig(t, func(c *Config) { c.AuthTimeout = 300 * time.Millisecond })
	c := r.tcp()
	c.expect(wire.OpError)
	c.ends()
}
