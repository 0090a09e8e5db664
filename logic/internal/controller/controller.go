// Package controller takes decisions (package control), keeps this logic up to
// date with those of all, and passes them on to the edges.
//
// Decisions are stored first and count from then on: here at once, at other
// logics and the edges within Every of that, for they read the store, or the
// logic that they are connected to, again and again. While the store is away
// nothing is decided, and what was decided before stays in force.
//
// A Service is safe for concurrent use. Run keeps it up to date.
package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/wire"
)

// Times of the looks at the store.
const (
	Every = 250 * time.Millisecond

	callTime = 5 * time.Second
	page     = 1000

	retryAfterMS = 500
)

// Store keeps decisions.
type Store interface {
	AppendControl(ctx context.Context, es []control.Entry) (version int64, err error)
	ControlSince(ctx context.Context, version int64, limit int) ([]control.Entry, error)
}

// Service is the use case. Make it with New.
type Service struct {
	store Store
	log   *zap.Logger
	now   func() time.Time
	told  func(settings map[string]string)
	state control.State

	reading sync.Mutex // one look at a time

	mu      sync.Mutex
	loaded  bool
	changed chan struct{} // closed at the next change

	version prometheus.Gauge
	failed  prometheus.Counter
}

// Deps is what a Service works with; all but the store may be nil. Changed is
// told the settings that were changed, all of them, whenever that may be others.
type Deps struct {
	Store   Store
	Now     func() time.Time
	Metrics prometheus.Registerer
	Log     *zap.Logger
	Changed func(settings map[string]string)
}

// New returns a Service that knows of nothing yet.
func New(d Deps) (*Service, error) {
	if d.Store == nil {
		return nil, errors.New("controller: a store is needed")
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = zap.NewNop()
	}
	if d.Changed == nil {
		d.Changed = func(map[string]string) {}
	}
	f := promauto.With(d.Metrics)
	return &Service{
		store: d.Store, log: d.Log, now: d.Now, told: d.Changed, changed: make(chan struct{}),
		version: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_logic_control_version", Help: "Version of the newest decision that this logic knows.",
		}),
		failed: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_logic_control_failed_total", Help: "Looks for decisions that the store did not answer.",
		}),
	}, nil
}

// Run looks for decisions until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	look, forget := time.NewTicker(Every), time.NewTicker(time.Hour)
	defer look.Stop()
	defer forget.Stop()
	for {
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			s.failed.Inc()
			s.log.Debug("look for decisions", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		case <-forget.C:
			s.state.Forget(s.now())
		}
	}
}

// look takes in what is new.
func (s *Service) look(ctx context.Context) error {
	s.reading.Lock()
	defer s.reading.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	for {
		es, err := s.store.ControlSince(ctx, s.state.Version(), page)
		if err != nil {
			return fmt.Errorf("look for decisions: %w", err)
		}
		if s.state.Apply(es); len(es) > 0 {
			s.told(s.state.Settings())
		}
		whole := len(es) < page
		s.mu.Lock()
		if fresh := whole && !s.loaded; fresh || len(es) > 0 {
			s.loaded = s.loaded || whole
			close(s.changed)
			s.changed = make(chan struct{})
			s.version.Set(float64(s.state.Version()))
		}
		s.mu.Unlock()
		if whole {
			return nil
		}
	}
}

// Decide stores decisions, made now, and returns when they count here.
func (s *Service) Decide(ctx context.Context, es ...control.Entry) error {
	for i := range es {
		es[i].At = s.now().UnixMilli()
		if es[i].Kind == control.Revoke { // not before one by another clock
			at, _ := s.state.Revoked(es[i].User, es[i].Device)
			es[i].At = max(es[i].At, at)
		}
	}
	if _, err := s.store.AppendControl(ctx, es); err != nil {
		return fmt.Errorf("decide: %w", err)
	}
	return s.look(ctx)
}

// Bans returns the bans that stand, by user, after one, at most limit; more says
// that others follow.
func (s *Service) Bans(after wire.UserID, limit int) (bans []control.Entry, more bool) {
	bans = slices.DeleteFunc(s.state.Bans(s.now()), func(e control.Entry) bool { return e.User <= after })
	slices.SortFunc(bans, func(a, b control.Entry) int { return cmp.Compare(a.User, b.User) })
	if len(bans) > limit {
		return bans[:limit], true
	}
	return bans, false
}

// Revoked is State.Revoked.
func (s *Service) Revoked(u wire.UserID, d wire.DeviceID) (at int64, devices int) {
	return s.state.Revoked(u, d)
}

// Settings returns the settings that were changed.
func (s *Service) Settings() map[string]string { return s.state.Settings() }

// Deny says why a token opens nothing, nil if it does. Before the first look has
// succeeded nothing is known, and all is unavailable.
func (s *Service) Deny(u wire.UserID, d wire.DeviceID, issued time.Time) *wire.Error {
	s.mu.Lock()
	loaded := s.loaded
	s.mu.Unlock()
	if !loaded {
		return &wire.Error{Code: wire.CodeUnavailable, Message: "bans are not known yet; try again", RetryAfterMS: retryAfterMS}
	}
	return s.state.Deny(u, d, issued, s.now())
}

// Follow gives all that counts to f, then what comes, until ctx ends or f fails.
// more says that the entries belong together with those of the next call.
func (s *Service) Follow(ctx context.Context, f func(es []control.Entry, more bool) error) error {
	version, began := int64(0), false
	for {
		s.mu.Lock()
		loaded, changed := s.loaded, s.changed
		s.mu.Unlock()
		if loaded && (!began || s.state.Version() > version) {
			for more := true; more; {
				es, err := s.store.ControlSince(ctx, version, page)
				if err != nil {
					return fmt.Errorf("read decisions: %w", err)
				}
				if more = len(es) == page; len(es) > 0 {
					version = es[len(es)-1].Version
				}
				if err := f(es, more); err != nil {
					return err
				}
			}
			began = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
