package announce

import (
	"fmt"
	"testing"
	"time"

	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
)

// routes counts what the index has of a user.
func (r *rig) routes(t *testing.T, user wire.UserID) int {
	t.Helper()
	got, err := r.reg.Lookup(t.Context(), []wire.UserID{user}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return len(got.Users[user])
}

// end takes a session out as its end does, and waits for the removal.
func (r *rig) end(t *testing.T, m *roster.Member) {
	t.Helper()
	r.roster.Remove(m)
	r.a.Drop(m, 1)
	eventually(t, "the removal is done", func() bool {
		got, err := r.reg.LastSeen(t.Context(), []wire.UserID{m.User})
		return err == nil && got[m.User] == 1
	})
}

// A session may end while its route is on its way to the index: the removal
// comes first and finds nothing, and the route would stand for as long as the
// edge lives.
func TestSessionEndsWhileItsRouteIsWritten(t *testing.T) {
	for name, write := range map[string]func(*rig, *roster.Member){
		"by its log-in":        func(r *rig, m *roster.Member) { r.a.Put(t.Context(), m) },
		"by an announcing":     func(r *rig, m *roster.Member) { _ = r.a.announce(t.Context(), []*roster.Member{m}) },
		"by one from long ago": func(r *rig, m *roster.Member) { r.a.announceAll(t.Context(), r.a.Lease()) },
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, Config{TTL: time.Hour, Round: time.Hour})
			m := r.member("bob", 1)
			other := r.member("eve", 2)
			r.a.Put(t.Context(), other)
			r.reg.once(func() { r.end(t, m) })
			write(r, m)
			eventually(t, "the route is gone", func() bool { return r.routes(t, "bob") == 0 })
			if r.routes(t, "eve") != 1 {
				t.Error("another user's route is gone, too")
			}
		})
	}
}

// A group that everybody left before its counter was known must not stay named.
func TestGroupIsLeftBeforeItIsCounted(t *testing.T) {
	r := start(t, Config{TTL: time.Hour, Round: time.Hour})
	m := r.member("bob", 1)
	r.roster.AddToGroup("g", []wire.UserID{"bob"}, nil)
	_, left := r.roster.Remove(m)
	r.a.GroupsLeft(left)
	r.a.AddGroups(t.Context(), []wire.GroupID{"g"})
	eventually(t, "the edge is not named for it", func() bool {
		got, err := r.reg.Lookup(t.Context(), nil, []wire.GroupID{"g"})
		return err == nil && len(got.Groups["g"]) == 0
	})
}

// A job names the edge for every join: the removal must know of the last.
func TestRemovalKnowsOfJoins(t *testing.T) {
	r := start(t, Config{TTL: time.Hour, Round: time.Hour})
	named := func() bool {
		got, err := r.reg.Lookup(t.Context(), nil, []wire.GroupID{"g"})
		return err == nil && len(got.Groups["g"]) == 1
	}
	m, _ := r.roster.Connect(nil, roster.Identity{User: "bob", Device: "web", Conn: 1})
	r.a.AddGroups(t.Context(), r.roster.Reserve([]roster.Joined{{Group: "g"}}))
	r.roster.Open(m, []roster.Joined{{Group: "g"}}, 0)
	if _, err := r.reg.AddGroupEdge(t.Context(), "e1", []wire.GroupID{"g"}); err != nil {
		t.Fatal(err)
	}
	r.a.Recount("g")
	r.a.Recount("elsewhere") // nobody here is in it
	eventually(t, "it is recounted", func() bool {
		got, err := r.reg.Lookup(t.Context(), nil, []wire.GroupID{"elsewhere"})
		return err == nil && len(got.Groups["elsewhere"]) == 0 && len(r.a.groups) == 0
	})
	if !named() {
		t.Fatal("not named while bob is in it")
	}
	_, left := r.roster.Remove(m)
	r.a.GroupsLeft(left)
	eventually(t, "it is forgotten", func() bool { return !named() })
}

// Removals that fail are tried again: the index would send pushes here for as
// long as the lease stands.
func TestRemovalsAreTriedAgain(t *testing.T) {
	r := start(t, Config{TTL: time.Second, Round: time.Hour})
	m := r.member("bob", 1)
	r.a.Put(t.Context(), m)
	r.reg.deaf.Store(true)
	r.roster.Remove(m)
	r.a.Drop(m, 1)
	time.Sleep(200 * time.Millisecond)
	if r.routes(t, "bob") != 1 {
		t.Fatal("the route is gone though its removal failed")
	}
	r.reg.deaf.Store(false)
	eventually(t, "the route is gone", func() bool { return r.routes(t, "bob") == 0 })
}

// An announcing that takes longer than the lease must not let it lapse: the
// next one would be as long.
func TestLongAnnouncingKeepsTheLease(t *testing.T) {
	const ttl = 600 * time.Millisecond
	r := start(t, Config{TTL: ttl, Round: time.Hour})
	for i := range 12 * batchRoutes {
		r.member(fmt.Sprintf("u%d", i), i+1)
	}
	_, epoch, _ := r.a.Hello()
	r.reg.slow = 100 * time.Millisecond // 1.2 s in all
	puts := r.reg.puts.Load()
	r.reg.Flush() // the next renewal announces all
	eventually(t, "all is announced", func() bool { return r.reg.puts.Load() >= puts+12 && r.routes(t, "u6000") == 1 })
	for range 5 {
		time.Sleep(ttl / renewPerTTL)
		if _, now, unlisted := r.a.Hello(); now != epoch || unlisted {
			t.Fatalf("epoch %d after %d, unlisted %v", now, epoch, unlisted)
		}
	}
}

// The mark of draining must not be undone by a renewal that was under way.
func TestDrainingStays(t *testing.T) {
	r := start(t, Config{TTL: 300 * time.Millisecond, Round: time.Hour})
	r.a.SetDraining(t.Context())
	for range 20 {
		ls, err := r.reg.Live(t.Context(), "edge")
		if err != nil || len(ls) != 1 || !ls[0].Draining {
			t.Fatalf("leases %+v, %v", ls, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
