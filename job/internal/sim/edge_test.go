package sim

import (
	"context"
	"time"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
)

// Phases of a log-in, each of them a step.
const (
	phaseNew    = iota // registered here: changes of groups are remembered
	phaseRouted        // the route is written
	phaseGroups        // the groups are read
	phaseEdges         // the edge is in the index of each group
	phaseLive          // auth_ok: pushes go to the client
)

const leaseTTL = 100 * time.Hour // leases end by faults alone

// edge holds sessions. It does what package edge does, without sockets.
type edge struct {
	w        *world
	server   wire.ServerID
	epoch    uint64
	alive    bool
	leased   bool   // the lease stands in the index
	unlisted bool   // an index write failed: everything is pushed here until it succeeded
	unknown  bool   // the index was emptied: announce
	under    string // the index to announce under
	shaky    bool   // it was a while ago: joins may still be on their way from before
	pos      *rpc.Positions
	passed   map[record.PartitionID]int64
	sessions map[uint64]*session
	streams  map[*job]*stream
}

// session is one connection, both its ends.
type session struct {
	conn     uint64
	dev      *device
	edge     *edge
	phase    int
	groups   map[wire.GroupID]int64 // -> first seq to pass on
	deltas   []*rpcpb.PushItem
	down     []push  // on the way to the client
	up       []*send // on the way to logic
	sent     int
	closed   bool
	solid    bool // synced and told of nothing since: pushes must have no gap
	needSync bool
	disorder bool // a send failed or was repeated: no order is promised any more
}

// push is one frame for a client.
type push struct {
	conv   wire.ConvID
	seq    int64
	what   string
	lagged bool
}

func (e *edge) lease() registry.Lease {
	return registry.Lease{Tier: registry.TierEdge, Server: e.server, Epoch: e.epoch, RPCAddr: string(e.server)}
}

// start is a new process.
func (e *edge) start() {
	e.epoch++
	e.alive, e.unlisted, e.unknown = true, false, false
	e.pos = new(rpc.Positions)
	e.passed = make(map[record.PartitionID]int64)
	e.sessions = make(map[uint64]*session)
	e.streams = make(map[*job]*stream)
	e.renew()
}

func (e *edge) renew() {
	st, err := e.w.reg.Renew(context.Background(), e.lease(), leaseTTL)
	e.leased = err == nil
	if err != nil {
		e.list(false)
	} else if st.Announce {
		e.unknown, e.under = true, st.Index
	}
}

// crash ends the process: sessions and streams are gone, the lease stays until
// it lapses.
func (e *edge) crash() {
	e.w.tell("%s crashes", e.server)
	e.alive = false
	for _, c := range sortedKeys(e.sessions) {
		e.sessions[c].closed = true
	}
	e.sessions = nil
	for _, j := range e.w.jobs {
		e.cut(j)
	}
}

// step is one thing that an edge does.
func (e *edge) step() {
	w := e.w
	if !e.alive {
		return
	}
	if (e.unlisted || e.unknown || !e.leased) && w.chance(40) {
		e.announce()
		return
	}
	j := pick(w, w.jobs)
	st := e.streams[j]
	switch {
	case st == nil:
		if j.alive {
			j.open(e)
		}
	case w.chance(60):
		e.receive(st)
	case w.chance(60):
		e.reply(st)
	default:
		j.receive(st)
	}
}

// list changes whether the jobs must push everything here, and tells them.
func (e *edge) list(listed bool) {
	if e.unlisted == !listed {
		return
	}
	e.unlisted = !listed
	e.w.tell("%s is listed: %t", e.server, listed)
	for _, c := range sortedKeys(e.sessions) {
		e.sessions[c].solid = false // until told lagged, when listed again
	}
	for _, j := range e.w.jobs {
		if st := e.streams[j]; st != nil {
			st.toJob = append(st.toJob, &rpcpb.PushReply{Hello: &rpcpb.EdgeHello{Server: string(e.server), Epoch: e.epoch, Unlisted: e.unlisted}})
		}
	}
}

// index does a write to the index; a failure makes the edge unlisted.
func (e *edge) index(f func() error) bool {
	err := errFault
	if e.w.calm || !e.w.chance(2) {
		err = f()
	}
	if err != nil {
		e.list(false)
	}
	return err == nil
}

