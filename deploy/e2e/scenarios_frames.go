package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/wire"
)

// ErrorsStay is the story: what gets an error and leaves the connection open, over raw
// frames.
func ErrorsStay(t *testing.T, s *System) {
	c := s.RawLogin(t, s.Name("alice"), "d")
	send := func(body string) string { return `{"op":"send","seq":9,"body":` + body + `}` }
	for _, tc := range []struct {
		name, text string
		seq        int32
		code       wire.Code
	}{
		{"no JSON", `hello`, 0, wire.CodeBadRequest},
		{"empty", ``, 0, wire.CodeBadRequest},
		{"half a JSON", `{"op":"ping","seq":9`, anySeq, wire.CodeBadRequest},
		{"two JSONs", `{"op":"ping","seq":9}{"op":"ping"}`, anySeq, wire.CodeBadRequest},
		{"an array", `[{"op":"ping","seq":9}]`, anySeq, wire.CodeBadRequest},
		{"null", `null`, 0, wire.CodeBadRequest},
		{"op a number", `{"op":102,"seq":9}`, 9, wire.CodeBadRequest},
		{"seq a text", `{"op":"ping","seq":"9"}`, anySeq, wire.CodeBadRequest},
		{"seq too large", `{"op":"ping","seq":4294967296}`, anySeq, wire.CodeBadRequest},
		{"body a text", `{"op":"send","seq":9,"body":"x"}`, 9, wire.CodeBadRequest},
		{"body an array", `{"op":"send","seq":9,"body":[]}`, 9, wire.CodeBadRequest},
		{"no op", `{"seq":9,"body":{}}`, 9, wire.CodeBadRequest},
		{"unknown op", `{"op":"dance","seq":9}`, 9, wire.CodeUnsupported},
		{"op in another case", `{"op":"PING","seq":9}`, 9, wire.CodeUnsupported},
		{"op as number in text", `{"op":"102","seq":9}`, 9, wire.CodeUnsupported},
		{"server's op", `{"op":"msg","seq":9,"body":{}}`, 9, wire.CodeUnsupported},
		{"server's auth_ok", `{"op":"auth_ok","seq":9,"body":{}}`, 9, wire.CodeUnsupported},
		{"10,000 deep", send(nested(10_000)), anySeq, wire.CodeBadRequest},
		{"10,000 open", `{"op":"send","seq":9,"body":` + strings.Repeat("[", 10_000), anySeq, wire.CodeBadRequest},
		{"deep content", send(fmt.Sprintf(`{"to":"bob","client_id":"x","type":"custom","content":%q}`, nested(10_000))), 9, wire.CodeTooLarge},
		{"content 129 deep", send(fmt.Sprintf(`{"to":"bob","client_id":"x","type":"custom","content":%q}`, nested(129))), 9, wire.CodeBadRequest},
		{"empty send", send(`{}`), 9, wire.CodeBadRequest},
		{"null send", send(`null`), 9, wire.CodeBadRequest},
		{"content a number", send(`{"to":"bob","client_id":"x","type":"text","content":1}`), 9, wire.CodeBadRequest},
		{"no type", send(`{"to":"bob","client_id":"x","content":""}`), 9, wire.CodeBadRequest},
		{"content over the limit", send(`{"to":"bob","client_id":"x","type":"text","content":"` + strings.Repeat("x", 16<<10+1) + `"}`), 9, wire.CodeTooLarge},
		{"client_id of 65", send(`{"to":"bob","client_id":"` + strings.Repeat("x", 65) + `","type":"text","content":""}`), 9, wire.CodeBadRequest},
		{"custom content no JSON", send(`{"to":"bob","client_id":"x","type":"custom","content":"{"}`), 9, wire.CodeBadRequest},
		{"lone surrogate", send(`{"to":"bob","client_id":"x","type":"text","content":1,"x":"\ud800"}`), 9, wire.CodeBadRequest},
		{"mention of 101", send(`{"to":"bob","client_id":"x","type":"text","content":"","mention":["a"` + strings.Repeat(`,"a"`, 100) + `]}`), 9, wire.CodeBadRequest},
		{"reply_to a number", send(`{"to":"bob","client_id":"x","type":"text","content":"","reply_to":5}`), 9, wire.CodeBadRequest},
		{"reply_to with a sign", send(`{"to":"bob","client_id":"x","type":"text","content":"","reply_to":"+5"}`), 9, wire.CodeBadRequest},
		{"ack without conv", `{"op":"ack","seq":9,"body":{"seq":1}}`, 9, wire.CodeBadRequest},
		{"read below 0", `{"op":"read","seq":9,"body":{"conv":"p:a:b","seq":-1}}`, 9, wire.CodeBadRequest},
		{"conv not in order", `{"op":"recall","seq":9,"body":{"conv":"p:b:a","id":"1"}}`, 9, wire.CodeBadRequest},
		{"id with a leading zero", `{"op":"recall","seq":9,"body":{"conv":"p:a:b","id":"01"}}`, 9, wire.CodeBadRequest},
		{"edit without content", `{"op":"edit","seq":9,"body":{"conv":"p:a:b","id":"1"}}`, 9, wire.CodeBadRequest},
	} {
		t.Log(tc.name)
		c.Say(tc.text)
		c.Fails(tc.seq, tc.code)
	}
	var unsupported []wire.Frame
	for _, op := range []wire.Op{0, 1, 2, 7, -1, 1000, 101, 106, 118, 122, 131, 1 << 30} {
		unsupported = append(unsupported, wire.Frame{Op: op, Seq: 1000 + int32(len(unsupported)), Body: []byte(`{}`)})
	}
	c.Binary(unsupported...)
	for _, f := range unsupported {
		c.Fails(f.Seq, wire.CodeUnsupported)
	}
	c.Binary(wire.Frame{Op: wire.OpSend, Seq: 5, Body: []byte(`not JSON`)}, wire.Frame{Op: wire.OpSend, Seq: 6, Body: []byte(`[]`)})
	c.Fails(5, wire.CodeBadRequest)
	c.Fails(6, wire.CodeBadRequest)
	var deep []wire.Op
	for op := wire.OpAuth; op.String() != ""; op++ {
		if wire.ClientOp(op) && op != wire.OpAuth && op != wire.OpPing {
			deep = append(deep, op)
		}
	}
	for i, op := range deep { // an auth like that ends the connection, and a ping has no body to read
		seq := int32(2000 + i)
		c.Binary(wire.Frame{Op: op, Seq: seq, Body: []byte(nested(10_000))})
		c.Fails(seq, wire.CodeBadRequest)
		c.Say(fmt.Sprintf(`{"op":%q,"seq":%d,"body":%s}`, op, seq, nested(10_000)))
		c.Fails(anySeq, wire.CodeBadRequest)
	}
	if !c.Text {
		t.Error("who logged in by text is answered in binary")
	}
	c.Lives()
}

