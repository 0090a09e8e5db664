package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	starling "github.com/starling-im/starling/client/go"
	"github.com/starling-im/starling/common/wire"
)

// MembershipRaces is the story: members come and go by HTTP while others write and all of
// them reconnect and sync; each ends with exactly what its intervals hold.
func MembershipRaces(t *testing.T, s *System) {
	const senders, churners, turns = 4, 5, 25
	owner := s.Join(t, s.Name("owner"), "maker")
	g := s.Name("busy")
	var writers []*Person
	var names []string
	for range senders {
		w := s.Join(t, s.Name("writer"), "d")
		writers, names = append(writers, w), append(names, string(w.User))
	}
	var watch []*watcher
	for i := range churners {
		w := newWatcher(t, s, s.Name("churner"), wire.GroupConv(wire.GroupID(g)))
		watch = append(watch, w)
		if i%2 == 0 {
			names = append(names, string(w.user))
		}
	}
	watch = append(watch, newWatcher(t, s, string(writers[0].User), wire.GroupConv(wire.GroupID(g))))
	conv := owner.Group(g, names...)
	var done atomic.Bool
	var load, churn sync.WaitGroup
	for _, w := range writers {
		load.Go(func() {
			for i := 0; !done.Load(); i++ {
				if _, err := w.TrySend(wire.Send{Group: wire.GroupID(g), Content: fmt.Sprint(i)}); err != nil {
					t.Errorf("send of %s: %v", w.User, err)
					return
				}
			}
		})
	}
	for _, w := range watch {
		load.Go(func() {
			for !done.Load() {
				w.visit(rand.N(60 * time.Millisecond))
			}
		})
	}
	path := "/v1/groups/" + g + "/members"
	for i, w := range watch[:churners] {
		churn.Go(func() {
			for n := range turns {
				status, code := 0, wire.Code("")
				switch (i + n) % 4 {
				case 0, 2:
					status, code, _ = s.call(t, http.MethodPost, path, owner.Token, fmt.Sprintf(`{"members":[%q]}`, w.user))
				case 1:
					status, code, _ = s.call(t, http.MethodDelete, path+"/"+string(w.user), owner.Token, "")
				case 3:
					status, code, _ = s.call(t, http.MethodDelete, path+"/"+string(w.user), w.token, "")
				}
				if status != http.StatusOK && status != http.StatusAccepted && code != wire.CodeNotMember && code != wire.CodeNotFound {
					t.Errorf("a change of %s: HTTP %d %s", w.user, status, code)
				}
			}
		})
	}
	churn.Wait()
	done.Store(true)
	load.Wait()
	all := owner.wholeHistory(conv, g)
	want := intervals(t, all, names)
	for _, w := range watch {
		w.visit(0)
		exp := want[w.user]
		check := func(what string, got map[int64]bool, whole bool) {
			t.Helper()
			for seq := range got {
				if !exp[seq] {
					t.Errorf("%s: %s has seq %d, which lies outside its intervals", w.user, what, seq)
				}
			}
			for seq := range exp {
				if whole && !got[seq] {
					t.Errorf("%s: %s lacks seq %d", w.user, what, seq)
				}
			}
		}
		check("pushes", w.pushed, false)
		check("pushes and syncs", w.got, true)
		p := s.Join(t, string(w.user), "fresh")
		check("history", seqsOf(p.History(conv)), true)
		synced := map[int64]bool{}
		if convs, _, _ := p.SyncAll(map[wire.ConvID]int64{conv: 0}, 500); convs[conv] != nil {
			synced = seqsOf(convs[conv].Messages)
		}
		check("sync from 0", synced, true)
		t.Logf("%s: %d of %d seqs, %d by push", w.user, len(exp), len(all), len(w.pushed))
		p.C.Close()
	}
}

// wholeHistory waits until history holds all that was written to a group
// before, and is without a hole.
func (p *Person) wholeHistory(conv wire.ConvID, group string) (all []wire.Msg) {
	p.t.Helper()
	last := p.SayGroup(group, "the last")
	Eventually(p.t, time.Minute, "history is whole", func() error {
		all = p.History(conv)
		if err := wholeFrom(1, all); err != nil {
			p.t.Fatal(err)
		}
		if len(all) == 0 || all[len(all)-1].ClientID != last.ClientID {
			return fmt.Errorf("%d rows without the last", len(all))
		}
		return nil
	})
	return all
}

// intervals says which seqs each user may see: from the creation for the first
// members, else by the events of the timeline.
func intervals(t testing.TB, all []wire.Msg, first []string) map[wire.UserID]map[int64]bool {
	t.Helper()
	seen, in := map[wire.UserID]map[int64]bool{}, map[wire.UserID]bool{}
	for _, u := range first {
		in[wire.UserID(u)] = true
	}
	for _, m := range all {
		var e wire.GroupEvent
		if m.Type == wire.TypeSystem {
			if err := wire.Unmarshal([]byte(m.Content), &e); err != nil {
				t.Fatalf("system message %d: %v", m.Seq, err)
			}
		}
		if e.Event == wire.EventJoined {
			if in[e.User] {
				t.Errorf("seq %d: %s joins twice", m.Seq, e.User)
			}
			in[e.User] = true
		}
		for u := range in {
			if seen[u] == nil {
				seen[u] = map[int64]bool{}
			}
			seen[u][m.Seq] = true
		}
		if e.Event == wire.EventLeft || e.Event == wire.EventRemoved {
			delete(in, e.User)
		}
	}
	return seen
}

func seqsOf(ms []wire.Msg) map[int64]bool {
	out := make(map[int64]bool, len(ms))
	for _, m := range ms {
		out[m.Seq] = true
	}
	return out
}

// watcher is a device that comes and goes and remembers all it was given.
type watcher struct {
	t      testing.TB
	s      *System
	user   wire.UserID
	conv   wire.ConvID
	token  string
	cursor int64
	pushed map[int64]bool
	got    map[int64]bool
}

func newWatcher(t testing.TB, s *System, user string, conv wire.ConvID) *watcher {
	return &watcher{
		t: t, s: s, user: wire.UserID(user), conv: conv, token: s.Token(t, user, "watch"),
		pushed: map[int64]bool{}, got: map[int64]bool{},
	}
}

// visit connects, syncs from where it was, stays a while and goes.
func (w *watcher) visit(stay time.Duration) {
	p := &Person{t: w.t, s: w.s, User: w.user, Device: "watch", Token: w.token}
	p.Connect(starling.Options{})
	convs, _, _ := p.SyncAll(map[wire.ConvID]int64{w.conv: w.cursor}, 50)
	if c := convs[w.conv]; c != nil {
		maps.Copy(w.got, seqsOf(c.Messages))
		w.cursor = c.Upto
		if !slices.IsSortedFunc(c.Messages, func(a, b wire.Msg) int { return int(a.Seq - b.Seq) }) {
			w.t.Errorf("%s: sync is out of order", w.user)
		}
	}
	time.Sleep(stay)
	p.C.Close()
	last := int64(0)
	for _, m := range p.Seen(w.conv) {
		w.pushed[m.Seq], w.got[m.Seq] = true, true
		if m.Seq < last { // once in effect: a repeat may come, an older one not before a newer
			w.t.Logf("%s: seq %d was pushed after %d", w.user, m.Seq, last)
		}
		last = max(last, m.Seq)
	}
}
