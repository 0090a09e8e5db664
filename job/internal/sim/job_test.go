package sim

import (
	"bytes"
	"context"
	"errors"
	"maps"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/deliver"
	"github.com/starling-im/starling/job/internal/machine"
)

// job is one process of the tier, a step at a time.
type job struct {
	w      *world
	name   string
	alive  bool
	ctx    context.Context
	cancel context.CancelFunc
	ops    int // calls until it crashes in one; 0: it does not

	st      *jobStore
	m       *machine.Machine
	d       *deliver.Deliverer
	next    map[record.PartitionID]int64 // where it reads; it may not own them any more
	waiting []record.Entry               // of a turn that failed
	pending []machine.Effects            // committed, not yet acted
	streams map[*edge]*stream
}

// stream is one push stream, with what is on its way.
type stream struct {
	toEdge []*rpcpb.PushBatch
	toJob  []*rpcpb.PushReply
	seen   uint64 // version of the positions told
	up     bool   // the job has the hello
}

// junk is a record that nobody can decode.
var junk = []byte("junk")

func (j *job) start() {
	j.alive, j.ops = true, 0
	j.ctx, j.cancel = context.WithCancel(context.Background())
	j.next = make(map[record.PartitionID]int64)
	j.waiting, j.pending = nil, nil
	j.streams = make(map[*edge]*stream)
	j.st = &jobStore{Machine: j.w.st, j: j}
	cfg := machine.Config{MaxCachedConversations: 64, MaxCachedOutcomes: 1024, Partitions: j.w.counts}
	if j.w.bug == bugRepeatsUnchecked {
		cfg.MaxCachedOutcomes = 1
	}
	j.m = machine.New(j.st, cfg, zap.NewNop(), nil)
	d, err := deliver.New(deliver.Config{OutboxFrames: j.w.outbox, OutboxBytes: 1 << 20}, deliver.Deps{
		Log: zap.NewNop(), Metrics: prometheus.NewRegistry(), Registry: &jobRegistry{Registry: j.w.reg, j: j},
	})
	if err != nil {
		j.w.fail("deliverer: %w", err)
		return
	}
	j.d = d
	j.d.Refresh(j.ctx)
}

// stop ends the process without a word to anybody.
func (j *job) stop() {
	if !j.alive {
		return
	}
	j.alive = false
	j.cancel()
	for _, e := range j.w.edges {
		e.cut(j)
	}
	for p, o := range j.w.owner {
		if o == j {
			delete(j.w.owner, p)
		}
	}
}

func (j *job) crashed() bool {
	if j.ctx.Err() == nil {
		return false
	}
	j.w.tell("%s crashes", j.name)
	j.stop()
	return true
}

// step is one thing that a job does.
func (j *job) step() {
	w := j.w
	switch r := w.rng.IntN(10); {
	case r < 4:
		j.turn(1 + w.rng.IntN(6))
	case r < 7:
		j.act(1 + w.rng.IntN(4))
	case r < 8:
		j.commit()
	default:
		j.send(pick(w, w.edges))
	}
}

// turn hands what has arrived to the machine.
func (j *job) turn(most int) {
	w := j.w
	if len(j.waiting) == 0 {
		for _, p := range w.parts {
			next, ok := j.next[p]
			if !ok {
				continue
			}
			end := min(int64(len(w.log[p])), next+int64(most))
			j.waiting = append(j.waiting, w.log[p][next:end]...)
			j.next[p] = end
		}
	}
	if len(j.waiting) == 0 {
		return
	}
	res, err := j.m.Turn(j.ctx, j.waiting)
	if w.bug == bugPoisonBlocks && j.holdsJunk() {
		return // tries for ever
	}
	if j.crashed() {
		return
	}
	for _, p := range res.Fenced {
		w.tell("%s is fenced out of %v", j.name, p)
		j.act(len(j.pending)) // what was committed of it, then it ends here
		if !j.alive {
			return
		}
		delete(j.next, p)
		j.d.Release(p)
	}
	if _, ok := errors.AsType[*machine.LogError](err); ok {
		w.fail("%s stopped: %w", j.name, err)
		return
	}
	if err != nil {
		w.tell("%s: turn failed: %v", j.name, err)
		return
	}
	j.waiting = nil
	j.pending = append(j.pending, res.Effects...)
}