// Closes is the story: what ends a connection, and by which code. Each is a connection of
// its own; none may trouble the one that stays.
func Closes(t *testing.T, s *System) {
	stays := s.RawLogin(t, s.Name("witness"), "d")
	user := s.Name("alice")
	big := strings.Repeat("x", wire.MaxFrame+1)
	binaryHead := func(size, head, version string) string {
		return size + head + version + "\x00\x00\x00\x66\x00\x00\x00\x01{}"
	}
	for _, tc := range []struct {
		name  string
		bytes []byte
		code  int
	}{
		{"text that is no UTF-8", Masked(nil, fin|wsText, "{\"op\":\"ping\xff\"}"), wire.CloseInvalidUTF8},
		{"overlong UTF-8", Masked(nil, fin|wsText, "\xc0\x80"), wire.CloseInvalidUTF8},
		{"a surrogate in UTF-8", Masked(nil, fin|wsText, "\xed\xa0\x80"), wire.CloseInvalidUTF8},
		{"UTF-8 cut by a fragment's end", Masked(Masked(nil, wsText, "\xc3"), fin|wsCont, ""), wire.CloseInvalidUTF8},
		{"binary body that is no UTF-8", Masked(nil, fin|wsBinary, "\x00\x00\x00\x12\x00\x10\x00\x01\x00\x00\x00\x66\x00\x00\x00\x01\xff\xff"), wire.CloseInvalidUTF8},
		{"close reason that is no UTF-8", Masked(nil, fin|wsClose, "\x03\xe8\xff"), wire.CloseInvalidUTF8},
		{"not masked", []byte("\x81\x02{}"), wire.CloseProtocol},
		{"RSV1", Masked(nil, fin|0x40|wsText, "{}"), wire.CloseProtocol},
		{"RSV2", Masked(nil, fin|0x20|wsText, "{}"), wire.CloseProtocol},
		{"RSV3", Masked(nil, fin|0x10|wsText, "{}"), wire.CloseProtocol},
		{"opcode 3", Masked(nil, fin|0x3, "{}"), wire.CloseProtocol},
		{"opcode 11", Masked(nil, fin|0xB, ""), wire.CloseProtocol},
		{"ping of 126", Masked(nil, fin|wsPing, strings.Repeat("x", 126)), wire.CloseProtocol},
		{"fragmented ping", Masked(nil, wsPing, "x"), wire.CloseProtocol},
		{"continuation of nothing", Masked(nil, fin|wsCont, "x"), wire.CloseProtocol},
		{"message inside a message", Masked(Masked(nil, wsText, "{"), fin|wsText, "}"), wire.CloseProtocol},
		{"length not shortest, 16 bits", append([]byte("\x81\xfe\x00\x02"), "\x00\x00\x00\x00{}"...), wire.CloseProtocol},
		{"length not shortest, 64 bits", append([]byte("\x81\xff\x00\x00\x00\x00\x00\x00\x00\x02"), "\x00\x00\x00\x00{}"...), wire.CloseProtocol},
		{"length with the top bit", append([]byte("\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "\x00\x00\x00\x00"...), wire.CloseProtocol},
		{"close of one byte", Masked(nil, fin|wsClose, "\x03"), wire.CloseProtocol},
		{"close code 1005", Masked(nil, fin|wsClose, "\x03\xed"), wire.CloseProtocol},
		{"close code 999", Masked(nil, fin|wsClose, "\x03\xe7"), wire.CloseProtocol},
		{"packet length 15", Masked(nil, fin|wsBinary, binaryHead("\x00\x00\x00\x0f", "\x00\x10", "\x00\x01")), wire.CloseProtocol},
		{"packet length below 0", Masked(nil, fin|wsBinary, binaryHead("\xff\xff\xff\xff", "\x00\x10", "\x00\x01")), wire.CloseProtocol},
		{"packet longer than the message", Masked(nil, fin|wsBinary, binaryHead("\x00\x00\x00\x20", "\x00\x10", "\x00\x01")), wire.CloseProtocol},
		{"header length 17", Masked(nil, fin|wsBinary, binaryHead("\x00\x00\x00\x12", "\x00\x11", "\x00\x01")), wire.CloseProtocol},
		{"version 2", Masked(nil, fin|wsBinary, binaryHead("\x00\x00\x00\x12", "\x00\x10", "\x00\x02")), wire.CloseProtocol},
		{"a tail after a frame", Masked(nil, fin|wsBinary, binaryHead("\x00\x00\x00\x12", "\x00\x10", "\x00\x01")+"x"), wire.CloseProtocol},
		{"text over 128 KiB", Masked(nil, fin|wsText, big), wire.CloseTooBig},
		{"fragments over 128 KiB", Masked(Masked(nil, wsText, big[:wire.MaxFrame]), fin|wsCont, "x"), wire.CloseTooBig},
		{"announced over 128 KiB", []byte("\x82\xff\x00\x00\x00\x00\x7f\xff\xff\xff\x00\x00\x00\x00"), wire.CloseTooBig},
		{"packet of 1 GiB", Masked(nil, fin|wsBinary, binaryHead("\x40\x00\x00\x00", "\x00\x10", "\x00\x01")), wire.CloseTooBig},
	} {
		t.Log(tc.name)
		c := s.RawLogin(t, user, s.Name("d"))
		c.Bytes(tc.bytes)
		c.Ends(tc.code)
		// Before auth the same is the end as well.
		c = s.Raw(t, "")
		if len(tc.bytes) < 16<<10 && tc.name != "a tail after a frame" {
			c.Bytes(tc.bytes)
			c.Ends(tc.code)
		}
	}
	stays.Lives()
}

// ControlFrames is the story: fragments, pings between them, and the close handshake.
func ControlFrames(t *testing.T, s *System) {
	c := s.RawLogin(t, s.Name("alice"), "d")
	c.Put(wsText, `{"op":"pi`)
	c.Put(fin|wsPing, "are you there")
	c.Put(wsCont, ``)
	c.Put(fin|wsPong, "nobody asked")
	c.Put(wsCont, `ng","s`)
	if op, p, err := c.Message(); err != nil || op != wsPong || string(p) != "are you there" {
		t.Fatalf("a ping in the middle of a message: opcode %x %q %v", op, p, err)
	}
	c.Put(fin|wsCont, `eq":7}`)
	if f := c.Frame(); f.Op != wire.OpPong || f.Seq != 7 {
		t.Errorf("a message in five pieces: %s %d", f.Op, f.Seq)
	}
	whole := Masked(nil, fin|wsText, `{"op":"ping","seq":8}`)
	for _, b := range whole { // byte by byte
		c.Bytes([]byte{b})
	}
	if f := c.Frame(); f.Op != wire.OpPong || f.Seq != 8 {
		t.Errorf("a message byte by byte: %s %d", f.Op, f.Seq)
	}
	c.Bytes(Masked(Masked(Masked(nil, fin|wsPing, "1"), fin|wsPing, "2"), fin|wsPing, strings.Repeat("3", 125)))
	for _, want := range []string{"1", "2", strings.Repeat("3", 125)} {
		if op, p, err := c.Message(); err != nil || op != wsPong || string(p) != want {
			t.Errorf("ping %.5s: opcode %x %q %v", want, op, p, err)
		}
	}
	for _, tc := range []struct{ sent, want string }{
		{"\x03\xe8bye", "\x03\xe8"}, {"\x03\xe9", "\x03\xe9"}, {"\x0f\xa1\xc3\xa4", "\x0f\xa1"}, {"", "\x03\xe8"},
	} {
		c := s.RawLogin(t, s.Name("bob"), "d")
		c.Bytes(append(Masked(nil, fin|wsClose, tc.sent), Masked(nil, fin|wsText, `{"op":"ping","seq":9}`)...))
		op, p, err := c.Message()
		if err != nil || op != wsClose || !bytes.HasPrefix(p, []byte(tc.want)) {
			t.Errorf("close %q echoed by opcode %x %q %v", tc.sent, op, p, err)
		}
		c.Gone()
	}
}

// LogIns is the story: every way in, and every way to be refused.
func LogIns(t *testing.T, s *System) {
	user := s.Name("alice")
	tok := s.Token(t, user, "web-1")
	wantOK := func(c *Raw, device string) {
		t.Helper()
		var ok wire.AuthOK
		f := c.Frame()
		if err := wire.Unmarshal(f.Body, &ok); err != nil || f.Op != wire.OpAuthOK || ok.User != wire.UserID(user) ||
			string(ok.Device) != device || ok.Conn == "" || ok.Server == "" || ok.HeartbeatMS <= 0 || ok.TS == 0 || ok.V != 1 || ok.HistoryEpoch == "" {
			t.Errorf("auth_ok: %s %s (%v)", f.Op, f.Body, err)
		}
		if !c.Text {
			t.Error("auth_ok is binary")
		}
	}
	wantOK(s.Raw(t, "?device=web-1&platform=web", "Authorization: Bearer "+tok), "web-1")
	wantOK(s.Raw(t, "", "authorization: bearer "+tok), "web-1")
	c := s.Raw(t, "", "Sec-WebSocket-Protocol: starling, "+tok)
	if p := c.Reply.Header.Values("Sec-WebSocket-Protocol"); len(p) != 1 || p[0] != "starling" {
		t.Errorf("selected subprotocols: %q", p)
	}
	wantOK(c, "web-1")
	free := s.Token(t, user, "")
	wantOK(s.Raw(t, "?device=any-2", "Authorization: Bearer "+free), "any-2")

	parts := strings.Split(tok, ".")
	var login struct{ Refresh string }
	s.HTTP(t, "POST", "/v1/login", "", map[string]string{"user": user, "device": "web-1"}, &login)
	none := "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + parts[1] + "."
	bad := map[string]string{
		"garbage": "x", "a cut token": tok[:len(tok)-1], "another signature": parts[0] + "." + parts[1] + "." + strings.Repeat("A", 43),
		"alg none": none, "refresh as access": login.Refresh, "no header": "." + parts[1] + "." + parts[2],
	}
	for name, b := range bad {
		t.Log(name)
		c := s.Raw(t, "?device=web-1", "Authorization: Bearer "+b)
		c.Fails(0, wire.CodeUnauthenticated)
		c.Ends(wire.CloseUnauthenticated)
		c = s.Raw(t, "", "Sec-WebSocket-Protocol: starling, "+b)
		c.Fails(0, wire.CodeUnauthenticated)
		c.Ends(wire.CloseUnauthenticated)
		c = s.Raw(t, "") // not before: without auth it stays for seconds
		c.Say(fmt.Sprintf(`{"op":"auth","seq":3,"body":{"token":%q}}`, b))
		c.Fails(3, wire.CodeUnauthenticated)
		c.Ends(wire.CloseUnauthenticated)
	}
	for _, tc := range []struct {
		name, first string
		seq         int32
		code        wire.Code
	}{
		{"another device", fmt.Sprintf(`{"op":"auth","seq":3,"body":{"token":%q,"device":"web-2"}}`, tok), 3, wire.CodeForbidden},
		{"no device", fmt.Sprintf(`{"op":"auth","seq":3,"body":{"token":%q}}`, free), 3, wire.CodeBadRequest},
		{"no valid device", fmt.Sprintf(`{"op":"auth","seq":3,"body":{"token":%q,"device":"a:b"}}`, free), 3, wire.CodeBadRequest},
		{"another first frame", `{"op":"ping","seq":3}`, 3, wire.CodeUnauthenticated},
		{"a send first", `{"op":"send","seq":3,"body":{}}`, 3, wire.CodeUnauthenticated},
		{"no JSON first", `hello`, 0, wire.CodeUnauthenticated},
		{"no token", `{"op":"auth","seq":3,"body":{}}`, 3, wire.CodeUnauthenticated},
		{"no body", `{"op":"auth","seq":3}`, 3, wire.CodeUnauthenticated},
		{"token over 8 KiB", fmt.Sprintf(`{"op":"auth","seq":3,"body":{"token":%q}}`, strings.Repeat("x", 8<<10+1)), 3, wire.CodeUnauthenticated},
	} {
		t.Log(tc.name)
		c := s.Raw(t, "")
		c.Say(tc.first)
		c.Fails(tc.seq, tc.code)
		c.Ends(wire.CloseUnauthenticated)
	}
	for _, c := range []*Raw{s.Raw(t, "?device=web-2", "Authorization: Bearer "+tok), s.Raw(t, "?device=web-2", "Sec-WebSocket-Protocol: starling, "+tok)} {
		c.Fails(0, wire.CodeForbidden)
		c.Ends(wire.CloseUnauthenticated)
	}
	// Renewing: a good token keeps the connection, another user's ends it.
	c = s.Raw(t, "")
	c.Login(tok)
	c.Say(fmt.Sprintf(`{"op":"auth","seq":4,"body":{"token":%q}}`, s.Token(t, user, "web-1")))
	if f := c.Answer(4); f.Op != wire.OpAuthOK {
		t.Errorf("renewing: %s %s", f.Op, f.Body)
	}
	c.Lives()
	c.Say(fmt.Sprintf(`{"op":"auth","seq":5,"body":{"token":%q}}`, s.Token(t, s.Name("eve"), "web-1")))
	c.Fails(5, wire.CodeForbidden)
	c.Ends(wire.CloseUnauthenticated)
	// Nothing at all: 5 s, unless set otherwise.
	c, mute := s.Raw(t, ""), s.Socket(t)
	c.Fails(0, wire.CodeUnauthenticated)
	c.Ends(wire.CloseUnauthenticated)
	mute.Gone()
}

// InFlight is the story: the 65th request without an answer is refused by name, the
// connection stays, and each answer bears the seq of its request, in the
// framing of the log-in.
func InFlight(t *testing.T, s *System) {
	user, bob := s.Name("alice"), s.Name("bob")
	auth, _ := json.Marshal(wire.Auth{Token: s.Token(t, user, "d")})
	c := s.Raw(t, "")
	c.Binary(wire.Frame{Op: wire.OpAuth, Seq: -5, Body: auth})
	if f := c.Frame(); f.Op != wire.OpAuthOK || f.Seq != -5 || c.Text {
		t.Fatalf("log-in by binary: %s %d, text %v", f.Op, f.Seq, c.Text)
	}
	const n = 300
	frames := make([]wire.Frame, n)
	for i := range frames {
		frames[i] = wire.Frame{Op: wire.OpSend, Seq: int32(i + 1), Body: SendBody(bob, fmt.Sprintf("c-%d", i+1), "x")}
	}
	c.Binary(frames...)
	c.Say(`{"op":"ping","seq":5000}`)
	acked, over, pushed, pong := map[int32]bool{}, 0, map[int64]string{}, false
	for len(acked)+over < n || len(pushed) < len(acked) || !pong {
		f := c.Frame()
		if c.Text {
			t.Fatalf("%s came as text", f.Op)
		}
		switch f.Op {
		case wire.OpSendAck:
			var a wire.SendAck
			if err := wire.Unmarshal(f.Body, &a); err != nil || a.ClientID != fmt.Sprintf("c-%d", f.Seq) || acked[f.Seq] {
				t.Fatalf("seq %d answered by %s", f.Seq, f.Body)
			}
			acked[f.Seq] = true
		case wire.OpError:
			var e wire.Error
			if err := wire.Unmarshal(f.Body, &e); err != nil || e.Code != wire.CodeOverloaded || e.RetryAfterMS <= 0 || e.ClientID != fmt.Sprintf("c-%d", f.Seq) {
				t.Fatalf("seq %d answered by error %s", f.Seq, f.Body)
			}
			over++
		case wire.OpMsg:
			var m wire.Msg
			if err := wire.Unmarshal(f.Body, &m); err != nil || f.Seq != 0 || pushed[m.Seq] != "" {
				t.Fatalf("envelope seq %d, pushed %s", f.Seq, f.Body)
			}
			pushed[m.Seq] = m.ClientID
		case wire.OpPong:
			pong = true
		default:
			t.Fatalf("%s %s", f.Op, f.Body)
		}
	}
	if over == 0 || len(acked) < wire.MaxInFlight {
		t.Errorf("%d acknowledged, %d overloaded of %d at once", len(acked), over, n)
	}
	for i := range len(pushed) {
		if pushed[int64(i+1)] == "" {
			t.Errorf("no message with seq %d", i+1)
		}
	}
	c.Lives()
}
