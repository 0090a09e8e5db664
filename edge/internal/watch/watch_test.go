package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
	"github.com/starling-im/starling/edge/internal/session"
	"github.com/starling-im/starling/edge/internal/ws"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// index says who is online, and counts what it is asked.
type index struct {
	mu     sync.Mutex
	online map[wire.UserID][]registry.Route
	holes  bool
	away   bool
	asked  []int
}

func (x *index) Lookup(_ context.Context, users []wire.UserID, _ []wire.GroupID) (registry.Routes, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.away {
		return registry.Routes{}, errors.New("away")
	}
	x.asked = append(x.asked, len(users))
	r := registry.Routes{Known: !x.holes, Users: map[wire.UserID][]registry.Route{}}
	for _, u := range users {
		r.Users[u] = x.online[u]
	}
	return r, nil
}

func (x *index) LastSeen(_ context.Context, users []wire.UserID) (map[wire.UserID]int64, error) {
	return map[wire.UserID]int64{"gone": 9}, nil
}

func (x *index) set(f func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f()
}

// client is an open session that writes down what it is sent.
type client struct {
	m *roster.Member

	room atomic.Bool // the socket takes something
	mu   sync.Mutex
	out  bytes.Buffer
}

func (c *client) Write(b []byte) (int, error) {
	if !c.room.Load() {
		return 0, session.ErrFull
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(b)
}
func (c *client) Writev(bufs [][]byte) (int, error) { return c.Write(bytes.Join(bufs, nil)) }
func (*client) NotifyWritable()                     {}
func (*client) CloseWrite()                         {}
func (*client) Abort()                              {}

// told returns the presences since the last call, a line each.
func (c *client) told() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lines []string
	for _, s := range strings.Split(c.out.String(), `{"op":`)[1:] {
		s = s[:strings.LastIndex(s, "}")+1]
		if !strings.HasPrefix(s, `"auth_ok"`) {
			lines = append(lines, `{"op":`+s)
		}
	}
	c.out.Reset()
	return strings.Join(lines, "\n")
}

type hub struct{}

func (hub) Authenticate(*session.Session, wire.Auth) {}
func (hub) Renew(*session.Session, wire.Auth) (wire.AuthOK, *wire.Error) {
	return wire.AuthOK{}, nil
}
func (hub) Ask(wire.ConnID, wire.Frame) (bool, *wire.Error) { return true, nil }
func (hub) Pin() session.Peer                               { return nil }
func (hub) Closed(*session.Session)                         {}

func connect(n int) *client {
	c := &client{}
	c.room.Store(true)
	s := session.New(&session.Env{
		Limits: session.Limits{QueueBytes: 1 << 20, AuthTimeout: time.Hour, AuthBytes: 1 << 20, Heartbeat: time.Hour, WriteTimeout: time.Hour},
		Hub:    hub{}, Metrics: session.NewMetrics(prometheus.NewRegistry()), Log: zap.NewNop(),
		Now: func() int64 { return time.Now().UnixMilli() },
	}, c)
	s.Upgraded(&ws.Upgrade{Token: "t"})
	id := session.Identity{User: wire.UserID(fmt.Sprint("watcher", n)), Device: "d", Conn: wire.ConnID(n)}
	s.Identify(id, 0)
	s.Open(wire.AuthOK{})
	c.m = &roster.Member{Session: s, Identity: id}
	return c
}

// run starts a Watcher in a bubble of fake time.
func run(t *testing.T, f func(t *testing.T, x *index, w *Watcher)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		x := &index{online: map[wire.UserID][]registry.Route{"bob": {{Platform: "web"}, {Platform: "ios"}, {Platform: "web"}}}}
		w := New(x, prometheus.NewRegistry(), zap.NewNop())
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { w.Run(ctx) })
		f(t, x, w)
		cancel()
		wg.Wait()
	})
}

func says(t *testing.T, what string, c *client, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := c.told(); got != strings.Join(want, "\n") {
		t.Errorf("%s:\n%s\nwant\n%s", what, got, strings.Join(want, "\n"))
	}
}

const bobOnline = `{"op":"presence","seq":3,"body":{"user":"bob","online":true,"platforms":["ios","web"]}}`

