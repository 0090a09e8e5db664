package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) {
	testkit.VerifyMain(m, goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

func TestInbox(t *testing.T) {
	b := newInbox()
	const conv = wire.ConvID("g:g")
	steps := []struct {
		seq  int64
		hole bool
		at   int64
	}{{1, false, 1}, {1, false, 1}, {3, true, 1}, {5, true, 1}, {2, false, 3}, {4, false, 5}, {2, false, 5}}
	for i, s := range steps {
		if hole := b.take(conv, s.seq); hole != s.hole || b.at(conv) != s.at {
			t.Errorf("step %d: hole %t, cursor %d; want %t, %d", i, hole, b.at(conv), s.hole, s.at)
		}
	}
	if b.take(conv, 9); b.top(conv) != 9 || b.at(conv) != 5 {
		t.Errorf("top %d, cursor %d", b.top(conv), b.at(conv))
	}
	if m := b.moved(); m[conv] != 5 || len(b.moved()) != 0 {
		t.Errorf("moved %v", m)
	}
	if b.upto(conv, 8); b.at(conv) != 9 || b.count() != 6 {
		t.Errorf("after sync up to 8: cursor %d, %d new", b.at(conv), b.count())
	}
	if all := b.all(); len(all) != 1 || all[conv] != 9 {
		t.Errorf("all %v", all)
	}
}

// A logic that does not answer is passed over, one that says later is asked
// again, one that says no is believed.
func TestAPI(t *testing.T) {
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n := asked.Add(1); {
		case r.URL.Path == "/no":
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"error":{"code":"not_member","message":"x"}}`))
		case n == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case n == 2:
			w.WriteHeader(http.StatusAccepted) // not decided yet
		default:
			_, _ = w.Write([]byte(`{"token":"T"}`))
		}
	}))
	defer srv.Close()
	dead := testkit.Reserve(t, 1)[0]
	a := newAPI([]string{"http://" + dead, srv.URL})
	tok, err := a.mint(t.Context(), "", "u", "d")
	if err != nil || tok != "T" || asked.Load() != 3 {
		t.Errorf("token %q, %v, asked %d times", tok, err, asked.Load())
	}
	err = a.insist(t.Context(), http.MethodGet, "/no", tok, nil, nil)
	if codeOf(err) != "not_member" || mayReturn(codeOf(err)) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.insist(ctx, http.MethodGet, "/x", tok, nil, nil); codeOf(err) != trace.NoAnswer || !mayReturn(codeOf(err)) {
		t.Errorf("%v", err)
	}
	for _, c := range []struct {
		err  error
		want string
	}{{nil, ""}, {&wire.Error{Code: wire.CodeMuted}, "muted"}, {errors.New("x"), trace.NoAnswer}, {&refusal{status: 502}, trace.NoAnswer}} {
		if got := codeOf(c.err); got != c.want {
			t.Errorf("%v is %q", c.err, got)
		}
	}
}

// Where nothing answers, that is said at once; an answer that refuses is one.
func TestAnswers(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	if err := newAPI([]string{gone.URL, srv.URL}).answers(t.Context()); err != nil {
		t.Errorf("one of two answers: %v", err)
	}
	srv.Close()
	w, err := trace.Create(filepath.Join(t.TempDir(), "r"), &trace.Run{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{APIs: gone.URL, Users: 4, Rate: 1, Duration: time.Hour, Settle: time.Hour, Size: 64}
	if err := Run(t.Context(), cfg, w, nil); err == nil || errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "is the system up") {
		t.Errorf("none answers: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	good := Config{APIs: "http://a, http://b/", Users: 4, Groups: 1, Rate: 1, Duration: 1, Settle: 1, Size: 64}
	if err := good.Validate(); err != nil || len(good.apis()) != 2 || good.apis()[1] != "http://b" || good.Prefix == "" {
		t.Errorf("%+v: %v", good, err)
	}
	bad := Config{APIs: ",", Users: 1, Groups: -1, Size: 1, Prefix: "a b"}
	err := bad.Validate()
	for _, flag := range []string{"-api", "-users", "-groups", "-rate", "-duration", "-settle", "-size", "-prefix"} {
		if err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s is not named in %v", flag, err)
		}
	}
}

// The same seed plans the same messages, whatever the system makes of them.
func TestPlanOfASeed(t *testing.T) {
	story := func(seed uint64) string {
		w, err := trace.Create(filepath.Join(t.TempDir(), "r"), &trace.Run{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // nobody is there: everything ends at once
		r := &run{cfg: Config{Seed: seed, Size: 64}, trace: w, life: ctx, api: newAPI([]string{"http://x"}), msgs: map[msgKey]*message{}, open: map[*message]bool{}}
		for i := range 4 {
			p := &person{id: wire.UserID(fmt.Sprintf("u%d", i))}
			p.devices = []*device{{r: r, p: p, inbox: newInbox(), up: make(chan struct{})}}
			r.people = append(r.people, p)
		}
		for i, p := range r.people {
			p.peers = []*person{r.people[(i+1)%4]}
		}
		rng := rand.New(rand.NewPCG(seed, 2))
		for n := range 500 {
			r.step(ctx, rng, n, time.Now())
		}
		r.work.Wait()
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		var out []string
		for k, m := range r.msgs {
			out = append(out, fmt.Sprintf("%s %s %s %s", k.cid, k.from, k.conv, m.send.Content))
		}
		slices.Sort(out)
		return strings.Join(out, "\n")
	}
	if one := story(1); one != story(1) || one == story(2) || strings.Count(one, "\n") < 400 {
		t.Errorf("seeds make no difference or too much of it:\n%s", one)
	}
}

// Of a group's messages some are changed by its owner, of others none.
func TestChanger(t *testing.T) {
	a, b := &person{id: "a"}, &person{id: "b"}
	r := &run{teams: []*team{{id: "g", owner: a}}}
	for _, c := range []struct {
		conv wire.ConvID
		pick uint64
		want *person
	}{{"g:g", 0, a}, {"g:g", 1 << 44, b}, {"p:a:b", 0, b}} {
		if got := r.changer(&message{conv: c.conv, from: b}, c.pick); got != c.want {
			t.Errorf("%s, %d: %s", c.conv, c.pick, got.id)
		}
	}
}

// The refusal of an acknowledged message may overtake its send_ack.
func TestRefusedFirst(t *testing.T) {
	r := &run{msgs: map[msgKey]*message{}, open: map[*message]bool{}}
	m := &message{conv: "p:a:b", from: &person{id: "a"}, to: []*person{{id: "b"}}, send: wire.Send{ClientID: "m1"}, seen: map[wire.UserID]bool{}}
	r.msgs[msgKey{m.conv, "a", "m1"}], r.open[m] = m, true
	r.refused("a", m.conv, "m1")
	if r.settle(m, 7, false); r.open[m] || len(r.recent) > 0 {
		t.Error("what was refused is waited for, or changed")
	}
}

// What is in sync was begun before, is settled, and is with both.
func TestInSync(t *testing.T) {
	r := &run{cfg: Config{Settle: time.Minute}, msgs: map[msgKey]*message{}, open: map[*message]bool{}}
	a, b := &person{id: "a"}, &person{id: "b"}
	m := &message{conv: "p:a:b", from: a, to: []*person{a, b}, send: wire.Send{ClientID: "m1"}, seen: map[wire.UserID]bool{}}
	r.msgs[msgKey{m.conv, a.id, "m1"}] = m
	r.open[m] = true
	r.settle(m, 7, false)
	r.shown(a.id, m.conv, &wire.Msg{From: a.id, ClientID: "m1"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r.inSync(ctx) {
		t.Error("in sync, and b has it not")
	}
	r.shown(b.id, m.conv, &wire.Msg{From: a.id, ClientID: "m1"})
	if !r.inSync(ctx) {
		t.Error("not in sync")
	}
	r.open[m] = true
	if r.refused(a.id, m.conv, "m1"); !r.inSync(ctx) {
		t.Error("what was refused is waited for")
	}
}
