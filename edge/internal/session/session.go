package session

import (
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
)

// State is where a session stands.
type State uint8

// States, in order of life.
const (
	Upgraded State = iota // waits for auth
	Authenticating
	Connecting
	Open
	Closing
)

// Socket is the connection under a session. None of its methods blocks; after
// the connection is gone they do nothing and Write returns ErrGone.
type Socket interface {
	// Write writes what the kernel takes of b; ErrFull if that is not all.
	Write(b []byte) (int, error)
	// Writev is Write of many buffers at once.
	Writev(bufs [][]byte) (int, error)
	// NotifyWritable asks for one call of Session.Writable.
	NotifyWritable()
	// CloseWrite ends our side once the kernel has sent all.
	CloseWrite()
	// Abort ends both sides.
	Abort()
}

// Peer is the logic to which a connection is pinned.
type Peer interface {
	// Send queues a frame, in order. ErrPeerFull: the queue is full; ErrPeerBroken:
	// the stream is gone and with it all that was in flight on it.
	Send(up *rpcpb.Up) error
}

// Hub is what sessions of an edge ask for.
type Hub interface {
	// Authenticate judges auth away from the reader's goroutine and ends in
	// Refuse, or in Identify and Open.
	Authenticate(s *Session, a wire.Auth)
	// Renew judges an auth of an open session.
	Renew(s *Session, a wire.Auth) (wire.AuthOK, *wire.Error)
	// Ask does what the edge itself answers: join, leave, presence_sub and
	// presence_unsub; and it judges a room_send before it goes on. It is called
	// with the session's mutex held, so it may call the session only from another
	// goroutine. True: done, the answer is ok. False without an error: the answer
	// comes by Answer.
	Ask(conn wire.ConnID, f wire.Frame) (done bool, werr *wire.Error)
	// Pin picks a logic, nil if there is none.
	Pin() Peer
	// Closed is called once when a session stops to count, from any goroutine.
	Closed(s *Session)
}

// Limits bound what one session may take.
type Limits struct {
	QueueBytes   int           // pushes beyond are marked lagged
	AuthTimeout  time.Duration // from accept to auth
	AuthBytes    int           // received before auth_ok
	Heartbeat    time.Duration // told to clients; closed after twice that
	WriteTimeout time.Duration // without progress
	CloseGrace   time.Duration // for the close frame to leave
}

// Env is shared by all sessions of an edge.
type Env struct {
	Limits  Limits
	Hub     Hub
	Rates   *limits.Live // of frames; nil: no limit
	Metrics *Metrics
	Log     *zap.Logger
	Now     func() int64 // ms
}

// Identity is who a session is, known after its token was judged.
type Identity struct {
	User     wire.UserID
	Device   wire.DeviceID
	Conn     wire.ConnID
	Platform string
	Since    int64 // ms
	Issued   int64 // ms, of the token it began with; 0: it does not say
}

// answersFactor is by how much answers may exceed the queue's limit before the
// connection is too slow: they are never left out, so they must be bounded.
const answersFactor = 4

// maxHeld bounds the frames that a client sends ahead of its auth_ok.
const maxHeld = 64

// Session is one connection. Make it with New.
type Session struct {
	env  *Env
	sock Socket

	id       Identity // constant once Connecting
	seen     atomic.Int64
	received atomic.Int64 // bytes before auth_ok

	mu       sync.Mutex
	state    State
	framed   bool // upgraded: what leaves from here on are frames
	as       framing
	reason   Reason
	writing  bool   // somebody is in flush
	stalled  bool   // the socket was full; Writable comes
	gone     bool   // the socket is no more
	shut     bool   // our side is ended
	overflow bool   // answers exceed what may wait
	owed     uint16 // entries that ought to be in queue, modulo 1<<16; fills a hole
	authSeq  int32
	deadline int64 // ms: of auth, or of closing
	expires  int64 // ms: of the token
	stallAt  int64 // ms: since when nothing moved, 0 if nothing waits

	queue  [][]byte
	offset int // bytes of queue[0] already written
	queued int // bytes in queue that are not written
	lag    *lag

	bucket   *rate.Limiter // of frames; nil before the first
	typing   *typing       // nil before the first
	held     []wire.Frame  // sent ahead of auth_ok
	inflight []request
	peer     Peer
}

