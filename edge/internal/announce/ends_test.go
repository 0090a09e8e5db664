package announce

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
)

// end takes a session out as its end does, and waits for the removal.
func (r *rig) end(t *testing.T, m *roster.Member) {
	t.Helper()
	r.roster.Remove(m)
	r.a.Drop(m, 1)
	time.Sleep(time.Millisecond) // in fake time: until the workers have nothing left to do
	if r.lastSeen(t, m.User) != 1 {
		t.Error("the removal is not done")
	}
}

// A session may end while its route is on its way to the index: the removal
// comes first and finds nothing, and the route would stand for as long as the
// edge lives.
func TestSessionEndsWhileItsRouteIsWritten(t *testing.T) {
	for name, write := range map[string]func(context.Context, *rig, *roster.Member){
		"by its log-in":        func(ctx context.Context, r *rig, m *roster.Member) { r.a.Put(ctx, m) },
		"by an announcing":     func(ctx context.Context, r *rig, m *roster.Member) { _ = r.a.announce(ctx, []*roster.Member{m}) },
		"by one from long ago": func(ctx context.Context, r *rig, _ *roster.Member) { r.a.announceAll(ctx, r.a.Lease(), "1") },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, Config{TTL: time.Hour, Round: time.Hour}, func(t *testing.T, r *rig) {
				t.Helper()
				m := r.member("bob", 1)
				other := r.member("eve", 2)
				r.a.Put(t.Context(), other)
				r.reg.once(func() { r.end(t, m) })
				write(t.Context(), r, m)
				synctest.Wait()
				if got := r.user(t, "bob"); len(got) != 0 {
					t.Errorf("routes %+v", got)
				}
				if len(r.user(t, "eve")) != 1 {
					t.Error("another user's route is gone, too")
				}
			})
		})
	}
}

// A group that everybody left before its counter was known must not stay named.
func TestGroupIsLeftBeforeItIsCounted(t *testing.T) {
	run(t, Config{TTL: time.Hour, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		m := r.member("bob", 1)
		r.roster.AddToGroup("g", []wire.UserID{"bob"}, nil)
		_, left := r.roster.Remove(m)
		r.a.GroupsLeft(left)
		r.a.AddGroups(t.Context(), []wire.GroupID{"g"})
		synctest.Wait()
		if r.group(t, "g") != 0 {
			t.Error("the edge is named for it")
		}
	})
}

// A job names the edge for every join: the removal must know of the last.
func TestRemovalKnowsOfJoins(t *testing.T) {
	run(t, Config{TTL: time.Hour, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		m, _ := r.roster.Connect(nil, roster.Identity{User: "bob", Device: "web", Conn: 1}, nil)
		r.a.AddGroups(t.Context(), r.roster.Reserve([]roster.Joined{{Group: "g"}}))
		r.roster.Open(m, []roster.Joined{{Group: "g"}}, 0)
		if _, err := r.reg.AddGroupEdge(t.Context(), "e1", []wire.GroupID{"g"}); err != nil {
			t.Fatal(err)
		}
		r.a.Recount("g")
		r.a.Recount("elsewhere") // nobody here is in it
		synctest.Wait()
		if r.group(t, "elsewhere") != 0 {
			t.Error("named for a group that nobody here is in")
		}
		if r.group(t, "g") != 1 {
			t.Fatal("not named while bob is in it")
		}
		_, left := r.roster.Remove(m)
		r.a.GroupsLeft(left)
		synctest.Wait()
		if r.group(t, "g") != 0 {
			t.Error("still named")
		}
	})
}

// Removals that fail are tried again: the index would send pushes here for as
// long as the lease stands.
func TestRemovalsAreTriedAgain(t *testing.T) {
	run(t, Config{TTL: time.Second, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		m := r.member("bob", 1)
		r.a.Put(t.Context(), m)
		r.reg.deaf.Store(true)
		r.roster.Remove(m)
		r.a.Drop(m, 1)
		time.Sleep(1900 * time.Millisecond) // it gives up after two of the lease's times
		if len(r.user(t, "bob")) != 1 {
			t.Fatal("the route is gone though its removal failed")
		}
		r.reg.deaf.Store(false)
		time.Sleep(time.Second/removalsPerTTL + time.Millisecond)
		if got := r.user(t, "bob"); len(got) != 0 {
			t.Errorf("routes %+v", got)
		}
	})
}

// An announcing that takes longer than the lease must not let it lapse: the
// next one would be as long.
func TestLongAnnouncingKeepsTheLease(t *testing.T) {
	const ttl = 600 * time.Millisecond
	run(t, Config{TTL: ttl, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		for i := range 12 * batchRoutes {
			r.member(fmt.Sprintf("u%d", i), i+1)
		}
		_, epoch, _ := r.a.Hello()
		r.reg.slow = 100 * time.Millisecond // 1.2 s in all
		puts := r.reg.puts.Load()
		r.reg.Flush() // the next renewal announces all
		for range 15 {
			time.Sleep(ttl / renewPerTTL)
			if _, now, unlisted := r.a.Hello(); now != epoch || unlisted {
				t.Fatalf("epoch %d after %d, unlisted %v", now, epoch, unlisted)
			}
		}
		if r.reg.puts.Load() < puts+12 || len(r.user(t, "u6000")) != 1 {
			t.Error("not all is announced")
		}
	})
}

// The mark of draining must not be undone by a renewal that was under way.
func TestDrainingStays(t *testing.T) {
	run(t, Config{TTL: 300 * time.Millisecond, Round: time.Hour}, func(t *testing.T, r *rig) {
		t.Helper()
		r.a.SetDraining(t.Context())
		for range 20 {
			ls, err := r.reg.Live(t.Context(), "edge")
			if err != nil || len(ls) != 1 || !ls[0].Draining {
				t.Fatalf("leases %+v, %v", ls, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
}
