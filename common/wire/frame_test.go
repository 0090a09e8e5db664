package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAppendText(t *testing.T) {
	for want, f := range map[string]Frame{
		`{"op":"msg","seq":7,"body":{"a":1}}`: {Op: OpMsg, Seq: 7, Body: []byte(`{"a":1}`)},
		`{"op":"ok","seq":-1,"body":{}}`:      {Op: OpOK, Seq: -1},
		`{"op":"lagged","body":{}}`:           {Op: OpLagged},
		`{"op":"1005","body":{}}`:             {Op: 1005},
	} {
		if got := string(AppendText([]byte("x"), f)); got != "x"+want {
			t.Errorf("AppendText = %s, want x%s", got, want)
		}
	}
}

func TestAppendBinary(t *testing.T) {
	got := hex.EncodeToString(AppendBinary(nil, Frame{Op: OpPing, Seq: -2}))
	if want := "00000012" + "0010" + "0001" + "00000066" + "fffffffe" + "7b7d"; got != want {
		t.Errorf("AppendBinary = %s, want %s", got, want)
	}
}

func TestDecodeText(t *testing.T) {
	tests := []struct {
		name, in string
		want     Frame
		code     Code
	}{
		{"plain", `{"op":"send","seq":7,"body":{"to":"bob"}}`, Frame{OpSend, 7, []byte(`{"to":"bob"}`)}, ""},
		{"any order, unknown fields, space", " {\"body\" : {} ,\"x\":[1,{}],\n\"op\":\"ping\"} ", Frame{OpPing, 0, []byte(`{}`)}, ""},
		{"no body", `{"op":"ping","seq":1}`, Frame{OpPing, 1, nil}, ""},
		{"null body", `{"op":"ping","seq":1,"body":null}`, Frame{OpPing, 1, nil}, ""},
		{"escaped name", `{"op":"p\u0069ng"}`, Frame{OpPing, 0, nil}, ""},
		{"unknown op", `{"op":"fly","seq":9,"body":{}}`, Frame{0, 9, []byte(`{}`)}, CodeUnsupported},
		{"server's op", `{"op":"msg","seq":9}`, Frame{OpMsg, 9, nil}, CodeUnsupported},
		{"op missing", `{"seq":9}`, Frame{Seq: 9}, CodeBadRequest},
		{"op of wrong type", `{"op":7,"seq":9}`, Frame{Seq: 9}, CodeBadRequest},
		{"op before seq of wrong type", `{"op":"send","seq":"9"}`, Frame{Op: OpSend}, CodeBadRequest},
		{"seq out of range", `{"op":"send","seq":2147483648}`, Frame{Op: OpSend}, CodeBadRequest},
		{"seq a fraction", `{"op":"send","seq":1.5}`, Frame{Op: OpSend}, CodeBadRequest},
		{"body an array", `{"op":"send","seq":9,"body":[1]}`, Frame{Op: OpSend, Seq: 9}, CodeBadRequest},
		{"body a string", `{"op":"send","seq":9,"body":"x"}`, Frame{Op: OpSend, Seq: 9}, CodeBadRequest},
		{"empty", ``, Frame{}, CodeBadRequest},
		{"null", `null`, Frame{}, CodeBadRequest},
		{"array", `[]`, Frame{}, CodeBadRequest},
		{"cut", `{"op":"send","seq":9,"body":{`, Frame{Op: OpSend, Seq: 9}, CodeBadRequest},
		{"trailing", `{"op":"ping","seq":9} x`, Frame{Op: OpPing, Seq: 9}, CodeBadRequest},
		{"broken body", `{"op":"send","seq":9,"body":{"a":}}`, Frame{Op: OpSend, Seq: 9}, CodeBadRequest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := DecodeText([]byte(tt.in))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("frame (-want +got):\n%s", diff)
			}
			if code := codeOf(err); code != tt.code {
				t.Errorf("error %v, want code %q", err, tt.code)
			}
		})
	}
}

