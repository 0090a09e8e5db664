package controller

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// run starts a Service over a store in a bubble of fake time.
func run(t *testing.T, st *memstore.Store, f func(t *testing.T, ctx context.Context, s *Service)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Deps{Store: st})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Run(ctx) })
		f(t, ctx, s)
		cancel()
		wg.Wait()
	})
}

func code(err *wire.Error) wire.Code {
	if err == nil {
		return ""
	}
	return err.Code
}

func TestDecisionsCount(t *testing.T) {
	st := memstore.New()
	run(t, st, func(t *testing.T, ctx context.Context, s *Service) {
		t.Helper()
		idle, err := New(Deps{Store: st})
		if err != nil {
			t.Fatal(err)
		}
		if got := code(idle.Deny("eve", "d", time.Now())); got != wire.CodeUnavailable {
			t.Errorf("before anything is known: %q", got)
		}
		synctest.Wait()
		if got := code(s.Deny("eve", "d", time.Now())); got != "" {
			t.Errorf("not banned: %q", got)
		}
		if err := s.Decide(ctx, control.Entry{Kind: control.Ban, User: "eve"}, control.Entry{Kind: control.Set, Name: "x", Value: "1"}); err != nil {
			t.Fatal(err)
		}
		if got := code(s.Deny("eve", "d", time.Now())); got != wire.CodeBanned {
			t.Errorf("banned: %q", got)
		}
		if got := s.Settings(); got["x"] != "1" {
			t.Errorf("settings %v", got)
		}
		// What others decide counts within Every.
		if _, err := st.AppendControl(ctx, []control.Entry{{Kind: control.Unban, User: "eve"}, {Kind: control.Ban, User: "carl"}, {Kind: control.Ban, User: "bob"}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(Every)
		synctest.Wait()
		if got := code(s.Deny("eve", "d", time.Now())); got != "" {
			t.Errorf("unbanned by another: %q", got)
		}
		first, more := s.Bans("", 1)
		rest, end := s.Bans("bob", 9)
		if len(first) != 1 || first[0].User != "bob" || !more || len(rest) != 1 || rest[0].User != "carl" || end {
			t.Errorf("bans %v %v, %v %v", first, more, rest, end)
		}
	})
}

func TestFollow(t *testing.T) {
	st := memstore.New()
	var many []control.Entry
	for i := range wire.ConnID(2*page + 1) {
		many = append(many, control.Entry{Kind: control.Kick, User: "bob", Conn: i})
	}
	if _, err := st.AppendControl(t.Context(), many); err != nil {
		t.Fatal(err)
	}
	run(t, st, func(t *testing.T, ctx context.Context, s *Service) {
		t.Helper()
		type batch struct {
			n    int
			more bool
		}
		var got []batch
		stop := errors.New("enough")
		ctx, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() {
			ended <- s.Follow(ctx, func(es []control.Entry, more bool) error {
				got = append(got, batch{len(es), more})
				if len(es) == 2 {
					return stop
				}
				return nil
			})
		}()
		synctest.Wait()
		if want := []batch{{page, true}, {page, true}, {1, false}}; !slices.Equal(got, want) {
			t.Errorf("at first %v", got)
		}
		got = nil
		if err := s.Decide(ctx, control.Entry{Kind: control.Kick, User: "a"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if want := []batch{{1, false}}; !slices.Equal(got, want) {
			t.Errorf("then %v", got)
		}
		if err := s.Decide(ctx, control.Entry{Kind: control.Kick, User: "a"}, control.Entry{Kind: control.Kick, User: "b"}); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, stop) {
			t.Errorf("ended with %v", err)
		}
		go func() { ended <- s.Follow(ctx, func([]control.Entry, bool) error { return nil }) }()
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}

// Without any decision a follower is told so: it waits for that.
func TestFollowOfNothing(t *testing.T) {
	run(t, memstore.New(), func(t *testing.T, ctx context.Context, s *Service) {
		t.Helper()
		ctx, cancel := context.WithCancel(ctx)
		calls := 0
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = s.Follow(ctx, func(es []control.Entry, more bool) error {
				if calls++; len(es) != 0 || more {
					t.Errorf("%v %v", es, more)
				}
				return nil
			})
		})
		time.Sleep(time.Minute)
		cancel()
		wg.Wait()
		if calls != 1 {
			t.Errorf("%d calls", calls)
		}
	})
}

// A store that is away keeps what was decided in force.
func TestStoreAway(t *testing.T) {
	st := memstore.New()
	var away atomic.Bool
	st.Hook = func(string, bool) error {
		if away.Load() {
			return errors.New("away")
		}
		return nil
	}
	run(t, st, func(t *testing.T, ctx context.Context, s *Service) {
		t.Helper()
		if err := s.Decide(ctx, control.Entry{Kind: control.Ban, User: "eve"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		away.Store(true)
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		if err := s.Decide(ctx, control.Entry{Kind: control.Unban, User: "eve"}); err == nil {
			t.Error("decided without a store")
		}
		if got := code(s.Deny("eve", "", time.Now())); got != wire.CodeBanned {
			t.Errorf("%q", got)
		}
		away.Store(false)
		if err := s.Follow(ctx, func([]control.Entry, bool) error { return context.Canceled }); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// A revocation must not be forgotten while a token that it voids is good.
func TestKeptLongEnough(t *testing.T) {
	if control.Kept < token.MaxAge {
		t.Errorf("kept for %v, but tokens are good for %v", control.Kept, token.MaxAge)
	}
}
