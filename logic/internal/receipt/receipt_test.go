package receipt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// world is the store, the index and the log in one.
type world struct {
	mu      sync.Mutex
	calls   [][]store.CursorMove
	at      []time.Time
	err     error
	stands  []store.CursorState // comes with the first err
	members int
	still   bool // nothing grows
	block   chan struct{}
	cleared []string
	pushes  []*recordpb.Push
	keys    []string
	full    bool
}

func (w *world) MoveCursors(ctx context.Context, moves []store.CursorMove) ([]store.CursorState, error) {
	w.mu.Lock()
	block := w.block
	w.mu.Unlock()
	if block != nil {
		<-block
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = append(w.at, time.Now())
	if w.err != nil {
		stands := w.stands
		w.stands = nil
		return stands, w.err
	}
	w.calls = append(w.calls, append([]store.CursorMove(nil), moves...))
	seen := map[userConv]bool{}
	var out []store.CursorState
	for _, m := range moves {
		uc := userConv{m.User, m.Conv}
		if seen[uc] {
			continue
		}
		seen[uc] = true
		out = append(out, store.CursorState{User: m.User, Conv: m.Conv, Delivered: m.Delivered, Read: m.Read, Grew: !w.still, Members: w.members})
	}
	return out, ctx.Err()
}

func (w *world) ClearOffline(_ context.Context, u wire.UserID, conv wire.ConvID, upto int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cleared = append(w.cleared, fmt.Sprintf("%s %s %d", u, conv, upto))
	return nil
}

func (w *world) Push(key string, e *recordpb.Push, _ func(bool)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.full {
		return errors.New("full")
	}
	w.pushes, w.keys = append(w.pushes, e), append(w.keys, key)
	return nil
}

// run starts a Buffer in a bubble of fake time.
func run(t *testing.T, f func(t *testing.T, w *world, b *Buffer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		b, err := New(Deps{Store: w, Index: w, Push: w, LargeGroup: 500})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = b.Run(ctx) })
		defer wg.Wait()
		defer cancel()
		f(t, w, b)
	})
}

func TestCoalesced(t *testing.T) {
	run(t, func(t *testing.T, w *world, b *Buffer) {
		t.Helper()
		start := time.Now()
		for i := range int64(50) {
			b.Add("bob", "web", 7, "p:alice:bob", i+1, 0)
		}
		b.Add("bob", "web", 7, "p:alice:bob", 3, 3) // an older read does not move the ack back
		b.Add("bob", "phone", 8, "p:alice:bob", 9, 0)
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if len(w.calls) != 1 || w.at[0].Sub(start) > 200*time.Millisecond {
			t.Fatalf("%d calls, after %v", len(w.calls), w.at)
		}
		got := map[wire.DeviceID]store.CursorMove{}
		for _, m := range w.calls[0] {
			got[m.Device] = m
		}
		want := map[wire.DeviceID]store.CursorMove{
			"web":   {User: "bob", Device: "web", Conv: "p:alice:bob", Delivered: 50, Read: 3},
			"phone": {User: "bob", Device: "phone", Conv: "p:alice:bob", Delivered: 9},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Minute)
		if len(w.calls) != 1 {
			t.Errorf("%d calls without anything to write", len(w.calls))
		}
	})
}

func TestManyAreWrittenAtOnce(t *testing.T) {
	run(t, func(t *testing.T, w *world, b *Buffer) {
		t.Helper()
		start := time.Now()
		for i := range FlushCount {
			b.Add(wire.UserID(fmt.Sprintf("u%d", i)), "d", 1, "g:team", 5, 0)
		}
		synctest.Wait()
		if len(w.calls) != 1 || len(w.calls[0]) != FlushCount || !w.at[0].Equal(start) {
			t.Errorf("%d calls at %v", len(w.calls), w.at)
		}
	})
}

