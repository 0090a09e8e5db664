package push

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starling-im/starling/edge/internal/roster"
)

const (
	lagPerSecond = 2000
	lagStep      = 10 * time.Millisecond
	lagWave      = lagPerSecond * int(lagStep) / int(time.Second)
	lagAgain     = 500 * time.Millisecond // after groups could not be read
)

// LagAll has LagRun tell all sessions that they may have missed anything.
func (s *Server) LagAll() {
	s.lagMu.Lock()
	s.lagging = true
	s.lagMu.Unlock()
	select {
	case s.lagWake <- struct{}{}:
	default:
	}
}

// LagRun tells sessions after LagAll, paced, until ctx ends. Where changes of
// groups were lost it first reads each session's groups again.
func (s *Server) LagRun(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.lagWake:
		}
		s.lagMu.Lock()
		due := s.lagging
		s.lagging = false
		s.lagMu.Unlock()
		if !due {
			continue
		}
		if !s.lagEach(ctx, s.roster.All(nil)) {
			if !pause(ctx, lagAgain) {
				return
			}
			s.LagAll()
		}
	}
}

// lagEach tells the sessions a wave at a time. False: some are still stale, or
// ctx ended.
func (s *Server) lagEach(ctx context.Context, ms []*roster.Member) bool {
	var behind atomic.Bool
	for len(ms) > 0 {
		wave := ms[:min(lagWave, len(ms))]
		ms = ms[len(wave):]
		var wg sync.WaitGroup
		for _, m := range wave {
			wg.Go(func() {
				if s.roster.Stale(m) && !s.groups.Regroup(ctx, m) {
					behind.Store(true)
					return
				}
				m.Session.Lag()
				s.metrics.laggards.Inc()
			})
		}
		wg.Wait()
		if len(ms) > 0 && !pause(ctx, lagStep) {
			return false
		}
	}
	return !behind.Load()
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
