package session

import (
	"errors"
	"sync"
	"time"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/ws"
)

// Errors that sockets and peers return, as they are.
var (
	// ErrFull: the kernel took less than it was given.
	ErrFull = errors.New("socket is full")
	// ErrGone: there is no connection any more.
	ErrGone = errors.New("connection is gone")
	// ErrPeerFull: the queue to logic is full.
	ErrPeerFull = errors.New("queue to logic is full")
	// ErrPeerBroken: the stream to logic is broken.
	ErrPeerBroken = errors.New("stream to logic is broken")

	errNoPeer = errors.New("no logic")
)

const (
	maxLagged   = 256     // conversations named in one lagged; more: all
	maxIovecs   = 64      // buffers of one write
	maxWrite    = 1 << 18 // bytes of one write
	keepEntries = 4       // queue slots kept by an idle session
	answerCost  = 64      // of an answer in the queue beside its bytes: a pong has two of these
)

// lag is what a slow session missed.
type lag struct {
	all   bool
	convs map[wire.ConvID][2]int64
}

func (l *lag) add(conv wire.ConvID, seq int64) {
	if l.all {
		return
	}
	r, ok := l.convs[conv]
	if conv == "" || seq == 0 || !ok && len(l.convs) >= maxLagged {
		l.all, l.convs = true, nil
		return
	}
	if !ok {
		r = [2]int64{seq, seq}
	}
	l.convs[conv] = [2]int64{min(r[0], seq), max(r[1], seq)}
}

// Result is what became of a push.
type Result uint8

// Results of Push.
const (
	NotHere Result = iota // no open session
	Queued
	Lagged  // the session will be told what it missed
	Dropped // left out without a word (ephemeral)
)

