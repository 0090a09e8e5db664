package idgen

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const start = int64(1_800_000_000_000) // a time after the epoch, in ms

// clock is a clock set by hand.
type clock struct{ ms int64 }

func (c *clock) now() time.Time { return time.UnixMilli(c.ms) }

func next(t *testing.T, g *Generator) wire.MsgID {
	t.Helper()
	id, err := g.Next()
	if err != nil {
		t.Fatalf("Next: %v", err)
	}
	return id
}

func TestLayout(t *testing.T) {
	c := &clock{start}
	g := New(MaxWorker, 0, c.now)
	g.Extend(start + 1000)
	id := next(t, g)
	if want := wire.MsgID((start-Epoch)<<22 | 1023<<12); id != want {
		t.Errorf("id = %d, want %d", id, want)
	}
	if Time(id) != start || Worker(id) != MaxWorker {
		t.Errorf("id of %d by %d, want of %d by %d", Time(id), Worker(id), start, MaxWorker)
	}
	if second := next(t, g); second != id+1 {
		t.Errorf("second id of a millisecond = %d, want %d", second, id+1)
	}
	if At(start) > id || At(start+1) <= id || At(0) != 0 {
		t.Errorf("At(%d) = %d does not bound %d", start, At(start), id)
	}
	if want := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli(); Epoch != want {
		t.Errorf("Epoch = %d, want %d", int64(Epoch), want)
	}
}

func TestLease(t *testing.T) {
	c := &clock{start}
	g := New(1, 0, c.now)
	if _, err := g.Next(); !errors.Is(err, ErrLapsed) {
		t.Errorf("without a lease: %v, want ErrLapsed", err)
	}
	g.Extend(start + 10)
	c.ms = start + 10
	next(t, g)
	c.ms = start + 11
	if _, err := g.Next(); !errors.Is(err, ErrLapsed) {
		t.Errorf("after the lease: %v, want ErrLapsed", err)
	}
	g.Extend(start + 5) // a late answer must not shorten it, nor help
	if _, err := g.Next(); !errors.Is(err, ErrLapsed) {
		t.Errorf("after a shorter lease: %v, want ErrLapsed", err)
	}
	g.Extend(start + 20)
	if id := next(t, g); Time(id) != start+11 {
		t.Errorf("after renewal the id bears %d, want %d", Time(id), start+11)
	}
}

func TestStartsAfterLastUse(t *testing.T) {
	c := &clock{start}
	g := New(1, start+500, c.now) // the one before had a faster clock
	g.Extend(start + 1000)
	id := next(t, g)
	if Time(id) != start+501 {
		t.Errorf("first id bears %d, want later than %d", Time(id), start+500)
	}
	if g.Last() != start+501 {
		t.Errorf("Last = %d", g.Last())
	}
	ahead := New(1, start+5000, c.now)
	ahead.Extend(start + 1000)
	if id, err := ahead.Next(); !errors.Is(err, ErrLapsed) {
		t.Errorf("last use beyond the lease: %d, %v, want ErrLapsed", id, err)
	}
}

// What Close returned is the last time ids bear, also of calls on their way.
func TestClose(t *testing.T) {
	c := &clock{ms: Epoch + 1000}
	g := New(3, 0, c.now)
	g.Extend(Epoch + 5000)
	last := Time(next(t, g))
	var wg sync.WaitGroup
	ids := make(chan wire.MsgID, 1000)
	wg.Go(func() {
		for range 1000 {
			if id, err := g.Next(); err == nil {
				ids <- id
			}
		}
	})
	used := g.Close()
	wg.Wait()
	close(ids)
	for id := range ids {
		if Time(id) > used {
			t.Errorf("id of %d, closed at %d", Time(id), used)
		}
	}
	if used < last {
		t.Errorf("closed at %d after an id of %d", used, last)
	}
	c.ms++
	g.Extend(Epoch + 9000)
	if _, err := g.Next(); !errors.Is(err, ErrLapsed) {
		t.Errorf("an id after Close: %v", err)
	}
}