// New returns the session of a fresh connection. now is in ms.
func New(env *Env, sock Socket) *Session {
	now := env.Now()
	s := &Session{env: env, sock: sock, deadline: now + env.Limits.AuthTimeout.Milliseconds()}
	s.seen.Store(now)
	return s
}

// ID returns who the session is; all zero before Connecting.
func (s *Session) ID() Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// State returns where the session stands.
func (s *Session) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Reason returns why the session ended, None while it has not.
func (s *Session) Reason() Reason {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason
}

// Identify makes an authenticating session a connecting one. False: it has
// ended meanwhile.
func (s *Session) Identify(id Identity, expires int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != Authenticating {
		return false
	}
	s.id, s.expires, s.state = id, expires, Connecting
	return true
}

// SetExpires moves the end of the token, after Renew.
func (s *Session) SetExpires(ms int64) {
	s.mu.Lock()
	s.expires = ms
	s.mu.Unlock()
}

// Open sends auth_ok and lets pushes in. False: the session has ended
// meanwhile. Frames that the client sent ahead are handled now.
func (s *Session) Open(ok wire.AuthOK) bool {
	body, err := wire.Marshal(ok)
	if err != nil {
		s.env.Log.Error("encode auth_ok", zap.Error(err))
		return false
	}
	s.mu.Lock()
	if s.state != Connecting {
		s.mu.Unlock()
		return false
	}
	s.state = Open
	s.env.Metrics.open.Inc()
	s.seen.Store(s.env.Now())
	s.answerLocked(wire.Frame{Op: wire.OpAuthOK, Seq: s.authSeq, Body: body})
	// What was sent ahead goes on in order: new frames wait for the mutex.
	for _, f := range s.held {
		if s.state != Open {
			break
		}
		s.openLocked(f, nil)
	}
	s.held = nil
	s.unlockAndFlush()
	return true
}

// Refuse ends a session that did not get in: an error in answer to its auth,
// then the close.
func (s *Session) Refuse(werr *wire.Error, r Reason) {
	s.mu.Lock()
	if s.state == Closing {
		s.mu.Unlock()
		return
	}
	s.errorLocked(s.authSeq, werr)
	s.mu.Unlock()
	s.Close(r)
}

// Kick tells the client why it must go and ends the session.
func (s *Session) Kick(reason string, r Reason) {
	body, err := wire.Marshal(wire.Kick{Reason: reason})
	if err != nil {
		s.env.Log.Error("encode kick", zap.Error(err))
	}
	s.mu.Lock()
	if s.state != Closing {
		s.answerLocked(wire.Frame{Op: wire.OpKick, Body: body})
	}
	s.mu.Unlock()
	s.Close(r)
}

// Answer queues frames that the edge itself sends, and writes them.
func (s *Session) Answer(frames ...wire.Frame) {
	s.mu.Lock()
	if s.state == Open {
		for _, f := range frames {
			s.answerLocked(f)
		}
	}
	s.unlockAndFlush()
}

// Error answers a request with an error.
func (s *Session) Error(seq int32, werr *wire.Error) {
	s.mu.Lock()
	if s.state == Open {
		s.errorLocked(seq, werr)
	}
	s.unlockAndFlush()
}

// Tick looks at the deadlines. now is in ms.
func (s *Session) Tick(now int64) {
	s.mu.Lock()
	s.auditLocked()
	if s.state == Closing {
		late := now >= s.deadline && !s.gone
		s.mu.Unlock()
		if late {
			s.sock.Abort()
		}
		return
	}
	r := s.overdueLocked(now)
	if r == AuthTimeout || r == TokenExpired {
		s.errorLocked(0, wire.Errorf(wire.CodeUnauthenticated, r.String()))
	}
	s.mu.Unlock()
	if r != None {
		s.Close(r)
	}
}

// overdueLocked says which deadline has passed, None if none has.
func (s *Session) overdueLocked(now int64) Reason {
	l := &s.env.Limits
	switch {
	case s.gone:
		return None
	case s.overflow, s.stallAt != 0 && now-s.stallAt >= l.WriteTimeout.Milliseconds():
		return TooSlow
	case s.state == Upgraded && now >= s.deadline:
		return AuthTimeout
	case s.state != Open:
		return None
	case s.expires != 0 && now >= s.expires:
		return TokenExpired
	case now-s.seen.Load() >= 2*l.Heartbeat.Milliseconds():
		return HeartbeatMissed
	}
	return None
}
