package announce

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
)

// A crowd that enters rooms must not be a crowd of calls: the registry would
// not answer them all in time, and the edge be unlisted for it.
func TestJoinsAreCollected(t *testing.T) {
	run(t, Config{TTL: time.Hour, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		r.reg.slow = 20 * time.Millisecond
		const n, rooms = 3000, 600
		entered := 0
		for i := range n {
			room := wire.RoomID(fmt.Sprint("live", i%rooms))
			m := r.member(fmt.Sprint("u", i), i+1)
			if fresh, ok := r.roster.EnterRoom(m, room, 1); !fresh || !ok {
				t.Fatal("the room is counted already")
			}
			if !r.a.Join(room.Key(), func() {
				entered++
				if r.group(t, room.Key()) != 1 {
					t.Error("told before the index names the edge")
				}
			}) {
				t.Fatal("too many")
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		// The first by itself, all others in batches.
		if got := r.reg.adds.Load(); got > 4 || entered != n {
			t.Errorf("%d calls, %d of %d have entered", got, entered, n)
		}
	})
}

func TestTooManyJoins(t *testing.T) {
	run(t, Config{TTL: time.Hour, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		r.reg.slow = time.Minute
		done, refused := 0, 0
		for range 2*queuedJoins + 1 {
			if !r.a.Join("r:live", func() { done++ }) {
				refused++
			}
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if refused == 0 || done+refused != 2*queuedJoins+1 {
			t.Errorf("%d done, %d refused", done, refused)
		}
	})
}

func TestRemovalsOfGroupsAreCollected(t *testing.T) {
	run(t, Config{TTL: time.Hour, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		var groups []wire.GroupID
		for i := range 1000 {
			groups = append(groups, wire.GroupID(fmt.Sprint("g", i)))
		}
		counters, err := r.reg.AddGroupEdge(t.Context(), "e1", groups)
		if err != nil {
			t.Fatal(err)
		}
		r.reg.slow = 20 * time.Millisecond
		for i, g := range groups {
			r.a.GroupsLeft([]roster.Left{{Group: g, Counter: counters[i]}})
			r.a.Recount(g) // nobody is in it: it stays out
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := r.reg.outs.Load(); got > 12 {
			t.Errorf("%d calls for %d groups", got, len(groups))
		}
		for _, g := range groups {
			if r.group(t, g) != 0 {
				t.Fatal("still named for", g)
			}
		}
	})
}

// However many come and go in rooms, groups are taken out all the same.
func TestRoomsDoNotCrowdOutGroups(t *testing.T) {
	run(t, Config{TTL: time.Hour, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		counters, err := r.reg.AddGroupEdge(t.Context(), "e1", []wire.GroupID{"g"})
		if err != nil {
			t.Fatal(err)
		}
		r.reg.hold = make(chan struct{})
		for range 2 * queuedDrops {
			r.a.GroupsLeft([]roster.Left{{Group: "r:live", Counter: 7}})
		}
		r.a.GroupsLeft([]roster.Left{{Group: "g", Counter: counters[0]}})
		synctest.Wait()
		if r.group(t, "g") != 0 {
			t.Error("the edge is named for a group that nobody here is in")
		}
		close(r.reg.hold)
	})
}

// Each device counts once, and what gives way to the session not at all.
func TestBesideCountsDevices(t *testing.T) {
	run(t, Config{TTL: time.Hour, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		m := r.member("bob", 9)
		stood := []registry.Route{
			{Conn: 3, Device: "ios"}, {Conn: 4, Device: "web"}, {Conn: 5, Device: "tv"}, {Conn: 8, Device: "ios"}, {Conn: 9, Device: "web"},
		}
		before := slices.Clone(stood)
		if got := r.a.beside(m, stood); len(got) != 2 || got[0].Device != "ios" || got[1].Device != "tv" {
			t.Errorf("%+v", got)
		}
		if !slices.Equal(before, stood) {
			t.Errorf("what others read, too, has become %+v", stood)
		}
	})
}
