package roster

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func connect(r *Roster, user, device string, conn int) *Member {
	m, _ := r.Connect(nil, Identity{User: wire.UserID(user), Device: wire.DeviceID(device), Conn: wire.ConnID(conn)}, nil)
	return m
}

func open(r *Roster, user string, conn int, groups ...wire.GroupID) *Member {
	m := connect(r, user, "web", conn)
	r.Reserve(joined(groups...))
	r.Open(m, joined(groups...), r.Losses())
	return m
}

func joined(groups ...wire.GroupID) (js []Joined) {
	for _, g := range groups {
		js = append(js, Joined{Group: g, Seq: 1})
	}
	return js
}

// join is AddToGroup without the sessions found.
func join(r *Roster, g wire.GroupID, users ...wire.UserID) bool {
	_, fresh := r.AddToGroup(g, users, nil)
	return fresh
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
	r.Open(m, nil, 0)
	if diff := cmp.Diff([]wire.ConnID{1}, conns(r.OfUser("bob", nil))); diff != "" {
		t.Error(diff)
	}
}

func TestConnectNamesTheSameDevice(t *testing.T) {
	r := New()
	connect(r, "bob", "phone", 1)
	connect(r, "bob", "web", 2)
	connect(r, "eve", "web", 3)
	_, replaced := r.Connect(nil, Identity{User: "bob", Device: "web", Conn: 4}, nil)
	if diff := cmp.Diff([]wire.ConnID{2}, conns(replaced)); diff != "" {
		t.Error(diff)
	}
}

