// Package watch tells sessions the presence of users whom they watch: at once
// when they ask, and from then on when it changes.
//
// All users that anybody here watches are looked up in the index together, once
// a second (more than maxLooks of them take turns, so a change shows later). The
// index may be wrong by a lease; while it has holes, nobody who was online is
// said to be away; while it is away, nothing is told.
//
// A Watcher is safe for concurrent use. Its mutex comes after a session's:
// nothing of a session is called under it.
package watch

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
)

const (
	every    = time.Second
	chunk    = 500    // users of one pipeline
	maxLooks = 10_000 // users looked up in one second
	maxAsks  = 4096   // presence_subs that wait for their answer
	// maxOwnAsks is how many of them may be one connection's: what it takes to
	// watch as many users as it may.
	maxOwnAsks = MaxWatched / wire.MaxPresenceUsers

	retryOverloaded  = 1000 // ms
	retryUnavailable = 1000
)

// MaxWatched is how many users one session may watch.
const MaxWatched = 1000

// Index is what is asked of the registry.
type Index interface {
	Lookup(ctx context.Context, users []wire.UserID, groups []wire.GroupID) (registry.Routes, error)
	LastSeen(ctx context.Context, users []wire.UserID) (map[wire.UserID]int64, error)
}

// Watcher knows who watches whom. Make it with New, start it with Run.
type Watcher struct {
	index Index
	log   *zap.Logger
	met   *metrics
	asks  chan ask

	mu       sync.Mutex
	subjects map[wire.UserID]*subject
	sessions map[*roster.Member]*watching
	next     wire.UserID // of those that take turns
}

// watching is what one session watches, and how often it waits for an answer.
type watching struct {
	users map[wire.UserID]struct{}
	asks  int
}

// subject is a user that somebody watches.
type subject struct {
	watchers map[*roster.Member]struct{}
	last     wire.Presence    // as told; User "" while nothing was
	behind   []*roster.Member // to whom it could not be told: their queues were full
}

// ask is a presence_sub that waits for its answer.
type ask struct {
	m     *roster.Member
	users []wire.UserID
	fresh []wire.UserID // of users: those not watched before
	seq   int32
}

// New returns a Watcher that does not run yet.
func New(index Index, reg prometheus.Registerer, log *zap.Logger) *Watcher {
	w := &Watcher{
		index: index, log: log, asks: make(chan ask, maxAsks),
		subjects: map[wire.UserID]*subject{}, sessions: map[*roster.Member]*watching{},
	}
	w.met = newMetrics(reg, w)
	return w
}

// Subscribe has m watch the users; their presence is the answer to seq. An
// error means that nothing has changed.
func (w *Watcher) Subscribe(m *roster.Member, users []wire.UserID, seq int32) *wire.Error {
	w.mu.Lock()
	defer w.mu.Unlock()
	own := w.sessions[m]
	if own == nil {
		own = &watching{users: make(map[wire.UserID]struct{}, len(users))}
	}
	var once, fresh []wire.UserID
	named := make(map[wire.UserID]struct{}, len(users))
	for _, u := range users {
		if _, again := named[u]; again {
			continue
		}
		named[u] = struct{}{}
		once = append(once, u)
		if _, ok := own.users[u]; !ok {
			fresh = append(fresh, u)
		}
	}
	switch {
	case len(own.users)+len(fresh) > MaxWatched:
		return wire.Errorf(wire.CodeTooLarge, "a connection may watch 1000 users")
	case own.asks >= maxOwnAsks:
		w.met.dropped.WithLabelValues("own").Inc()
		return overloaded("too many presence_subs of this connection wait for their answer")
	}
	select {
	case w.asks <- ask{m: m, users: once, fresh: fresh, seq: seq}:
		w.met.depth.Inc()
	default:
		w.met.dropped.WithLabelValues("all").Inc()
		return overloaded("too many ask for presence at once")
	}
	own.asks++
	w.sessions[m] = own
	for _, u := range fresh {
		own.users[u] = struct{}{}
		s := w.subjects[u]
		if s == nil {
			s = &subject{watchers: map[*roster.Member]struct{}{}}
			w.subjects[u] = s
		}
		s.watchers[m] = struct{}{}
	}
	return nil
}

func overloaded(text string) *wire.Error {
	e := wire.Errorf(wire.CodeOverloaded, text)
	e.RetryAfterMS = retryOverloaded
	return e
}

// Unsubscribe ends it for the users, whom m need not watch.
func (w *Watcher) Unsubscribe(m *roster.Member, users []wire.UserID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unsubscribeLocked(m, users)
}

