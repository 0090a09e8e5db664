package push

import (
	"context"
	"sync"
	"time"

	"github.com/starling-im/starling/edge/internal/roster"
	"github.com/starling-im/starling/edge/internal/session"
)

const (
	lagPerSecond = 2000
	lagStep      = 10 * time.Millisecond
	lagWave      = lagPerSecond * int(lagStep) / int(time.Second)
	lagAgain     = 500 * time.Millisecond // after groups could not be read
)

// LagAll has LagRun tell all sessions that they may have missed anything.
func (s *Server) LagAll() { s.lag(func() { s.lagAll = true }) }

// Lag is LagAll for one session.
func (s *Server) Lag(m *roster.Member) { s.lag(func() { s.lagSome = append(s.lagSome, m) }) }

func (s *Server) lag(note func()) {
	s.lagMu.Lock()
	note()
	s.lagMu.Unlock()
	signal(s.lagWake)
}

// LagRun tells sessions after LagAll and Lag, paced, until ctx ends. Where
// changes of groups were lost it first reads each session's groups again; those
// whose groups could not be read are tried again by themselves, so that nobody
// syncs twice for one loss.
func (s *Server) LagRun(ctx context.Context) {
	var behind []*roster.Member
	for {
		var again <-chan time.Time
		if len(behind) > 0 {
			again = time.After(lagAgain)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.lagWake:
		case <-again:
		}
		s.lagMu.Lock()
		all, some := s.lagAll, s.lagSome
		s.lagAll, s.lagSome = false, nil
		s.lagMu.Unlock()
		if some = append(behind, some...); all {
			some = s.roster.All(nil)
		}
		behind = s.lagEach(ctx, some)
	}
}

// lagEach tells the sessions a wave at a time and returns those whose groups
// could not be read, which are not told.
func (s *Server) lagEach(ctx context.Context, ms []*roster.Member) (behind []*roster.Member) {
	var mu sync.Mutex
	for len(ms) > 0 {
		wave := ms[:min(lagWave, len(ms))]
		ms = ms[len(wave):]
		var wg sync.WaitGroup
		for _, m := range wave {
			wg.Go(func() {
				if m.Session.State() == session.Closing {
					return
				}
				if s.roster.Stale(m) && !s.groups.Regroup(ctx, m) {
					mu.Lock()
					defer mu.Unlock()
					behind = append(behind, m)
					return
				}
				m.Session.Lag()
				s.metrics.laggards.Inc()
			})
		}
		wg.Wait()
		if len(ms) > 0 && !pause(ctx, lagStep) {
			return nil // the edge ends
		}
	}
	return behind
}

// pause waits. False: ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
