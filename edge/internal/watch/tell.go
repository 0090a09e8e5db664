package watch

import (
	"slices"

	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
	"github.com/starling-im/starling/edge/internal/session"
)

// news is a presence and whom it must be told to.
type news struct {
	of   *subject
	p    wire.Presence
	to   []*roster.Member
	full []*roster.Member // of to: whose queues did not take it
}

// tell pushes what differs from what was told before, and what could not be
// told then.
func (w *Watcher) tell(found map[wire.UserID]wire.Presence) {
	list := w.news(found)
	for i := range list {
		n := &list[i]
		body, _ := wire.Marshal(n.p) // strings and numbers: cannot fail
		f := &session.Shared{Op: wire.OpPresence, Body: body}
		for _, m := range n.to {
			switch m.Session.Push(f) {
			case session.Dropped:
				n.full = append(n.full, m)
			case session.Queued:
				w.met.told.Inc()
				m.Session.Flush()
			case session.NotHere, session.Lagged:
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range list {
		n := &list[i]
		for _, m := range n.full {
			if _, ok := n.of.watchers[m]; ok {
				n.of.behind = append(n.of.behind, m)
			}
		}
	}
}

func (w *Watcher) news(found map[wire.UserID]wire.Presence) (list []news) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for u, p := range found {
		s := w.subjects[u]
		if s == nil {
			continue
		}
		first, same := s.last.User == "", s.last.Online == p.Online && slices.Equal(s.last.Platforms, p.Platforms)
		n := news{of: s, p: p, to: s.behind}
		if !first && !same {
			n.to = make([]*roster.Member, 0, len(s.watchers))
			for m := range s.watchers {
				n.to = append(n.to, m)
			}
		}
		// Of a first one everybody who watches has the answer to the own question.
		if first || !same {
			s.last = p
		}
		s.behind = nil
		if len(n.to) > 0 {
			list = append(list, n)
		}
	}
	return list
}
