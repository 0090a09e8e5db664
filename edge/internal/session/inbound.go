package session

import (
	"errors"

	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/ws"
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

// Received counts bytes off the upgraded socket. False: too many before auth.
func (s *Session) Received(n int) bool {
	if s.received.Load() < 0 {
		return true // authenticated: the budget is over
	}
	if s.received.Add(int64(n)) <= int64(s.env.Limits.AuthBytes) {
		return true
	}
	if s.State() >= Open {
		s.received.Store(-1 << 62)
		return true
	}
	s.Close(AuthFlood)
	return false
}

// Upgraded takes what the upgrade said; with a token it is the auth.
func (s *Session) Upgraded(u *ws.Upgrade) {
	s.mu.Lock()
	s.framed = true
	s.mu.Unlock()
	if u.Token == "" {
		return
	}
	s.authenticate(wire.Auth{
		Token: u.Token, Device: wire.DeviceID(u.Device), Platform: u.Platform, Region: u.Region,
	}, 0, false)
	s.Flush()
}

// Message takes a whole message and answers what it can. False ends reading.
func (s *Session) Message(text bool, p []byte) bool {
	s.seen.Store(s.env.Now())
	if text {
		f, werr := wire.DecodeText(p)
		return s.frame(f, werr, false)
	}
	for f, err := range wire.Frames(p) {
		if err != nil {
			s.Close(ReasonOf(wire.CloseOf(err)))
			return false
		}
		if !s.frame(f, wire.CheckClient(f.Op), true) {
			return false
		}
	}
	return true
}

// Ping queues the pong.
func (s *Session) Ping(p []byte) bool {
	s.seen.Store(s.env.Now())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != Closing {
		s.enqueueAnswerLocked(ws.AppendPong(nil, p))
	}
	return s.state != Closing
}

// Pong counts as a sign of life.
func (s *Session) Pong() bool {
	s.seen.Store(s.env.Now())
	return true
}

// PeerClose echoes the client's close and ends the session.
func (s *Session) PeerClose(code int) bool {
	s.close(ClientClosed, code)
	return false
}

// Broken ends the session after a framing error.
func (s *Session) Broken(code int) { s.Close(ReasonOf(code)) }

// frame handles one frame by the session's state. The mutex is let go by defer
// wherever handlers run under it: a panic among them ends this connection, not
// everybody who comes to wait for the mutex.
func (s *Session) frame(f wire.Frame, werr *wire.Error, binary bool) bool {
	s.env.Metrics.countIn(f.Op)
	switch state := s.State(); {
	case state == Upgraded: // only the reader leaves this state, or Close
		s.first(f, werr, binary)
		return true
	case state == Open && werr == nil && f.Op == wire.OpAuth:
		return s.renew(f)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.state {
	case Upgraded, Authenticating, Connecting:
		s.holdLocked(f, werr)
	case Open:
		s.openLocked(f, werr)
	case Closing:
	}
	return s.state != Closing
}

func (s *Session) openLocked(f wire.Frame, werr *wire.Error) {
	switch {
	case werr != nil:
		s.errorLocked(f.Seq, werr)
	case f.Op == wire.OpAuth: // sent while auth_ok was on its way
		s.errorLocked(f.Seq, wire.Errorf(wire.CodeBadRequest, "auth is under way"))
	default:
		s.handleOpenLocked(f)
	}
}

// first judges the frame that must be auth.
func (s *Session) first(f wire.Frame, werr *wire.Error, binary bool) {
	var a wire.Auth
	switch {
	case werr != nil || f.Op != wire.OpAuth:
		werr = wire.Errorf(wire.CodeUnauthenticated, "the first frame must be auth")
	default:
		werr = wire.Decode(f.Body, &a)
	}
	if werr != nil {
		s.mu.Lock()
		s.binary, s.authSeq = binary, f.Seq
		s.mu.Unlock()
		s.Refuse(werr, AuthFailed)
		return
	}
	s.authenticate(a, f.Seq, binary)
}

func (s *Session) authenticate(a wire.Auth, seq int32, binary bool) {
	s.mu.Lock()
	if s.state != Upgraded {
		s.mu.Unlock()
		return
	}
	s.state, s.binary, s.authSeq = Authenticating, binary, seq
	s.mu.Unlock()
	if werr := a.Validate(); werr != nil {
		s.Refuse(werr, AuthFailed)
		return
	}
	s.env.Hub.Authenticate(s, a)
}

// holdLocked keeps a frame that came ahead of auth_ok.
func (s *Session) holdLocked(f wire.Frame, werr *wire.Error) {
	switch {
	case werr != nil:
		s.errorLocked(f.Seq, werr)
	case f.Op == wire.OpAuth:
		s.errorLocked(f.Seq, wire.Errorf(wire.CodeBadRequest, "auth is under way"))
	case len(s.held) >= maxHeld:
		s.overloadedLocked(f, "too many frames ahead of auth_ok")
	default:
		s.held = append(s.held, f)
	}
}

// handleOpenLocked does what an authenticated client asks.
func (s *Session) handleOpenLocked(f wire.Frame) {
	switch f.Op {
	case wire.OpPing:
		body, _ := wire.Marshal(wire.Pong{TS: s.env.Now()}) // two numbers: cannot fail
		s.answerLocked(wire.Frame{Op: wire.OpPong, Seq: f.Seq, Body: body})
	case wire.OpSend, wire.OpAck, wire.OpRead, wire.OpSync, wire.OpRecall, wire.OpEdit:
		s.forwardLocked(f)
	default:
		s.errorLocked(f.Seq, wire.Errorf(wire.CodeUnsupported, f.Op.String()+" is not offered yet"))
	}
}

// renew judges an auth of an open session, without the mutex: only the reader
// renews, so frames keep their order. False: the session has ended.
func (s *Session) renew(f wire.Frame) bool {
	var a wire.Auth
	if werr := wire.Decode(f.Body, &a); werr != nil {
		return s.answer(func() { s.errorLocked(f.Seq, werr) })
	}
	ok, werr := s.env.Hub.Renew(s, a)
	if werr != nil {
		s.answer(func() { s.errorLocked(f.Seq, werr) })
		s.Close(AuthFailed)
		return false
	}
	body, _ := wire.Marshal(ok) // strings and numbers: cannot fail
	return s.answer(func() { s.answerLocked(wire.Frame{Op: wire.OpAuthOK, Seq: f.Seq, Body: body}) })
}

// answer runs f under the mutex and says whether the session goes on.
func (s *Session) answer(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	return s.state != Closing
}

// answered says whether logic answers the operation.
func answered(op wire.Op) bool { return op != wire.OpAck && op != wire.OpRead }

// forwardLocked passes a frame to the logic of this connection.
func (s *Session) forwardLocked(f wire.Frame) {
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
	case !answered(f.Op): // ack and read are cumulative: the next one makes up for it
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

// errorLocked queues an error.
func (s *Session) errorLocked(seq int32, e *wire.Error) {
	s.env.Metrics.refused.WithLabelValues(string(e.Code)).Inc()
	body, _ := wire.Marshal(e) // strings and a number: cannot fail
	s.answerLocked(wire.Frame{Op: wire.OpError, Seq: seq, Body: body})
}
