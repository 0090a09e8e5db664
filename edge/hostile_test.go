package edge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
)

// masked is a client's frame.
func masked(first byte, payload string) string {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	key := [4]byte{1, 2, 3, 4}
	b = append(b, key[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i&3])
	}
	return string(b)
}

func TestHostileInputEndsThatConnectionAlone(t *testing.T) {
	r := startRig(t, nil)
	good := r.login("bob", "web")
	auth := masked(0x81, `{"op":"auth","body":{"token":"`+r.token("eve", "x")+`"}}`)
	for name, tc := range map[string]struct {
		send string
		code int
	}{
		"unmasked":            {"\x81\x02{}", wire.CloseProtocol},
		"rsv":                 {masked(0xC1, "{}"), wire.CloseProtocol},
		"opcode":              {masked(0x83, "{}"), wire.CloseProtocol},
		"long control":        {masked(0x89, strings.Repeat("x", 126)), wire.CloseProtocol},
		"bad utf-8":           {masked(0x81, "\xff\xfe"), wire.CloseInvalidUTF8},
		"bad utf-8 fragments": {masked(0x01, "a\xce") + masked(0x80, "a"), wire.CloseInvalidUTF8},
		"continuation":        {masked(0x80, "x"), wire.CloseProtocol},
		"bad close":           {masked(0x88, "\x03\xed"), wire.CloseProtocol},
		"close":               {masked(0x88, "\x0f\xa1bye"), 4001},
		"close without code":  {masked(0x88, ""), wire.CloseBye},
		"announced too big":   {"\x81\xff\x00\x00\x00\x00\x00\x02\x00\x01abcd", wire.CloseTooBig},
		"before auth too big": {masked(0x81, strings.Repeat("x", 40<<10)), wire.ClosePolicy},
		"bad binary header":   {auth + masked(0x82, strings.Repeat("\x00", 16)), wire.CloseProtocol},
		"garbage":             {"\x00\x01\x02\x03", wire.CloseProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			c := r.raw()
			c.t = t
			c.upgrade()
			c.send(tc.send)
			if code, _ := c.closeCode(); code != tc.code {
				t.Errorf("closed with %d, want %d", code, tc.code)
			}
		})
	}
	good.ping()
}

func TestHTTPRefusals(t *testing.T) {
	r := startRig(t, func(c *Config) { c.Origins = []string{"https://good.example"} })
	for name, tc := range map[string]struct {
		send   string
		status int
	}{
		"other path": {"GET /other HTTP/1.1\r\n" + goodHead + "\r\n", 404},
		"post":       {"POST /ws HTTP/1.1\r\n" + goodHead + "\r\n", 405},
		"old http":   {"GET /ws HTTP/1.0\r\n" + goodHead + "\r\n", 505},
		"plain get":  {"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", 426},
		"no origin":  {"GET /ws HTTP/1.1\r\n" + goodHead + "\r\n", 403},
		"bad origin": {"GET /ws HTTP/1.1\r\n" + goodHead + "Origin: https://bad.example\r\n\r\n", 403},
		"origin":     {"GET /ws HTTP/1.1\r\n" + goodHead + "Origin: https://good.example\r\n\r\n", 101},
		"garbage":    {"\x16\x03\x01\r\n\r\n", 400},
		"huge":       {"GET /ws HTTP/1.1\r\nX: " + strings.Repeat("x", 40<<10), 431},
	} {
		t.Run(name, func(t *testing.T) {
			c := r.raw()
			c.t = t
			c.send(tc.send)
			resp, err := http.ReadResponse(c.r, nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != tc.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tc.status)
			}
		})
	}
}

func TestSlowUpgradeEndsWithoutAnAnswer(t *testing.T) {
	t.Parallel() // it waits
	r := startRig(t, func(c *Config) { c.AuthTimeout = 400 * time.Millisecond })
	c := r.raw()
	c.send("GET /ws HT")
	if b, err := io.ReadAll(c.r); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestConnectionLimits(t *testing.T) {
	r := startLimited(t, func(l *limits.Config) { l.ConnectionsPerIP = 2 })
	a, b := r.raw(), r.raw()
	a.upgrade()
	b.upgrade()
	c := r.raw()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("status %d", resp.StatusCode)
	}
	_ = a.Close()
	eventually(t, "there is room again", func() bool {
		d := r.raw()
		_, err := io.WriteString(d.Conn, "GET /ws HTTP/1.1\r\n"+goodHead+"\r\n")
		if err != nil {
			return false
		}
		line, err := d.r.ReadString('\n')
		return err == nil && strings.Contains(line, "101")
	})
}

func TestSlowReaderIsLaggedAndOthersGoOn(t *testing.T) {
	r := startRig(t, func(c *Config) { c.QueueBytes = 40 << 10 }) // two messages: the one before may still be on its way out
	slow, fast := r.slow("slow"), r.login("fast", "web")
	const n = 400
	content := strings.Repeat("x", 16<<10)
	j := r.job()
	for i := range int64(n) {
		j.push(at(i+1, msg(i+1, content, "", "slow", "fast")))
		// Read before the next: the test's own hurry must not make it slow.
		var m wire.Msg
		if fast.expect(wire.OpMsg, &m); m.Seq != i+1 {
			t.Fatalf("the fast reader got %d, want %d", m.Seq, i+1)
		}
	}
	_ = slow.SetDeadline(time.Now().Add(patience))
	// What the slow one reads, and what lagged names, is everything, in order.
	seen, lags := int64(0), 0
	for seen < n {
		f := slow.frame()
		if f.Op == wire.OpMsg {
			var m wire.Msg
			if err := wire.Unmarshal(f.Body, &m); err != nil {
				t.Fatal(err)
			}
			if m.Seq != seen+1 {
				t.Fatalf("seq %d after %d without lagged", m.Seq, seen)
			}
			seen = m.Seq
			continue
		}
		if f.Op != wire.OpLagged {
			t.Fatalf("got %v", f.Op)
		}
		var l wire.Lagged
		if err := wire.Unmarshal(f.Body, &l); err != nil {
			t.Fatal(err)
		}
		got := l.Convs["p:a:b"]
		if got[0] != seen+1 || got[1] < got[0] {
			t.Fatalf("lagged %v after %d", got, seen)
		}
		seen = got[1]
		lags++
	}
	if lags == 0 {
		t.Error("it had everything: it was not slow")
	}
}