// announce writes all that stands here into the index again.
func (e *edge) announce() {
	ctx := context.Background()
	if !e.leased {
		e.epoch++
		e.renew()
		if !e.leased {
			return
		}
		e.list(false) // its routes were void
	}
	ok := e.index(func() error {
		for _, c := range sortedKeys(e.sessions) {
			if s := e.sessions[c]; s != nil { // route may drop another one
				if err := e.route(s); err != nil {
					return err
				}
			}
		}
		for _, c := range sortedKeys(e.sessions) {
			if gs := sortedKeys(e.sessions[c].groups); len(gs) > 0 {
				if _, err := e.w.reg.AddGroupEdge(ctx, e.server, gs); err != nil {
					return err
				}
			}
		}
		return e.w.reg.Announced(ctx, e.server, e.epoch, e.under)
	})
	if !ok {
		return
	}
	e.shaky = e.shaky || e.unknown
	e.unknown = false
	e.w.tell("%s has announced (unlisted %t)", e.server, e.unlisted)
	if e.unlisted {
		e.list(true)
		e.lagged()
	}
}

// route writes a session's route; an older session of the device gives way.
func (e *edge) route(s *session) error {
	stood, err := e.w.reg.PutRoutes(context.Background(), map[wire.UserID][]registry.Route{s.dev.user: {{
		Conn: wire.ConnID(s.conn), Server: e.server, Epoch: e.epoch, Device: s.dev.name,
	}}})
	if err != nil {
		return err
	}
	for _, r := range stood[s.dev.user] {
		switch old := e.sessions[uint64(r.Conn)]; {
		case r.Device != s.dev.name:
		case uint64(r.Conn) > s.conn:
			e.drop(s)
		case r.Server == e.server && old != nil:
			e.drop(old)
		}
	}
	return nil
}

// lagged tells every session that it may have missed anything.
func (e *edge) lagged() {
	for _, c := range sortedKeys(e.sessions) {
		e.sessions[c].down = append(e.sessions[c].down, push{lagged: true})
	}
}

// connect registers a new session.
func (e *edge) connect(d *device) *session {
	e.w.nextConn++
	s := &session{conn: uint64(e.w.nextConn), dev: d, edge: e, groups: make(map[wire.GroupID]int64), needSync: true}
	e.sessions[s.conn] = s
	e.w.tell("%s connects to %s", d, e.server)
	return s
}

func (e *edge) drop(s *session) {
	s.closed = true
	delete(e.sessions, s.conn)
	_ = e.w.reg.DropRoute(context.Background(), s.dev.user, registry.Route{
		Conn: wire.ConnID(s.conn), Server: e.server, Epoch: e.epoch, Device: s.dev.name,
	})
}

// login is one step of a log-in.
func (s *session) login() {
	e := s.edge
	step := s.phase
	switch e.w.bug { // the order is the promise
	case bugAuthBeforeRoute:
		step = []int{phaseRouted, phaseGroups, phaseEdges, phaseNew}[s.phase]
	case bugGroupsBeforeRoute:
		step = []int{phaseRouted, phaseNew, phaseGroups, phaseEdges}[s.phase]
	default:
	}
	switch step {
	case phaseNew:
		e.index(func() error { return e.route(s) })
	case phaseRouted:
		if !s.readGroups() {
			return // unavailable: again
		}
	case phaseGroups:
		if gs := sortedKeys(s.groups); len(gs) > 0 {
			e.index(func() error {
				_, err := e.w.reg.AddGroupEdge(context.Background(), e.server, gs)
				return err
			})
		}
	case phaseEdges:
		if e.w.bug != bugDeltasForgotten {
			for _, it := range s.deltas {
				s.change(it)
			}
		}
		s.deltas = nil
	}
	s.phase++
	if e.w.bug == bugAuthBeforeRoute && s.phase == phaseEdges { // syncs one step early
		s.dev.sync()
		s.solid = true
	}
}

// readGroups takes the user's groups as they are now: of each, what comes
// before the present membership is not passed on.
func (s *session) readGroups() bool {
	ctx := context.Background()
	gs, err := s.edge.w.st.GroupsOf(ctx, s.dev.user)
	if err != nil {
		return false
	}
	groups := make(map[wire.GroupID]int64)
	for _, g := range gs {
		groups[g.Group] = g.Seq
		if s.edge.w.bug == bugJoinedUnknown {
			groups[g.Group] = 0
		}
	}
	s.groups = groups
	return true
}

// change applies a change of a group to the session.
func (s *session) change(it *rpcpb.PushItem) {
	g, bug := wire.GroupID(it.GetGroup()), s.edge.w.bug
	switch it.GetAction() {
	case rpcpb.PushItem_GROUP_ADD:
		if bug != bugJoinNotApplied {
			s.groups[g] = 0
		}
	case rpcpb.PushItem_GROUP_REMOVE, rpcpb.PushItem_GROUP_DROP:
		if bug != bugLeaveNotApplied {
			delete(s.groups, g)
		}
	case rpcpb.PushItem_DELIVER:
	}
}