func TestAnswersAndChanges(t *testing.T) {
	run(t, func(t *testing.T, x *index, w *Watcher) {
		t.Helper()
		a, b := connect(1), connect(2)
		if err := w.Subscribe(a.m, []wire.UserID{"bob", "gone"}, 3); err != nil {
			t.Fatal(err)
		}
		says(t, "the answer", a, bobOnline, `{"op":"presence","seq":3,"body":{"user":"gone","online":false,"platforms":[],"last_seen":9}}`)
		time.Sleep(10 * time.Second)
		says(t, "no change", a)
		if err := w.Subscribe(b.m, []wire.UserID{"bob"}, 3); err != nil {
			t.Fatal(err)
		}
		says(t, "another's answer", b, bobOnline)
		says(t, "that is news to nobody", a)

		x.set(func() { x.online["bob"] = x.online["bob"][:1] })
		time.Sleep(time.Second)
		web := `{"op":"presence","body":{"user":"bob","online":true,"platforms":["web"]}}`
		says(t, "a platform less", a, web)
		says(t, "to both", b, web)
		x.set(func() { delete(x.online, "bob") })
		w.Unsubscribe(b.m, []wire.UserID{"bob", "stranger"})
		time.Sleep(time.Second)
		says(t, "offline", a, `{"op":"presence","body":{"user":"bob","online":false,"platforms":[]}}`)
		says(t, "does not watch any more", b)
		w.Forget(a.m)
		x.set(func() { x.online["bob"] = []registry.Route{{}}; x.asked = nil })
		time.Sleep(3 * time.Second)
		says(t, "gone", a)
		x.set(func() {
			if len(x.asked) > 0 || len(w.subjects)+len(w.sessions) > 0 {
				t.Errorf("still asked for %v; %v %v", x.asked, w.subjects, w.sessions)
			}
		})
	})
}

// With holes in the index who seems away may not be.
func TestHolesAndAway(t *testing.T) {
	run(t, func(t *testing.T, x *index, w *Watcher) {
		t.Helper()
		a := connect(1)
		_ = w.Subscribe(a.m, []wire.UserID{"bob"}, 3)
		says(t, "the answer", a, bobOnline)
		x.set(func() { delete(x.online, "bob"); x.holes = true })
		time.Sleep(5 * time.Second)
		says(t, "with holes", a)
		x.set(func() { x.away = true })
		time.Sleep(5 * time.Second)
		says(t, "away", a)
		if err := w.Subscribe(a.m, []wire.UserID{"carl"}, 4); err != nil {
			t.Fatal(err)
		}
		says(t, "asked meanwhile", a, `{"op":"error","seq":4,"body":{"code":"unavailable","message":"who is where is not known now","retry_after_ms":1000}}`)
		x.set(func() { x.away, x.holes = false, false; x.online["carl"] = []registry.Route{{}} })
		time.Sleep(time.Second)
		says(t, "back: bob alone is watched", a, `{"op":"presence","body":{"user":"bob","online":false,"platforms":[]}}`)
	})
}

func TestBounds(t *testing.T) {
	run(t, func(t *testing.T, x *index, w *Watcher) {
		t.Helper()
		var users []wire.UserID
		for i := range MaxWatched {
			users = append(users, wire.UserID(fmt.Sprint("u", i)))
		}
		a := connect(1)
		if err := w.Subscribe(a.m, users, 1); err != nil {
			t.Fatal(err)
		}
		if err := w.Subscribe(a.m, users[:5], 2); err != nil {
			t.Error("watched already:", err)
		}
		if err := w.Subscribe(a.m, []wire.UserID{"more"}, 3); err == nil || err.Code != wire.CodeTooLarge {
			t.Error("one more:", err)
		}
		synctest.Wait()
		x.set(func() { x.asked = nil })
		time.Sleep(time.Second)
		synctest.Wait()
		x.set(func() {
			if fmt.Sprint(x.asked) != "[500 500]" {
				t.Errorf("asked for %v", x.asked)
			}
		})
		// More than fit into a second take turns.
		seen := map[wire.UserID]int{}
		for i := range maxLooks / MaxWatched {
			other := connect(10 + i)
			var more []wire.UserID
			for j := range MaxWatched {
				more = append(more, wire.UserID(fmt.Sprint("v", i, "-", j)))
			}
			if err := w.Subscribe(other.m, more, 1); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			list := w.due()
			if len(list) != maxLooks {
				t.Fatalf("%d at once", len(list))
			}
			for _, u := range list {
				seen[u]++
			}
		}
		if len(seen) != maxLooks+MaxWatched {
			t.Errorf("%d of %d had their turn", len(seen), maxLooks+MaxWatched)
		}
	})
}