func codeOf(err *Error) Code {
	if err == nil {
		return ""
	}
	return err.Code
}

func TestDecodeTextCopies(t *testing.T) {
	b := []byte(`{"op":"send","seq":7,"body":{"to":"bob"}}`)
	f, _ := DecodeText(b)
	clear(b)
	if string(f.Body) != `{"to":"bob"}` || f.Op != OpSend {
		t.Errorf("frame changed with the buffer it was read from: %+v", f)
	}
}

func TestDecodeServerText(t *testing.T) {
	if f, err := DecodeServerText([]byte(`{"op":"msg","body":{}}`)); err != nil || f.Op != OpMsg {
		t.Errorf("msg = %+v, %v", f, err)
	}
	if f, err := DecodeServerText([]byte(`{"op":"of-tomorrow","seq":3}`)); err != nil || f.Op != 0 || f.Seq != 3 {
		t.Errorf("unknown operation = %+v, %v; clients ignore those", f, err)
	}
}

func TestDepth(t *testing.T) {
	nest := func(open, shut string, n int) string { return strings.Repeat(open, n) + "0" + strings.Repeat(shut, n) }
	for _, n := range []int{MaxDepth - 1, MaxDepth, 10_000, MaxFrame / 8} {
		for _, inner := range []string{nest("[", "]", n), nest(`{"a":`, "}", n)} {
			_, err := DecodeText([]byte(`{"op":"ping","x":` + inner + `}`))
			if ok := n < MaxDepth; (err == nil) != ok {
				t.Errorf("depth %d: %v", n+1, err)
			}
		}
	}
	_, err := DecodeText([]byte(`{"op":"ping","body":` + strings.Repeat("[", 10_000)))
	if codeOf(err) != CodeBadRequest {
		t.Errorf("unclosed brackets: %v", err)
	}
	// Many brackets side by side or inside strings nest nothing.
	for _, body := range []string{
		`{"a":[` + strings.Repeat("{},", 1000) + `{}]}`,
		`{"a":"\"` + strings.Repeat("[", 1000) + `\\"}`,
	} {
		if _, err := DecodeText([]byte(`{"op":"ping","body":` + body + `}`)); err != nil {
			t.Errorf("flat %.20s…: %v", body, err)
		}
	}
}

func TestDecodeBinaryRoundTrip(t *testing.T) {
	in := []Frame{
		{Op: OpSend, Seq: 1, Body: []byte(`{"to":"bob"}`)},
		{Op: OpPing, Seq: -1, Body: []byte(`{}`)},
		{Op: -5, Seq: 1<<31 - 1, Body: []byte("not json")},
	}
	var b []byte
	for _, f := range in {
		b = AppendBinary(b, f)
	}
	var got []Frame
	for f, err := range Frames(b) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, f)
	}
	clear(b)
	if diff := cmp.Diff(in, got); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
}

func TestDecodeBinaryErrors(t *testing.T) {
	good := AppendBinary(nil, Frame{Op: OpPing})
	with := func(at int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], v)
		return b
	}
	tests := []struct {
		name string
		in   []byte
		want error
	}{
		{"shorter than a header", with(0, 0, 0, 0, 15), ErrHeader},
		{"negative length", with(0, 0xff, 0xff, 0xff, 0xff), ErrHeader},
		{"header length", with(4, 0, 15), ErrHeader},
		{"version", with(6, 0, 2), ErrHeader},
		{"version, rest missing", with(6, 0, 2)[:8], ErrHeader},
		{"too big", with(0, 0, 2, 0, 1), ErrTooBig},
		{"text", []byte(`{"op":"ping"}`), ErrHeader},
		{"no UTF-8", with(16, 0xff), ErrUTF8},
	}
	for n := range len(good) {
		tests = append(tests, struct {
			name string
			in   []byte
			want error
		}{"cut", good[:n], ErrIncomplete})
	}
	for _, tt := range tests {
		f, n, err := DecodeBinary(tt.in)
		if !errors.Is(err, tt.want) || n != 0 || f.Op != 0 {
			t.Errorf("%s (%d bytes): %+v, %d, %v, want %v", tt.name, len(tt.in), f, n, err, tt.want)
		}
	}
}

