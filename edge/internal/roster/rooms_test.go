package roster

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/wire"
)

func TestRooms(t *testing.T) {
	r := New()
	a, b := open(r, "a", 1), open(r, "a", 2) // two sessions of one user: each enters by itself
	fresh, ok := r.EnterRoom(a, "live", 2)
	if !fresh || !ok {
		t.Fatal("the first of a room is not fresh", fresh, ok)
	}
	if fresh, ok := r.EnterRoom(b, "live", 2); !fresh || !ok {
		t.Error("the index may not name this edge yet", fresh, ok)
	}
	r.Counted("r:live", 5, r.Counting())
	if fresh, ok := r.EnterRoom(a, "live", 2); fresh || !ok {
		t.Error("again", fresh, ok)
	}
	if diff := cmp.Diff([]wire.ConnID{1, 2}, conns(r.InGroup("r:live", 0, nil))); diff != "" {
		t.Error(diff)
	}
	if !r.InRoom(a, "live") || r.InRoom(a, "other") {
		t.Error("InRoom")
	}
	if left := r.LeaveRoom(b, "live"); left != nil || r.InRoom(b, "live") || !r.InRoom(a, "live") {
		t.Error("left", left)
	}
	if left := r.LeaveRoom(b, "live"); left != nil {
		t.Error("left twice", left)
	}
	if left := r.LeaveRoom(a, "live"); len(left) != 1 || left[0] != (Left{Group: "r:live", Counter: 5}) {
		t.Error("nobody is in it", left)
	}
}

func TestRoomsAreBounded(t *testing.T) {
	r := New()
	m := open(r, "a", 1, "g1", "g2", "g3")
	for _, room := range []wire.RoomID{"1", "2"} {
		if _, ok := r.EnterRoom(m, room, 2); !ok {
			t.Fatal(room)
		}
	}
	if _, ok := r.EnterRoom(m, "3", 2); ok || r.InRoom(m, "3") {
		t.Error("a third room of two")
	}
	if _, ok := r.EnterRoom(m, "2", 2); !ok {
		t.Error("it is in that one")
	}
	_, left := r.Remove(m)
	if len(left) != 5 {
		t.Errorf("what nobody is in any more: %v", left)
	}
	if _, ok := r.EnterRoom(m, "1", 2); ok {
		t.Error("entered after its end")
	}
}

// Rooms outlive a loss, for nothing of them can be read again.
func TestRoomsOutliveALoss(t *testing.T) {
	r := New()
	m := open(r, "a", 1, "g", "old")
	r.EnterRoom(m, "live", 9)
	r.Lost()
	if len(r.InGroup("g", 0, nil)) != 0 || len(r.InGroup("r:live", 0, nil)) != 1 {
		t.Error("a stale session is in groups, or in no room")
	}
	r.Reserve(joined("g"))
	_, left, _ := r.Regroup(m, joined("g"), r.Losses())
	if len(left) != 1 || left[0].Group != "old" || len(r.InGroup("g", 0, nil)) != 1 || !r.InRoom(m, "live") {
		t.Errorf("after the read: %v", left)
	}
	if left := r.LeaveRoom(m, "live"); len(left) != 1 {
		t.Error("it cannot leave any more")
	}
}