func TestWhoGetsTheReceipt(t *testing.T) {
	for name, c := range map[string]struct {
		conv    wire.ConvID
		members int
		want    *recordpb.Push
	}{
		"the peer and the own devices": {"p:alice:bob", 0, &recordpb.Push{Users: []string{"alice", "bob"}}},
		"notes to oneself":             {"p:bob:bob", 0, &recordpb.Push{Users: []string{"bob"}}},
		"a small group":                {"g:team", 500, &recordpb.Push{Group: "team"}},
		"a large group: own devices":   {"g:team", 501, &recordpb.Push{Users: []string{"bob"}}},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, w *world, b *Buffer) {
				t.Helper()
				w.members = c.members
				b.Add("bob", "web", 7, c.conv, 5, 4)
				b.Flush(t.Context(), "bob")
				synctest.Wait()
				if len(w.pushes) != 1 {
					t.Fatalf("%d pushes", len(w.pushes))
				}
				got := w.pushes[0]
				var r wire.Receipt
				if err := wire.Unmarshal(got.GetBody(), &r); err != nil || r.TS == 0 {
					t.Fatal(err, r)
				}
				r.TS = 0
				if diff := cmp.Diff(wire.Receipt{Conv: c.conv, User: "bob", Delivered: 5, Read: 4}, r); diff != "" {
					t.Error(diff)
				}
				if cmp.Diff(c.want.GetUsers(), got.GetUsers()) != "" || got.GetGroup() != c.want.GetGroup() || got.GetExceptConn() != 7 ||
					wire.Op(got.GetOp()) != wire.OpReceipt || w.keys[0] != string(c.conv) {
					t.Errorf("push %v", got)
				}
				if diff := cmp.Diff([]string{fmt.Sprintf("bob %s 5", c.conv)}, w.cleared); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestWhatDidNotGrowIsClearedOnly(t *testing.T) {
	run(t, func(t *testing.T, w *world, b *Buffer) {
		t.Helper()
		w.still = true
		b.Add("bob", "web", 7, "p:alice:bob", 5, 0)
		b.Flush(t.Context(), "bob")
		synctest.Wait()
		if len(w.pushes) != 0 || len(w.cleared) != 1 {
			t.Errorf("%d pushes, cleared %v", len(w.pushes), w.cleared)
		}
	})
}

func TestStoreAwayKeepsThem(t *testing.T) {
	run(t, func(t *testing.T, w *world, b *Buffer) {
		t.Helper()
		w.err = errors.New("away")
		b.Add("bob", "web", 7, "p:alice:bob", 5, 0)
		time.Sleep(300 * time.Millisecond)
		b.Add("bob", "web", 7, "p:alice:bob", 4, 2)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := len(w.at); n < 5 || n > 40 {
			t.Errorf("asked %d times in 10 s", n)
		}
		w.mu.Lock()
		w.err = nil
		w.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		want := [][]store.CursorMove{{{User: "bob", Device: "web", Conv: "p:alice:bob", Delivered: 5, Read: 2}}}
		if diff := cmp.Diff(want, w.calls); diff != "" {
			t.Error(diff)
		}
	})
}

// What one shard took while another was away is told at once: at the next try
// it grows no more.
func TestHalfTheStoreAway(t *testing.T) {
	run(t, func(t *testing.T, w *world, b *Buffer) {
		t.Helper()
		w.stands = []store.CursorState{{User: "bob", Conv: "p:alice:bob", Delivered: 5, Grew: true}}
		w.err = errors.New("shard b: away")
		b.Add("bob", "web", 7, "p:alice:bob", 5, 0)
		b.Add("bob", "web", 7, "p:bob:carol", 3, 0)
		time.Sleep(time.Second)
		synctest.Wait()
		if len(w.pushes) != 1 || w.pushes[0].GetUsers()[0] != "alice" || len(w.cleared) == 0 || w.cleared[0] != "bob p:alice:bob 5" {
			t.Errorf("told %v, cleared %v", w.pushes, w.cleared)
		}
		w.mu.Lock()
		w.err, w.still = nil, true
		w.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		if len(w.calls) != 1 || len(w.calls[0]) != 1 || w.calls[0][0].Conv != "p:bob:carol" || len(w.pushes) != 1 {
			t.Errorf("back again: calls %v, told %v", w.calls, w.pushes)
		}
	})
}

func TestFlushWaitsForTheOwnOnly(t *testing.T) {
	run(t, func(t *testing.T, w *world, b *Buffer) {
		t.Helper()
		start := time.Now()
		b.Flush(t.Context(), "alice") // nothing pending
		b.Add("bob", "web", 7, "p:alice:bob", 5, 0)
		b.Flush(t.Context(), "alice")
		if len(w.calls) != 0 || time.Since(start) != 0 {
			t.Errorf("waited for another's: %v", time.Since(start))
		}
		b.Flush(t.Context(), "bob")
		if len(w.calls) != 1 || time.Since(start) != 0 {
			t.Errorf("%d calls after %v", len(w.calls), time.Since(start))
		}
		// One that is being written is waited for, too; a store that hangs is not, beyond ctx.
		w.mu.Lock()
		w.block = make(chan struct{})
		w.mu.Unlock()
		b.Add("bob", "web", 7, "p:alice:bob", 6, 0)
		time.Sleep(time.Second)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		b.Flush(ctx, "bob")
		if time.Since(start) != 2*time.Second {
			t.Errorf("waited %v", time.Since(start))
		}
		close(w.block)
	})
}

func TestBounded(t *testing.T) {
	w := &world{}
	b, err := New(Deps{Store: w, Index: w, Push: w})
	if err != nil {
		t.Fatal(err)
	}
	for i := range Capacity {
		if !b.Add(wire.UserID(fmt.Sprint("u", i)), "d", 1, "g:team", 1, 0) {
			t.Fatal("full too soon")
		}
	}
	if b.Add("one-more", "d", 1, "g:team", 1, 0) {
		t.Error("over the bound")
	}
	if !b.Add("u1", "d", 1, "g:team", 2, 0) {
		t.Error("one that is there already was dropped")
	}
}

// One user cannot take the room of all.
func TestOneUsersShare(t *testing.T) {
	w := &world{}
	b, err := New(Deps{Store: w, Index: w, Push: w})
	if err != nil {
		t.Fatal(err)
	}
	for i := range PerUser {
		if !b.Add("greedy", "d", 1, wire.ConvID(fmt.Sprint("g:", i)), 1, 0) {
			t.Fatal("full too soon")
		}
	}
	if b.Add("greedy", "d", 1, "g:one-more", 1, 0) {
		t.Error("over the share")
	}
	if !b.Add("greedy", "d", 1, "g:7", 2, 0) || !b.Add("modest", "d", 1, "g:7", 1, 0) {
		t.Error("a raise or another user was dropped")
	}
	if err := b.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !b.Add("greedy", "d", 1, "g:one-more", 1, 0) {
		t.Error("the share is not free again after a flush")
	}
}

func TestTheEndWritesTheRest(t *testing.T) {
	w := &world{full: true} // receipts may fail: cursors must not
	b, err := New(Deps{Store: w, Index: w, Push: w})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 3 * FlushCount {
		b.Add(wire.UserID(fmt.Sprint("u", i)), "d", 1, "g:team", 1, 0)
	}
	if err := b.Run(ctx); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range w.calls {
		n += len(c)
	}
	if n != 3*FlushCount || len(w.calls) != 3 {
		t.Errorf("%d moves in %d calls", n, len(w.calls))
	}
}

func TestStoreAwayKeepsMany(t *testing.T) {
	run(t, func(t *testing.T, w *world, b *Buffer) {
		t.Helper()
		w.err = errors.New("away")
		for i := range 2*FlushCount + 1 {
			b.Add(wire.UserID(fmt.Sprint("u", i)), "d", 1, "g:team", 5, 0)
		}
		time.Sleep(2 * time.Second)
		w.mu.Lock()
		w.err = nil
		w.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		n := 0
		for _, c := range w.calls {
			n += len(c)
		}
		if n != 2*FlushCount+1 {
			t.Errorf("%d moves were written", n)
		}
	})
}
