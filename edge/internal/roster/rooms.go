package roster

import "github.com/starling-im/starling/common/wire"

// A live room is held as a group under the room's key: it is indexed and pushed
// to alike. It differs in this: a session enters it by itself, whoever else the
// user is connected as, and keeps it over a Regroup; nothing of it is stored, so
// nothing can be read again, and a stale session goes on to get its messages.

// EnterRoom brings a session into a room. ok is false for one that is not in
// the roster (any more), or that is in most rooms already. fresh: the registry
// must name this edge for the room.
func (r *Roster) EnterRoom(m *Member, room wire.RoomID, most int) (fresh, ok bool) {
	us := r.user(m.User)
	us.mu.Lock()
	defer us.mu.Unlock()
	if !us.hasLocked(m) {
		return false, false
	}
	key, rooms := room.Key(), 0
	for _, g := range m.groups {
		if g.id == key {
			return r.uncounted(key), true
		}
		if g.id.IsRoom() {
			rooms++
		}
	}
	if rooms >= most {
		return false, false
	}
	r.enterLocked(m, key)
	return r.uncounted(key), true
}

// uncounted says whether the registry may not name this edge for the group yet.
func (r *Roster) uncounted(id wire.GroupID) bool {
	sh := r.group(id)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	g := sh.m[id]
	return g != nil && g.counter == 0
}

// LeaveRoom takes a session out of a room, which it need not be in.
func (r *Roster) LeaveRoom(m *Member, room wire.RoomID) (left []Left) {
	us := r.user(m.User)
	us.mu.Lock()
	defer us.mu.Unlock()
	return r.leaveLocked(m, room.Key(), nil)
}

// InRoom says whether a session is in a room.
func (r *Roster) InRoom(m *Member, room wire.RoomID) bool {
	sh := r.group(room.Key())
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	g := sh.m[room.Key()]
	if g == nil {
		return false
	}
	_, in := g.members[m]
	return in
}