func TestChangesWhileConnecting(t *testing.T) {
	r := New()
	m := connect(r, "bob", "web", 1)
	groups := joined("stays", "left", "dropped", "again")
	r.Reserve(groups)
	join(r, "joined", "bob")
	r.RemoveFromGroup("left", []wire.UserID{"bob"})
	r.DropGroup("dropped")
	r.RemoveFromGroup("again", []wire.UserID{"bob"})
	join(r, "again", "bob")
	ok, left, fresh := r.Open(m, groups, 0)
	if !ok {
		t.Fatal("not opened")
	}
	for g, want := range map[wire.GroupID]int{"stays": 1, "left": 0, "dropped": 0, "again": 1, "joined": 1} {
		if got := len(r.InGroup(g, 0, nil)); got != want {
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
	r.Counted("g", 1, r.Counting())
	b := connect(r, "b", "web", 2)
	if fresh := r.Reserve(joined("g")); fresh != nil {
		t.Errorf("a counted group with a session is fresh: %v", fresh)
	}
	if _, left := r.Remove(a); left != nil {
		t.Errorf("b is about to enter, and the group is given up: %v", left)
	}
	r.Open(b, joined("g"), 0)
	_, left := r.Remove(b)
	if diff := cmp.Diff([]Left{{Group: "g", Counter: 1}}, left); diff != "" {
		t.Error(diff)
	}
}

func TestRemovedWhileConnecting(t *testing.T) {
	r := New()
	m := connect(r, "bob", "web", 1)
	r.Reserve(joined("g"))
	r.Counted("g", 5, r.Counting())
	if ok, _ := r.Remove(m); !ok {
		t.Fatal("it was not in")
	}
	if ok, _ := r.Remove(m); ok {
		t.Fatal("removed twice")
	}
	ok, left, _ := r.Open(m, joined("g"), 0)
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

// Of counters that come at the same time the greatest counts, whichever is heard
// last; one that was asked for later counts though it is smaller, because the
// registry may have been emptied.
func TestCounters(t *testing.T) {
	r := New()
	m := connect(r, "bob", "web", 1)
	r.Reserve(joined("g"))
	first, second := r.Counting(), r.Counting()
	r.Counted("g", 20, second)
	r.Counted("g", 10, first)
	r.Open(m, joined("g"), 0)
	counter := func() int64 {
		_, left := r.Remove(m)
		return left[0].Counter
	}
	if got := counter(); got != 20 {
		t.Errorf("counter %d after an older answer came last, want 20", got)
	}
	m = connect(r, "bob", "web", 2)
	r.Reserve(joined("g"))
	r.Counted("g", 20, r.Counting())
	r.Counted("g", 5, r.Counting())
	r.Open(m, joined("g"), 0)
	if got := counter(); got != 5 {
		t.Errorf("counter %d of an index that began anew, want 5", got)
	}
	if r.Counted("g", 6, r.Counting()) {
		t.Error("a group without anybody is counted")
	}
}

func TestFreshUntilCounted(t *testing.T) {
	r := New()
	if !join(r, "g") && len(r.InGroup("g", 0, nil)) != 0 {
		t.Error("nobody added, somebody in")
	}
	open(r, "bob", 1)
	if !join(r, "g", "bob", "nobody") {
		t.Error("a new group is not fresh")
	}
	if join(r, "g", "bob") {
		t.Error("an old member makes it fresh")
	}
	if fresh := r.Reserve(joined("g")); len(fresh) != 1 {
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
				gs := joined("a", wire.GroupID(user))
				r.Reserve(gs)
				r.Counted("a", int64(i), r.Counting())
				if i%7 == 0 {
					r.Unreserve(gs)
					r.Remove(m)
					continue
				}
				r.Open(m, gs, r.Losses())
				join(r, "b", wire.UserID(user))
				for _, o := range r.InGroup("b", 0, r.OfUser(wire.UserID(user), nil)) {
					_ = r.ByConn(o.Conn)
				}
				if i%20 == 0 {
					r.DropGroup("b")
				}
				if i%50 == 0 {
					r.Lost()
					losses := r.Losses()
					r.Reserve(gs)
					r.Regroup(m, gs, losses)
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

// What comes before the membership that a log-in has read is not for it; a join
// that the stream brings ends that.
func TestNothingBeforeTheMembership(t *testing.T) {
	r := New()
	m := connect(r, "bob", "web", 1)
	r.Reserve([]Joined{{Group: "g", Seq: 5}})
	r.Open(m, []Joined{{Group: "g", Seq: 5}}, 0)
	for seq, want := range map[int64]int{0: 1, 4: 0, 5: 1, 6: 1} {
		if got := len(r.InGroup("g", seq, nil)); got != want {
			t.Errorf("seq %d is for %d sessions, want %d", seq, got, want)
		}
	}
	join(r, "g", "bob")
	if len(r.InGroup("g", 2, nil)) != 1 {
		t.Error("after its join on the stream everything that follows is for it")
	}
}

// After a loss a session is in no group until its groups are read again; what
// was remembered before the loss counts no more, what came after it does.
func TestLost(t *testing.T) {
	r := New()
	m := open(r, "bob", 1, "kept", "left-unseen", "left-later")
	late := connect(r, "eve", "web", 2)
	r.Reserve(joined("back"))
	asked := r.Losses()
	r.RemoveFromGroup("back", []wire.UserID{"eve"}) // undone by a join among what is lost
	r.Lost()
	if !r.Stale(m) || len(r.InGroup("kept", 0, nil)) != 0 {
		t.Error("a stale session is in a group")
	}
	r.RemoveFromGroup("left-later", []wire.UserID{"bob"})
	join(r, "joined", "bob")
	losses := r.Losses()
	r.Reserve(joined("kept", "left-later", "unseen-join"))
	ok, left, fresh := r.Regroup(m, joined("kept", "left-later", "unseen-join"), losses)
	if !ok || r.Stale(m) {
		t.Fatalf("regrouped %v, stale %v", ok, r.Stale(m))
	}
	for g, want := range map[wire.GroupID]int{"kept": 1, "left-unseen": 0, "left-later": 0, "joined": 1, "unseen-join": 1} {
		if got := len(r.InGroup(g, 0, nil)); got != want {
			t.Errorf("%s has %d sessions, want %d", g, got, want)
		}
	}
	if len(left) != 2 || !slices.Contains(fresh, "joined") {
		t.Errorf("left %v, fresh %v", left, fresh)
	}
	r.Reserve(joined("back"))
	if ok, _, _ := r.Regroup(late, joined("back"), losses); ok {
		t.Error("a connecting session is regrouped before it is open")
	}
	r.Open(late, joined("back"), asked)
	if !r.Stale(late) {
		t.Error("a loss during the log-in leaves no trace")
	}
	r.Reserve(joined("back"))
	r.Regroup(late, joined("back"), losses)
	if got := conns(r.InGroup("back", 0, nil)); len(got) != 1 || got[0] != 2 {
		t.Errorf("back has %v: a removal from before the loss was applied to what was read after it", got)
	}
}
