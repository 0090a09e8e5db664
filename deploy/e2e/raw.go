package e2e

import (
	"bufio"
	endian "encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/starling-im/starling/common/wire"
)

// First bytes of WebSocket frames: FIN and opcode.
const (
	fin       = 0x80
	wsCont    = 0x0
	wsText    = 0x1
	wsBinary  = 0x2
	wsClose   = 0x8
	wsPing    = 0x9
	wsPong    = 0xA
	maskKey   = "\x5a\x01\xff\x80" // any four bytes will do
	upgradeTo = "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%s\r\n"
)

// Raw is a connection that may send any bytes: it speaks RFC 6455 by itself,
// so that it can also break it. One goroutine uses it.
type Raw struct {
	t     testing.TB
	nc    net.Conn
	br    *bufio.Reader
	Reply *http.Response // of the upgrade
	Text  bool           // the last message received was text
	seq   int32
}

// Raw connects and upgrades; query is appended to the path, header lines are
// "Name: value".
func (s *System) Raw(t testing.TB, query string, header ...string) *Raw {
	t.Helper()
	c := s.Socket(t)
	var head strings.Builder
	for _, h := range header {
		head.WriteString(h + "\r\n")
	}
	c.Bytes(fmt.Appendf(nil, upgradeTo, "/ws"+query, c.nc.RemoteAddr(), head.String()))
	var err error
	if c.Reply, err = http.ReadResponse(c.br, nil); err != nil { //nolint:bodyclose // a 101 has none
		t.Fatalf("upgrade: %v", err)
	}
	if c.Reply.StatusCode != http.StatusSwitchingProtocols || c.Reply.Header.Get("Sec-WebSocket-Accept") != "ICX+Yqv66kxgM0FcWaLWlFLwTAI=" {
		t.Fatalf("upgrade: HTTP %s %v", c.Reply.Status, c.Reply.Header)
	}
	return c
}

// Socket connects to the edge and sends nothing.
func (s *System) Socket(t testing.TB) *Raw {
	t.Helper()
	u, err := url.Parse(s.WS())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return &Raw{t: t, nc: nc, br: bufio.NewReader(nc)}
}

// RawLogin is a Raw that has been let in.
func (s *System) RawLogin(t testing.TB, user, device string) *Raw {
	t.Helper()
	token := s.Token(t, user, device) // first: an open connection has seconds to log in
	c := s.Raw(t, "")
	c.Login(token)
	return c
}

// Login sends auth as text and takes auth_ok.
func (c *Raw) Login(token string) {
	c.t.Helper()
	c.Say(fmt.Sprintf(`{"op":"auth","seq":1,"body":{"token":%q}}`, token))
	if f := c.Frame(); f.Op != wire.OpAuthOK || f.Seq != 1 {
		c.t.Fatalf("log-in answered by %s %s", f.Op, f.Body)
	}
}