func (w *Watcher) unsubscribeLocked(m *roster.Member, users []wire.UserID) {
	own := w.sessions[m]
	if own == nil {
		return
	}
	for _, u := range users {
		if _, ok := own.users[u]; ok {
			delete(own.users, u)
			w.dropLocked(m, u)
		}
	}
	if len(own.users) == 0 && own.asks == 0 {
		delete(w.sessions, m)
	}
}

// answered notes that an ask has its answer; one that failed leaves what was
// watched before.
func (w *Watcher) answered(a *ask, failed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if own := w.sessions[a.m]; own != nil {
		own.asks--
	}
	if failed {
		w.unsubscribeLocked(a.m, a.fresh)
	} else {
		w.unsubscribeLocked(a.m, nil)
	}
}

// Forget ends all that m watches, when it ends.
func (w *Watcher) Forget(m *roster.Member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if own := w.sessions[m]; own != nil {
		for u := range own.users {
			w.dropLocked(m, u)
		}
		delete(w.sessions, m)
	}
}

func (w *Watcher) dropLocked(m *roster.Member, u wire.UserID) {
	s := w.subjects[u]
	delete(s.watchers, m)
	s.behind = slices.DeleteFunc(s.behind, func(o *roster.Member) bool { return o == m })
	if len(s.watchers) == 0 {
		delete(w.subjects, u)
	}
}

// Run answers and tells until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-w.asks:
			w.answer(ctx, a)
		case <-t.C:
			w.look(ctx)
		}
	}
}

// answer serves all that ask now by one look.
func (w *Watcher) answer(ctx context.Context, first ask) {
	asks, users := []ask{first}, slices.Clone(first.users)
	for len(users) < chunk {
		select {
		case a := <-w.asks:
			asks = append(asks, a)
			users = append(users, a.users...)
			continue
		default:
		}
		break
	}
	w.met.depth.Sub(float64(len(asks)))
	slices.Sort(users)
	found, err := w.ask(ctx, slices.Compact(users))
	for i := range asks {
		a := &asks[i]
		w.answered(a, err != nil)
		if err != nil {
			e := wire.Errorf(wire.CodeUnavailable, "who is where is not known now")
			e.RetryAfterMS = retryUnavailable
			a.m.Session.Error(a.seq, e)
			continue
		}
		frames := make([]wire.Frame, 0, len(a.users))
		for _, u := range a.users {
			body, _ := wire.Marshal(found[u]) // strings and numbers: cannot fail
			frames = append(frames, wire.Frame{Op: wire.OpPresence, Seq: a.seq, Body: body})
		}
		a.m.Session.Answer(frames...)
	}
	if err == nil {
		w.tell(found) // others who watch them learn it now, too
	}
}

// look asks for all who are watched and tells what has changed.
func (w *Watcher) look(ctx context.Context) {
	for users := range slices.Chunk(w.due(), chunk) {
		found, err := w.ask(ctx, users)
		if err != nil {
			return // the next second's look makes up for it
		}
		w.tell(found)
	}
}

// due returns who is looked up in this second.
func (w *Watcher) due() []wire.UserID {
	w.mu.Lock()
	defer w.mu.Unlock()
	users := make([]wire.UserID, 0, len(w.subjects))
	for u := range w.subjects {
		users = append(users, u)
	}
	if len(users) <= maxLooks {
		return users
	}
	slices.Sort(users)
	at, _ := slices.BinarySearch(users, w.next)
	users = slices.Concat(users[at:], users[:at])
	w.next = users[maxLooks]
	return users[:maxLooks]
}

// ask reads the presence of users. Where the index has holes, who seems away may
// not be: who was online when last told of stays so.
func (w *Watcher) ask(ctx context.Context, users []wire.UserID) (found map[wire.UserID]wire.Presence, err error) {
	w.met.looks.Inc()
	routes, err := w.index.Lookup(ctx, users, nil)
	var seen map[wire.UserID]int64
	if err == nil {
		seen, err = w.index.LastSeen(ctx, users)
	}
	if err != nil {
		w.met.failed.Inc()
		w.log.Debug("presence not read", zap.Error(err))
		return nil, fmt.Errorf("read presence: %w", err)
	}
	found = make(map[wire.UserID]wire.Presence, len(users))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range users {
		p := routes.Presence(u, seen[u])
		if s := w.subjects[u]; s != nil && !routes.Known && !p.Online && s.last.Online {
			p = s.last
		}
		found[u] = p
	}
	return found, nil
}
