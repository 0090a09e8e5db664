package ws

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const limit = 1 << 17

// recorder writes down what a parser finds.
type recorder struct {
	events []string
	stopAt int // false at this event
}

func (r *recorder) add(s string) bool {
	r.events = append(r.events, s)
	return r.stopAt == 0 || len(r.events) < r.stopAt
}

func (r *recorder) Message(text bool, p []byte) bool {
	return r.add(fmt.Sprintf("message text=%v %d %.20q", text, len(p), p))
}
func (r *recorder) Ping(p []byte) bool      { return r.add(fmt.Sprintf("ping %q", p)) }
func (r *recorder) Pong() bool              { return r.add("pong") }
func (r *recorder) PeerClose(code int) bool { return r.add(fmt.Sprintf("close %d", code)) }

// client makes a client's frame.
func client(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, maskBit|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, maskBit|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, maskBit|127), uint64(n))
	}
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	b = append(b, key[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i&3])
	}
	return b
}

// run feeds a copy of b cut at the given places.
func run(b []byte, cuts ...int) []string {
	p, r := Parser{Max: limit}, &recorder{}
	own := bytes.Clone(b)
	last := 0
	for _, c := range append(cuts, len(own)) {
		if err := p.Feed(own[last:c], r); err != nil {
			var e *Error
			if !errors.As(err, &e) {
				return append(r.events, "error of another type")
			}
			return append(r.events, fmt.Sprintf("error %d", e.Code))
		}
		last = c
	}
	return r.events
}

