package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/starling-im/starling/common/wire"
)

// Load is users who talk all the time while things break, each with a client as
// an application has it (loadUser). What it notes of every message says
// afterwards whether one was lost, came twice or out of order, and how long
// each took from its acknowledgement to everybody it was for.
type Load struct {
	t     testing.TB
	s     *System
	users []*loadUser
	group wire.GroupID

	cancel context.CancelFunc // ends the schedule
	stop   context.CancelFunc // ends the clients
	sends  sync.WaitGroup     // the schedule and every message without an answer
	lives  sync.WaitGroup     // clients

	mu   sync.Mutex
	msgs map[string]*loadMsg // by client_id
	bad  []string            // what must not be
}

// loadMsg is what became of one message.
type loadMsg struct {
	conv  wire.ConvID
	to    []*loadUser // everybody in the conversation, the sender too
	due   time.Time
	acked time.Time // zero: not yet
	tries int
	id    wire.MsgID
	seq   int64
	got   map[*loadUser]time.Time
}

// StartLoad begins to send rate messages a second among n users, a tenth of
// them to a group of all, the rest to neighbours.
func (s *System) StartLoad(t testing.TB, n int, rate float64) *Load {
	t.Helper()
	l := &Load{t: t, s: s, group: wire.GroupID(s.Name("load")), msgs: make(map[string]*loadMsg)}
	names := make([]string, n)
	for i := range names {
		names[i] = s.Name("user")
		l.users = append(l.users, &loadUser{
			l: l, i: i, user: wire.UserID(names[i]), token: s.Token(t, names[i], "d"),
			cursors: make(map[wire.ConvID]int64), seen: make(map[wire.ConvID]map[int64]bool), lagged: make(chan struct{}, 1), up: make(chan struct{}),
		})
	}
	maker := s.Join(t, names[0], "maker")
	maker.Group(string(l.group), names[1:]...)
	maker.C.Close()
	ctx, stop := context.WithCancel(t.Context())
	l.stop = stop
	for _, u := range l.users {
		l.lives.Go(func() { u.live(ctx) })
	}
	for _, u := range l.users {
		u.client(ctx) // all are there before the first message
	}
	sending, cancel := context.WithCancel(ctx)
	l.cancel = cancel
	t.Cleanup(func() { cancel(); stop(); l.lives.Wait(); l.sends.Wait() })
	l.sends.Go(func() { l.schedule(ctx, sending, rate) })
	return l
}

// schedule begins a message at each tick, whatever became of those before.
func (l *Load) schedule(ctx, sending context.Context, rate float64) {
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-sending.Done():
			return
		case <-tick.C:
		}
		u := l.users[n%len(l.users)]
		m := &loadMsg{due: time.Now(), got: make(map[*loadUser]time.Time, 2)}
		send := wire.Send{ClientID: fmt.Sprintf("load-%d", n), Type: wire.TypeText, Content: fmt.Sprint(n)}
		if n/len(l.users)%10 == 9 {
			send.Group, m.conv, m.to = l.group, wire.GroupConv(l.group), l.users
		} else {
			peer := l.users[(u.i+1)%len(l.users)]
			send.To, m.conv, m.to = peer.user, wire.PrivateConv(u.user, peer.user), []*loadUser{u, peer}
		}
		l.mu.Lock()
		l.msgs[send.ClientID] = m
		l.mu.Unlock()
		l.sends.Go(func() { u.insist(ctx, send, m) })
	}
}

// fault notes what must not be.
func (l *Load) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.bad) < 20 {
		l.bad = append(l.bad, fmt.Sprintf(format, args...))
	}
}

// got notes that a user has a message, by a push or a sync.
func (l *Load) got(u *loadUser, m *wire.Msg) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lm := l.msgs[m.ClientID]
	if lm == nil {
		return // the group's making
	}
	if lm.seq != 0 && lm.seq != m.Seq && len(l.bad) < 20 {
		l.bad = append(l.bad, fmt.Sprintf("%s of %s has seq %d and %d", m.ClientID, m.Conv, lm.seq, m.Seq))
	}
	lm.seq = m.Seq
	if lm.got[u].IsZero() {
		lm.got[u] = time.Now()
	}
}

// Stop ends the sending and waits until every message is acknowledged and with
// everybody; then it compares with history.
func (l *Load) Stop() {
	l.t.Helper()
	l.cancel()
	Eventually(l.t, 2*time.Minute, "everything is acknowledged and delivered", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		unacked, missing, example := 0, 0, ""
		for id, m := range l.msgs {
			if m.acked.IsZero() {
				unacked++
			}
			for _, u := range m.to {
				if m.got[u].IsZero() {
					missing++
					example = fmt.Sprintf("%s (seq %d, acknowledged as %v after %d tries) of %s to %s", id, m.seq, m.id, m.tries, m.conv, u.user)
				}
			}
		}
		if unacked+missing > 0 {
			return fmt.Errorf("%d of %d messages not acknowledged, %d deliveries missing, such as %s", unacked, len(l.msgs), missing, example)
		}
		return nil
	})
	l.sends.Wait()
	l.compare()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.bad {
		l.t.Error(b)
	}
}

// compare says whether history holds every message once, and no hole.
func (l *Load) compare() {
	l.t.Helper()
	stored := make(map[string]int)
	for i, u := range l.users {
		p := l.s.Join(l.t, string(u.user), "checker")
		convs := []wire.ConvID{wire.PrivateConv(u.user, l.users[(i+1)%len(l.users)].user)}
		if i == 0 {
			convs = append(convs, wire.GroupConv(l.group))
		}
		for _, conv := range convs {
			all := p.History(conv)
			if err := wholeFrom(1, all); err != nil {
				l.fault("%s: %v", conv, err)
			}
			for _, m := range all {
				if m.Type != wire.TypeSystem {
					stored[m.ClientID]++
				}
			}
		}
		p.C.Close()
	}
	for id := range l.msgs {
		if stored[id] != 1 {
			l.fault("%s stands %d times in history", id, stored[id])
		}
	}
}

// Worst returns the longest time from a moment (or the acknowledgement, if that
// was later) until somebody had a message which was acknowledged in a span,
// among those for who is counted in (nil: everybody). What is not there yet
// counts until now.
func (l *Load) Worst(from, to, since time.Time, who func(*loadUser) bool) (worst time.Duration, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.msgs {
		if m.acked.Before(from) || m.acked.After(to) {
			continue
		}
		n++
		for _, u := range m.to {
			at := m.got[u]
			if at.IsZero() {
				at = time.Now() // not there yet
			}
			if who == nil || who(u) {
				begin := m.acked
				if since.After(begin) {
					begin = since
				}
				worst = max(worst, at.Sub(begin))
			}
		}
	}
	return worst, n
}

// Acked counts the messages acknowledged in a span, and all begun in it.
func (l *Load) Acked(from, to time.Time) (acked, begun int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.msgs {
		if m.acked.After(from) && m.acked.Before(to) {
			acked++
		}
		if m.due.After(from) && m.due.Before(to) {
			begun++
		}
	}
	return acked, begun
}
