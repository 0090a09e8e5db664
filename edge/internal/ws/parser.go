package ws

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// Opcodes of RFC 6455.
const (
	OpContinuation byte = 0x0
	OpText         byte = 0x1
	OpBinary       byte = 0x2
	OpClose        byte = 0x8
	OpPing         byte = 0x9
	OpPong         byte = 0xA
)

// Close codes that the framing itself needs.
const (
	codeNormal      = 1000
	codeProtocol    = 1002
	codeInvalidUTF8 = 1007
	codeTooBig      = 1009
)

const (
	maxControl = 125 // payload of a control frame
	maxHeader  = 14  // two bytes, 64-bit length, mask
	finBit     = 0x80
	rsvBits    = 0x70
	maskBit    = 0x80
)

// Error ends a connection with Code: nothing after such bytes can be followed.
type Error struct {
	Code int
	Text string
}

// Error returns code and text.
func (e *Error) Error() string { return fmt.Sprintf("websocket: %d %s", e.Code, e.Text) }

func protocolError(text string) *Error { return &Error{Code: codeProtocol, Text: text} }

// Receiver takes what a Parser finds. Slices are valid during the call only.
// Returning false stops the parser: the rest of the input is dropped.
type Receiver interface {
	// Message is a whole text or binary message.
	Message(text bool, p []byte) bool
	// Ping is to be answered by a pong with the same payload.
	Ping(p []byte) bool
	// Pong needs no answer.
	Pong() bool
	// PeerClose is the peer's close frame; code is 1000 if it had none. Nothing
	// follows it.
	PeerClose(code int) bool
}

// Parser turns a client's bytes into messages, in whatever pieces they come.
// The zero value with Max set is ready. It holds no buffer between messages.
type Parser struct {
	// Max bounds a message (all fragments together), in bytes.
	Max int

	head    [maxHeader]byte
	headLen uint8
	inFrame bool // the header is read, left bytes of payload are to come
	fin     bool
	opcode  byte // of the frame
	msgOp   byte // of the message under way, 0 if none
	mask    [4]byte
	maskPos uint8
	left    int
	msg     []byte // fragments of the message so far
	ctrl    []byte // a control frame's payload so far
	stopped bool
}

// Feed parses b, which it unmasks in place, and hands what is complete to r.
// After an error or a stop every later Feed is ignored.
func (p *Parser) Feed(b []byte, r Receiver) error {
	for len(b) > 0 && !p.stopped {
		if !p.inFrame {
			n, err := p.header(b)
			if err != nil {
				p.stopped = true
				return err
			}
			b = b[n:]
			if !p.inFrame {
				return nil
			}
		}
		n, err := p.payload(b, r)
		if err != nil {
			p.stopped = true
			return err
		}
		b = b[n:]
	}
	return nil
}

// Idle says whether no frame or message is half read.
func (p *Parser) Idle() bool { return p.headLen == 0 && !p.inFrame && p.msgOp == 0 }

// header takes bytes of the next header and returns how many.
func (p *Parser) header(b []byte) (int, error) {
	taken := 0
	for {
		need := p.headNeed()
		if int(p.headLen) >= need {
			break
		}
		n := copy(p.head[p.headLen:need], b[taken:])
		p.headLen += uint8(n)
		taken += n
		if int(p.headLen) < need {
			return taken, nil
		}
		if p.headLen == 2 {
			if err := p.checkStart(); err != nil {
				return taken, err
			}
		}
	}
	return taken, p.endHeader()
}

// headNeed is the length of the header as far as it is known.
func (p *Parser) headNeed() int {
	if p.headLen < 2 {
		return 2
	}
	switch p.head[1] &^ maskBit {
	case 126:
		return 8
	case 127:
		return 14
	}
	return 6
}

// checkStart judges the first two bytes.
func (p *Parser) checkStart() error {
	p.fin, p.opcode = p.head[0]&finBit != 0, p.head[0]&0x0f
	switch {
	case p.head[0]&rsvBits != 0:
		return protocolError("reserved bits are set")
	case p.head[1]&maskBit == 0:
		return protocolError("client frame is not masked")
	}
	switch p.opcode {
	case OpText, OpBinary:
		if p.msgOp != 0 {
			return protocolError("new message inside a fragmented one")
		}
	case OpContinuation:
		if p.msgOp == 0 {
			return protocolError("continuation of nothing")
		}
	case OpClose, OpPing, OpPong:
		if !p.fin {
			return protocolError("fragmented control frame")
		}
		if p.head[1]&^maskBit > maxControl {
			return protocolError("control frame is too long")
		}
	default:
		return protocolError("unknown opcode")
	}
	return nil
}

