package push

import (
	"runtime"
	"sync"

	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
	"github.com/starling-im/starling/edge/internal/session"
)

// deliver queues an item to the sessions it is for.
func (s *Server) deliver(st *stream, at *rpcpb.Position, it *rpcpb.PushItem, p *pass) {
	shared := &session.Shared{
		Op: wire.Op(it.GetOp()), Body: it.GetBody(), Conv: wire.ConvID(it.GetConv()), Seq: it.GetSeq(),
	}
	push := func(ms []*roster.Member) (here bool) {
		p.done.sessions += len(ms)
		for _, m := range ms {
			if uint64(m.Conn) == it.GetExceptConn() {
				here = true
				p.done.own++
				continue
			}
			r := m.Session.Push(shared)
			p.done.results[r]++
			s.metrics.pushes[r].Inc()
			here = here || r != session.NotHere
			if r == session.Queued {
				p.dirty(m)
			}
		}
		return here
	}
	switch {
	case it.GetAll():
		p.found = s.roster.All(p.found[:0])
		push(p.found)
	case it.GetConn() != 0:
		if m := s.roster.ByConn(wire.ConnID(it.GetConn())); m != nil && (len(it.GetUsers()) == 0 || it.GetUsers()[0] == string(m.User)) {
			p.found = append(p.found[:0], m)
			push(p.found)
		}
	case len(it.GetUsers()) > 0:
		var away []string
		for _, u := range it.GetUsers() {
			p.found = s.roster.OfUser(wire.UserID(u), p.found[:0])
			if push(p.found) {
				p.done.here++
			} else {
				away = append(away, u)
			}
		}
		p.done.users += len(it.GetUsers())
		s.away(st, at, it, away, p)
	case it.GetGroup() != "":
		p.found = s.roster.InGroup(wire.GroupID(it.GetGroup()), it.GetSeq(), p.found[:0])
		push(p.found)
	}
}

// away notes users without a session for the next reply.
func (s *Server) away(st *stream, at *rpcpb.Position, it *rpcpb.PushItem, users []string, p *pass) {
	if len(users) == 0 {
		return
	}
	s.metrics.notHere.Add(float64(len(users)))
	p.done.away += len(users)
	n := &rpcpb.NotHere{At: at, Users: users, Conv: it.GetConv(), Seq: it.GetSeq()}
	st.mu.Lock()
	ended := st.ended
	if !ended {
		st.notHere = append(st.notHere, n)
		st.users += len(users)
	}
	st.mu.Unlock()
	if ended {
		s.mu.Lock()
		s.orphanLocked(st.job, []*rpcpb.NotHere{n})
		s.mu.Unlock()
	}
}

// maxSeen is how large a map of pass is kept.
const maxSeen = 4096

// pass is the scratch of one stream: sessions found for an item, those with
// something to write, and what was done since the account was last told.
type pass struct {
	done  done
	found []*roster.Member
	queue []*roster.Member
	seen  map[*roster.Member]struct{}
}

func (p *pass) dirty(m *roster.Member) {
	if p.seen == nil {
		p.seen = map[*roster.Member]struct{}{}
	}
	if _, ok := p.seen[m]; !ok {
		p.seen[m] = struct{}{}
		p.queue = append(p.queue, m)
	}
}

// flush writes to all sessions of the batch.
func (p *pass) flush() {
	n := len(p.queue)
	if procs := runtime.GOMAXPROCS(0); n < parallelFlush || procs == 1 {
		flushAll(p.queue)
	} else {
		var wg sync.WaitGroup
		part := (n + procs - 1) / procs
		for at := 0; at < n; at += part {
			wg.Go(func() { flushAll(p.queue[at:min(at+part, n)]) })
		}
		wg.Wait()
	}
	clear(p.queue)
	clear(p.found)
	p.queue, p.found = p.queue[:0], p.found[:0]
	if len(p.seen) > maxSeen {
		p.seen = nil // a map keeps the size of its fullest day
	} else {
		clear(p.seen)
	}
}

func flushAll(ms []*roster.Member) {
	for _, m := range ms {
		m.Session.Flush()
	}
}