// Push queues a push without writing: the caller flushes when its batch is
// done.
func (s *Session) Push(f *Shared) Result {
	if f.Op == wire.OpMsg && planted.Now(planted.EdgeReordersPush) {
		late := *f
		planted.After(300*time.Millisecond, func() { s.Push(&late); s.Flush() })
		return Queued
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != Open || s.gone {
		return NotHere
	}
	if f.Op == wire.OpMsg && planted.Now(planted.EdgeDropsPush) {
		return Queued
	}
	buf := f.bytes(s.as)
	if !s.roomLocked(len(buf)) && !s.tryLocked() {
		return NotHere
	}
	if s.roomLocked(len(buf)) {
		s.enqueueLocked(buf)
		s.env.Metrics.countOut(f.Op)
		return Queued
	}
	if f.ephemeral() {
		s.env.Metrics.dropped.WithLabelValues("ephemeral").Inc()
		return Dropped
	}
	if planted.Now(planted.EdgeKeepsQuiet) {
		return Lagged
	}
	s.lagLocked().add(f.Conv, f.Seq)
	s.env.Metrics.dropped.WithLabelValues("lagged").Inc()
	return Lagged
}

// tryLocked writes what nobody has tried to write yet: a batch may bring more
// than the queue takes, and a client that reads is not slow. It gives the mutex
// away meanwhile. False: the session is not open any more.
func (s *Session) tryLocked() bool {
	if !s.stalled && !s.writing {
		s.unlockAndFlush()
		s.mu.Lock()
	}
	return s.state == Open && !s.gone
}

// roomLocked says whether a push may be queued. An empty queue takes anything:
// else a push over the limit would never arrive.
func (s *Session) roomLocked(n int) bool {
	return s.lag == nil && (s.queued == 0 || s.queued+n <= s.env.Limits.QueueBytes)
}

// Raw queues bytes that are no frame (the answer to the upgrade) and writes.
func (s *Session) Raw(b []byte) {
	s.mu.Lock()
	if s.state != Closing {
		s.enqueueLocked(b)
	}
	s.unlockAndFlush()
}

// Lag tells the session that it may have missed anything.
func (s *Session) Lag() {
	s.mu.Lock()
	if s.state == Open {
		s.lagLocked().add("", 0)
	}
	s.unlockAndFlush()
}

func (s *Session) lagLocked() *lag {
	if s.lag == nil {
		s.lag = &lag{convs: map[wire.ConvID][2]int64{}}
	}
	return s.lag
}

// answerLocked queues a frame for this session alone; such frames are never
// left out.
func (s *Session) answerLocked(f wire.Frame) {
	if s.state == Closing {
		return
	}
	s.env.Metrics.countOut(f.Op)
	s.enqueueAnswerLocked(encode(f, s.as))
}

func (s *Session) enqueueAnswerLocked(buf []byte) {
	if s.queued+answerCost*len(s.queue) > answersFactor*s.env.Limits.QueueBytes {
		// It asks and does not read. Tick ends it: closing from here would
		// need the roster's locks under ours.
		s.overflow = true
		return
	}
	s.enqueueLocked(buf)
}

func (s *Session) enqueueLocked(buf []byte) {
	if s.gone {
		return // nobody would write it, nor count it as cut off
	}
	s.queue = append(s.queue, buf)
	s.queued += len(buf)
	s.owed++
	s.env.Metrics.account.queued.Add(1)
}

// Writable is the socket's answer to NotifyWritable.
func (s *Session) Writable() {
	s.mu.Lock()
	s.stalled = false
	s.unlockAndFlush()
}

// Flush writes what is queued, as much as the socket takes.
func (s *Session) Flush() {
	s.mu.Lock()
	s.unlockAndFlush()
}

//nolint:gochecknoglobals // a pool of scratch for writes
var iovecs = sync.Pool{New: func() any { return new([maxIovecs][]byte) }}

// unlockAndFlush writes until the queue is empty or the socket full. One
// goroutine writes at a time; others leave their frames to it.
func (s *Session) unlockAndFlush() {
	if s.writing || s.stalled || s.gone {
		s.mu.Unlock()
		return
	}
	s.writing = true
	for s.moreLocked() {
		n, err := s.writeLocked()
		s.advanceLocked(n)
		if err == nil {
			continue
		}
		if errors.Is(err, ErrFull) {
			s.stallLocked()
		} else {
			s.cutLocked(len(s.queue))
			s.gone, s.queue, s.queued = true, nil, 0
		}
		break
	}
	s.writing = false
	end := s.state == Closing && s.queued == 0 && !s.shut && !s.gone
	s.shut = s.shut || end
	arm := s.stalled
	s.mu.Unlock()
	if arm {
		s.sock.NotifyWritable()
	}
	if end {
		s.sock.CloseWrite()
	}
}

// moreLocked says whether there is something to write, and turns a lag into
// its frame once all before it has left.
func (s *Session) moreLocked() bool {
	if len(s.queue) == 0 && s.lag != nil && s.state == Open {
		body, _ := wire.Marshal(wire.Lagged{Convs: s.lag.convs}) // a map of numbers: cannot fail
		s.lag = nil
		s.env.Metrics.lagged.Inc()
		s.answerLocked(wire.Frame{Op: wire.OpLagged, Body: body})
	}
	if len(s.queue) == 0 {
		s.stallAt = 0
		if cap(s.queue) > keepEntries {
			s.queue = nil
		}
	}
	return len(s.queue) > 0
}

// writeLocked gives the mutex away during the system call.
func (s *Session) writeLocked() (n int, err error) {
	s.env.Metrics.writes.Inc()
	first := s.queue[0][s.offset:]
	if len(s.queue) == 1 {
		s.mu.Unlock()
		n, err = s.sock.Write(first)
		s.mu.Lock()
		return n, err
	}
	v, _ := iovecs.Get().(*[maxIovecs][]byte)
	v[0] = first
	k, size := 1, len(first)
	for k < len(s.queue) && k < maxIovecs && size < maxWrite {
		v[k] = s.queue[k]
		size += len(v[k])
		k++
	}
	s.mu.Unlock()
	n, err = s.sock.Writev(v[:k])
	clear(v[:k])
	iovecs.Put(v)
	s.mu.Lock()
	return n, err
}

// advanceLocked takes n written bytes off the queue.
func (s *Session) advanceLocked(n int) {
	if n <= 0 || s.gone {
		return
	}
	s.env.Metrics.bytes.Add(float64(n))
	if s.stallAt != 0 { // it moves, also where the next write finds it full
		s.stallAt = s.env.Now()
	}
	s.queued -= n
	n += s.offset
	k := 0
	for k < len(s.queue) && n >= len(s.queue[k]) {
		n -= len(s.queue[k])
		k++
	}
	s.offset = n
	s.writtenLocked(k)
	rest := copy(s.queue, s.queue[k:])
	clear(s.queue[rest:])
	s.queue = s.queue[:rest]
}

// stallLocked notes that the socket is full.
func (s *Session) stallLocked() {
	s.stalled = true
	s.env.Metrics.stalls.Inc()
	if s.stallAt == 0 {
		s.stallAt = s.env.Now()
	}
}

// Close ends the session: it counts no more from here on, what is queued and
// the close frame still leave within the grace. Later calls do nothing.
func (s *Session) Close(r Reason) { s.close(r, r.Code()) }

func (s *Session) close(r Reason, code int) {
	s.mu.Lock()
	if s.state == Closing {
		s.mu.Unlock()
		return
	}
	was := s.state
	s.state, s.reason = Closing, r
	s.deadline = s.env.Now() + s.env.Limits.CloseGrace.Milliseconds()
	s.held, s.inflight, s.peer, s.lag = nil, nil, nil, nil
	if r == TooSlow && len(s.queue) > 1 && !s.writing {
		// It will not read all this; the frame half written must be ended.
		s.cutLocked(len(s.queue) - 1)
		clear(s.queue[1:])
		s.queue = s.queue[:1]
		s.queued = len(s.queue[0]) - s.offset
	}
	if code != 0 && !s.gone && s.framed {
		s.enqueueLocked(ws.AppendClose(nil, code, r.String()))
	}
	s.env.Metrics.byReason[r].Inc()
	if was == Open {
		s.env.Metrics.open.Dec()
	}
	s.unlockAndFlush()
	s.env.Hub.Closed(s)
}

// Gone says that the socket is no more.
func (s *Session) Gone() {
	s.mu.Lock()
	s.auditLocked()
	s.cutLocked(len(s.queue))
	s.gone, s.queue, s.queued, s.offset = true, nil, 0, 0
	s.mu.Unlock()
	s.Close(Disconnected)
}
