package wire

import "github.com/bytedance/sonic"

// HeaderLen is the length of the binary header; Version is its version field.
const (
	HeaderLen = 16
	Version   = 1
)

// Frame is one operation in either framing. Body is JSON.
type Frame struct {
	Op   Op
	Seq  int32
	Body []byte
}

// Marshal encodes a body as JSON.
func Marshal(v any) ([]byte, error) { return sonic.ConfigStd.Marshal(v) }

// Unmarshal decodes a JSON body into v, ignoring unknown fields. Strings are
// copied out of b.
func Unmarshal(b []byte, v any) error { return sonic.ConfigStd.Unmarshal(b, v) }
