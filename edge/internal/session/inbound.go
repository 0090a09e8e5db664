package session

import (
	"errors"
	"time"

	"golang.org/x/time/rate"

	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/ws"
)

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
	}, 0, asText)
	s.Flush()
}

// Message takes a whole message and answers what it can. False ends reading.
func (s *Session) Message(text bool, p []byte) bool {
	s.seen.Store(s.env.Now())
	if text {
		f, werr := wire.DecodeText(p)
		return s.frame(f, werr, asText)
	}
	for f, err := range wire.Frames(p) {
		if err != nil {
			s.Close(ReasonOf(wire.CloseOf(err)))
			return false
		}
		if !s.frame(f, wire.CheckClient(f.Op), asBinary) {
			return false
		}
	}
	return true
}

// Plain says that frames come and go without WebSocket: on TCP alone.
func (s *Session) Plain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.as = asPlain
}

// Frames takes the whole frames at the start of what came on a TCP connection,
// and returns how many bytes they are. False ends reading.
func (s *Session) Frames(b []byte) (n int, ok bool) {
	for n < len(b) {
		f, size, err := wire.DecodeBinary(b[n:])
		switch {
		case errors.Is(err, wire.ErrIncomplete):
			return n, true
		case err != nil:
			s.Close(ReasonOf(wire.CloseOf(err)))
			return n, false
		}
		s.seen.Store(s.env.Now())
		if !s.frame(f, wire.CheckClient(f.Op), asPlain) {
			return n, false
		}
		n += size
	}
	return n, true
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
func (s *Session) frame(f wire.Frame, werr *wire.Error, as framing) bool {
	s.env.Metrics.countIn(f.Op)
	switch state := s.State(); {
	case state == Upgraded: // only the reader leaves this state, or Close
		s.first(f, werr, as)
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
	case s.floodedLocked(f, werr):
	case werr != nil:
		s.errorLocked(f.Seq, werr)
	case f.Op == wire.OpAuth: // sent while auth_ok was on its way
		s.errorLocked(f.Seq, wire.Errorf(wire.CodeBadRequest, "auth is under way"))
	default:
		s.handleOpenLocked(f)
	}
}

// first judges the frame that must be auth.
func (s *Session) first(f wire.Frame, werr *wire.Error, as framing) {
	var a wire.Auth
	switch {
	case werr != nil || f.Op != wire.OpAuth:
		werr = wire.Errorf(wire.CodeUnauthenticated, "the first frame must be auth")
	default:
		werr = wire.Decode(f.Body, &a)
	}
	if werr != nil {
		s.mu.Lock()
		s.as, s.authSeq = as, f.Seq
		s.mu.Unlock()
		s.Refuse(werr, AuthFailed)
		return
	}
	s.authenticate(a, f.Seq, as)
}

func (s *Session) authenticate(a wire.Auth, seq int32, as framing) {
	s.mu.Lock()
	if s.state != Upgraded {
		s.mu.Unlock()
		return
	}
	s.state, s.as, s.authSeq = Authenticating, as, seq
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
	case wire.OpTyping:
		if s.passTypingLocked(f.Body) {
			s.forwardLocked(f)
		}
	case wire.OpJoin, wire.OpLeave, wire.OpPresenceSub, wire.OpPresenceUnsub, wire.OpRoomSend:
		s.askLocked(f)
	default:
		s.errorLocked(f.Seq, wire.Errorf(wire.CodeUnsupported, f.Op.String()+" is not offered yet"))
	}
}

// floodedLocked counts a frame of any kind, good or not, but a ping, and answers
// it where there are too many.
func (s *Session) floodedLocked(f wire.Frame, werr *wire.Error) bool {
	if f.Op == wire.OpPing && werr == nil {
		return false
	}
	wait := s.floodLocked()
	if wait <= 0 {
		return false
	}
	e := wire.RateLimited(wait, "too many frames on this connection")
	e.ClientID = clientID(f.Op, f.Body)
	s.errorLocked(f.Seq, e)
	return true
}

// floodLocked says how long to wait where there are too many frames.
func (s *Session) floodLocked() (wait time.Duration) {
	if s.env.Rates == nil {
		return 0
	}
	l := s.env.Rates.Get()
	if l.FramesPerSecond <= 0 {
		return 0
	}
	if s.bucket == nil {
		s.bucket = rate.NewLimiter(rate.Limit(l.FramesPerSecond), l.FrameBurst)
	}
	return limits.Take(s.bucket, time.UnixMilli(s.env.Now()), l.FramesPerSecond, l.FrameBurst)
}

// askLocked has the edge answer a frame itself, or let a room_send pass.
func (s *Session) askLocked(f wire.Frame) {
	switch done, werr := s.env.Hub.Ask(s.id.Conn, f); {
	case werr != nil:
		s.errorLocked(f.Seq, werr)
	case done && f.Op == wire.OpRoomSend:
		s.forwardLocked(f)
	case done:
		s.answerLocked(wire.Frame{Op: wire.OpOK, Seq: f.Seq})
	}
}

// renew judges an auth of an open session, without the mutex: only the reader
// renews, so frames keep their order. False: the session has ended.
func (s *Session) renew(f wire.Frame) bool {
	var a wire.Auth
	flooded := false
	if goesOn := s.answer(func() { flooded = s.floodedLocked(f, nil) }); flooded || !goesOn {
		return goesOn
	}
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

// errorLocked queues an error.
func (s *Session) errorLocked(seq int32, e *wire.Error) {
	s.env.Metrics.refused.WithLabelValues(string(e.Code)).Inc()
	body, _ := wire.Marshal(e) // strings and a number: cannot fail
	s.answerLocked(wire.Frame{Op: wire.OpError, Seq: seq, Body: body})
}
