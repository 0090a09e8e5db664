package session

import (
	"sync/atomic"

	"github.com/starling-im/starling/common/ledger"
)

// account counts what was put into the queues of all sessions. A session by
// itself keeps how much of that ought to be in its queue (owed), and compares now
// and then: what is missing, left without a reason.
type account struct {
	queued, written, cut, difference atomic.Int64
}

// Ledger is the account of frames queued to sessions since the edge began.
// What a session misses shows with its next Tick.
func (m *Metrics) Ledger(process string) ledger.Push {
	a := &m.account
	written, cut, difference := a.written.Load(), a.cut.Load(), a.difference.Load()
	queued := a.queued.Load() // last: what is written was queued before
	return ledger.NewPush(process, "frames queued to sessions", queued, map[string]int64{
		"written": written, "cut off with their connection": cut, "waiting": queued - written - cut - difference,
	})
}

// writtenLocked and cutLocked count entries that left the queue, or are about to.
func (s *Session) writtenLocked(n int) {
	s.owed -= uint16(n)
	s.env.Metrics.account.written.Add(int64(n))
}

func (s *Session) cutLocked(n int) {
	s.owed -= uint16(n)
	s.env.Metrics.account.cut.Add(int64(n))
}

// auditLocked compares the queue with what ought to be in it.
func (s *Session) auditLocked() {
	if d := int16(s.owed - uint16(len(s.queue))); d != 0 {
		s.env.Metrics.account.difference.Add(int64(d))
		s.owed = uint16(len(s.queue))
	}
}
