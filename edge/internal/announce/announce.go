package announce

import (
	"context"
	"fmt"
	"slices"
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
	queuedJoins  = 1 << 14
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
	DropGroupEdges(ctx context.Context, server wire.ServerID, groups []wire.GroupID, counters []int64) error
	SetLastSeen(ctx context.Context, u wire.UserID, ms int64) error
}

// Config of an announcer.
type Config struct {
	Lease registry.Lease // without epoch and load
	TTL   time.Duration  // of the lease
	Round time.Duration  // of the slow announcing
	// Rivals says whether two connections of a user cannot stand beside each
	// other; nil: those of one device. They never can.
	Rivals func(m *roster.Member, r *registry.Route) bool
}

// Events is what an announcer reports. None of them may block.
type Events struct {
	Load         func() int64           // connections now
	HelloChanged func()                 // epoch or unlisted are others now
	Missed       func()                 // sessions may have missed anything
	Newer        func(m *roster.Member) // a newer rival of it is elsewhere
	// Older: an older rival of m stood at another edge when m was written.
	Older func(m *roster.Member, r registry.Route)
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
	joins  chan joinRequest
	drops  chan func(context.Context) error
	groups chan change
	rooms  chan change // apart: whoever comes and goes in rooms must not crowd out groups

	writing sync.Mutex // held from reading the lease to its being written; before mu

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
	if cfg.Rivals == nil {
		cfg.Rivals = func(m *roster.Member, r *registry.Route) bool { return m.Device == r.Device }
	}
	a := &Announcer{
		cfg: cfg, reg: reg, roster: r, events: ev, log: log, metrics: newMetrics(prom),
		wake: make(chan struct{}, 1), puts: make(chan putRequest, queuedPuts),
		joins: make(chan joinRequest, queuedJoins), drops: make(chan func(context.Context) error, queuedDrops),
		groups: make(chan change, queuedDrops), rooms: make(chan change, queuedDrops),
	}
	a.metrics.capacity.Set(3 * queuedDrops)
	a.metrics.joinCapacity.Set(queuedJoins)
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
	a.running.Go(func() { a.joining(run) })
	a.running.Go(func() { a.changing(run, a.groups) })
	a.running.Go(func() { a.changing(run, a.rooms) })
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

// maxElsewhere is how many edges a client is told of.
const maxElsewhere = 8

// Elsewhere returns a function that gives the URLs of other edges that take
// connections, to be tried in this order; another one each time, so that those
// who leave spread.
func (a *Announcer) Elsewhere(ctx context.Context) func() []string {
	self := a.Lease()
	leases, err := a.reg.Live(ctx, registry.TierEdge)
	if err != nil {
		a.failed("live", err)
	}
	leases = slices.DeleteFunc(leases, func(l registry.Lease) bool { return l.Server == self.Server })
	return func() []string {
		best := registry.Suitable(leases, self.Region)
		urls := make([]string, min(len(best), maxElsewhere))
		for i := range urls {
			urls[i] = best[i].URL
		}
		return urls
	}
}

// announceAll writes all routes and groups, and says so to the registry. What it
// writes counts for the index that it began under, by the renewal before.
func (a *Announcer) announceAll(ctx context.Context, l registry.Lease, index string) bool {
	a.metrics.announced.Inc()
	err := a.announce(ctx, a.roster.All(nil))
	if err == nil {
		err = a.announceGroups(ctx, a.roster.Groups())
	}
	if err == nil {
		err = a.reg.Announced(ctx, l.Server, l.Epoch, index)
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
			switch {
			case !a.here(m): // it ended meanwhile, and so may its removal have
				a.dropRoute(m)
			case a.newer(m, stood[m.User]):
				a.events.Newer(m)
			default:
				a.older(m, stood[m.User])
			}
		}
		ms = ms[n:]
		if err := a.keep(ctx); err != nil {
			return err
		}
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
		if err := a.keep(ctx); err != nil {
			return err
		}
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
		if a.here(m) {
			here = append(here, m)
		}
	}
	return here
}

// here says whether a session counts. Who writes its route and then finds it
// here may leave the removal to its end, which comes after.
func (a *Announcer) here(m *roster.Member) bool { return a.roster.ByConn(m.Conn) == m }

// part returns the elements that a step of a round is for.
func part[T any](all []T, step int) []T {
	return all[len(all)*step/roundSteps : len(all)*(step+1)/roundSteps]
}

func routeOf(m *roster.Member, l registry.Lease) registry.Route {
	return registry.Route{
		Conn: m.Conn, Server: l.Server, Epoch: l.Epoch, Device: m.Device, Platform: m.Platform, Since: m.Since,
	}
}

// newer says whether a newer rival of m was there.
func (a *Announcer) newer(m *roster.Member, stood []registry.Route) bool {
	return slices.ContainsFunc(stood, func(r registry.Route) bool { return r.Conn > m.Conn && a.cfg.Rivals(m, &r) })
}
