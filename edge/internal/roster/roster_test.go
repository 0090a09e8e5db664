package roster

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(r *Roster, user, device string, conn int) *Member {
	m, _ := r.Connect(nil, Identity{User: wire.UserID(user), Device: wire.DeviceID(device), Conn: wire.ConnID(conn)})
	return m
}

func open(r *Roster, user string, conn int, groups ...wire.GroupID) *Member {
	m := connect(r, user, "web", conn)
	r.Reserve(groups)
	r.Open(m, groups)
	return m
}

func conns(ms []*Member) []wire.ConnID {
	var ids []wire.ConnID
	for _, m := range ms {
		ids = append(ids, m.Conn)
	}
	slices.Sort(ids)
	return ids
}

func TestConnectingSessionsGetNoPushes(t *testing.T) {
	r := New()
	m := connect(r, "bob", "web", 1)
	if got := r.OfUser("bob", nil); got != nil {
		t.Errorf("a connecting session is found: %v", got)
	}
	if r.ByConn(1) != m || len(r.All(nil)) != 1 {
		t.Error("a connecting session is not known by its connection")
	}
	r.Open(m, nil)
	if diff := cmp.Diff([]wire.ConnID{1}, conns(r.OfUser("bob", nil))); diff != "" {
		t.Error(diff)
	}
}

func TestConnectNamesTheSameDevice(t *testing.T) {
	r := New()
	connect(r, "bob", "phone", 1)
	connect(r, "bob", "web", 2)
	connect(r, "eve", "web", 3)
	_, replaced := r.Connect(nil, Identity{User: "bob", Device: "web", Conn: 4})
	if diff := cmp.Diff([]wire.ConnID{2}, conns(replaced)); diff != "" {
		t.Error(diff)
	}
}

func TestChangesWhileConnecting(t *testing.T) {
	r := New()
	m := connect(r, "bob", "web", 1)
	groups := []wire.GroupID{"stays", "left", "dropped", "again"}
	r.Reserve(groups)
	r.AddToGroup("joined", []wire.UserID{"bob"})
	r.RemoveFromGroup("left", []wire.UserID{"bob"})
	r.DropGroup("dropped")
	r.RemoveFromGroup("again", []wire.UserID{"bob"})
	r.AddToGroup("again", []wire.UserID{"bob"})
	ok, left, fresh := r.Open(m, groups)
	if !ok {
		t.Fatal("not opened")
	}
	for g, want := range map[wire.GroupID]int{"stays": 1, "left": 0, "dropped": 0, "again": 1, "joined": 1} {
		if got := len(r.InGroup(g, nil)); got != want {
			t.Errorf("%s has %d sessions, want %d", g, got, want)
		}
	}
	var gone []wire.GroupID
	for _, l := range left {
		gone = append(gone, l.Group)
	}
	slices.Sort(gone)
	if diff := cmp.Diff([]wire.GroupID{"again", "dropped", "left"}, gone); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	if !slices.Contains(fresh, "joined") {
		t.Errorf("fresh %v lacks joined", fresh)
	}
}

func TestReservedGroupIsNotForgotten(t *testing.T) {
	r := New()
	a := open(r, "a", 1, "g")
	r.Counted("g", 1)
	b := connect(r, "b", "web", 2)
	if fresh := r.Reserve([]wire.GroupID{"g"}); fresh != nil {
		t.Errorf("a counted group with a session is fresh: %v", fresh)
	}
	if _, left := r.Remove(a); left != nil {
		t.Errorf("b is about to enter, and the group is given up: %v", left)
	}
	r.Open(b, []wire.GroupID{"g"})
	_, left := r.Remove(b)
	if diff := cmp.Diff([]Left{{Group: "g", Counter: 1}}, left); diff != "" {
		t.Error(diff)
	}
}

func TestRemovedWhileConnecting(t *testing.T) {
	r := New()
	m := connect(r, "bob", "web", 1)
	r.Reserve([]wire.GroupID{"g"})
	r.Counted("g", 5)
	if ok, _ := r.Remove(m); !ok {
		t.Fatal("it was not in")
	}
	if ok, _ := r.Remove(m); ok {
		t.Fatal("removed twice")
	}
	ok, left, _ := r.Open(m, []wire.GroupID{"g"})
	if ok {
		t.Fatal("a removed session opens")
	}
	if diff := cmp.Diff([]Left{{Group: "g", Counter: 5}}, left); diff != "" {
		t.Error(diff)
	}
	if s, g := r.Counts(); s != 0 || g != 0 {
		t.Errorf("%d sessions, %d groups left", s, g)
	}
}

func TestFreshUntilCounted(t *testing.T) {
	r := New()
	if !r.AddToGroup("g", nil) && len(r.InGroup("g", nil)) != 0 {
		t.Error("nobody added, somebody in")
	}
	open(r, "bob", 1)
	if !r.AddToGroup("g", []wire.UserID{"bob", "nobody"}) {
		t.Error("a new group is not fresh")
	}
	if r.AddToGroup("g", []wire.UserID{"bob"}) {
		t.Error("an old member makes it fresh")
	}
	if fresh := r.Reserve([]wire.GroupID{"g"}); len(fresh) != 1 {
		t.Error("a group without a counter must be announced by the next one, too")
	}
}

// TestRace has log-ins, log-outs, changes and look-ups at once; in the end all
// is empty.
func TestRace(t *testing.T) {
	r := New()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 300 {
				user := fmt.Sprintf("u%d", i%5)
				m := connect(r, user, "web", w*1000+i+1)
				gs := []wire.GroupID{"a", wire.GroupID(user)}
				r.Reserve(gs)
				r.Counted("a", int64(i))
				if i%7 == 0 {
					r.Unreserve(gs)
					r.Remove(m)
					continue
				}
				r.Open(m, gs)
				r.AddToGroup("b", []wire.UserID{wire.UserID(user)})
				for _, o := range r.InGroup("b", r.OfUser(wire.UserID(user), nil)) {
					_ = r.ByConn(o.Conn)
				}
				if i%20 == 0 {
					r.DropGroup("b")
				}
				r.RemoveFromGroup("a", []wire.UserID{"u1"})
				r.Remove(m)
			}
		})
	}
	wg.Wait()
	if s, g := r.Counts(); s != 0 || g != 0 {
		t.Fatalf("%d sessions and %d groups are left: %v", s, g, r.Groups())
	}
}
