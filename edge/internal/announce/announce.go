package announce

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
)

const (
	batchRoutes  = 512
	queuedPuts   = 4096
	queuedDrops  = 1 << 16
	dropWorkers  = 2
	renewPerTTL  = 3
	roundSteps   = 600 // of the slow announcing
	stopDeadline = 2 * time.Second
)

// Registry is what the announcer needs (registry.Registry).
type Registry interface {
	registry.Leases
	PutRoutes(ctx context.Context, routes map[wire.UserID][]registry.Route) (map[wire.UserID][]registry.Route, error)
	DropRoute(ctx context.Context, u wire.UserID, r registry.Route) error
	AddGroupEdge(ctx context.Context, server wire.ServerID, groups []wire.GroupID) ([]int64, error)
	DropGroupEdge(ctx context.Context, server wire.ServerID, g wire.GroupID, n int64) error
	SetLastSeen(ctx context.Context, u wire.UserID, ms int64) error
}

// Config of an announcer.
type Config struct {
	Lease registry.Lease // without epoch and load
	TTL   time.Duration  // of the lease
	Round time.Duration  // of the slow announcing
}

// Events is what an announcer reports. None of them may block.
type Events struct {
	Load         func() int64           // connections now
	HelloChanged func()                 // epoch or unlisted are others now
	Missed       func()                 // sessions may have missed anything
	Newer        func(m *roster.Member) // a newer connection of its device is elsewhere
}

// Announcer keeps one edge in the registry. Make it with New.
type Announcer struct {
	cfg     Config
	reg     Registry
	roster  *roster.Roster
	events  Events
	log     *zap.Logger
	metrics *metrics

	wake   chan struct{} // renew now
	puts   chan putRequest
	drops  chan func(context.Context) error
	groups chan func(context.Context) error // one worker: removals must not overtake

	mu       sync.Mutex
	lease    registry.Lease
	renewed  time.Time // when the last good renewal began
	unlisted bool
	owes     bool      // all must be announced
	unknown  bool      // the index has holes: somebody has not announced yet
	emptied  time.Time // when it was last announced into an index with holes

	running sync.WaitGroup
	cancel  context.CancelFunc
}

// New prepares an announcer; Start takes the lease.
func New(cfg Config, reg Registry, r *roster.Roster, ev Events, prom prometheus.Registerer, log *zap.Logger) *Announcer {
	a := &Announcer{
		cfg: cfg, reg: reg, roster: r, events: ev, log: log, metrics: newMetrics(prom),
		wake: make(chan struct{}, 1), puts: make(chan putRequest, queuedPuts),
		drops: make(chan func(context.Context) error, queuedDrops), groups: make(chan func(context.Context) error, queuedDrops),
	}
	a.metrics.capacity.Set(2 * queuedDrops)
	return a
}

// Start takes the lease, or starts unlisted if the registry is away.
func (a *Announcer) Start(ctx context.Context, lease registry.Lease) {
	lease.Epoch = uint64(time.Now().UnixMilli())
	a.mu.Lock()
	a.lease = lease
	a.mu.Unlock()
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a.cancel = cancel
	a.renew(run)
	a.running.Go(func() { a.renewing(run) })
	a.running.Go(func() { a.round(run) })
	for range dropWorkers {
		a.running.Go(func() { a.putting(run) })
		a.running.Go(func() { a.work(run, a.drops, "drop_route") })
	}
	a.running.Go(func() { a.work(run, a.groups, "group_edge") })
}

// Stop gives the lease back, which makes all its routes void, and waits.
func (a *Announcer) Stop(ctx context.Context) {
	a.cancel()
	a.running.Wait()
	ctx, cancel := context.WithTimeout(ctx, stopDeadline)
	defer cancel()
	if err := a.reg.Release(ctx, a.Lease()); err != nil {
		a.log.Debug("release the lease", zap.Error(err))
	}
}

// Lease returns the lease as it stands.
func (a *Announcer) Lease() registry.Lease {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lease
}

// Hello returns what a push stream must be told.
func (a *Announcer) Hello() (server wire.ServerID, epoch uint64, unlisted bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lease.Server, a.lease.Epoch, a.unlisted
}

// SetDraining marks the lease, at once.
func (a *Announcer) SetDraining(ctx context.Context) {
	a.mu.Lock()
	a.lease.Draining = true
	l := a.lease
	a.mu.Unlock()
	if _, err := a.reg.Renew(ctx, l, a.cfg.TTL); err != nil {
		a.failed("renew", err)
	}
}

// Edges returns the URLs of other edges that take connections.
func (a *Announcer) Edges(ctx context.Context) []string {
	leases, err := a.reg.Live(ctx, registry.TierEdge)
	if err != nil {
		a.failed("live", err)
		return []string{}
	}
	urls := []string{}
	self := a.Lease().Server
	for _, l := range leases {
		if l.Server != self && !l.Draining && l.URL != "" {
			urls = append(urls, l.URL)
		}
	}
	return urls
}

func (a *Announcer) renewing(ctx context.Context) {
	t := time.NewTicker(a.cfg.TTL / renewPerTTL)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-a.wake:
		}
		a.renew(ctx)
	}
}

