// Package roster is who is on this edge: user → sessions, connection → session
// and group → sessions, sharded.
//
// A session is first connecting: it is known by its user and connection, but
// not in any group, and changes of its user's groups are remembered in order.
// Open applies the groups as they were read, then what was remembered, so a
// join or leave that passes while the groups are being read is not lost.
//
// All methods are safe for concurrent use. Lock order: a user shard, then a
// group shard. A session's mutex is never taken under either, and the roster
// calls nothing.
package roster

import (
	"hash/maphash"
	"slices"
	"sync"

	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/session"
)

const shards = 64

// Member is a session as the roster holds it.
type Member struct {
	Session *session.Session
	Identity

	open    bool
	groups  []*group // guarded by the user shard
	pending []delta  // while connecting, guarded by the user shard
}

// Identity is a session's own.
type Identity = session.Identity

// delta is a change of groups that passed while the session was connecting.
type delta struct {
	group wire.GroupID
	add   bool
}

// group is a group with sessions here, or about to have some.
type group struct {
	id       wire.GroupID
	members  map[*Member]struct{}
	reserved int   // sessions that will enter it
	counter  int64 // of the registry, for the removal that compares
}

// Roster holds the sessions of one edge. Make it with New.
type Roster struct {
	seed   maphash.Seed
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

// Connect adds a session as connecting and returns the older ones of the same
// device, which it replaces (they are still in the roster; end them).
func (r *Roster) Connect(s *session.Session, id Identity) (m *Member, replaced []*Member) {
	m = &Member{Session: s, Identity: id}
	us := r.user(id.User)
	us.mu.Lock()
	for _, o := range us.m[id.User] {
		if o.Device == id.Device {
			replaced = append(replaced, o)
		}
	}
	us.m[id.User] = append(us.m[id.User], m)
	us.mu.Unlock()
	cs := r.conn(id.Conn)
	cs.mu.Lock()
	cs.m[id.Conn] = m
	cs.mu.Unlock()
	return m, replaced
}

// Open enters a connecting session into its groups (reserved before) and
// applies what was remembered. False: it was removed meanwhile; the
// reservation is taken back either way. Groups it turned out not to be in are
// returned if they are empty now, groups it joined meanwhile if they are new.
func (r *Roster) Open(m *Member, groups []wire.GroupID) (ok bool, left []Left, fresh []wire.GroupID) {
	us := r.user(m.User)
	us.mu.Lock()
	defer us.mu.Unlock()
	if !us.hasLocked(m) {
		return false, r.Unreserve(groups), nil
	}
	m.groups = make([]*group, 0, len(groups))
	for _, id := range groups {
		sh := r.group(id)
		sh.mu.Lock()
		g := sh.getLocked(id)
		g.reserved--
		if _, in := g.members[m]; !in {
			g.members[m] = struct{}{}
			m.groups = append(m.groups, g)
		}
		sh.mu.Unlock()
	}
	m.open = true
	for _, d := range m.pending {
		if d.add {
			if r.enterLocked(m, d.group) {
				fresh = append(fresh, d.group)
			}
		} else {
			left = r.leaveLocked(m, d.group, left)
		}
	}
	m.pending = nil
	return true, left, fresh
}

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
