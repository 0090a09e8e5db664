package listen

import (
	"encoding/binary"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/session"
)

func TestAcceptLimits(t *testing.T) {
	for reason, change := range map[string]func(*Config, *session.Limits){
		"max_connections": func(c *Config, _ *session.Limits) { c.Gate = NewGate(2, nil) },
		"max_per_ip":      func(c *Config, _ *session.Limits) { c.Gate = NewGate(0, func() int { return 2 }) },
	} {
		t.Run(reason, func(t *testing.T) {
			r := start(t, change)
			a := r.login("a")
			r.login("b")
			if line, _ := r.dial().upgrade("c"); !strings.Contains(line, "503") {
				t.Fatalf("the third is answered %q", line)
			}
			if got := r.rejected(reason); got != 1 {
				t.Errorf("%v are counted as rejected, want 1", got)
			}
			_ = a.Close()
			eventually(t, "there is room again", func() bool { return r.srv.Live() == 1 })
			r.login("d")
		})
	}
}

func TestAddressesOfOneNetworkCountTogether(t *testing.T) {
	a := NewGate(0, func() int { return 1 })
	for _, tc := range []struct{ ip, want string }{
		{"2001:db8::1", ""},
		{"2001:db8::ffff:2", "max_per_ip"},
		{"2001:db8:0:1::1", ""},
		{"10.0.0.1", ""},
		{"10.0.0.2", ""},
		{"10.0.0.1", "max_per_ip"},
	} {
		if got := a.admit(netip.MustParseAddr(tc.ip)); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.ip, got, tc.want)
		}
	}
	a.leave(netip.MustParseAddr("2001:db8::9"))
	if got := a.admit(netip.MustParseAddr("2001:db8::3")); got != "" {
		t.Errorf("after one left: %q", got)
	}
	for _, ip := range []string{"2001:db8::3", "2001:db8:0:1::1", "10.0.0.1", "10.0.0.2"} {
		a.leave(netip.MustParseAddr(ip))
	}
	if len(a.perIP) != 0 || a.live != 0 {
		t.Errorf("%v and %d are left", a.perIP, a.live)
	}
}

// Without descriptors every new connection is told, again and again, the loop
// goes on, and so does everything once there are some.
func TestOutOfDescriptors(t *testing.T) {
	r := start(t, nil)
	good := r.login("good")
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	low := was
	low.Cur = 200
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	}()
	fill := fillDescriptors(t)
	routines := runtime.NumGoroutine()
	for i := range 5 {
		_ = fill[len(fill)-1].Close() // one, for the client's own end
		fill = fill[:len(fill)-1]
		if line, err := r.dial().upgrade("c"); err == nil && !strings.Contains(line, "503") {
			t.Fatalf("connection %d is answered %q", i, line)
		}
		eventually(t, "it is counted", func() bool { return r.rejected("descriptors") == float64(i+1) })
	}
	if grown := runtime.NumGoroutine() - routines; grown > 5 {
		t.Errorf("%d goroutines more", grown)
	}
	good.send(masked(0x89, "still here"))
	if op, p, err := good.frame(); op != 10 || string(p) != "still here" || err != nil {
		t.Errorf("the old connection gets %d %q %v", op, p, err)
	}
	for _, f := range fill {
		_ = f.Close()
	}
	r.login("later")
}

func fillDescriptors(t *testing.T) (fs []*os.File) {
	t.Helper()
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return fs
		}
		t.Cleanup(func() { _ = f.Close() })
		fs = append(fs, f)
	}
}

func TestBudgetsBeforeAuth(t *testing.T) {
	for name, tc := range map[string]struct {
		send   string
		status string
		code   int
		reason session.Reason
	}{
		"head too long":     {send: "GET /ws HTTP/1.1\r\nX: " + strings.Repeat("x", 5000), status: "431", reason: session.BadHandshake},
		"head never ends":   {send: "GET /ws HT", reason: session.HandshakeLate},
		"nothing":           {reason: session.HandshakeLate},
		"not HTTP":          {send: "\x16\x03\x01\r\n\r\n", status: "400", reason: session.BadHandshake},
		"no auth":           {send: upgradeHead, status: "101", code: wire.CloseUnauthenticated, reason: session.AuthTimeout},
		"pings instead":     {send: upgradeHead + strings.Repeat(masked(0x89, "x"), 2000), status: "101", code: wire.ClosePolicy, reason: session.AuthFlood},
		"a frame too large": {send: upgradeHead + masked(0x81, strings.Repeat("x", 9000)), status: "101", code: wire.ClosePolicy, reason: session.AuthFlood},
		"half a frame":      {send: upgradeHead + masked(0x81, "1234567890")[:8], status: "101", code: wire.CloseUnauthenticated, reason: session.AuthTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, func(c *Config, l *session.Limits) {
				switch tc.reason { // short only for who is to miss it
				case session.HandshakeLate:
					c.HeadTimeout = 600 * time.Millisecond
				case session.AuthTimeout:
					l.AuthTimeout = 600 * time.Millisecond
				default:
				}
			})
			c := r.dial()
			_, _ = io.WriteString(c.Conn, tc.send) // it may be cut off in the middle
			eventually(t, "it ends", func() bool { return r.hub.ended(tc.reason) == 1 })
			line, err := c.r.ReadString('\n')
			if tc.status != "" && err == nil && !strings.Contains(line, tc.status) {
				t.Errorf("answered %q, want %s", line, tc.status)
			}
			if tc.status == "" && err == nil {
				t.Errorf("answered %q", line)
			}
			for line != "\r\n" && err == nil {
				line, err = c.r.ReadString('\n')
			}
			if err == nil && tc.code != 0 {
				if got := c.closeCode(); got != tc.code {
					t.Errorf("closed with %d, want %d", got, tc.code)
				}
			}
			_ = c.Close()
			eventually(t, "nothing is left", func() bool { return r.srv.Live() == 0 })
		})
	}
}

