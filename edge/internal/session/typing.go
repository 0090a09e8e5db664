package session

import "hash/maphash"

const (
	typingEvery = 1000 // ms between two typings for one target
	maxTyping   = 8    // targets of one connection in that time
)

// typing remembers for whom a connection was typing last, by the frames' bodies
// (a client that writes one target in many ways only uses up its own places).
type typing struct {
	seed maphash.Seed
	last [maxTyping]struct {
		body uint64
		at   int64 // ms; 0: free
	}
}

// pass says whether a typing goes on: one a second for each target, of few
// targets. All typing of an edge shares one way, and nobody can read more.
func (t *typing) pass(body []byte, now int64) bool {
	h, oldest := maphash.Bytes(t.seed, body), 0
	for i := range t.last {
		if t.last[i].at != 0 && t.last[i].body == h {
			oldest = i
			break
		}
		if t.last[i].at < t.last[oldest].at {
			oldest = i
		}
	}
	if e := &t.last[oldest]; e.at == 0 || now-e.at >= typingEvery {
		e.body, e.at = h, now
		return true
	}
	return false
}

// passTypingLocked is pass of the session's memory, which it gets with its
// first typing.
func (s *Session) passTypingLocked(body []byte) bool {
	if s.typing == nil {
		s.typing = &typing{seed: maphash.MakeSeed()}
	}
	if s.typing.pass(body, s.env.Now()) {
		return true
	}
	s.env.Metrics.ignored.WithLabelValues("typing").Inc()
	return false
}
