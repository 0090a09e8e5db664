package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// ErrBudget is joined into Run's error when draining and stopping took longer
// than Config.StopBudget; what still hangs was left behind.
var ErrBudget = errors.New("stop budget exceeded")

// Phase is where a module stands.
type Phase string

// Phases of a module, in the order of its life.
const (
	PhaseNew      Phase = "new"
	PhaseStarting Phase = "starting"
	PhaseRunning  Phase = "running"
	PhaseDraining Phase = "draining"
	PhaseStopping Phase = "stopping"
	PhaseStopped  Phase = "stopped"
	PhaseFailed   Phase = "failed"
)

// State is one line of /modules.
type State struct {
	Name  string    `json:"name"`
	State Phase     `json:"state"`
	Since time.Time `json:"since"`
	Error string    `json:"error,omitempty"`
}

// unit is a registered module and its life.
type unit struct {
	Module
	name   string
	deps   []string
	cancel context.CancelFunc // ends Run
	done   chan struct{}      // closed when Run has returned
	phase  Phase
	since  time.Time
	err    error
}

// Manager holds the modules of a process. Make it with New.
type Manager struct {
	cfg  Config
	log  *zap.Logger
	dump io.Writer

	units  []*unit // in order of registration
	byName map[string]*unit
	ended  chan error // what Run functions returned, one each
	// stopStarting ends the Start under way, if any.
	stopStarting context.CancelFunc

	mu sync.Mutex // guards phase, since and err of units, draining, active
	// active is what this Run has picked, in order of start.
	active   []*unit
	draining bool
}

// New returns an empty manager.
func New(cfg Config, log *zap.Logger) *Manager {
	return &Manager{cfg: cfg, log: log, dump: os.Stderr, byName: map[string]*unit{}}
}

// Register adds a module, or with an empty Module a group. It panics when the
// name is taken: that is a bug, no state of the world.
func (m *Manager) Register(name string, mod Module, deps ...string) {
	if m.byName[name] != nil {
		panic("BUG: module registered twice: " + name)
	}
	u := &unit{Module: mod, name: name, deps: deps, phase: PhaseNew, since: time.Now()}
	m.units = append(m.units, u)
	m.byName[name] = u
}

// Run starts the targets and what they depend on, waits for ctx to end or a
// module to return, then drains and stops all in reverse. The error joins
// everything that failed and is nil after an orderly end.
func (m *Manager) Run(ctx context.Context, targets ...string) error {
	order, err := m.order(targets)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.active = order
	m.mu.Unlock()
	m.ended = make(chan error, len(order))

	starting, stop := context.WithCancel(ctx)
	defer stop()
	m.stopStarting = stop
	started, errs := m.startAll(ctx, starting, order)
	if len(errs) == 0 {
		select {
		case <-ctx.Done():
			m.log.Info("stopping", zap.String("why", "asked to"))
		case err := <-m.ended:
			m.log.Info("stopping", zap.String("why", "a module ended"), zap.Error(err))
			errs = append(errs, err)
		}
	}
	errs = append(errs, m.stopAll(ctx, started)...)
	return errors.Join(errs...)
}

// order lists the targets and their dependencies, dependencies first; among
// equals the earlier registered, or for the deps of one module the earlier named.
func (m *Manager) order(targets []string) ([]*unit, error) {
	var order []*unit
	const visiting, done = 1, 2
	mark := map[string]int{}
	var visit func(name string, path []string) error
	visit = func(name string, path []string) error {
		u := m.byName[name]
		path = append(path, name)
		switch {
		case u == nil:
			return fmt.Errorf("module %s is not registered; known: %s", strings.Join(path, " -> "), strings.Join(m.Names(), ", "))
		case mark[name] == visiting:
			return fmt.Errorf("modules depend on each other: %s", strings.Join(path, " -> "))
		case mark[name] == done:
			return nil
		}
		mark[name] = visiting
		for _, dep := range u.deps {
			if err := visit(dep, path); err != nil {
				return err
			}
		}
		mark[name] = done
		order = append(order, u)
		return nil
	}
	targets = slices.Clone(targets)
	slices.SortStableFunc(targets, func(a, b string) int { return m.index(a) - m.index(b) })
	for _, t := range targets {
		if err := visit(t, nil); err != nil {
			return nil, err
		}
	}
	return order, nil
}

func (m *Manager) index(name string) int {
	return slices.IndexFunc(m.units, func(u *unit) bool { return u.name == name })
}

// Names lists what is registered, in order of registration.
func (m *Manager) Names() []string {
	names := make([]string, len(m.units))
	for i, u := range m.units {
		names[i] = u.name
	}
	return names
}

// startAll starts one after another and stops at the first failure, at the end
// of ctx or when the Run of a started module returns.
// Then starting, which Start functions get, ends too: one may be waiting.
func (m *Manager) startAll(ctx, starting context.Context, order []*unit) (started []*unit, errs []error) {
	for _, u := range order {
		select {
		case err := <-m.ended:
			return started, append(errs, err)
		case <-ctx.Done():
			return started, errs // asked to stop: no failure
		default:
		}
		m.setPhase(u, PhaseStarting, nil)
		began := time.Now()
		if err := m.call(starting, u, "start", u.Start); err != nil {
			m.setPhase(u, PhaseFailed, err)
			select {
			case ended := <-m.ended: // why it was ended
				return started, append(errs, ended)
			default:
			}
			if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
				return started, errs // asked to stop while it waited: no failure
			}
			return started, append(errs, err)
		}
		m.setPhase(u, PhaseRunning, nil)
		started = append(started, u)
		m.log.Debug("module started", zap.String("module", u.name), zap.Duration("took", time.Since(began)))
		m.launch(ctx, u)
	}
	return started, nil
}