// Who asks while too many wait is told so, and nothing has changed.
func TestTooManyAsk(t *testing.T) {
	w := New(&index{}, prometheus.NewRegistry(), zap.NewNop()) // does not run
	a := connect(1)
	for i := range maxAsks { // one connection can take its few places alone
		err := w.Subscribe(a.m, []wire.UserID{"bob", wire.UserID(fmt.Sprint(i))}, int32(i))
		if full := i >= maxOwnAsks; full != (err != nil) || full && (err.Code != wire.CodeOverloaded || err.RetryAfterMS == 0) {
			t.Fatal(i, err)
		}
	}
	if got := len(w.sessions[a.m].users); got != 1+maxOwnAsks {
		t.Errorf("it watches %d", got)
	}
	for i := range maxAsks - maxOwnAsks {
		if err := w.Subscribe(&roster.Member{}, []wire.UserID{"bob"}, int32(i)); err != nil {
			t.Fatal(err)
		}
	}
	b := connect(2)
	if err := w.Subscribe(b.m, []wire.UserID{"carl"}, 1); err == nil || err.Code != wire.CodeOverloaded || err.RetryAfterMS == 0 {
		t.Error(err)
	}
	if w.subjects["carl"] != nil || w.sessions[b.m] != nil {
		t.Error("it watches all the same")
	}
}

// While the index has holes nobody is said to be away who was online, whoever
// asks; and what was said is put right afterwards.
func TestAsksWhileTheIndexHasHoles(t *testing.T) {
	run(t, func(t *testing.T, x *index, w *Watcher) {
		t.Helper()
		a, b := connect(1), connect(2)
		_ = w.Subscribe(a.m, []wire.UserID{"bob"}, 3)
		says(t, "the answer", a, bobOnline)
		bob := x.online["bob"]
		x.set(func() { delete(x.online, "bob"); x.holes = true })
		_ = w.Subscribe(b.m, []wire.UserID{"bob", "carl"}, 3)
		says(t, "asked meanwhile", b, bobOnline, `{"op":"presence","seq":3,"body":{"user":"carl","online":false,"platforms":[]}}`)
		says(t, "who watched", a)
		x.set(func() { x.online["bob"] = bob; x.online["carl"] = []registry.Route{{}}; x.holes = false })
		time.Sleep(time.Second)
		says(t, "without holes", b, `{"op":"presence","body":{"user":"carl","online":true,"platforms":[]}}`)
		says(t, "bob was here all the time", a)
	})
}

// A presence_sub that failed has changed nothing.
func TestFailedAskTakesNothingAway(t *testing.T) {
	run(t, func(t *testing.T, x *index, w *Watcher) {
		t.Helper()
		a := connect(1)
		_ = w.Subscribe(a.m, []wire.UserID{"bob"}, 3)
		says(t, "the answer", a, bobOnline)
		x.set(func() { x.away = true })
		_ = w.Subscribe(a.m, []wire.UserID{"bob", "carl"}, 4)
		says(t, "fails", a, `{"op":"error","seq":4,"body":{"code":"unavailable","message":"who is where is not known now","retry_after_ms":1000}}`)
		x.set(func() { x.away = false; delete(x.online, "bob"); x.online["carl"] = []registry.Route{{}} })
		time.Sleep(time.Second)
		says(t, "bob is watched as before, carl is not", a, `{"op":"presence","body":{"user":"bob","online":false,"platforms":[]}}`)
	})
}

func TestUsersNamedTwice(t *testing.T) {
	run(t, func(t *testing.T, _ *index, w *Watcher) {
		t.Helper()
		var users []wire.UserID
		for i := range MaxWatched - 1 {
			users = append(users, wire.UserID(fmt.Sprint("u", i)))
		}
		a := connect(1)
		if err := w.Subscribe(a.m, users, 1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		a.told()
		if err := w.Subscribe(a.m, []wire.UserID{"bob", "bob", "bob"}, 3); err != nil {
			t.Fatal(err)
		}
		says(t, "one answer", a, bobOnline)
	})
}

// A change that a full queue does not take is told later.
func TestChangeIsToldAgain(t *testing.T) {
	run(t, func(t *testing.T, x *index, w *Watcher) {
		t.Helper()
		a, b := connect(1), connect(2)
		_ = w.Subscribe(a.m, []wire.UserID{"bob"}, 3)
		_ = w.Subscribe(b.m, []wire.UserID{"bob"}, 3)
		says(t, "the answer", a, bobOnline)
		says(t, "the other's", b, bobOnline)
		a.room.Store(false)
		a.m.Session.Push(&session.Shared{Op: wire.OpMsg, Body: bytes.Repeat([]byte("x"), 2<<20)})
		a.m.Session.Flush()
		x.set(func() { delete(x.online, "bob") })
		time.Sleep(3 * time.Second)
		offline := `{"op":"presence","body":{"user":"bob","online":false,"platforms":[]}}`
		says(t, "one with room", b, offline)
		a.room.Store(true)
		a.m.Session.Writable()
		a.told()
		time.Sleep(time.Second)
		says(t, "one that had none", a, offline)
		says(t, "the other again", b)
		time.Sleep(3 * time.Second)
		says(t, "once", a)
	})
}