func TestClockStepsBack(t *testing.T) {
	c := &clock{start}
	g := New(1, 0, c.now)
	g.Extend(start + 1000)
	last := next(t, g)
	for _, back := range []int64{1, 50, 10_000} {
		c.ms = start - back
		id := next(t, g)
		if id <= last || Time(id) != start {
			t.Errorf("clock %d ms back: %d after %d, bearing %d", back, id, last, Time(id))
		}
		last = id
	}
	c.ms = start + 1
	if id := next(t, g); Time(id) != start+1 {
		t.Errorf("clock caught up: id bears %d, want %d", Time(id), start+1)
	}
}

func TestBorrowsWithinLease(t *testing.T) {
	c := &clock{start}
	g := New(1, 0, c.now)
	g.Extend(start + 1) // two milliseconds: start and start+1
	var last wire.MsgID
	for i := range 2 * (maxCounter + 1) {
		id := next(t, g)
		if id <= last {
			t.Fatalf("id %d: %d after %d", i, id, last)
		}
		last = id
	}
	if Time(last) != start+1 {
		t.Errorf("last id bears %d, want the borrowed %d", Time(last), start+1)
	}
	if id, err := g.Next(); !errors.Is(err, ErrLapsed) {
		t.Errorf("borrowing beyond the lease: %d, %v, want ErrLapsed", id, err)
	}
}

func TestRange(t *testing.T) {
	c := &clock{Epoch + maxTime}
	g := New(MaxWorker, 0, c.now)
	g.Extend(1 << 62)
	if id := next(t, g); id <= 0 || Time(id) != c.ms {
		t.Errorf("last millisecond of the range: %d", id)
	}
	c.ms++
	if id, err := g.Next(); err == nil {
		t.Errorf("beyond the range: %d, want an error", id)
	}
	c.ms = 0 // a machine without a clock
	early := New(0, 0, c.now)
	early.Extend(1 << 62)
	if id := next(t, early); id <= 0 {
		t.Errorf("before the epoch: %d, want a positive id", id)
	}
}

func TestBadWorker(t *testing.T) {
	for _, w := range []int{-1, MaxWorker + 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("New(%d) did not panic", w)
				}
			}()
			New(w, 0, time.Now)
		}()
	}
}

// TestConcurrent has several goroutines on each of several generators: no id
// twice, and each goroutine's grow.
func TestConcurrent(t *testing.T) {
	const workers, each, n = 3, 4, 3000
	got := make([][]wire.MsgID, workers*each)
	var wg sync.WaitGroup
	for w := range workers {
		g := New(w, 0, time.Now)
		g.Extend(time.Now().Add(time.Hour).UnixMilli())
		for e := range each {
			wg.Go(func() {
				for range n {
					id, err := g.Next()
					if err != nil {
						t.Error(err)
						return
					}
					got[w*each+e] = append(got[w*each+e], id)
				}
			})
		}
	}
	wg.Wait()
	for i, ids := range got {
		if !slices.IsSorted(ids) {
			t.Errorf("ids of goroutine %d do not grow", i)
		}
	}
	all := slices.Concat(got...)
	slices.Sort(all)
	if unique := slices.Compact(slices.Clone(all)); len(unique) != workers*each*n {
		t.Errorf("%d different ids of %d", len(unique), workers*each*n)
	}
}

// TestRenewal follows a lease that is renewed as time passes, then is not.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(25 * 366 * 24 * time.Hour) // its clock starts in 2000, before the epoch
		g := New(7, time.Now().UnixMilli()-1, time.Now)
		for range 5 {
			g.Extend(time.Now().Add(10 * time.Second).UnixMilli())
			before := next(t, g)
			time.Sleep(3 * time.Second)
			if after := next(t, g); Time(after)-Time(before) != 3000 {
				t.Errorf("ids %d ms apart, want 3000", Time(after)-Time(before))
			}
		}
		time.Sleep(7*time.Second + time.Millisecond)
		if _, err := g.Next(); !errors.Is(err, ErrLapsed) {
			t.Errorf("unrenewed lease: %v, want ErrLapsed", err)
		}
	})
}

func BenchmarkNext(b *testing.B) {
	g := New(1, 0, time.Now)
	g.Extend(1 << 62)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Next(); err != nil {
			b.Fatal(err)
		}
	}
}
