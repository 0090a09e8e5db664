// Package roster is who is on this edge: user → sessions, connection → session
// and group → sessions, sharded.
//
// A session is first connecting: it is known by its user and connection, but
// not in any group, and changes of its user's groups are remembered in order.
// Open applies the groups as they were read, then what was remembered, so a
// join or leave that passes while the groups are being read is not lost.
//
// Changes may be lost (a job says so): Lost makes all sessions stale. A stale
// session is in no group until Regroup has brought what was read since; what
// was remembered before the loss counts no more, because what undid it may be
// among what was lost.
//
// All methods are safe for concurrent use. Lock order: a user shard, then a
// group shard. A session's mutex is never taken under either, and the roster
// calls nothing.
package roster

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/session"
)

const shards = 64

// Member is a session as the roster holds it.
type Member struct {
	Session *session.Session
	Identity

	open    bool
	groups  []*group      // guarded by the user shard
	pending []delta       // while connecting or stale, guarded by the user shard
	read    atomic.Uint64 // the loss after which the groups were read; older than the roster's: stale
}

// Identity is a session's own.
type Identity = session.Identity

// delta is a change of groups that passed while the session was connecting.
type delta struct {
	group  wire.GroupID
	add    bool
	losses uint64 // before it
}

// Joined is a group and the first seq of the membership in it: what comes
// before is not for this session, even if it passes later.
type Joined struct {
	Group wire.GroupID
	Seq   int64
}

// group is a group with sessions here, or about to have some.
type group struct {
	id       wire.GroupID
	members  map[*Member]int64 // -> first seq to pass on
	reserved int               // sessions that will enter it
	counter  int64             // of the registry, for the removal that compares
	counted  uint64            // calls of Counting when it was kept
}

// Roster holds the sessions of one edge. Make it with New.
type Roster struct {
	seed   maphash.Seed
	losses atomic.Uint64
	counts atomic.Uint64 // calls of Counting
	users  [shards]userShard
	conns  [shards]connShard
	groups [shards]groupShard
}

type userShard struct {
	mu sync.Mutex
	m  map[wire.UserID][]*Member
}

type connShard struct {
	mu sync.RWMutex
	m  map[wire.ConnID]*Member
}

type groupShard struct {
	mu sync.RWMutex
	m  map[wire.GroupID]*group
}

// New returns an empty roster.
func New() *Roster {
	r := &Roster{seed: maphash.MakeSeed()}
	for i := range shards {
		r.users[i].m = map[wire.UserID][]*Member{}
		r.conns[i].m = map[wire.ConnID]*Member{}
		r.groups[i].m = map[wire.GroupID]*group{}
	}
	return r
}

func (r *Roster) user(u wire.UserID) *userShard {
	return &r.users[maphash.String(r.seed, string(u))%shards]
}

func (r *Roster) conn(c wire.ConnID) *connShard {
	return &r.conns[maphash.Comparable(r.seed, c)%shards]
}

func (r *Roster) group(g wire.GroupID) *groupShard {
	return &r.groups[maphash.String(r.seed, string(g))%shards]
}

// Connect adds a session as connecting and returns those of its user that cannot
// stand beside it (they are still in the roster; end them, or this one, whichever
// is older). rivals nil: those of the same device.
func (r *Roster) Connect(s *session.Session, id Identity, rivals func(o *Member) bool) (m *Member, found []*Member) {
	if rivals == nil {
		rivals = func(o *Member) bool { return o.Device == id.Device }
	}
	m = &Member{Session: s, Identity: id}
	m.read.Store(r.losses.Load())
	us := r.user(id.User)
	us.mu.Lock()
	for _, o := range us.m[id.User] {
		if rivals(o) {
			found = append(found, o)
		}
	}
	us.m[id.User] = append(us.m[id.User], m)
	us.mu.Unlock()
	cs := r.conn(id.Conn)
	cs.mu.Lock()
	cs.m[id.Conn] = m
	cs.mu.Unlock()
	return m, found
}

// Open enters a connecting session into its groups (reserved before) and
// applies what was remembered. False: it was removed meanwhile; the
// reservation is taken back either way. Groups it turned out not to be in are
// returned if they are empty now, groups it joined meanwhile if they are new.
//
// losses is what Losses said before the groups were asked for. When a loss has
// passed since, the session is stale: read its groups again and Regroup.
func (r *Roster) Open(m *Member, groups []Joined, losses uint64) (ok bool, left []Left, fresh []wire.GroupID) {
	us := r.user(m.User)
	us.mu.Lock()
	defer us.mu.Unlock()
	if !us.hasLocked(m) {
		return false, r.Unreserve(groups), nil
	}
	m.open = true
	left, fresh = r.settleLocked(m, groups, losses, nil)
	return true, left, fresh
}

