package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"unicode/utf8"
)

// HeaderLen is the length of the binary header; Version is its version field.
const (
	HeaderLen = 16
	Version   = 1
)

// MaxServerFrame bounds what a client takes from a server: a page of sync may
// be far larger than anything a client may send (MaxFrame).
const MaxServerFrame = 1 << 26

// Frame is one operation in either framing. Body is JSON; nil stands for {}.
type Frame struct {
	Op   Op
	Seq  int32
	Body []byte
}

// Errors of the binary framing. CloseOf gives the close code of each.
var (
	// ErrIncomplete: what there is of the frame is sound, its end is missing.
	ErrIncomplete = errors.New("frame is incomplete")
	// ErrHeader: no frame starts like this; the stream cannot be followed on.
	ErrHeader = errors.New("bad frame header")
	// ErrTooBig: the header announces more than the receiver takes.
	ErrTooBig = errors.New("frame is too big")
	// ErrUTF8: the body is not UTF-8, so it is not JSON either.
	ErrUTF8 = errors.New("frame body is not valid UTF-8")
)

const emptyBody = "{}"

// AppendText appends f as a JSON envelope and returns the extended buffer. The
// body goes in as it is: it must be JSON. An operation without a name (goim's
// own) is written as its number. A Seq of 0 is left out.
func AppendText(dst []byte, f Frame) []byte {
	dst = append(dst, `{"op":"`...)
	if name := f.Op.String(); name != "" {
		dst = append(dst, name...)
	} else {
		dst = strconv.AppendInt(dst, int64(f.Op), 10)
	}
	dst = append(dst, '"')
	if f.Seq != 0 {
		dst = append(dst, `,"seq":`...)
		dst = strconv.AppendInt(dst, int64(f.Seq), 10)
	}
	dst = append(dst, `,"body":`...)
	if len(f.Body) == 0 {
		dst = append(dst, emptyBody...)
	} else {
		dst = append(dst, f.Body...)
	}
	return append(dst, '}')
}

// AppendBinary appends f in goim's framing and returns the extended buffer. The
// body must be shorter than 2 GiB.
func AppendBinary(dst []byte, f Frame) []byte {
	n := len(f.Body)
	if n == 0 {
		n = len(emptyBody)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(HeaderLen+n))
	dst = binary.BigEndian.AppendUint16(dst, HeaderLen)
	dst = binary.BigEndian.AppendUint16(dst, Version)
	dst = binary.BigEndian.AppendUint32(dst, uint32(f.Op))
	dst = binary.BigEndian.AppendUint32(dst, uint32(f.Seq))
	if len(f.Body) == 0 {
		return append(dst, emptyBody...)
	}
	return append(dst, f.Body...)
}

// DecodeText reads the JSON envelope of a client. Bad JSON and wrong types are
// bad_request; a name the protocol does not have and one that only servers send
// are unsupported. As far as operation and seq are known they come back with
// the error, so that it can be answered. The body is a copy. The caller has
// checked b for UTF-8 (close 1007) and length (close 1009) before.
func DecodeText(b []byte) (Frame, *Error) {
	f, err := decodeText(b)
	if err != nil {
		return f, err
	}
	return f, CheckClient(f.Op)
}

// DecodeServerText reads the JSON envelope of a server. An operation that this
// version does not know comes back as 0, without an error: clients ignore it.
func DecodeServerText(b []byte) (Frame, *Error) { return decodeText(b) }

// CheckClient refuses, with unsupported, what a client cannot ask for.
func CheckClient(op Op) *Error {
	switch {
	case ClientOp(op):
		return nil
	case op.String() == "":
		return Errorf(CodeUnsupported, "unknown operation")
	default:
		return Errorf(CodeUnsupported, "only servers send "+op.String())
	}
}

func decodeText(b []byte) (Frame, *Error) {
	if tooDeep(b) {
		return Frame{}, errDeep()
	}
	var e Envelope
	err := envelopeCodec.Unmarshal(b, &e)
	f := Frame{Seq: e.Seq}
	f.Op, _ = OpByName(e.Op)
	if err != nil {
		return f, Errorf(CodeBadRequest, "message is not an envelope {\"op\",\"seq\",\"body\"}")
	}
	if e.Op == "" {
		return f, Errorf(CodeBadRequest, "op is missing")
	}
	if f.Body, err = objectOrNil(e.Body); err != nil {
		return f, Errorf(CodeBadRequest, err.Error())
	}
	return f, nil
}

// objectOrNil returns the body of an envelope; absent and null are nil.
func objectOrNil(raw json.RawMessage) ([]byte, error) {
	switch {
	case len(raw) == 0, string(raw) == "null":
		return nil, nil
	case raw[0] != '{':
		return nil, errors.New("body is not an object")
	}
	return raw, nil
}

// DecodeBinary reads the one frame at the start of b, as a server does with
// what clients send, and returns how many bytes it took. It neither judges the
// operation (CheckClient) nor the JSON of the body (Decode). n is 0 with any
// error. The body is a copy.
func DecodeBinary(b []byte) (f Frame, n int, err error) { return decodeBinary(b, MaxFrame) }

// DecodeServerBinary is DecodeBinary for a client: it takes MaxServerFrame.
func DecodeServerBinary(b []byte) (f Frame, n int, err error) {
	return decodeBinary(b, MaxServerFrame)
}

func decodeBinary(b []byte, limit int) (Frame, int, error) {
	if len(b) < 4 {
		return Frame{}, 0, ErrIncomplete
	}
	size := int(int32(binary.BigEndian.Uint32(b)))
	if size < HeaderLen {
		return Frame{}, 0, fmt.Errorf("%w: packet length %d", ErrHeader, size)
	}
	if len(b) >= 6 && binary.BigEndian.Uint16(b[4:]) != HeaderLen {
		return Frame{}, 0, fmt.Errorf("%w: header length %d", ErrHeader, binary.BigEndian.Uint16(b[4:]))
	}
	if len(b) >= 8 && binary.BigEndian.Uint16(b[6:]) != Version {
		return Frame{}, 0, fmt.Errorf("%w: version %d", ErrHeader, binary.BigEndian.Uint16(b[6:]))
	}
	if size > limit {
		return Frame{}, 0, fmt.Errorf("%w: %d bytes, at most %d", ErrTooBig, size, limit)
	}
	if len(b) < size {
		return Frame{}, 0, ErrIncomplete
	}
	f := Frame{
		Op:  Op(int32(binary.BigEndian.Uint32(b[8:]))),
		Seq: int32(binary.BigEndian.Uint32(b[12:HeaderLen])),
	}
	if body := b[HeaderLen:size]; len(body) > 0 {
		if !utf8.Valid(body) {
			return Frame{}, 0, ErrUTF8
		}
		f.Body = append([]byte(nil), body...)
	}
	return f, size, nil
}

// Frames iterates over all frames of one binary message from a client. An error
// ends the iteration: a tail that is not a whole frame is ErrIncomplete, which
// in a WebSocket message is as final as ErrHeader.
func Frames(b []byte) iter.Seq2[Frame, error] { return frames(b, MaxFrame) }

// ServerFrames is Frames for a client.
func ServerFrames(b []byte) iter.Seq2[Frame, error] { return frames(b, MaxServerFrame) }

func frames(b []byte, limit int) iter.Seq2[Frame, error] {
	return func(yield func(Frame, error) bool) {
		for len(b) > 0 {
			f, n, err := decodeBinary(b, limit)
			if !yield(f, err) || err != nil {
				return
			}
			b = b[n:]
		}
	}
}
