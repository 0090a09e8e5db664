package push

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
	"github.com/starling-im/starling/edge/internal/session"
)

const (
	replyEvery    = 100 * time.Millisecond
	stripes       = 32
	maxNotHere    = 4096 // waiting to be told; more: the stream ends and is made anew
	parallelFlush = 64   // sessions from which on several goroutines write
)

// Groups keeps the edge in the index of its groups, and knows who reads groups.
type Groups interface {
	// AddGroups names this edge for groups that got their first session here by
	// a push; when it returns that is written, or jobs are told to push all.
	AddGroups(ctx context.Context, groups []wire.GroupID)
	// Recount learns how often jobs have named this edge for a group.
	Recount(g wire.GroupID)
	// GroupsLeft is told of groups that lost their last session.
	GroupsLeft(left []roster.Left)
	// Unsettled: the index was emptied a moment ago, so what a job wrote into it
	// may be gone.
	Unsettled() bool
	// Regroup reads a session's groups again. False: it could not now.
	Regroup(ctx context.Context, m *roster.Member) bool
}

// Identity says what a hello says.
type Identity func() (server wire.ServerID, epoch uint64, unlisted bool)

// errHello ends streams whose hello is not true any more.
var errHello = errors.New("hello has changed")

// Server implements rpcpb.EdgeServer.
type Server struct {
	rpcpb.UnimplementedEdgeServer

	roster   *roster.Roster
	groups   Groups
	identity Identity
	log      *zap.Logger
	metrics  *metrics

	positions rpc.Positions
	seed      maphash.Seed
	order     [stripes]sync.Mutex // held while a partition's frame is passed on

	// gate keeps reply from telling a position whose frame is still being
	// passed on: who is not here must be told no later than the position.
	gate      sync.RWMutex
	receivers sync.WaitGroup

	lagMu   sync.Mutex
	lagWake chan struct{}
	lagging bool // somebody is to be told

	mu      sync.Mutex
	streams map[*stream]struct{}
}

// New returns the server of an edge. LagRun must run for lost to be told.
func New(r *roster.Roster, g Groups, id Identity, reg prometheus.Registerer, log *zap.Logger) *Server {
	return &Server{
		roster: r, groups: g, identity: id, log: log, metrics: newMetrics(reg),
		seed: maphash.MakeSeed(), lagWake: make(chan struct{}, 1), streams: map[*stream]struct{}{},
	}
}

// stream is one job's.
type stream struct {
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	notHere []*rpcpb.NotHere
	full    bool
}

// HelloChanged ends all streams, so that jobs come back and read the new hello.
func (s *Server) HelloChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		st.cancel(errHello)
	}
}

// Push implements rpcpb.EdgeServer.
func (s *Server) Push(gs rpcpb.Edge_PushServer) error {
	ctx, cancel := context.WithCancelCause(gs.Context())
	defer cancel(nil)
	st := &stream{cancel: cancel}
	s.mu.Lock()
	s.streams[st] = struct{}{}
	s.mu.Unlock()
	s.metrics.streams.Inc()
	defer func() {
		s.mu.Lock()
		delete(s.streams, st)
		s.mu.Unlock()
		s.metrics.streams.Dec()
	}()
	// Registered first, so that a change while the hello is made ends us, too.
	server, epoch, unlisted := s.identity()
	told, version := s.positions.Since(0)
	err := gs.Send(&rpcpb.PushReply{Hello: &rpcpb.EdgeHello{
		Server: string(server), Epoch: epoch, Unlisted: unlisted, Positions: told,
	}})
	if err != nil {
		return fmt.Errorf("send hello: %w", err)
	}
	// The receiver ends when the handler returns and gRPC ends the stream; it
	// must not be waited for before.
	s.receivers.Go(func() { s.receive(gs, st) })
	return s.reply(ctx, gs, st, version)
}

// Wait returns when no stream is received from any more, after the gRPC server
// has stopped.
func (s *Server) Wait() { s.receivers.Wait() }

// receive passes on what comes, until the stream ends.
func (s *Server) receive(gs rpcpb.Edge_PushServer, st *stream) {
	var p pass
	for {
		batch, err := gs.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			st.cancel(err)
			return
		}
		start := time.Now()
		for _, f := range batch.GetFrames() {
			s.frame(gs.Context(), st, f, &p)
		}
		p.flush()
		s.metrics.seconds.Observe(time.Since(start).Seconds())
	}
}

