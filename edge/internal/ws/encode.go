package ws

import "encoding/binary"

// MaxServerHeader is the longest header of a server's frame.
const MaxServerHeader = 10

// AppendHeader appends the header of a whole, unmasked server frame with n
// bytes of payload, which the caller appends next.
func AppendHeader(dst []byte, opcode byte, n int) []byte {
	dst = append(dst, finBit|opcode)
	switch {
	case n < 126:
		return append(dst, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
}

// AppendClose appends a close frame. The reason is cut to what fits.
func AppendClose(dst []byte, code int, reason string) []byte {
	reason = reason[:min(len(reason), maxControl-2)]
	dst = AppendHeader(dst, OpClose, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}

// AppendPong appends the answer to a ping.
func AppendPong(dst, payload []byte) []byte {
	payload = payload[:min(len(payload), maxControl)]
	return append(AppendHeader(dst, OpPong, len(payload)), payload...)
}