// renew writes the lease and does what its answer asks for.
func (a *Announcer) renew(ctx context.Context) {
	start := time.Now()
	a.mu.Lock()
	a.lease.Load = a.events.Load()
	lapsed := !a.renewed.IsZero() && start.Sub(a.renewed) > a.cfg.TTL
	if lapsed {
		a.lease.Epoch = max(a.lease.Epoch+1, uint64(start.UnixMilli()))
		a.owes = true
	}
	l := a.lease
	a.mu.Unlock()
	if lapsed {
		a.metrics.lapses.Inc()
		a.log.Warn("the lease lapsed; all sessions are announced anew", zap.Uint64("epoch", l.Epoch))
		a.setUnlisted(true)
	}
	known, err := a.reg.Renew(ctx, l, a.cfg.TTL)
	if err != nil {
		if ctx.Err() == nil {
			a.Unlist("renew", err)
		}
		return
	}
	a.mu.Lock()
	a.renewed = start
	due := a.owes || !known
	a.owes = false
	whole := known && a.unknown
	// With nobody here nothing of ours can be missing from it.
	if a.unknown = !known && l.Load > 0; a.unknown {
		a.emptied = start
	}
	a.mu.Unlock()
	if due && !a.announceAll(ctx, l) {
		return
	}
	a.mu.Lock()
	listed := a.unlisted && !a.owes
	a.mu.Unlock()
	if listed {
		a.setUnlisted(false)
	}
	if listed || whole {
		// Between a write that failed, or the index being emptied, and the jobs
		// being told, pushes may have passed this edge by.
		a.events.Missed()
	}
}

// settleTime is how long joins written before an index was emptied may still be
// on their way from the jobs.
const settleTime = 10 * time.Second

// Unsettled says whether the index was emptied a moment ago.
func (a *Announcer) Unsettled() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unknown || time.Since(a.emptied) < settleTime
}

// Unlist notes that something could not be written: jobs push everything here
// until all is announced again.
func (a *Announcer) Unlist(call string, err error) {
	a.failed(call, err)
	a.mu.Lock()
	a.owes = true
	a.mu.Unlock()
	a.setUnlisted(true)
}

func (a *Announcer) setUnlisted(to bool) {
	a.mu.Lock()
	changed := a.unlisted != to
	a.unlisted = to
	a.mu.Unlock()
	if !changed {
		return
	}
	a.log.Info("listing in the registry changed", zap.Bool("unlisted", to))
	a.metrics.unlisted.Set(0)
	if to {
		a.metrics.unlisted.Set(1)
	}
	a.events.HelloChanged()
}

func (a *Announcer) failed(call string, err error) {
	a.metrics.errors.WithLabelValues(call).Inc()
	a.log.Debug("registry call failed", zap.String("call", call), zap.Error(err))
}

// announceAll writes all routes and groups, and says so to the registry.
func (a *Announcer) announceAll(ctx context.Context, l registry.Lease) bool {
	a.metrics.announced.Inc()
	err := a.announce(ctx, a.roster.All(nil))
	if err == nil {
		err = a.announceGroups(ctx, a.roster.Groups())
	}
	if err == nil {
		err = a.reg.Announced(ctx, l.Server, l.Epoch)
	}
	if err != nil {
		if ctx.Err() == nil {
			a.Unlist("announce", err)
		}
		return false
	}
	return true
}

// announce writes the routes of sessions that are here already.
func (a *Announcer) announce(ctx context.Context, ms []*roster.Member) error {
	for len(ms) > 0 {
		n := min(len(ms), batchRoutes)
		l := a.Lease()
		routes := make(map[wire.UserID][]registry.Route, n)
		for _, m := range ms[:n] {
			routes[m.User] = append(routes[m.User], routeOf(m, l))
		}
		stood, err := a.reg.PutRoutes(ctx, routes)
		if err != nil {
			return fmt.Errorf("announce %d routes: %w", n, err)
		}
		for _, m := range ms[:n] {
			if newer(m, stood[m.User]) {
				a.events.Newer(m)
			}
		}
		ms = ms[n:]
	}
	return nil
}

func (a *Announcer) announceGroups(ctx context.Context, groups []wire.GroupID) error {
	for len(groups) > 0 {
		n := min(len(groups), batchRoutes)
		if err := a.addGroups(ctx, groups[:n]); err != nil {
			return err
		}
		groups = groups[n:]
	}
	return nil
}

// round announces everything slowly, again and again.
func (a *Announcer) round(ctx context.Context) {
	t := time.NewTicker(max(a.cfg.Round/roundSteps, time.Millisecond))
	defer t.Stop()
	var ms []*roster.Member
	var groups []wire.GroupID
	for step := 0; ; step = (step + 1) % roundSteps {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if step == 0 {
			ms, groups = a.roster.All(nil), a.roster.Groups()
		}
		err := a.announce(ctx, a.stillHere(part(ms, step)))
		if err == nil {
			err = a.announceGroups(ctx, part(groups, step))
		}
		if err != nil && ctx.Err() == nil {
			a.Unlist("round", err)
		}
	}
}

// stillHere leaves out sessions that ended since the round began: announcing
// them would bring their routes back.
func (a *Announcer) stillHere(ms []*roster.Member) []*roster.Member {
	var here []*roster.Member
	for _, m := range ms {
		if a.roster.ByConn(m.Conn) == m {
			here = append(here, m)
		}
	}
	return here
}

// part returns the elements that a step of a round is for.
func part[T any](all []T, step int) []T {
	return all[len(all)*step/roundSteps : len(all)*(step+1)/roundSteps]
}

func routeOf(m *roster.Member, l registry.Lease) registry.Route {
	return registry.Route{
		Conn: m.Conn, Server: l.Server, Epoch: l.Epoch, Device: m.Device, Platform: m.Platform, Since: m.Since,
	}
}

// newer says whether a newer connection of m's device was there.
func newer(m *roster.Member, stood []registry.Route) bool {
	for _, r := range stood {
		if r.Device == m.Device && r.Conn > m.Conn {
			return true
		}
	}
	return false
}