// receive passes on one batch of a stream.
func (e *edge) receive(st *stream) {
	if len(st.toEdge) == 0 {
		return
	}
	b := st.toEdge[0]
	st.toEdge = st.toEdge[1:]
	for _, f := range b.GetFrames() {
		if !e.pos.Admit(f.GetAt(), f.GetLost()) && e.w.bug != bugPositionUnchecked {
			continue
		}
		if at := f.GetAt(); at != nil {
			p := rpc.PartitionOf(at)
			if last, ok := e.passed[p]; ok && at.GetOffset() <= last {
				e.w.fail("%s passes on %v@%d after %d", e.server, p, at.GetOffset(), last)
			}
			e.passed[p] = at.GetOffset()
		}
		if f.GetLost() {
			e.lost()
		}
		for _, it := range f.GetItems() {
			e.item(st, f.GetAt(), it)
		}
	}
}

// lost: frames were left out, changes of groups among them.
func (e *edge) lost() {
	if e.w.bug == bugLostNotTold {
		return
	}
	e.w.tell("%s was told lost", e.server)
	if e.w.bug != bugLostGroupsKept {
		e.readGroups()
	}
	e.lagged()
}

// readGroups reads the groups of all sessions again: changes may have been
// missed.
func (e *edge) readGroups() {
	for _, c := range sortedKeys(e.sessions) {
		s := e.sessions[c]
		s.deltas = nil // those before the loss may be undone by what was lost
		if s.phase < phaseGroups {
			continue // reads its groups yet
		}
		s.readGroups()
		if gs := sortedKeys(s.groups); len(gs) > 0 {
			e.index(func() error {
				_, err := e.w.reg.AddGroupEdge(context.Background(), e.server, gs)
				return err
			})
		}
	}
}

func (e *edge) item(st *stream, at *rpcpb.Position, it *rpcpb.PushItem) {
	users := make(map[wire.UserID]bool, len(it.GetUsers()))
	for _, u := range it.GetUsers() {
		users[wire.UserID(u)] = true
	}
	if it.GetAction() != rpcpb.PushItem_DELIVER {
		e.membership(it, users)
		return
	}
	p, ok := decodePush(it)
	found := make(map[wire.UserID]bool)
	for _, c := range sortedKeys(e.sessions) {
		s := e.sessions[c]
		from, member := s.groups[wire.GroupID(it.GetGroup())]
		mine := users[s.dev.user] && it.GetConn() == 0 || it.GetGroup() != "" && member && (it.GetSeq() == 0 || it.GetSeq() >= from)
		if !mine {
			continue
		}
		found[s.dev.user] = true
		if s.phase == phaseLive && ok {
			e.queue(s, p)
		}
	}
	var absent []string
	for _, u := range it.GetUsers() {
		if !found[wire.UserID(u)] && it.GetConn() == 0 {
			absent = append(absent, u)
		}
	}
	if len(absent) > 0 && ok {
		st.toJob = append(st.toJob, &rpcpb.PushReply{NotHere: []*rpcpb.NotHere{{At: at, Users: absent, Conv: it.GetConv(), Seq: it.GetSeq()}}})
	}
}

// queue puts a push on its way; a client that is too slow is told lagged.
func (e *edge) queue(s *session, p push) {
	if len(s.down) > 30 || !e.w.calm && e.w.chance(1) {
		if e.w.bug != bugLaggedNotTold {
			s.down = append(s.down, push{lagged: true})
		}
		return
	}
	s.down = append(s.down, p)
}

// membership applies a change of a group to the sessions it concerns, and
// writes the edge into the group's index by itself too: the job's own write
// may have failed.
func (e *edge) membership(it *rpcpb.PushItem, users map[wire.UserID]bool) {
	var here []*session
	for _, c := range sortedKeys(e.sessions) {
		s := e.sessions[c]
		if !users[s.dev.user] && it.GetAction() != rpcpb.PushItem_GROUP_DROP {
			continue
		}
		here = append(here, s)
		if s.phase < phaseLive {
			s.deltas = append(s.deltas, it)
			continue
		}
		s.change(it)
	}
	if it.GetAction() != rpcpb.PushItem_GROUP_ADD || len(here) == 0 {
		return
	}
	if e.w.bug == bugJoinNotIndexed {
		return
	}
	ok := e.index(func() error {
		_, err := e.w.reg.AddGroupEdge(context.Background(), e.server, []wire.GroupID{wire.GroupID(it.GetGroup())})
		return err
	})
	if ok && e.shaky {
		// The job's own write may be gone with the index that was emptied, and
		// this edge announced without the group: what came since was not pushed.
		for _, s := range here {
			s.down = append(s.down, push{lagged: true})
		}
	}
}
