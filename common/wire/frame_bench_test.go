package wire

import (
	"strings"
	"testing"
)

func benchMsg() Msg {
	return Msg{
		ID: 7_000_000_000_000_000_001, Conv: "p:alice:bob", Seq: 12, From: "alice", Type: TypeText,
		Content: strings.Repeat("hello ", 20), TS: 1_800_000_000_000, ClientID: "c-1234567890",
	}
}

// TestAllocs is the budget of the paths that each message takes. Measured with
// go1.26 and sonic 1.15: 0 to append; 4 to decode an envelope, 1 a binary frame.
func TestAllocs(t *testing.T) {
	body, err := Marshal(benchMsg())
	if err != nil {
		t.Fatal(err)
	}
	f := Frame{Op: OpMsg, Seq: 7, Body: body}
	dst := make([]byte, 0, 4096)
	text, bin := AppendText(nil, Frame{Op: OpSend, Seq: 7, Body: body}), AppendBinary(nil, f)
	for _, tt := range []struct {
		name   string
		budget float64
		run    func()
	}{
		{"AppendText", 0, func() { dst = AppendText(dst[:0], f) }},
		{"AppendBinary", 0, func() { dst = AppendBinary(dst[:0], f) }},
		{"DecodeText", 4, func() { _, _ = DecodeText(text) }},
		{"DecodeBinary", 1, func() { _, _, _ = DecodeBinary(bin) }},
		{"tooDeep", 0, func() { _ = tooDeep(text) }},
	} {
		if got := testing.AllocsPerRun(200, tt.run); got > tt.budget {
			t.Errorf("%s allocates %.0f times, budget %.0f", tt.name, got, tt.budget)
		}
	}
}

func BenchmarkAppendText(b *testing.B) {
	body, _ := Marshal(benchMsg())
	dst := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendText(dst[:0], Frame{Op: OpMsg, Body: body})
	}
}

func BenchmarkAppendBinary(b *testing.B) {
	body, _ := Marshal(benchMsg())
	dst := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendBinary(dst[:0], Frame{Op: OpMsg, Body: body})
	}
}

func BenchmarkDecodeText(b *testing.B) {
	body, _ := Marshal(benchMsg())
	text := AppendText(nil, Frame{Op: OpSend, Seq: 7, Body: body})
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := DecodeText(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeBinary(b *testing.B) {
	body, _ := Marshal(benchMsg())
	bin := AppendBinary(nil, Frame{Op: OpSend, Seq: 7, Body: body})
	b.ReportAllocs()
	b.SetBytes(int64(len(bin)))
	for b.Loop() {
		if _, _, err := DecodeBinary(bin); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeSend(b *testing.B) {
	body, _ := Marshal(Send{To: "bob", ClientID: "c-1234567890", Type: TypeText, Content: strings.Repeat("hello ", 20)})
	b.ReportAllocs()
	for b.Loop() {
		var s Send
		if err := Decode(body, &s); err != nil {
			b.Fatal(err)
		}
		if err := s.Validate(DefaultMaxContent); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMarshalMsg(b *testing.B) {
	m := benchMsg()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Marshal(m); err != nil {
			b.Fatal(err)
		}
	}
}