// Bytes sends bytes as they are.
func (c *Raw) Bytes(b []byte) {
	c.t.Helper()
	_ = c.nc.SetWriteDeadline(time.Now().Add(wait))
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// Masked appends a masked frame with a first byte of one's choice.
func Masked(dst []byte, first byte, payload string) []byte {
	dst = append(dst, first)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n < 1<<16:
		dst = endian.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	default:
		dst = endian.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	dst = append(dst, maskKey...)
	for i := range len(payload) {
		dst = append(dst, payload[i]^maskKey[i&3])
	}
	return dst
}

// Put sends one masked frame.
func (c *Raw) Put(first byte, payload string) { c.t.Helper(); c.Bytes(Masked(nil, first, payload)) }

// Say sends a whole text message.
func (c *Raw) Say(text string) { c.t.Helper(); c.Put(fin|wsText, text) }

// Message reads one frame and checks what a server must keep to.
func (c *Raw) Message() (opcode byte, payload []byte, err error) {
	_ = c.nc.SetReadDeadline(time.Now().Add(wait))
	var head [2]byte
	if _, err := io.ReadFull(c.br, head[:]); err != nil {
		return 0, nil, err
	}
	if head[0]&fin == 0 || head[0]&0x70 != 0 || head[1]&0x80 != 0 {
		return 0, nil, fmt.Errorf("server sent a frame that starts %x", head)
	}
	n := uint64(head[1])
	switch n {
	case 126:
		var b [2]byte
		_, err = io.ReadFull(c.br, b[:])
		n = uint64(endian.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		_, err = io.ReadFull(c.br, b[:])
		n = endian.BigEndian.Uint64(b[:])
	}
	if err != nil || n > wire.MaxServerFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes: %w", n, err)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(c.br, payload)
	return head[0] & 0x0f, payload, err
}

// Frame reads the next operation, in either framing.
func (c *Raw) Frame() wire.Frame {
	c.t.Helper()
	op, p, err := c.Message()
	if err != nil {
		c.t.Fatalf("read: %v", err)
	}
	switch op {
	case wsText:
		c.Text = true
		f, werr := wire.DecodeServerText(p)
		if werr != nil {
			c.t.Fatalf("%v in %s", werr, p)
		}
		return f
	case wsBinary:
		c.Text = false
		f, n, err := wire.DecodeServerBinary(p)
		if err != nil || n != len(p) {
			c.t.Fatalf("%d of %d bytes: %v in %x", n, len(p), err, p)
		}
		return f
	}
	c.t.Fatalf("opcode %x %q, want an operation", op, p)
	return wire.Frame{}
}

// anySeq stands for an answer to a request that could not be read whole.
const anySeq = 1<<31 - 1

// Answer skips pushes until the answer to seq.
func (c *Raw) Answer(seq int32) wire.Frame {
	c.t.Helper()
	for {
		if f := c.Frame(); f.Seq == seq || seq == anySeq {
			return f
		}
	}
}

// Lives asks for a pong and skips all before it.
func (c *Raw) Lives() {
	c.t.Helper()
	c.seq--
	seq := c.seq
	c.Say(fmt.Sprintf(`{"op":"ping","seq":%d}`, seq))
	if f := c.Answer(seq); f.Op != wire.OpPong {
		c.t.Fatalf("ping answered by %s %s", f.Op, f.Body)
	}
}

// Fails wants an error with a code next.
func (c *Raw) Fails(seq int32, code wire.Code) wire.Error {
	c.t.Helper()
	f := c.Answer(seq)
	var e wire.Error
	if err := wire.Unmarshal(f.Body, &e); err != nil || f.Op != wire.OpError || e.Code != code {
		c.t.Fatalf("answered by %s %s, want error %s (%v)", f.Op, f.Body, code, err)
	}
	return e
}

// Ends wants the server's close frame with a code, skipping what comes before
// it, echoes it, and wants the end of the connection after it.
func (c *Raw) Ends(code int) {
	c.t.Helper()
	for {
		op, p, err := c.Message()
		if err != nil {
			c.t.Fatalf("want close %d: %v", code, err)
		}
		if op != wsClose {
			continue
		}
		if len(p) < 2 || int(endian.BigEndian.Uint16(p)) != code {
			c.t.Fatalf("close frame %q, want %d", p, code)
		}
		_, _ = c.nc.Write(Masked(nil, fin|wsClose, string(p[:2]))) // it may not listen any more
		c.Gone()
		return
	}
}

// Gone wants the end of the connection, and nothing before it.
func (c *Raw) Gone() {
	c.t.Helper()
	_, p, err := c.Message()
	if err == nil {
		c.t.Fatalf("after the close came %q", p)
	}
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		c.t.Fatalf("the connection does not end: %v", err)
	}
}

// Binary sends frames in goim's framing as one message.
func (c *Raw) Binary(frames ...wire.Frame) {
	c.t.Helper()
	var b []byte
	for _, f := range frames {
		b = wire.AppendBinary(b, f)
	}
	c.Put(fin|wsBinary, string(b))
}

// SendBody is the body of a send of text.
func SendBody(to, clientID, text string) []byte {
	return fmt.Appendf(nil, `{"to":%q,"client_id":%q,"type":"text","content":%q}`, to, clientID, text)
}

// nested is JSON objects in each other.
func nested(depth int) string {
	return strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth)
}
