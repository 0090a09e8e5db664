package roster

import "github.com/starling-im/starling/common/wire"

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