func (j *job) holdsJunk() bool {
	for _, e := range j.waiting {
		if bytes.Equal(e.Value, junk) {
			return true
		}
	}
	return false
}

// act does some of the effects that are due.
func (j *job) act(most int) {
	n := min(most, len(j.pending))
	if n == 0 {
		return
	}
	j.w.tell("%s acts %v@%d…%v@%d", j.name, j.pending[0].At, j.pending[0].Offset, j.pending[n-1].At, j.pending[n-1].Offset)
	err := j.d.Act(j.ctx, j.pending[:n])
	if j.crashed() {
		return
	}
	if err != nil {
		j.w.fail("%s: act: %w", j.name, err)
		return
	}
	for _, e := range j.pending[:n] {
		j.w.acted[e.At] = max(j.w.acted[e.At], e.Offset)
	}
	j.pending = j.pending[n:]
	j.st.late()
}

// commit stores offsets with the group, which takes them from owners alone.
func (j *job) commit() {
	next := j.d.Committable()
	if j.w.bug == bugCommittedEarly {
		next = maps.Clone(j.next)
	}
	for p, n := range next {
		if j.w.owner[p] != j {
			continue
		}
		if n > j.w.acted[p]+1 {
			j.w.fail("%s commits %v at %d, but nobody has acted beyond %d", j.name, p, n, j.w.acted[p])
		}
		j.w.committed[p] = max(j.w.committed[p], n)
	}
}

// claim takes a partition over.
func (j *job) claim(p record.PartitionID) bool {
	w := j.w
	w.owner[p] = j
	start, err := j.m.Claim(j.ctx, p, "topic", 0, int64(len(w.log[p])), w.committed[p])
	if j.crashed() {
		return false
	}
	if err != nil {
		if _, ok := errors.AsType[*machine.LogError](err); ok {
			w.fail("%s stopped: %w", j.name, err)
		}
		w.tell("%s: claim failed: %v", j.name, err)
		delete(w.owner, p)
		return false
	}
	w.tell("%s claims %v at %d (committed %d, end %d)", j.name, p, start, w.committed[p], len(w.log[p]))
	if w.bug == bugStartsBeyond && start < int64(len(w.log[p])) {
		start++
	}
	j.next[p] = start
	for _, server := range j.d.Claim(p, start) {
		for _, e := range w.edges {
			if e.server == server {
				e.cut(j)
			}
		}
	}
	return true
}

// revoke lets go of a partition after what was committed of it is acted.
func (j *job) revoke(p record.PartitionID) {
	if _, ok := j.next[p]; !ok {
		return
	}
	j.act(len(j.pending))
	if !j.alive {
		return
	}
	delete(j.next, p)
	kept := j.waiting[:0:0]
	for _, e := range j.waiting {
		if e.PartitionID != p {
			kept = append(kept, e)
		}
	}
	j.waiting = kept
	j.m.Release(p)
	j.d.Release(p)
}

// open begins a stream; the edge's hello is the first thing on it.
func (j *job) open(e *edge) {
	if j.d.Outbox(e.server) == nil {
		if !e.leased || !j.w.chance(50) {
			return
		}
		j.d.AddEdge(e.lease())
	}
	st := &stream{}
	h := &rpcpb.EdgeHello{Server: string(e.server), Epoch: e.epoch, Unlisted: e.unlisted}
	h.Positions, st.seen = e.pos.Since(0)
	if j.w.bug == bugResendWrong {
		for _, at := range h.GetPositions() {
			at.Offset++
		}
	}
	st.toJob = append(st.toJob, &rpcpb.PushReply{Hello: h})
	e.streams[j], j.streams[e] = st, st
}

// cut ends a stream with all that is on its way.
func (e *edge) cut(j *job) {
	if j.streams[e] == nil {
		return
	}
	delete(j.streams, e)
	delete(e.streams, j)
	if box := j.d.Outbox(e.server); box != nil && j.alive {
		box.Down()
	}
}

