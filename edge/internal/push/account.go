package push

import (
	"sync"

	"github.com/starling-im/starling/common/ledger"
	"github.com/starling-im/starling/edge/internal/session"
)

// done is what became of frames, the users that they name and the sessions that
// were found for them. Each is counted where it happens.
type done struct {
	applied, repeats, cut int // frames; cut: their stream ended before their turn
	users, here, away     int
	sessions, own         int // own: the connection that sent it
	results               [session.Dropped + 1]int
}

// account is done of all streams since the edge began. Its lock is taken twice
// for each batch.
type account struct {
	mu               sync.Mutex
	received, inHand int // frames; inHand: of batches under way
	done             done
}

// took notes a batch that has arrived.
func (a *account) took(frames int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.received += frames
	a.inHand += frames
}

// did notes what became of it, and empties d.
func (a *account) did(frames int, d *done) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inHand -= frames
	t := &a.done
	t.applied += d.applied
	t.repeats += d.repeats
	t.cut += d.cut
	t.users += d.users
	t.here += d.here
	t.away += d.away
	t.sessions += d.sessions
	t.own += d.own
	for r, n := range d.results {
		t.results[r] += n
	}
	*d = done{}
}

// Ledger is the account of pushes since the edge began; it balances at any
// moment.
func (s *Server) Ledger(process string) []ledger.Push {
	a := &s.account
	a.mu.Lock()
	defer a.mu.Unlock()
	d := &a.done
	return []ledger.Push{
		ledger.NewPush(process, "frames from jobs", int64(a.received), map[string]int64{
			"applied": int64(d.applied), "repeats": int64(d.repeats), "in hand": int64(a.inHand), "cut off with their stream": int64(d.cut),
		}),
		ledger.NewPush(process, "users named by frames", int64(d.users), map[string]int64{
			"here": int64(d.here), "not here": int64(d.away),
		}),
		ledger.NewPush(process, "pushes to sessions", int64(d.sessions), map[string]int64{
			"queued": int64(d.results[session.Queued]), "told lagged": int64(d.results[session.Lagged]),
			"left out (ephemeral)": int64(d.results[session.Dropped]), "not here": int64(d.results[session.NotHere]),
			"sent by it": int64(d.own),
		}),
	}
}
