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

// Reserve announces that a session will enter the groups and returns those
// that have nobody here yet: the registry must name this edge for them before
// Open. Open or Unreserve follows.
func (r *Roster) Reserve(groups []wire.GroupID) (fresh []wire.GroupID) {
	for _, id := range groups {
		sh := r.group(id)
		sh.mu.Lock()
		g := sh.getLocked(id)
		if len(g.members) == 0 || g.counter == 0 {
			fresh = append(fresh, id)
		}
		g.reserved++
		sh.mu.Unlock()
	}
	return fresh
}

// Unreserve takes a Reserve back and returns the groups left without anybody.
func (r *Roster) Unreserve(groups []wire.GroupID) (left []Left) {
	for _, id := range groups {
		sh := r.group(id)
		sh.mu.Lock()
		if g := sh.m[id]; g != nil {
			g.reserved--
			left = sh.dropLocked(g, left)
		}
		sh.mu.Unlock()
	}
	return left
}

// Counted keeps the registry's counter of a group, if anybody is in it.
func (r *Roster) Counted(id wire.GroupID, n int64) {
	sh := r.group(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if g := sh.m[id]; g != nil {
		g.counter = max(g.counter, n)
	}
}

// Left is a group that nobody here is in any more, with the counter under
// which the registry may forget this edge. Counter 0: it was never counted.
type Left struct {
	Group   wire.GroupID
	Counter int64
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

// AddToGroup enters the users' sessions into a group; connecting ones remember
// it. True: the group had nobody here before.
func (r *Roster) AddToGroup(id wire.GroupID, users []wire.UserID) (fresh bool) {
	for _, u := range users {
		us := r.user(u)
		us.mu.Lock()
		for _, m := range us.m[u] {
			if !m.open {
				m.pending = append(m.pending, delta{group: id, add: true})
			} else if r.enterLocked(m, id) {
				fresh = true
			}
		}
		us.mu.Unlock()
	}
	return fresh
}

// RemoveFromGroup takes the users' sessions out of a group; connecting ones
// remember it.
func (r *Roster) RemoveFromGroup(id wire.GroupID, users []wire.UserID) (left []Left) {
	for _, u := range users {
		us := r.user(u)
		us.mu.Lock()
		for _, m := range us.m[u] {
			if !m.open {
				m.pending = append(m.pending, delta{group: id})
			} else {
				left = r.leaveLocked(m, id, left)
			}
		}
		us.mu.Unlock()
	}
	return left
}

// DropGroup takes everybody out of a group; all connecting sessions remember
// it, because any of them may have read that it is in.
func (r *Roster) DropGroup(id wire.GroupID) (left []Left) {
	for i := range r.users {
		us := &r.users[i]
		us.mu.Lock()
		for _, ms := range us.m {
			for _, m := range ms {
				if !m.open {
					m.pending = append(m.pending, delta{group: id})
				}
			}
		}
		us.mu.Unlock()
	}
	for _, m := range r.InGroup(id, nil) {
		us := r.user(m.User)
		us.mu.Lock()
		left = r.leaveLocked(m, id, left)
		us.mu.Unlock()
	}
	return left
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

// InGroup appends the group's sessions.
func (r *Roster) InGroup(id wire.GroupID, into []*Member) []*Member {
	sh := r.group(id)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	if g := sh.m[id]; g != nil {
		for m := range g.members {
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

// Groups returns all groups with somebody here, or about to.
func (r *Roster) Groups() []wire.GroupID {
	var ids []wire.GroupID
	for i := range r.groups {
		sh := &r.groups[i]
		sh.mu.RLock()
		for id := range sh.m {
			ids = append(ids, id)
		}
		sh.mu.RUnlock()
	}
	return ids
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

// enterLocked wants the user's shard. True: nobody was in the group before.
func (r *Roster) enterLocked(m *Member, id wire.GroupID) bool {
	sh := r.group(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	g := sh.getLocked(id)
	if _, in := g.members[m]; in {
		return false
	}
	fresh := len(g.members) == 0 && g.counter == 0
	g.members[m] = struct{}{}
	m.groups = append(m.groups, g)
	return fresh
}

// leaveLocked wants the user's shard.
func (r *Roster) leaveLocked(m *Member, id wire.GroupID, left []Left) []Left {
	for i, g := range m.groups {
		if g.id != id {
			continue
		}
		last := len(m.groups) - 1
		m.groups[i] = m.groups[last]
		m.groups[last] = nil
		m.groups = m.groups[:last]
		sh := r.group(id)
		sh.mu.Lock()
		delete(g.members, m)
		left = sh.dropLocked(g, left)
		sh.mu.Unlock()
		return left
	}
	return left
}

func (sh *groupShard) getLocked(id wire.GroupID) *group {
	g := sh.m[id]
	if g == nil {
		g = &group{id: id, members: map[*Member]struct{}{}}
		sh.m[id] = g
	}
	return g
}

// dropLocked forgets a group that nobody is in or about to enter.
func (sh *groupShard) dropLocked(g *group, left []Left) []Left {
	if len(g.members) > 0 || g.reserved > 0 || sh.m[g.id] != g {
		return left
	}
	delete(sh.m, g.id)
	return append(left, Left{Group: g.id, Counter: g.counter})
}
