package session

import (
	"errors"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
)

// Retry advice in errors of the edge, in ms.
const (
	retryOverloaded  = 100
	retryUnavailable = 500
)

// maxRequests bounds what waits for an answer besides sends.
const maxRequests = 64

// request is a frame that waits for logic's answer. Its body is not kept, only
// what a failure must name.
type request struct {
	op       wire.Op
	seq      int32
	clientID string
}

// answered says whether logic answers the operation, be it not with an error.
func answered(op wire.Op) bool {
	return op != wire.OpAck && op != wire.OpRead && op != wire.OpTyping
}

// forwardLocked passes a frame to the logic of this connection.
func (s *Session) forwardLocked(f wire.Frame) {
	if f.Op == wire.OpAck && planted.Now(planted.EdgeCorruptsCursor) {
		f.Op = wire.OpRead
	}
	if f.Op == wire.OpSend && planted.Now(planted.EdgeSwallowsSend) {
		return
	}
	if answered(f.Op) && s.tooManyLocked(f.Op) {
		s.overloadedLocked(f, "too many requests in flight")
		return
	}
	up := &rpcpb.Up{
		Conn: uint64(s.id.Conn), User: string(s.id.User), Device: string(s.id.Device),
		Op: int32(f.Op), Seq: f.Seq, Body: f.Body,
	}
	err := s.sendLocked(up)
	if errors.Is(err, ErrPeerBroken) {
		s.failLocked()
		err = s.sendLocked(up)
	}
	switch {
	case err == nil:
		if answered(f.Op) {
			s.inflight = append(s.inflight, requestOf(f))
		}
	case !answered(f.Op): // ack and read are cumulative: the next one makes up for it; typing passes
	case errors.Is(err, ErrPeerFull):
		s.overloadedLocked(f, "the way to logic is full")
	default:
		s.unavailableLocked(requestOf(f))
	}
}

func (s *Session) sendLocked(up *rpcpb.Up) error {
	if s.peer == nil {
		if s.peer = s.env.Hub.Pin(); s.peer == nil {
			return errNoPeer
		}
	}
	err := s.peer.Send(up)
	if errors.Is(err, ErrPeerBroken) {
		s.peer = nil
	}
	return err
}

// tooManyLocked counts what is in flight, sends apart from all else.
func (s *Session) tooManyLocked(op wire.Op) bool {
	sends := 0
	for i := range s.inflight {
		if s.inflight[i].op == wire.OpSend {
			sends++
		}
	}
	if op == wire.OpSend {
		return sends >= wire.MaxInFlight
	}
	return len(s.inflight)-sends >= maxRequests
}

// Down queues an answer of logic (or what logic says by itself) without
// writing: the caller flushes when its batch is done. False: no such session
// any more.
func (s *Session) Down(d *rpcpb.Down) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != Open || s.queued > s.env.Limits.QueueBytes && !s.tryLocked() {
		return false
	}
	if i := s.requestLocked(d); i >= 0 {
		s.dropRequestLocked(i)
	}
	s.answerLocked(wire.Frame{Op: wire.Op(d.GetOp()), Seq: d.GetSeq(), Body: d.GetBody()})
	return true
}

// requestLocked finds what an answer of logic answers, -1 for none: sends whose
// envelopes carry the same seq, or none, by their client_id.
func (s *Session) requestLocked(d *rpcpb.Down) int {
	op, found := wire.Op(d.GetAnswers()), -1
	if op == 0 {
		return found
	}
	var id string
	for i := range s.inflight {
		r := &s.inflight[i]
		switch {
		case r.op != op || r.seq != d.GetSeq():
		case found < 0:
			found = i
		default:
			if id == "" {
				if id = clientID(op, d.GetBody()); id == s.inflight[found].clientID {
					return found
				}
			}
			if r.clientID == id {
				return i
			}
		}
	}
	return found
}

func (s *Session) dropRequestLocked(i int) {
	last := len(s.inflight) - 1
	copy(s.inflight[i:], s.inflight[i+1:])
	s.inflight[last] = request{}
	s.inflight = s.inflight[:last]
	if last == 0 && cap(s.inflight) > 8 {
		s.inflight = nil
	}
}

// PeerBroken answers all that was in flight on p; the next frame finds another
// logic.
func (s *Session) PeerBroken(p Peer) {
	s.mu.Lock()
	if s.peer == p {
		s.peer = nil
		s.failLocked()
	}
	s.unlockAndFlush()
}

func (s *Session) failLocked() {
	for _, r := range s.inflight {
		s.unavailableLocked(r)
	}
	s.inflight = nil
}

func (s *Session) unavailableLocked(r request) {
	e := wire.Errorf(wire.CodeUnavailable, "no answer from logic; send it again with the same client_id")
	e.RetryAfterMS, e.ClientID = retryUnavailable, r.clientID
	s.errorLocked(r.seq, e)
}

func (s *Session) overloadedLocked(f wire.Frame, text string) {
	e := wire.Errorf(wire.CodeOverloaded, text)
	e.RetryAfterMS, e.ClientID = retryOverloaded, clientID(f.Op, f.Body)
	s.errorLocked(f.Seq, e)
}

func requestOf(f wire.Frame) request {
	return request{op: f.Op, seq: f.Seq, clientID: clientID(f.Op, f.Body)}
}

// clientID digs the client_id out of a send that the edge itself may have to
// answer.
func clientID(op wire.Op, body []byte) string {
	if op != wire.OpSend {
		return ""
	}
	var b struct {
		ClientID string `json:"client_id"`
	}
	if wire.Decode(body, &b) != nil || !wire.ValidClientID(b.ClientID) {
		return ""
	}
	return b.ClientID
}