func TestFrameLimits(t *testing.T) {
	largest := AppendBinary(nil, Frame{Op: OpSend, Body: bytes.Repeat([]byte(" "), MaxFrame-HeaderLen)})
	if _, n, err := DecodeBinary(largest); err != nil || n != MaxFrame {
		t.Errorf("a frame of MaxFrame: %d, %v", n, err)
	}
	over := AppendBinary(nil, Frame{Op: OpSyncOK, Body: bytes.Repeat([]byte(" "), MaxFrame)})
	if _, _, err := DecodeBinary(over); !errors.Is(err, ErrTooBig) {
		t.Errorf("a frame over MaxFrame: %v", err)
	}
	if f, n, err := DecodeServerBinary(over); err != nil || n != len(over) || len(f.Body) != MaxFrame {
		t.Errorf("a server's frame over MaxFrame: %d, %v", n, err)
	}
}

func TestFramesStops(t *testing.T) {
	two := AppendBinary(AppendBinary(nil, Frame{Op: OpPing, Seq: 1}), Frame{Op: OpPing, Seq: 2})
	var seqs []int32
	var last error
	for f, err := range Frames(two[:len(two)-1]) {
		seqs, last = append(seqs, f.Seq), err
	}
	if diff := cmp.Diff([]int32{1, 0}, seqs); diff != "" || !errors.Is(last, ErrIncomplete) {
		t.Errorf("a cut message gave %v, %v", seqs, last)
	}
	for f := range ServerFrames(two) {
		if f.Seq != 1 {
			t.Errorf("iteration went on after break")
		}
		break
	}
	for range Frames(nil) {
		t.Error("an empty message holds a frame")
	}
}

func FuzzDecodeText(f *testing.F) {
	for _, s := range []string{
		`{"op":"send","seq":7,"body":{"to":"bob"}}`, `{"op":"ping"}`, `{"op":1}`, `[[[[`, `{"op":"msg","seq":1}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := DecodeText(b)
		if err != nil {
			return
		}
		if !ClientOp(fr.Op) {
			t.Fatalf("accepted operation %d", fr.Op)
		}
		again, err := DecodeText(AppendText(nil, fr))
		if err != nil || again.Op != fr.Op || again.Seq != fr.Seq {
			t.Fatalf("%q: re-encoded as %+v, %v", b, again, err)
		}
	})
}

func FuzzDecodeBinary(f *testing.F) {
	f.Add(AppendBinary(nil, Frame{Op: OpSend, Seq: 3, Body: []byte(`{"a":1}`)}))
	f.Add(AppendBinary(AppendBinary(nil, Frame{}), Frame{Op: 9}))
	f.Add([]byte{0, 0, 0, 16, 0, 16, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, n, err := DecodeBinary(b)
		if err != nil {
			if n != 0 {
				t.Fatalf("%d bytes taken with %v", n, err)
			}
			return
		}
		if n < HeaderLen || n > len(b) || n > MaxFrame || len(fr.Body) != n-HeaderLen {
			t.Fatalf("took %d of %d bytes for %+v", n, len(b), fr)
		}
		if len(fr.Body) > 0 && !bytes.Equal(AppendBinary(nil, fr), b[:n]) {
			t.Fatalf("%x re-encoded differs", b[:n])
		}
		total := 0
		for fr, err := range Frames(b) {
			if err != nil {
				break
			}
			total += HeaderLen + len(fr.Body)
		}
		if total > len(b) {
			t.Fatalf("frames hold %d bytes of %d", total, len(b))
		}
	})
}
