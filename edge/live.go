package edge

import (
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
)

const maxRooms = 100 // that one connection may be in

// Ask implements session.Hub: what the edge answers by itself.
func (t *tier) Ask(conn wire.ConnID, f wire.Frame) (done bool, werr *wire.Error) {
	m := t.roster.ByConn(conn)
	if m == nil {
		return false, wire.Errorf(wire.CodeUnavailable, "the connection is ending")
	}
	switch f.Op {
	case wire.OpPresenceSub, wire.OpPresenceUnsub:
		return t.askPresence(m, f)
	default:
		return t.askRoom(m, f)
	}
}

func (t *tier) askPresence(m *roster.Member, f wire.Frame) (done bool, werr *wire.Error) {
	var b wire.Users
	if werr = wire.Decode(f.Body, &b); werr == nil {
		werr = b.Validate()
	}
	switch {
	case werr != nil:
		return false, werr
	case len(b.Users) == 0:
		return false, wire.Errorf(wire.CodeBadRequest, "users is empty")
	case f.Op == wire.OpPresenceUnsub:
		t.watch.Unsubscribe(m, b.Users)
		return true, nil
	}
	return false, t.watch.Subscribe(m, b.Users, f.Seq)
}

// askRoom brings a session into a live room or out of it, or says whether it
// may write there.
func (t *tier) askRoom(m *roster.Member, f wire.Frame) (done bool, werr *wire.Error) {
	var b wire.Room // the part that room_send has, too
	if werr = wire.Decode(f.Body, &b); werr == nil {
		werr = b.Validate()
	}
	if werr != nil {
		return false, werr
	}
	switch f.Op { //nolint:exhaustive // Ask gives no other
	case wire.OpLeave:
		t.announcer.GroupsLeft(t.roster.LeaveRoom(m, b.Room))
		return true, nil
	case wire.OpJoin:
		return t.join(m, b.Room, f.Seq)
	}
	if !t.roster.InRoom(m, b.Room) {
		return false, wire.Errorf(wire.CodeNotMember, "join the room first")
	}
	return true, nil
}

// join answers once the index names this edge for the room, so that what is
// sent there after the ok arrives.
func (t *tier) join(m *roster.Member, room wire.RoomID, seq int32) (done bool, werr *wire.Error) {
	fresh, ok := t.roster.EnterRoom(m, room, maxRooms)
	switch {
	case !ok:
		return false, wire.Errorf(wire.CodeTooLarge, "a connection may be in 100 rooms")
	case !fresh:
		return true, nil
	}
	if t.announcer.Join(room.Key(), func() { m.Session.Answer(wire.Frame{Op: wire.OpOK, Seq: seq}) }) {
		return false, nil
	}
	t.announcer.GroupsLeft(t.roster.LeaveRoom(m, room))
	e := wire.Errorf(wire.CodeOverloaded, "too many enter rooms at once")
	e.RetryAfterMS = retryOverloaded
	return false, e
}