// Regroup replaces the groups of an open session by what was read after a
// loss; its parameters and results are Open's. One still connecting is left
// to its Open.
func (r *Roster) Regroup(m *Member, groups []Joined, losses uint64) (ok bool, left []Left, fresh []wire.GroupID) {
	us := r.user(m.User)
	us.mu.Lock()
	defer us.mu.Unlock()
	if !us.hasLocked(m) || !m.open {
		return false, r.Unreserve(groups), nil
	}
	var rooms, had []*group
	for _, g := range m.groups {
		if g.id.IsRoom() {
			rooms = append(rooms, g)
		} else {
			had = append(had, g)
		}
	}
	m.groups = rooms
	for _, g := range had {
		sh := r.group(g.id)
		sh.mu.Lock()
		delete(g.members, m)
		sh.mu.Unlock()
	}
	left, fresh = r.settleLocked(m, groups, losses, had)
	return true, left, fresh
}

// settleLocked enters m into reserved groups, applies what was remembered since
// the read, and forgets those of had that nobody is in any more.
func (r *Roster) settleLocked(m *Member, groups []Joined, losses uint64, had []*group) (left []Left, fresh []wire.GroupID) {
	m.read.Store(losses)
	m.groups = slices.Grow(m.groups, len(groups))
	for _, j := range groups {
		sh := r.group(j.Group)
		sh.mu.Lock()
		g := sh.getLocked(j.Group)
		g.reserved--
		if _, in := g.members[m]; !in {
			g.members[m] = j.Seq
			m.groups = append(m.groups, g)
		}
		sh.mu.Unlock()
	}
	var later []delta
	for _, d := range m.pending {
		switch {
		case d.losses < losses: // before the read, and before a loss that may have undone it
		case d.losses > losses:
			later = append(later, d) // for the read that must follow
		case d.add:
			if r.enterLocked(m, d.group) {
				fresh = append(fresh, d.group)
			}
		default:
			left = r.leaveLocked(m, d.group, left)
		}
	}
	m.pending = later
	for _, g := range had {
		sh := r.group(g.id)
		sh.mu.Lock()
		left = sh.dropLocked(g, left)
		sh.mu.Unlock()
	}
	return left, fresh
}

// Lost notes that changes of groups may be missing: from here on no session is
// in any group until its groups are read again.
func (r *Roster) Lost() { r.losses.Add(1) }

// Losses returns how often Lost was called. Ask before reading groups.
func (r *Roster) Losses() uint64 { return r.losses.Load() }

// Stale says whether m's groups must be read again.
func (r *Roster) Stale(m *Member) bool { return m.read.Load() != r.losses.Load() }

// Remove takes a session out and returns the groups left without anybody.
// False: it was not in.
func (r *Roster) Remove(m *Member) (ok bool, left []Left) {
	us := r.user(m.User)
	us.mu.Lock()
	ok = us.removeLocked(m)
	if ok {
		for _, g := range m.groups {
			sh := r.group(g.id)
			sh.mu.Lock()
			delete(g.members, m)
			left = sh.dropLocked(g, left)
			sh.mu.Unlock()
		}
		m.groups, m.pending = nil, nil
	}
	us.mu.Unlock()
	cs := r.conn(m.Conn)
	cs.mu.Lock()
	if cs.m[m.Conn] == m {
		delete(cs.m, m.Conn)
	}
	cs.mu.Unlock()
	return ok, left
}

// OfUser appends the user's open sessions.
func (r *Roster) OfUser(u wire.UserID, into []*Member) []*Member {
	if planted.Now(planted.EdgePushesAstray) {
		return r.All(into)
	}
	us := r.user(u)
	us.mu.Lock()
	defer us.mu.Unlock()
	for _, m := range us.m[u] {
		if m.open {
			into = append(into, m)
		}
	}
	return into
}

// ByUser appends all sessions of a user, connecting ones too.
func (r *Roster) ByUser(u wire.UserID, into []*Member) []*Member {
	us := r.user(u)
	us.mu.Lock()
	defer us.mu.Unlock()
	return append(into, us.m[u]...)
}

// ByConn returns the session of a connection, nil if it is not here.
func (r *Roster) ByConn(c wire.ConnID) *Member {
	cs := r.conn(c)
	cs.mu.RLock()
	defer cs.mu.RUnlock()
	return cs.m[c]
}

// All appends all sessions, connecting ones too.
func (r *Roster) All(into []*Member) []*Member {
	for i := range r.conns {
		cs := &r.conns[i]
		cs.mu.RLock()
		for _, m := range cs.m {
			into = append(into, m)
		}
		cs.mu.RUnlock()
	}
	return into
}

// Counts returns how many sessions and groups are here.
func (r *Roster) Counts() (sessions, groups int) {
	for i := range shards {
		r.conns[i].mu.RLock()
		sessions += len(r.conns[i].m)
		r.conns[i].mu.RUnlock()
		r.groups[i].mu.RLock()
		groups += len(r.groups[i].m)
		r.groups[i].mu.RUnlock()
	}
	return sessions, groups
}

func (us *userShard) hasLocked(m *Member) bool {
	return slices.Contains(us.m[m.User], m)
}

func (us *userShard) removeLocked(m *Member) bool {
	ms := us.m[m.User]
	for i, o := range ms {
		if o != m {
			continue
		}
		if len(ms) == 1 {
			delete(us.m, m.User)
			return true
		}
		// A new slice: readers copy under the lock, so in place would do, but a
		// user's slice must not keep the capacity of its busiest day.
		us.m[m.User] = append(append(make([]*Member, 0, len(ms)-1), ms[:i]...), ms[i+1:]...)
		return true
	}
	return false
}