const upgradeHead = "GET /ws HTTP/1.1\r\n" + goodHead + "\r\n"

// A flood must not grow what netpoll reads at once: it keeps that for good.
func TestReceiveBufferIsBounded(t *testing.T) {
	r := start(t, nil)
	c := r.login("flood")
	pong := masked(0x8a, "")
	chunk := strings.Repeat(pong, 1<<20/len(pong))
	for range 8 {
		c.send(chunk)
	}
	eventually(t, "all is read", func() bool { return r.metric("read_bytes_total", "") >= float64(8*len(chunk)) })
	for i := range r.srv.shards {
		for _, conn := range r.srv.shards[i].list(nil) {
			conn.mu.Lock()
			got, err := unix.GetsockoptInt(conn.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
			conn.mu.Unlock()
			if err != nil || got > 2*receiveBuffer {
				t.Errorf("the kernel holds up to %d bytes, %v", got, err)
			}
		}
	}
}

func TestCloseReasons(t *testing.T) {
	r := start(t, nil)
	a, b, c, d := r.login("a"), r.login("b"), r.login("c"), r.login("d")
	a.send(masked(0x88, "\x03\xe8bye"))
	if got := a.closeCode(); got != wire.CloseBye {
		t.Errorf("the close is answered by %d", got)
	}
	_ = b.Close()
	c.send("\x81\x02{}") // not masked
	if got := c.closeCode(); got != wire.CloseProtocol {
		t.Errorf("a broken frame is answered by %d", got)
	}
	r.hub.of("d").Kick("replaced", session.Replaced)
	if op, p, err := d.frame(); op != 1 || !strings.Contains(string(p), "replaced") {
		t.Errorf("kicked by %q, %v", p, err)
	}
	if op, p, err := d.frame(); op != 8 || binary.BigEndian.Uint16(p) != wire.CloseReplaced || err != nil {
		t.Errorf("then %d %q, %v", op, p, err)
	}
	for _, reason := range []session.Reason{session.ClientClosed, session.Disconnected, session.ProtocolError, session.Replaced} {
		eventually(t, "a session ends as "+reason.String(), func() bool { return r.hub.ended(reason) == 1 })
	}
	// Nobody closes his end: the grace is over soon.
	eventually(t, "nothing is left", func() bool { return r.srv.Live() == 0 })
}

func TestPanicEndsThatConnectionAlone(t *testing.T) {
	r := start(t, nil)
	good, bad := r.login("good"), r.dial()
	if _, err := bad.upgrade("bomb"); err == nil && bad.closeCode() != 0 {
		t.Error("the bug ends in a close frame")
	}
	if got := r.metric("panics_total", ""); got != 1 {
		t.Errorf("%v panics are counted", got)
	}
	good.send(masked(0x89, "x"))
	if op, _, err := good.frame(); op != 10 || err != nil {
		t.Errorf("the other connection gets %d, %v", op, err)
	}
	eventually(t, "one is left", func() bool { return r.srv.Live() == 1 })
}

// Clients that neither read nor close do not keep the server.
func TestCloseCutsWhoStays(t *testing.T) {
	r := start(t, func(_ *Config, l *session.Limits) { l.CloseGrace = time.Minute })
	c := r.login("stays")
	r.login("too")
	if line, _ := r.dial().upgrade(""); !strings.Contains(line, "101") {
		t.Fatal(line)
	}
	r.close(300 * time.Millisecond)
	if got := c.closeCode(); got != wire.CloseGoingAway {
		t.Errorf("closed with %d", got)
	}
	if got := r.hub.ended(session.Shutdown); got != 3 {
		t.Errorf("%d sessions ended by the shutdown, want 3", got)
	}
}