// endHeader reads length and mask and opens the frame.
func (p *Parser) endHeader() error {
	size, at := uint64(p.head[1]&^maskBit), 2
	switch size {
	case 126:
		size, at = uint64(binary.BigEndian.Uint16(p.head[2:])), 4
		if size < 126 {
			return protocolError("length is not in its shortest form")
		}
	case 127:
		size, at = binary.BigEndian.Uint64(p.head[2:]), 10
		if size>>63 != 0 || size < 1<<16 {
			return protocolError("length is not in its shortest form")
		}
	}
	if p.opcode < OpClose && size > uint64(p.Max-len(p.msg)) {
		return &Error{Code: codeTooBig, Text: "message is too big"}
	}
	copy(p.mask[:], p.head[at:])
	p.maskPos, p.headLen, p.inFrame = 0, 0, true
	p.left = int(size)
	if p.opcode == OpText || p.opcode == OpBinary {
		p.msgOp = p.opcode
	}
	return nil
}

// payload takes bytes of the frame under way and, at its end, hands it on.
func (p *Parser) payload(b []byte, r Receiver) (int, error) {
	n := min(len(b), p.left)
	part := b[:n]
	p.unmask(part)
	p.left -= n
	done := p.left == 0
	if done {
		p.inFrame = false
	}
	if p.opcode >= OpClose {
		return n, p.control(part, done, r)
	}
	if done && p.fin && len(p.msg) == 0 {
		return n, p.message(part, r)
	}
	p.msg = append(p.msg, part...)
	if done && p.fin {
		whole := p.msg
		p.msg = nil
		return n, p.message(whole, r)
	}
	return n, nil
}

func (p *Parser) message(whole []byte, r Receiver) error {
	text := p.msgOp == OpText
	p.msgOp = 0
	if text && !utf8.Valid(whole) {
		return &Error{Code: codeInvalidUTF8, Text: "text is not valid UTF-8"}
	}
	p.stopped = !r.Message(text, whole)
	return nil
}

func (p *Parser) control(part []byte, done bool, r Receiver) error {
	if !done {
		p.ctrl = append(p.ctrl, part...)
		return nil
	}
	if len(p.ctrl) > 0 {
		part = append(p.ctrl, part...)
		p.ctrl = nil
	}
	switch p.opcode {
	case OpPing:
		p.stopped = !r.Ping(part)
	case OpPong:
		p.stopped = !r.Pong()
	default:
		code, err := closeCode(part)
		if err != nil {
			return err
		}
		r.PeerClose(code)
		p.stopped = true
	}
	return nil
}

// closeCode reads and checks the payload of a close frame.
func closeCode(b []byte) (int, error) {
	if len(b) == 0 {
		return codeNormal, nil
	}
	if len(b) == 1 {
		return 0, protocolError("close frame of one byte")
	}
	code := int(binary.BigEndian.Uint16(b))
	if !ValidCloseCode(code) {
		return 0, protocolError("close code is not allowed")
	}
	if !utf8.Valid(b[2:]) {
		return 0, &Error{Code: codeInvalidUTF8, Text: "close reason is not valid UTF-8"}
	}
	return code, nil
}

// ValidCloseCode says whether a close frame may carry the code.
func ValidCloseCode(code int) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014:
		return true
	}
	return code >= 3000 && code <= 4999
}

// unmask applies the mask from where the last piece ended, eight bytes at once.
func (p *Parser) unmask(b []byte) {
	if len(b) == 0 {
		return
	}
	var key [8]byte
	for i := range key {
		key[i] = p.mask[(int(p.maskPos)+i)&3]
	}
	p.maskPos = uint8((int(p.maskPos) + len(b)) & 3)
	k := binary.LittleEndian.Uint64(key[:])
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^k)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= key[i]
	}
}