// reply tells positions while they move, and who is not here.
func (s *Server) reply(ctx context.Context, gs rpcpb.Edge_PushServer, st *stream, version uint64) error {
	t := time.NewTicker(replyEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
				return fmt.Errorf("push stream: %w", err)
			}
			return nil
		case <-t.C:
		}
		r := &rpcpb.PushReply{}
		s.gate.Lock()
		r.Positions, version = s.positions.Since(version)
		s.gate.Unlock()
		st.mu.Lock()
		r.NotHere, st.notHere = st.notHere, nil
		full := st.full
		st.mu.Unlock()
		if full {
			return errors.New("too many users are not here")
		}
		if len(r.Positions) == 0 && len(r.NotHere) == 0 {
			continue
		}
		if err := gs.Send(r); err != nil {
			return fmt.Errorf("send positions: %w", err)
		}
	}
}

// frame passes one record's effects on, in order.
func (s *Server) frame(ctx context.Context, st *stream, f *rpcpb.PushFrame, p *pass) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if at := f.GetAt(); at != nil {
		lock := &s.order[maphash.Comparable(s.seed, rpc.PartitionOf(at))%stripes]
		lock.Lock()
		defer lock.Unlock()
		if !s.positions.Admit(at, f.GetLost()) {
			s.metrics.repeats.Inc()
			return
		}
	}
	s.metrics.frames.Inc()
	if f.GetLost() {
		s.metrics.lost.Inc()
		s.roster.Lost()
		s.LagAll()
	}
	for _, it := range f.GetItems() {
		switch it.GetAction() {
		case rpcpb.PushItem_DELIVER:
			s.deliver(st, f.GetAt(), it, p)
		case rpcpb.PushItem_GROUP_ADD:
			s.join(ctx, wire.GroupID(it.GetGroup()), users(it), p)
		case rpcpb.PushItem_GROUP_REMOVE:
			s.left(s.roster.RemoveFromGroup(wire.GroupID(it.GetGroup()), users(it)))
		case rpcpb.PushItem_GROUP_DROP:
			s.left(s.roster.DropGroup(wire.GroupID(it.GetGroup())))
		}
	}
}

// join enters users into a group and, before the position is told, this edge
// into the group's index: the job's own write may have failed, or gone with an
// index that was emptied since. In that case members may have missed what came
// before this edge was named again.
func (s *Server) join(ctx context.Context, g wire.GroupID, us []wire.UserID, p *pass) {
	found, fresh := s.roster.AddToGroup(g, us, p.found[:0])
	p.found = found
	if len(found) == 0 {
		return
	}
	unsettled := s.groups.Unsettled()
	if fresh || unsettled {
		s.groups.AddGroups(ctx, []wire.GroupID{g})
	} else {
		s.groups.Recount(g)
	}
	if unsettled {
		for _, m := range found {
			m.Session.Lag()
		}
	}
}

func (s *Server) left(left []roster.Left) {
	if len(left) > 0 {
		s.groups.GroupsLeft(left)
	}
}

func users(it *rpcpb.PushItem) []wire.UserID {
	us := make([]wire.UserID, len(it.GetUsers()))
	for i, u := range it.GetUsers() {
		us[i] = wire.UserID(u)
	}
	return us
}

// deliver queues an item to the sessions it is for.
func (s *Server) deliver(st *stream, at *rpcpb.Position, it *rpcpb.PushItem, p *pass) {
	shared := &session.Shared{
		Op: wire.Op(it.GetOp()), Body: it.GetBody(), Conv: wire.ConvID(it.GetConv()), Seq: it.GetSeq(),
	}
	push := func(ms []*roster.Member) (here bool) {
		for _, m := range ms {
			if uint64(m.Conn) == it.GetExceptConn() {
				here = true
				continue
			}
			r := m.Session.Push(shared)
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
			if !push(p.found) {
				away = append(away, u)
			}
		}
		s.away(st, at, it, away)
	case it.GetGroup() != "":
		p.found = s.roster.InGroup(wire.GroupID(it.GetGroup()), it.GetSeq(), p.found[:0])
		push(p.found)
	}
}

// away notes users without a session for the next reply.
func (s *Server) away(st *stream, at *rpcpb.Position, it *rpcpb.PushItem, users []string) {
	if len(users) == 0 {
		return
	}
	s.metrics.notHere.Add(float64(len(users)))
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.notHere) >= maxNotHere {
		st.full = true
		return
	}
	st.notHere = append(st.notHere, &rpcpb.NotHere{At: at, Users: users, Conv: it.GetConv(), Seq: it.GetSeq()})
}

// pass is the scratch of one stream: sessions found for an item, and those
// with something to write.
type pass struct {
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
	if len(p.seen) > maxNotHere {
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
