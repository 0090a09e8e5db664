package session

import (
	"bytes"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/ws"
)

// Shared is one push for many sessions: encoded once per framing, as bytes
// that all of them write. It is built and passed to Push by one
// goroutine; the bytes never change once made.
type Shared struct {
	Op   wire.Op
	Body []byte      // JSON
	Conv wire.ConvID // with Seq: what lagged names instead
	Seq  int64

	made [framings][]byte
}

// framing is the form in which a session's frames leave: that of its auth.
type framing uint8

const (
	asText   framing = iota // JSON envelopes in WebSocket messages
	asBinary                // goim's framing in WebSocket messages
	asPlain                 // goim's framing on a TCP connection
	framings
)

// bytes returns the frame in the framing of a session.
func (f *Shared) bytes(as framing) []byte {
	if f.made[as] == nil {
		f.made[as] = encode(wire.Frame{Op: f.Op, Body: f.Body}, as)
		if f.Op == wire.OpMsg && planted.Now(planted.EdgeCorruptsPush) {
			f.made[as] = bytes.Replace(f.made[as], []byte("xx"), []byte("xy"), 1)
		}
	}
	return f.made[as]
}

// ephemeral says whether the push may be left out of a full queue without a
// word: it is stored nowhere, so no sync could bring it.
func (f *Shared) ephemeral() bool {
	switch f.Op { //nolint:exhaustive // all others are told by lagged
	case wire.OpTyping, wire.OpPresence, wire.OpReceipt, wire.OpRoomMsg, wire.OpBroadcast:
		return true
	}
	return false
}

// textOverhead is the longest envelope around a body.
const textOverhead = 64

// encode makes the frame of a server.
func encode(f wire.Frame, as framing) []byte {
	if as != asText {
		n := wire.HeaderLen + max(len(f.Body), len("{}"))
		b := make([]byte, 0, ws.MaxServerHeader+n)
		if as == asBinary {
			b = ws.AppendHeader(b, ws.OpBinary, n)
		}
		return wire.AppendBinary(b, f)
	}
	// The header's length depends on the envelope's, so that is made first,
	// behind room for the longest header.
	b := make([]byte, ws.MaxServerHeader, ws.MaxServerHeader+textOverhead+len(f.Body))
	b = wire.AppendText(b, f)
	n := len(b) - ws.MaxServerHeader
	var head [ws.MaxServerHeader]byte
	h := ws.AppendHeader(head[:0], ws.OpText, n)
	b = b[ws.MaxServerHeader-len(h):]
	copy(b, h)
	return b
}
