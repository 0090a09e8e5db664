package wire

import (
	"bytes"
	"fmt"

	"github.com/bytedance/sonic"
)

// MaxDepth is how deep objects and arrays of a client's JSON may nest. The
// protocol itself needs four levels; the rest is room for applications.
const MaxDepth = 128

// codec is encoding/json but for two things: no HTML escaping (six bytes for
// every < in a chat) and [] for an empty list. Strings are copied, so that a
// short id does not keep a whole message alive.
//
//nolint:gochecknoglobals // a frozen configuration
var codec = sonic.Config{
	SortMapKeys:      true,
	CompactMarshaler: true,
	CopyString:       true,
	ValidateString:   true,
	NoNullSliceOrMap: true,
}.Froze()

// envelopeCodec does not copy twice what Unmarshal has copied once: an
// Envelope's strings do not outlive the call.
//
//nolint:gochecknoglobals // a frozen configuration
var envelopeCodec = sonic.Config{ValidateString: true}.Froze()

// Marshal encodes a body as JSON. An empty list is [], an empty map {}.
func Marshal(v any) ([]byte, error) { return codec.Marshal(v) }

// Unmarshal decodes a JSON body into v, ignoring unknown fields. Strings are
// copied out of b. JSON nested deeper than MaxDepth is an error.
func Unmarshal(b []byte, v any) error {
	if tooDeep(b) {
		return errDeep()
	}
	return codec.Unmarshal(b, v)
}

// Decode reads the body of a request into v. Anything but the right types is
// bad_request; an empty body is {}. v may be half filled when it fails.
func Decode(body []byte, v any) *Error {
	if len(body) == 0 {
		return nil
	}
	if tooDeep(body) {
		return errDeep()
	}
	if err := codec.Unmarshal(body, v); err != nil {
		return Errorf(CodeBadRequest, "body is not JSON of the types this operation has")
	}
	return nil
}

// Warm compiles the codec for the bodies of a message's path, which else the
// first message of a process pays for (milliseconds).
func Warm() error {
	for _, v := range []any{
		new(Envelope), new(Auth), new(AuthOK), new(Pong), new(Send), new(SendAck),
		new(Msg), new(Update), new(Cursor), new(Receipt), new(Sync), new(SyncOK), new(Error),
	} {
		b, err := Marshal(v)
		if err != nil {
			return fmt.Errorf("compile the codec of %T: %w", v, err)
		}
		// Zero values need not be valid bodies: only the compiling matters.
		_ = codec.Unmarshal(b, v)
	}
	_ = envelopeCodec.Unmarshal([]byte(emptyBody), new(Envelope))
	return nil
}

func errDeep() *Error { return Errorf(CodeBadRequest, "JSON is nested too deep") }

// tooDeep says whether b nests deeper than MaxDepth. Counting brackets comes
// first, because it is nearly free and almost always enough.
func tooDeep(b []byte) bool {
	if bytes.Count(b, []byte{'{'})+bytes.Count(b, []byte{'['}) <= MaxDepth {
		return false
	}
	depth, inString := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > MaxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}