// send puts the next batch of one stream on its way.
func (j *job) send(e *edge) {
	st := j.streams[e]
	box := j.d.Outbox(e.server)
	if st == nil || !st.up || box == nil {
		return
	}
	if j.w.chance(10) || j.w.calm {
		box.Beat()
	}
	b := box.Next(1 + j.w.rng.IntN(4))
	if b == nil {
		return
	}
	if fs := b.GetFrames(); j.w.bug == bugOrderSwapped && len(fs) > 1 {
		fs[0], fs[1] = fs[1], fs[0]
	}
	st.toEdge = append(st.toEdge, b)
}

// receive takes one reply of a stream.
func (j *job) receive(st *stream) {
	if len(st.toJob) == 0 {
		return
	}
	r := st.toJob[0]
	st.toJob = st.toJob[1:]
	for e, s := range j.streams {
		if s != st {
			continue
		}
		if !st.up {
			st.up = true
			j.d.Hello(e.server, r.GetHello())
		} else {
			j.d.Reply(j.ctx, e.server, r)
		}
	}
	j.crashed()
}

// reply tells the job of one stream how far this edge has come.
func (e *edge) reply(st *stream) {
	ps, seen := e.pos.Since(st.seen)
	if len(ps) == 0 {
		return
	}
	st.seen = seen
	st.toJob = append(st.toJob, &rpcpb.PushReply{Positions: ps})
}

// decodePush reads what a client would of a frame that has a place in a timeline.
func decodePush(it *rpcpb.PushItem) (push, bool) {
	p := push{conv: wire.ConvID(it.GetConv()), seq: it.GetSeq()}
	switch wire.Op(it.GetOp()) {
	case wire.OpMsg:
		var m wire.Msg
		if err := wire.Unmarshal(it.GetBody(), &m); err != nil || m.Seq != p.seq || m.Conv != p.conv {
			return p, false
		}
		p.what = string(m.Type) + " " + m.ID.String()
	case wire.OpUpdate:
		var u wire.Update
		if err := wire.Unmarshal(it.GetBody(), &u); err != nil || u.Seq != p.seq {
			return p, false
		}
		p.what = "update " + u.ID.String() + " " + u.Status
	default:
		return p, false
	}
	return p, true
}

// jobRegistry is the index as one job sees it: a call may fail, or be the one
// that the job dies in.
type jobRegistry struct {
	deliver.Registry
	j       *job
	earlier *registry.Routes
}

// doomed counts a call and says whether the job dies before it.
func (j *job) doomed() bool {
	if j.ops == 0 {
		return false
	}
	j.ops--
	if j.ops == 0 {
		j.cancel()
	}
	return j.ops == 0
}

func (r *jobRegistry) trouble() error {
	if r.j.doomed() || !r.j.w.calm && r.j.w.chance(1) {
		return errFault
	}
	return nil
}

func (r *jobRegistry) Live(ctx context.Context, tier string) ([]registry.Lease, error) {
	if err := r.trouble(); err != nil {
		return nil, err
	}
	return r.Registry.Live(ctx, tier)
}

func (r *jobRegistry) Lookup(ctx context.Context, us []wire.UserID, gs []wire.GroupID) (registry.Routes, error) {
	if err := r.trouble(); err != nil {
		return registry.Routes{}, err
	}
	w := r.j.w
	if w.bug == bugLookupEarly {
		all, err := r.Registry.Lookup(ctx, w.users, w.groups)
		if err != nil {
			return all, err
		}
		old := r.earlier
		if old == nil || w.chance(50) {
			r.earlier, old = &all, &all
		}
		return *old, nil
	}
	out, err := r.Registry.Lookup(ctx, us, gs)
	if w.bug == bugHolesTrusted {
		out.Known, err = true, nil
	}
	return out, err
}

func (r *jobRegistry) AddGroupEdge(ctx context.Context, server wire.ServerID, gs []wire.GroupID) ([]int64, error) {
	if err := r.trouble(); err != nil {
		return nil, err
	}
	if r.j.w.bug == bugJoinNotIndexed {
		return make([]int64, len(gs)), nil
	}
	return r.Registry.AddGroupEdge(ctx, server, gs)
}

func (r *jobRegistry) FileOffline(ctx context.Context, es []registry.OfflineEntry) error {
	if err := r.trouble(); err != nil {
		return err
	}
	return r.Registry.FileOffline(ctx, es)
}
