package worker

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/starling-im/starling/common/idgen"
	"github.com/starling-im/starling/common/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
		st := &leases{last: time.Now().Add(time.Second).UnixMilli()}
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