func TestParser(t *testing.T) {
	long := strings.Repeat("y", 70000)
	for name, tc := range map[string]struct {
		in   []byte
		want []string
	}{
		"text":               {client(0x81, "hi"), []string{`message text=true 2 "hi"`}},
		"empty text":         {client(0x81, ""), []string{`message text=true 0 ""`}},
		"binary":             {client(0x82, "\xff\x00"), []string{`message text=false 2 "\xff\x00"`}},
		"two":                {append(client(0x81, "a"), client(0x81, "b")...), []string{`message text=true 1 "a"`, `message text=true 1 "b"`}},
		"medium":             {client(0x81, strings.Repeat("x", 300)), []string{`message text=true 300 "xxxxxxxxxxxxxxxxxxxx"`}},
		"long":               {client(0x81, long), []string{`message text=true 70000 "yyyyyyyyyyyyyyyyyyyy"`}},
		"fragments":          {join(client(0x01, "he"), client(0x00, "l"), client(0x80, "lo")), []string{`message text=true 5 "hello"`}},
		"control inside":     {join(client(0x01, "he"), client(0x89, "p"), client(0x8a, ""), client(0x80, "y")), []string{`ping "p"`, "pong", `message text=true 3 "hey"`}},
		"utf-8 over pieces":  {join(client(0x01, "\xce"), client(0x80, "\xb1")), []string{`message text=true 2 "α"`}},
		"empty fragments":    {join(client(0x01, ""), client(0x00, ""), client(0x80, "")), []string{`message text=true 0 ""`}},
		"close":              {client(0x88, "\x03\xe8bye"), []string{"close 1000"}},
		"close, no code":     {client(0x88, ""), []string{"close 1000"}},
		"nothing after":      {join(client(0x88, ""), client(0x81, "x")), []string{"close 1000"}},
		"close of one byte":  {client(0x88, "\x03"), []string{"error 1002"}},
		"close code 1005":    {client(0x88, "\x03\xed"), []string{"error 1002"}},
		"close code 999":     {client(0x88, "\x03\xe7"), []string{"error 1002"}},
		"close code 2000":    {client(0x88, "\x07\xd0"), []string{"error 1002"}},
		"close bad utf-8":    {client(0x88, "\x03\xe8\xff"), []string{"error 1007"}},
		"rsv1":               {client(0xc1, ""), []string{"error 1002"}},
		"opcode 3":           {client(0x83, ""), []string{"error 1002"}},
		"opcode 11":          {client(0x8b, ""), []string{"error 1002"}},
		"not masked":         {[]byte{0x81, 0x01, 'x'}, []string{"error 1002"}},
		"fragmented ping":    {client(0x09, ""), []string{"error 1002"}},
		"long ping":          {client(0x89, strings.Repeat("x", 126)), []string{"error 1002"}},
		"continuation":       {client(0x80, "x"), []string{"error 1002"}},
		"message in message": {join(client(0x01, "a"), client(0x81, "b")), []string{"error 1002"}},
		"bad utf-8":          {client(0x81, "\xff"), []string{"error 1007"}},
		"cut utf-8":          {join(client(0x01, "a"), client(0x80, "\xce")), []string{"error 1007"}},
		"too big":            {client(0x82, strings.Repeat("x", limit+1)), []string{"error 1009"}},
		"just fits":          {client(0x82, strings.Repeat("x", limit)), []string{`message text=false 131072 "xxxxxxxxxxxxxxxxxxxx"`}},
		"too big together":   {join(client(0x02, strings.Repeat("x", limit)), client(0x80, "x")), []string{"error 1009"}},
		"63-bit length":      {[]byte{0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, []string{"error 1009"}},
		"64-bit length":      {[]byte{0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, []string{"error 1002"}},
		"long form 16":       {[]byte{0x82, 0xfe, 0, 5, 0, 0, 0, 0}, []string{"error 1002"}},
		"long form 64":       {[]byte{0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0}, []string{"error 1002"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, run(tc.in)); diff != "" {
				t.Errorf("whole (-want +got):\n%s", diff)
			}
			every := make([]int, 0, len(tc.in))
			for i := 1; i < len(tc.in); i++ {
				every = append(every, i)
			}
			if diff := cmp.Diff(tc.want, run(tc.in, every...)); diff != "" {
				t.Errorf("byte by byte (-want +got):\n%s", diff)
			}
		})
	}
}

func join(bs ...[]byte) []byte { return bytes.Join(bs, nil) }

func TestParserStops(t *testing.T) {
	p, r := Parser{Max: limit}, &recorder{stopAt: 1}
	if err := p.Feed(join(client(0x81, "a"), client(0x81, "b")), r); err != nil {
		t.Fatal(err)
	}
	if err := p.Feed(client(0xff, ""), r); err != nil || len(r.events) != 1 {
		t.Fatalf("%v, %v: nothing must be read after a stop", r.events, err)
	}
}

func TestParserKeepsNothingBetweenMessages(t *testing.T) {
	p, r := Parser{Max: limit}, &recorder{}
	in := join(client(0x01, "abc"), client(0x80, "def"))
	for i := range in {
		if err := p.Feed(in[i:i+1], r); err != nil {
			t.Fatal(err)
		}
	}
	if !p.Idle() || p.msg != nil || p.ctrl != nil {
		t.Errorf("the parser holds buffers: %d, %d bytes", cap(p.msg), cap(p.ctrl))
	}
}

func FuzzParserSplits(f *testing.F) {
	f.Add(join(client(0x01, "he"), client(0x89, "p"), client(0x80, "y"), client(0x88, "\x03\xe8")), uint16(3), uint16(9))
	f.Add(client(0x81, strings.Repeat("x", 300)), uint16(2), uint16(100))
	f.Add([]byte{0x82, 0xff, 0x7f}, uint16(1), uint16(2))
	f.Fuzz(func(t *testing.T, b []byte, i, j uint16) {
		n := len(b) + 1
		a, c := int(i)%n, int(j)%n
		if a > c {
			a, c = c, a
		}
		if diff := cmp.Diff(run(b), run(b, a, c)); diff != "" {
			t.Fatalf("cut at %d and %d (-whole +cut):\n%s", a, c, diff)
		}
	})
}

func TestEncoder(t *testing.T) {
	for n, want := range map[int]string{
		0: "8100", 125: "817d", 126: "817e007e", 65535: "817effff", 65536: "817f0000000000010000",
	} {
		if got := fmt.Sprintf("%x", AppendHeader(nil, OpText, n)); got != want {
			t.Errorf("header for %d is %s, want %s", n, got, want)
		}
	}
	if got := AppendClose(nil, 4009, strings.Repeat("r", 200)); len(got) != 2+125 || got[2] != 0x0f || got[3] != 0xa9 {
		t.Errorf("close frame % x", got)
	}
	if got := string(AppendPong(nil, []byte("p"))); got != "\x8a\x01p" {
		t.Errorf("pong % x", got)
	}
}

const good = "GET /ws?device=web&platform=mac HTTP/1.1\r\nHost: x\r\nupgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

func TestUpgrade(t *testing.T) {
	u, herr := ParseUpgrade([]byte(good+"Authorization: bearer abc\r\n\r\n"), nil)
	if herr != nil {
		t.Fatal(herr)
	}
	if u.Token != "abc" || u.Device != "web" || u.Platform != "mac" {
		t.Errorf("got %+v", u)
	}
	// The example of RFC 6455.
	if !strings.Contains(string(u.Response()), "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n") {
		t.Errorf("answer %s", u.Response())
	}
	if strings.Contains(string(u.Response()), "Protocol:") {
		t.Error("a subprotocol nobody offered is selected")
	}
	u, herr = ParseUpgrade([]byte(good+"Sec-WebSocket-Protocol: other, starling\r\nSec-WebSocket-Protocol: a.b.c\r\n\r\n"), nil)
	if herr != nil || u.Token != "a.b.c" || !strings.Contains(string(u.Response()), "Sec-WebSocket-Protocol: starling\r\n") {
		t.Errorf("%+v, %v", u, herr)
	}
}

func TestUpgradeRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		head   string
		status int
	}{
		"line":              {"GET  /ws HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"no version":        {"GET /ws\r\n\r\n", 400},
		"other protocol":    {"GET /ws ICY/1.1\r\n\r\n", 400},
		"http/2":            {"PRI * HTTP/2.0\r\n\r\n", 505},
		"control in target": {"GET /w\x01s HTTP/1.1\r\n\r\n", 400},
		"folded":            {strings.TrimSuffix(good, "\r\n") + "\r\n more\r\n\r\n", 400},
		"bare newline":      {good + "X: a\nY: b\r\n\r\n", 400},
		"space in name":     {good + "X : a\r\n\r\n", 400},
		"two hosts":         {good + "Host: y\r\n\r\n", 400},
		"no host":           {strings.Replace(good, "Host: x\r\n", "", 1) + "\r\n", 400},
		"body":              {good + "Content-Length: 5\r\n\r\n", 400},
		"chunked":           {good + "Transfer-Encoding: chunked\r\n\r\n", 400},
		"version 8":         {strings.Replace(good, "Version: 13", "Version: 8", 1) + "\r\n", 426},
		"short key":         {strings.Replace(good, "dGhlIHNhbXBsZSBub25jZQ==", "abcd", 1) + "\r\n", 400},
		"two keys":          {good + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 400},
		"bad query":         {strings.Replace(good, "device=web", "device=%zz", 1) + "\r\n", 400},
		"many headers":      {good + strings.Repeat("X: y\r\n", 100) + "\r\n", 431},
	} {
		t.Run(name, func(t *testing.T) {
			_, herr := ParseUpgrade([]byte(tc.head), nil)
			if herr == nil || herr.Status != tc.status {
				t.Fatalf("got %v, want %d", herr, tc.status)
			}
			if !strings.HasPrefix(string(herr.Response()), fmt.Sprintf("HTTP/1.1 %d ", tc.status)) {
				t.Errorf("answer %q", herr.Response())
			}
		})
	}
}

func FuzzUpgrade(f *testing.F) {
	f.Add([]byte(good + "\r\n"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		end := HeadEnd(b)
		if end == 0 {
			return
		}
		u, herr := ParseUpgrade(b[:end], nil)
		if (u == nil) == (herr == nil) {
			t.Fatalf("%v and %v", u, herr)
		}
	})
}
