package push

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
)

const (
	replyEvery    = 100 * time.Millisecond
	stripes       = 32
	maxNotHere    = 4096 // waiting to be told; more: the stream is received from once they are
	maxOrphans    = 4 * maxNotHere
	parallelFlush = 64 // sessions from which on several goroutines write
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
	account  account

	// A position is told once its frame is passed on, so that who is not here is
	// told no later.
	admitted, passed rpc.Positions
	once             rpc.Positions // of im_push, which nobody is told
	seed             maphash.Seed
	order            [stripes]sync.Mutex // held while a partition's frame is passed on

	receivers sync.WaitGroup

	lagMu   sync.Mutex
	lagWake chan struct{}    // holds a value when somebody is to be told
	lagAll  bool             // all sessions
	lagSome []*roster.Member // these, once their groups are read

	mu       sync.Mutex
	streams  map[*stream]struct{}
	orphans  []orphan // left by streams that ended
	orphaned int      // users of orphans
}

// New returns the server of an edge. LagRun must run for lost to be told.
func New(r *roster.Roster, g Groups, id Identity, reg prometheus.Registerer, log *zap.Logger) *Server {
	return &Server{
		roster: r, groups: g, identity: id, log: log, metrics: newMetrics(reg),
		seed: maphash.MakeSeed(), lagWake: make(chan struct{}, 1), streams: map[*stream]struct{}{},
	}
}

// orphan waits for the next stream of its job: others do not know of it.
type orphan struct {
	*rpcpb.NotHere
	job wire.ServerID
}

// stream is one job's.
type stream struct {
	job    wire.ServerID
	cancel context.CancelCauseFunc
	tell   chan struct{} // holds a value when not-here should be told at once
	told   chan struct{} // holds a value after it was

	mu      sync.Mutex
	notHere []*rpcpb.NotHere
	users   int  // of notHere
	ended   bool // nobody tells what is noted from here on
}

// crowded says whether more is waiting to be told than may.
func (st *stream) crowded() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.users >= maxNotHere
}

func (st *stream) takeLocked() []*rpcpb.NotHere {
	ns := st.notHere
	st.notHere, st.users = nil, 0
	return ns
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
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
	st := &stream{job: rpc.ServerOf(gs.Context()), cancel: cancel, tell: make(chan struct{}, 1), told: make(chan struct{}, 1)}
	s.mu.Lock()
	s.streams[st] = struct{}{}
	s.mu.Unlock()
	s.metrics.streams.Inc()
	defer s.end(st)
	// Registered first, so that a change while the hello is made ends us, too.
	server, epoch, unlisted := s.identity()
	told, version := s.passed.Since(0)
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

// end forgets a stream. What it has not told is left to its job's next one,
// whose hello names positions past it.
func (s *Server) end(st *stream) {
	st.mu.Lock()
	st.ended = true
	left := st.takeLocked()
	st.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
	s.orphanLocked(st.job, left)
	s.metrics.streams.Dec()
}

// orphanLocked keeps not-here that its stream cannot tell; where that is too
// much, the newer half of it.
func (s *Server) orphanLocked(job wire.ServerID, left []*rpcpb.NotHere) {
	for _, n := range left {
		s.orphans = append(s.orphans, orphan{n, job})
		s.orphaned += len(n.GetUsers())
	}
	if s.orphaned <= maxOrphans {
		return
	}
	old := 0
	for ; s.orphaned > maxOrphans/2; old++ {
		users := len(s.orphans[old].GetUsers())
		s.orphaned -= users
		s.metrics.untold.Add(float64(users))
	}
	s.orphans = slices.Clone(s.orphans[old:])
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
		if planted.Now(planted.EdgeStalls) {
			planted.Sleep(3 * time.Second)
		}
		start := time.Now()
		frames := batch.GetFrames()
		s.account.took(len(frames))
		for i, f := range frames {
			s.frame(gs.Context(), st, f, &p)
			if st.crowded() && !s.wait(gs.Context(), st, &p) {
				p.done.cut = len(frames) - i - 1
				s.account.did(len(frames), &p.done)
				return
			}
		}
		p.flush()
		s.account.did(len(frames), &p.done)
		s.metrics.seconds.Observe(time.Since(start).Seconds())
	}
}

// wait lets a job that is told of too many absent users wait. False: the stream
// has ended.
func (s *Server) wait(ctx context.Context, st *stream, p *pass) bool {
	p.flush()
	for st.crowded() {
		signal(st.tell)
		select {
		case <-ctx.Done():
			return false
		case <-st.told:
		}
	}
	return true
}

// reply tells positions while they move, and who is not here.
func (s *Server) reply(ctx context.Context, gs rpcpb.Edge_PushServer, st *stream, version uint64) error {
	t := time.NewTicker(replyEvery)
	defer t.Stop()
	for {
		r := &rpcpb.PushReply{}
		r.Positions, version = s.passed.Since(version)
		r.NotHere = s.takeNotHere(st)
		if len(r.GetPositions()) > 0 || len(r.GetNotHere()) > 0 {
			if err := gs.Send(r); err != nil {
				s.mu.Lock()
				s.orphanLocked(st.job, r.GetNotHere())
				s.mu.Unlock()
				return fmt.Errorf("send positions: %w", err)
			}
		}
		signal(st.told)
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
				return fmt.Errorf("push stream: %w", err)
			}
			return nil
		case <-t.C:
		case <-st.tell:
		}
	}
}

// takeNotHere takes what is to be told on a stream.
func (s *Server) takeNotHere(st *stream) []*rpcpb.NotHere {
	s.mu.Lock()
	var left []*rpcpb.NotHere
	s.orphans = slices.DeleteFunc(s.orphans, func(o orphan) bool {
		if o.job == st.job {
			left = append(left, o.NotHere)
			s.orphaned -= len(o.GetUsers())
		}
		return o.job == st.job
	})
	s.mu.Unlock()
	st.mu.Lock()
	defer st.mu.Unlock()
	return append(left, st.takeLocked()...)
}

// frame passes one record's effects on, in order.
func (s *Server) frame(ctx context.Context, st *stream, f *rpcpb.PushFrame, p *pass) {
	if !s.once.Admit(f.GetOnce(), false) {
		s.metrics.repeats.Inc()
		p.done.repeats++
		return
	}
	if at := f.GetAt(); at != nil {
		lock := &s.order[maphash.Comparable(s.seed, rpc.PartitionOf(at))%stripes]
		lock.Lock()
		defer lock.Unlock()
		if !s.admitted.Admit(at, f.GetLost()) {
			s.metrics.repeats.Inc()
			p.done.repeats++
			return
		}
		defer s.passed.Admit(at, f.GetLost()) // before the lock is given up
	}
	s.metrics.frames.Inc()
	p.done.applied++
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
			if planted.Now(planted.EdgeIgnoresJoin) {
				continue
			}
			s.join(ctx, wire.GroupID(it.GetGroup()), users(it), p)
		case rpcpb.PushItem_GROUP_REMOVE:
			if planted.Now(planted.EdgeIgnoresLeave) {
				continue
			}
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
		// The stream may end meanwhile; that is no failure of the registry, for
		// which the edge would be unlisted.
		s.groups.AddGroups(context.WithoutCancel(ctx), []wire.GroupID{g})
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
