package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-im/starling/common/idgen"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// leases is a store of worker numbers that can be away.
type leases struct {
	mu    sync.Mutex
	next  int
	last  int64
	err   error
	until int64
}

func (l *leases) LeaseWorker(_ context.Context, _ string, _, until int64) (int, int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	l.until = until
	return l.next, l.last, l.err
}

func (l *leases) RenewWorker(_ context.Context, _ int, _ string, until int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.until = until
	}
	return l.err
}

func (l *leases) ReleaseWorker(_ context.Context, _ int, _ string, lastUsed int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.until = lastUsed
	}
	return l.err
}

func (l *leases) set(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func start(t *testing.T, st *leases) (*Lease, func()) {
	t.Helper()
	l := New("me", st, nil, nil)
	if _, err := l.Next(); !errors.Is(err, ErrNone) || !errors.Is(l.Ready(), ErrNone) {
		t.Fatalf("before the lease: %v", err)
	}
	if err := l.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.Run(ctx) })
	return l, func() { cancel(); wg.Wait() }
}

func TestIDsGoOnWhileRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(26 * 365 * 24 * time.Hour) // a bubble begins before the epoch of ids
		st := &leases{last: time.Now().UnixMilli()}
		l, stop := start(t, st)
		id, err := l.Next()
		if err != nil || idgen.Time(id) <= st.last || idgen.Worker(id) != 1 {
			t.Errorf("id of %d by %d, %v; the number was used until %d", idgen.Time(id), idgen.Worker(id), err, st.last)
		}
		time.Sleep(5 * TTL)
		if _, err := l.Next(); err != nil || l.Ready() != nil {
			t.Errorf("after renewals: %v %v", err, l.Ready())
		}
		stop()
		if now := time.Now().UnixMilli(); st.until > now {
			t.Errorf("not given back: leased until %d ms from now", st.until-now)
		}
		if _, err := l.Next(); err == nil {
			t.Error("an id after the number was given back")
		}
	})
}

func TestStoreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(26 * 365 * 24 * time.Hour) // a bubble begins before the epoch of ids
		st := &leases{}
		l, stop := start(t, st)
		defer stop()
		st.set(errors.New("away"))
		time.Sleep(TTL - time.Minute)
		if _, err := l.Next(); err != nil || l.Ready() != nil {
			t.Errorf("within the lease: %v %v", err, l.Ready())
		}
		time.Sleep(2 * time.Minute)
		if _, err := l.Next(); !errors.Is(err, idgen.ErrLapsed) || !errors.Is(l.Ready(), idgen.ErrLapsed) {
			t.Errorf("after it: %v %v", err, l.Ready())
		}
		st.set(nil)
		time.Sleep(2 * retryTime)
		if _, err := l.Next(); err != nil || l.Ready() != nil {
			t.Errorf("renewed again: %v %v", err, l.Ready())
		}
	})
}

func TestFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(26 * 365 * 24 * time.Hour) // a bubble begins before the epoch of ids
		st := &leases{}
		l, stop := start(t, st)
		defer stop()
		st.set(store.ErrFenced)
		time.Sleep(Every + time.Millisecond)
		synctest.Wait()
		if _, err := l.Next(); !errors.Is(err, ErrNone) {
			t.Errorf("another owner has the number: %v", err)
		}
		st.set(nil)
		time.Sleep(2 * retryTime)
		if id, err := l.Next(); err != nil || idgen.Worker(id) == 1 {
			t.Errorf("a new number: %d %v", idgen.Worker(id), err)
		}
	})
}

func TestAcquireFails(t *testing.T) {
	l := New("me", &leases{err: errors.New("away")}, nil, nil)
	if err := l.Acquire(t.Context()); err == nil {
		t.Error("leased without a store")
	}
}

// A lease whose answer was lost comes back with its end as its last use. Ids
// must not begin there, half an hour ahead.
func TestTheAnswerOfALeaseWasLost(t *testing.T) {
	st := memstore.New()
	lost := &lostAnswer{Store: st, lose: true}
	l := New("me", lost, nil, nil)
	if err := l.Acquire(t.Context()); err == nil {
		t.Fatal("the answer was not lost")
	}
	if err := l.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	id, err := l.Next()
	if ahead := idgen.Time(id) - time.Now().UnixMilli(); err != nil || ahead > 1000 {
		t.Errorf("an id %d ms ahead, %v", ahead, err)
	}
}

type lostAnswer struct {
	Store
	lose bool
}

func (s *lostAnswer) LeaseWorker(ctx context.Context, owner string, now, until int64) (int, int64, error) {
	w, last, err := s.Store.LeaseWorker(ctx, owner, now, until)
	if s.lose {
		s.lose = false
		return 0, 0, errors.New("connection lost")
	}
	return w, last, err
}

// Many restarts within the time of a lease find a number each.
func TestRestartsDoNotUseUpTheNumbers(t *testing.T) {
	st := memstore.New()
	now := time.Now()
	last := map[int]int64{} // number -> newest ms of its ids
	for i := range 3 * store.WorkerIDs {
		now = now.Add(time.Second)
		l := New(fmt.Sprint("me-", i), st, nil, func() time.Time { return now })
		if err := l.Acquire(t.Context()); err != nil {
			t.Fatalf("restart %d: %v", i, err)
		}
		id, err := l.Next()
		if err != nil {
			t.Fatal(err)
		}
		w := idgen.Worker(id)
		if idgen.Time(id) <= last[w] {
			t.Fatalf("worker %d: an id of %d after one of %d", w, idgen.Time(id), last[w])
		}
		last[w] = idgen.Time(id)
		l.release(t.Context())
	}
}