// launch begins u.Run; its context outlives ctx, see Module.Run.
func (m *Manager) launch(ctx context.Context, u *unit) {
	if u.Run == nil {
		return
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	u.cancel, u.done = cancel, make(chan struct{})
	go func() { // awaited by end through u.done
		defer close(u.done)
		pprof.Do(run, pprof.Labels("module", u.name), func(run context.Context) {
			err := m.call(run, u, "run", u.Run)
			asked := run.Err() != nil
			if asked && errors.Is(err, context.Canceled) {
				err = nil
			}
			if err != nil {
				m.setPhase(u, PhaseFailed, err)
			}
			if err != nil || !asked {
				m.ended <- err
				m.stopStarting()
			}
		})
	}()
}

// stopAll drains and stops in reverse within the budget. Errors of Run
// functions that come up meanwhile are kept too.
func (m *Manager) stopAll(ctx context.Context, started []*unit) []error {
	m.mu.Lock()
	m.draining = true
	m.mu.Unlock()
	base := context.WithoutCancel(ctx)
	if m.cfg.ReadyDelay > 0 && len(started) > 0 {
		delay := time.NewTimer(m.cfg.ReadyDelay)
		defer delay.Stop()
		<-delay.C
	}
	bounded, cancel := context.WithTimeout(base, m.cfg.StopBudget)
	defer cancel()
	finished := make(chan []error, 1)
	go func() { finished <- m.unwind(bounded, started) }() // awaited below, or given up with the process
	select {
	case errs := <-finished:
		return m.collect(errs)
	case <-bounded.Done():
	}
	// Modules that mind their context return now: give them a moment.
	grace := time.NewTimer(time.Second)
	defer grace.Stop()
	select {
	case errs := <-finished:
		return m.collect(append(errs, ErrBudget))
	case <-grace.C:
	}
	m.log.Error("stop budget exceeded", zap.Duration("budget", m.cfg.StopBudget), zap.Any("modules", m.States()))
	buf := make([]byte, 16<<20)
	_, _ = m.dump.Write(buf[:runtime.Stack(buf, true)])
	return m.collect([]error{fmt.Errorf("%w (%v)", ErrBudget, m.cfg.StopBudget)})
}

func (m *Manager) collect(errs []error) []error {
	for {
		select {
		case err := <-m.ended:
			errs = append(errs, err)
		default:
			return errs
		}
	}
}

// unwind drains every module in reverse, then ends and stops each in reverse.
func (m *Manager) unwind(ctx context.Context, started []*unit) (errs []error) {
	for _, u := range slices.Backward(started) {
		m.setPhase(u, PhaseDraining, nil)
		if err := m.call(ctx, u, "drain", u.Drain); err != nil {
			m.setPhase(u, PhaseFailed, err)
			errs = append(errs, err)
		}
	}
	for _, u := range slices.Backward(started) {
		m.setPhase(u, PhaseStopping, nil)
		if u.cancel != nil {
			u.cancel()
			<-u.done
		}
		if err := m.call(ctx, u, "stop", u.Stop); err != nil {
			m.setPhase(u, PhaseFailed, err)
			errs = append(errs, err)
		}
		m.setPhase(u, PhaseStopped, nil)
	}
	return errs
}

// call runs one function of a module and turns a panic into an error.
func (m *Manager) call(ctx context.Context, u *unit, what string, f func(context.Context) error) (err error) {
	if f == nil {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			m.log.Error("module panicked", zap.String("module", u.name), zap.String("in", what),
				zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			err = fmt.Errorf("%s %s: panic: %v", what, u.name, p)
		}
	}()
	if err := f(ctx); err != nil {
		return fmt.Errorf("%s %s: %w", what, u.name, err)
	}
	return nil
}

// setPhase moves a module on; one that failed keeps saying so.
func (m *Manager) setPhase(u *unit, p Phase, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		u.err = errors.Join(u.err, err)
	}
	if u.phase == PhaseFailed {
		return
	}
	u.phase, u.since = p, time.Now()
}

// States lists the modules of this run in order of start; before Run, all that
// are registered.
func (m *Manager) States() []State {
	m.mu.Lock()
	defer m.mu.Unlock()
	units := m.active
	if units == nil {
		units = m.units
	}
	states := make([]State, len(units))
	for i, u := range units {
		states[i] = State{Name: u.name, State: u.phase, Since: u.since}
		if u.err != nil {
			states[i].Error = u.err.Error()
		}
	}
	return states
}

// Ready says why the named modules or anything they depend on are not ready,
// nil when they are. Without names it asks all that this run has picked.
func (m *Manager) Ready(names ...string) error {
	m.mu.Lock()
	units, draining := m.active, m.draining
	m.mu.Unlock()
	if draining {
		return errors.New("draining")
	}
	if len(names) > 0 {
		var err error
		if units, err = m.order(names); err != nil {
			return err
		}
	}
	if len(units) == 0 {
		return errors.New("not started")
	}
	var errs []error
	for _, u := range units {
		m.mu.Lock()
		phase := u.phase
		m.mu.Unlock()
		if phase != PhaseRunning && (phase != PhaseStarting || u.Ready == nil) {
			errs = append(errs, fmt.Errorf("%s: %s", u.name, phase))
			continue
		}
		if u.Ready == nil {
			continue
		}
		switch err := u.Ready(); {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", u.name, err))
		case phase == PhaseStarting:
			errs = append(errs, fmt.Errorf("%s: %s", u.name, phase))
		}
	}
	return errors.Join(errs...)
}