func counter(r *rig, name string) float64 {
	ms, err := r.prom.Gather()
	if err != nil {
		return 0
	}
	sum := 0.0
	for _, m := range ms {
		if m.GetName() == name {
			for _, v := range m.GetMetric() {
				sum += v.GetCounter().GetValue() + v.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func TestStuckReaderIsClosed(t *testing.T) {
	r := startRig(t, func(c *Config) {
		c.QueueBytes, c.WriteTimeout, c.closeGrace = 16<<10, 500*time.Millisecond, time.Minute
	})
	slow, good := r.slow("slow"), r.login("good", "web")
	j := r.job()
	seq := int64(0)
	eventually(t, "it counts no more", func() bool {
		seq++
		j.push(at(seq, msg(seq, strings.Repeat("x", 16<<10), "", "slow")))
		got, err := r.reg.Lookup(r.ctx, []wire.UserID{"slow"}, nil)
		return err == nil && len(got.Users["slow"]) == 0
	})
	good.ping()
	_ = slow.SetDeadline(time.Now().Add(patience))
	// Reading at last, it finds what had left and then the reason.
	if code, _ := slow.closeCode(); code != wire.CloseTooSlow {
		t.Fatalf("closed with %d, want %d", code, wire.CloseTooSlow)
	}
}

// slow logs in over a socket with small buffers that nobody reads.
func (r *rig) slow(user string) *raw {
	r.t.Helper()
	c := r.raw()
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(256 << 10)
	}
	c.upgrade()
	c.send(masked(0x81, `{"op":"auth","body":{"token":"`+r.token(user, "web")+`"}}`))
	if f := c.frame(); f.Op != wire.OpAuthOK {
		r.t.Fatalf("got %v %s", f.Op, f.Body)
	}
	return c
}

// frame reads one text frame of the server.
func (c *raw) frame() wire.Frame {
	c.t.Helper()
	var h [10]byte
	c.full(h[:2])
	n := int(h[1])
	switch n {
	case 126:
		c.full(h[2:4])
		n = int(binary.BigEndian.Uint16(h[2:]))
	case 127:
		c.full(h[2:10])
		n = int(binary.BigEndian.Uint64(h[2:]))
	}
	p := make([]byte, n)
	c.full(p)
	f, werr := wire.DecodeServerText(p)
	if werr != nil {
		c.t.Fatalf("%v: %.40q", werr, p)
	}
	return f
}

func (c *raw) full(b []byte) {
	c.t.Helper()
	if _, err := io.ReadFull(c.r, b); err != nil {
		c.t.Fatal(err)
	}
}

func TestFloodAndSlowUpgradesDoNotDisturb(t *testing.T) {
	r := startRig(t, func(c *Config) { c.AuthTimeout = 500 * time.Millisecond })
	good := r.loginInTime("bob", "web")
	var wg sync.WaitGroup
	for i := range 20 {
		c := r.raw()
		wg.Go(func() {
			defer c.Close()
			switch i % 3 {
			case 0: // a byte at a time
				for _, b := range "GET /ws HTTP/1.1\r\nHost: x\r\nX: yyyyyyyyyyyyyyyy" {
					if _, err := c.Write([]byte{byte(b)}); err != nil {
						return
					}
					time.Sleep(20 * time.Millisecond)
				}
			case 1: // garbage without end
				for range 200 {
					if _, err := c.Write(make([]byte, 4096)); err != nil {
						return
					}
				}
			default: // pings before auth
				_, _ = io.WriteString(c.Conn, "GET /ws HTTP/1.1\r\n"+goodHead+"\r\n")
				for range 5000 {
					if _, err := io.WriteString(c.Conn, masked(0x89, "x")); err != nil {
						return
					}
				}
			}
		})
	}
	for range 50 {
		good.ping()
	}
	wg.Wait()
	eventually(t, "all of them are gone", func() bool { return counter(r, "starling_edge_connections") == 1 })
	good.ping()
}

func TestDeliverAllToMany(t *testing.T) {
	r := startRig(t, nil)
	var cs []*client
	for i := range 100 { // enough that several goroutines write
		cs = append(cs, r.login(fmt.Sprintf("u%d", i), "web"))
	}
	var frames []*rpcpb.PushFrame
	for seq := range int64(5) {
		m := msg(seq+1, "x", "")
		m.All = true
		frames = append(frames, at(seq+1, m))
	}
	r.job().push(frames...)
	for i, c := range cs {
		for seq := range int64(5) {
			var m wire.Msg
			c.expect(wire.OpMsg, &m)
			if m.Seq != seq+1 {
				t.Fatalf("client %d got seq %d, want %d", i, m.Seq, seq+1)
			}
		}
	}
}
