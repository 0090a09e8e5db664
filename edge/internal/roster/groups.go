package roster

import "github.com/starling-im/starling/common/wire"

// Reserve announces that a session will enter the groups and returns those
// that have nobody here yet: the registry must name this edge for them before
// Open. Open or Unreserve follows.
func (r *Roster) Reserve(groups []Joined) (fresh []wire.GroupID) {
	for _, j := range groups {
		id := j.Group
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
func (r *Roster) Unreserve(groups []Joined) (left []Left) {
	for _, j := range groups {
		id := j.Group
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

// Counting is asked before the registry is; Counted wants it back.
func (r *Roster) Counting() uint64 { return r.counts.Add(1) }

// Counted keeps the registry's counter of a group. Of calls at the same time the
// greatest counts, of those one after another the last: an index that was
// emptied counts anew. False: nobody is in it any
// more, nor about to be.
func (r *Roster) Counted(id wire.GroupID, n int64, began uint64) bool {
	sh := r.group(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	g := sh.m[id]
	if g != nil && (n > g.counter || began > g.counted) {
		g.counter, g.counted = n, r.counts.Load()
	}
	return g != nil
}

// Left is a group that nobody here is in any more, with the counter under
// which the registry may forget this edge. Counter 0: it was never counted.
type Left struct {
	Group   wire.GroupID
	Counter int64
}

// AddToGroup enters the users' sessions into a group; connecting and stale ones
// remember it. found appends the sessions of the users. True: the group had
// nobody here before.
func (r *Roster) AddToGroup(id wire.GroupID, users []wire.UserID, found []*Member) (all []*Member, fresh bool) {
	for _, u := range users {
		us := r.user(u)
		us.mu.Lock()
		for _, m := range us.m[u] {
			found = append(found, m)
			if r.remembersLocked(m) {
				m.pending = append(m.pending, delta{group: id, add: true, losses: r.Losses()})
			} else if r.enterLocked(m, id) {
				fresh = true
			}
		}
		us.mu.Unlock()
	}
	return found, fresh
}

// remembersLocked says whether changes of m's groups wait for a read.
func (r *Roster) remembersLocked(m *Member) bool { return !m.open || r.Stale(m) }

// RemoveFromGroup takes the users' sessions out of a group; connecting and
// stale ones remember it.
func (r *Roster) RemoveFromGroup(id wire.GroupID, users []wire.UserID) (left []Left) {
	for _, u := range users {
		us := r.user(u)
		us.mu.Lock()
		for _, m := range us.m[u] {
			if r.remembersLocked(m) {
				m.pending = append(m.pending, delta{group: id, losses: r.Losses()})
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
				if r.remembersLocked(m) {
					m.pending = append(m.pending, delta{group: id, losses: r.Losses()})
				}
			}
		}
		us.mu.Unlock()
	}
	for _, m := range r.everybody(id) {
		us := r.user(m.User)
		us.mu.Lock()
		left = r.leaveLocked(m, id, left)
		us.mu.Unlock()
	}
	return left
}

func (r *Roster) everybody(id wire.GroupID) (all []*Member) {
	sh := r.group(id)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	if g := sh.m[id]; g != nil {
		for m := range g.members {
			all = append(all, m)
		}
	}
	return all
}

// InGroup appends the group's sessions that a seq is for (0: all of them).
func (r *Roster) InGroup(id wire.GroupID, seq int64, into []*Member) []*Member {
	sh := r.group(id)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	if g := sh.m[id]; g != nil {
		for m, from := range g.members {
			if (seq == 0 || seq >= from) && (id.IsRoom() || !r.Stale(m)) {
				into = append(into, m)
			}
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
	_, in := g.members[m]
	fresh := len(g.members) == 0 && g.counter == 0
	g.members[m] = 0 // what follows on the stream is for it
	if in {
		return false
	}
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
		g = &group{id: id, members: map[*Member]int64{}}
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
