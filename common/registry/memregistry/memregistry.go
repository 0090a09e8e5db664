// Package memregistry is registry.Registry in memory, for simulations and unit
// tests: deterministic, without goroutines and without a clock of its own
// (SetNow). Switches put it into the states that the real index can be in:
// away (every call fails), emptied (Flush: unknown until all edges that live, or
// whose leases were lost and would stand, have announced) and stale (Freeze: look-ups answer from an older state).
//
// Safe for concurrent use. All calls are O(size of the answer) or better,
// except Freeze, which copies everything; offline lists are bounded, nothing
// else is.
package memregistry

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/wire"
)

// ErrAway is the error of every call while SetAway(true) stands.
var ErrAway = errors.New("registry is away")

// OfflineLimit bounds each user's offline list; the oldest go first.
const OfflineLimit = 1000

type leaseKey struct {
	tier   string
	server wire.ServerID
}

type leaseEntry struct {
	registry.Lease
	until int64
}

type sendKey struct {
	conv     wire.ConvID
	from     wire.UserID
	clientID string
}

// index is what Freeze copies: all that Lookup reads.
type index struct {
	now    int64
	known  bool
	leases map[leaseKey]leaseEntry
	routes map[wire.UserID]map[wire.ConnID]registry.Route
	edges  map[wire.GroupID]map[wire.ServerID]int64
}

// announcement is what an edge has announced under.
type announcement struct {
	epoch uint64
	index string
}

// Registry is the registry in memory.
type Registry struct {
	mu        sync.Mutex
	away      bool
	frozen    *index
	index     index
	indexes   int                     // counts names of the index
	lost      map[leaseKey]leaseEntry // by Flush, but their edges may live
	announced map[wire.ServerID]announcement
	seen      map[wire.UserID]int64
	sends     map[sendKey]registry.Reserved
	cached    map[wire.MsgID]registry.CachedMsg
	offline   map[wire.UserID][]registry.OfflineEntry
	members   map[wire.GroupID]map[wire.UserID]bool
	counters  int64 // last one given to a group's edge
}

var _ registry.Registry = (*Registry)(nil)

// New makes an empty registry at time 0; its index is unknown until announced.
func New() *Registry {
	r := &Registry{lost: map[leaseKey]leaseEntry{}}
	r.clear()
	return r
}

func (r *Registry) clear() {
	r.index = index{
		now:    r.index.now,
		leases: map[leaseKey]leaseEntry{},
		routes: map[wire.UserID]map[wire.ConnID]registry.Route{},
		edges:  map[wire.GroupID]map[wire.ServerID]int64{},
	}
	r.indexes++
	r.announced = map[wire.ServerID]announcement{}
	r.seen = map[wire.UserID]int64{}
	r.sends = map[sendKey]registry.Reserved{}
	r.cached = map[wire.MsgID]registry.CachedMsg{}
	r.offline = map[wire.UserID][]registry.OfflineEntry{}
	r.members = map[wire.GroupID]map[wire.UserID]bool{}
}

// SetNow sets the time in ms; leases lapse by it.
func (r *Registry) SetNow(ms int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index.now = ms
}

// SetAway makes every call but the switches fail with ErrAway, or ends that.
func (r *Registry) SetAway(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
}

// Flush loses everything, leases too, as a Redis restarted without its data.
func (r *Registry) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.Copy(r.lost, r.index.leases)
	r.clear()
}

// SetKnown sets or deletes the sentinel by hand, without any announcing.
func (r *Registry) SetKnown(known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index.known = known
	r.indexes++
	clear(r.announced)
	clear(r.lost)
}

// Freeze makes Lookup answer from the state of this moment, until Thaw; a
// second Freeze takes a newer one. Everything else goes on as before.
func (r *Registry) Freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.index
	f.leases = maps.Clone(f.leases)
	f.routes = cloneNested(f.routes)
	f.edges = cloneNested(f.edges)
	r.frozen = &f
}

// Thaw ends Freeze.
func (r *Registry) Thaw() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frozen = nil
}

func cloneNested[K, L comparable, V any](m map[K]map[L]V) map[K]map[L]V {
	out := make(map[K]map[L]V, len(m))
	for k, v := range m {
		out[k] = maps.Clone(v)
	}
	return out
}

// enter locks, or says why a call must fail.
func (r *Registry) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.mu.Lock()
	if r.away {
		r.mu.Unlock()
		return ErrAway
	}
	return nil
}

// Renew implements registry.Leases.
func (r *Registry) Renew(ctx context.Context, l registry.Lease, ttl time.Duration) (registry.Standing, error) {
	if err := r.enter(ctx); err != nil {
		return registry.Standing{}, err
	}
	defer r.mu.Unlock()
	k := leaseKey{l.Tier, l.Server}
	r.index.leases[k] = leaseEntry{Lease: l, until: r.index.now + ttl.Milliseconds()}
	delete(r.lost, k)
	r.completeLocked()
	if l.Tier != registry.TierEdge {
		return registry.Standing{Known: r.index.known}, nil
	}
	// An edge that has not announced under this index has holes in it, whoever
	// else has.
	mine := r.announced[l.Server] == announcement{l.Epoch, r.nameLocked()}
	return registry.Standing{Known: mine && r.index.known, Announce: !mine, Index: r.nameLocked()}, nil
}

func (r *Registry) nameLocked() string { return strconv.Itoa(r.indexes) }

// Release implements registry.Leases.
func (r *Registry) Release(ctx context.Context, l registry.Lease) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.mu.Unlock()
	k := leaseKey{l.Tier, l.Server}
	if e, ok := r.index.leases[k]; ok && e.Epoch == l.Epoch {
		delete(r.index.leases, k)
	}
	return nil
}

// Live implements registry.Leases; sorted by server.
func (r *Registry) Live(ctx context.Context, tier string) ([]registry.Lease, error) {
	if err := r.enter(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	return r.index.live(tier), nil
}

// Announced implements registry.Leases.
func (r *Registry) Announced(ctx context.Context, server wire.ServerID, epoch uint64, index string) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.mu.Unlock()
	r.announced[server] = announcement{epoch, index}
	r.completeLocked()
	return nil
}

// completeLocked makes the index known if all edges that may live have
// announced.
func (r *Registry) completeLocked() {
	if r.index.known {
		return
	}
	for k, e := range r.lost {
		if k.tier == registry.TierEdge && e.until > r.index.now {
			return
		}
	}
	live := r.index.live(registry.TierEdge)
	for _, l := range live {
		if r.announced[l.Server] != (announcement{l.Epoch, r.nameLocked()}) {
			return
		}
	}
	r.index.known = len(live) > 0
}

func (x *index) live(tier string) []registry.Lease {
	var out []registry.Lease
	for k, e := range x.leases {
		if k.tier == tier && e.until > x.now {
			out = append(out, e.Lease)
		}
	}
	slices.SortFunc(out, func(a, b registry.Lease) int { return cmp.Compare(a.Server, b.Server) })
	return out
}

func (x *index) liveEdge(s wire.ServerID) (uint64, bool) {
	e, ok := x.leases[leaseKey{registry.TierEdge, s}]
	return e.Epoch, ok && e.until > x.now
}

func (x *index) valid(rt registry.Route) bool {
	epoch, ok := x.liveEdge(rt.Server)
	return ok && epoch == rt.Epoch
}

// PutRoutes implements registry.Index.
func (r *Registry) PutRoutes(ctx context.Context, routes map[wire.UserID][]registry.Route) (map[wire.UserID][]registry.Route, error) {
	if err := r.enter(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	stood := map[wire.UserID][]registry.Route{}
	for u, mine := range routes {
		if s := r.putLocked(u, mine); len(s) > 0 {
			stood[u] = s
		}
	}
	return stood, nil
}

// putLocked writes the routes of one user. Who gives way to whom is decided
// among all that are there then, as by the real one.
func (r *Registry) putLocked(u wire.UserID, mine []registry.Route) (stood []registry.Route) {
	m := r.index.routes[u]
	if m == nil {
		m = map[wire.ConnID]registry.Route{}
		r.index.routes[u] = m
	}
	for _, rt := range mine {
		m[rt.Conn] = rt
	}
	var gone []wire.ConnID
	for _, c := range sortedKeys(m) {
		o, own, older, newer := m[c], false, false, false
		for _, rt := range mine {
			own = own || rt.Conn == c
			older = older || rt.Device == o.Device && rt.Conn > c
		}
		for _, p := range m {
			newer = newer || own && p.Device == o.Device && p.Conn > c && r.index.valid(p)
		}
		if older || newer {
			gone = append(gone, c)
		}
		if older || !newer && r.index.valid(o) && (!own || len(mine) > 1) {
			stood = append(stood, o)
		}
	}
	for _, c := range gone {
		delete(m, c)
	}
	return stood
}

// DropRoute implements registry.Index.
func (r *Registry) DropRoute(ctx context.Context, u wire.UserID, rt registry.Route) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.mu.Unlock()
	if o, ok := r.index.routes[u][rt.Conn]; ok && o.Server == rt.Server && o.Epoch == rt.Epoch {
		delete(r.index.routes[u], rt.Conn)
	}
	return nil
}

// Lookup implements registry.Index; routes by connection, edges by server.
func (r *Registry) Lookup(ctx context.Context, users []wire.UserID, groups []wire.GroupID) (registry.Routes, error) {
	if err := r.enter(ctx); err != nil {
		return registry.Routes{}, err
	}
	defer r.mu.Unlock()
	x := &r.index
	if r.frozen != nil {
		x = r.frozen
	}
	out := registry.Routes{
		Known:  x.known,
		Users:  map[wire.UserID][]registry.Route{},
		Groups: map[wire.GroupID][]wire.ServerID{},
	}
	for _, u := range users {
		var rs []registry.Route
		for _, c := range sortedKeys(x.routes[u]) {
			if rt := x.routes[u][c]; x.valid(rt) {
				rs = append(rs, rt)
			}
		}
		if rs != nil {
			out.Users[u] = rs
		}
	}
	for _, g := range groups {
		var ss []wire.ServerID
		for _, s := range sortedKeys(x.edges[g]) {
			if _, ok := x.liveEdge(s); ok {
				ss = append(ss, s)
			}
		}
		if ss != nil {
			out.Groups[g] = ss
		}
	}
	return out, nil
}

func sortedKeys[K interface{ ~string | ~uint64 }, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}

// Ping implements registry.Registry.
func (r *Registry) Ping(ctx context.Context) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	r.mu.Unlock()
	return nil
}

// Clock implements registry.Registry; it is right.
func (r *Registry) Clock(ctx context.Context) (time.Duration, error) { return 0, r.Ping(ctx) }

// Close implements registry.Registry; it does nothing.
func (r *Registry) Close() error { return nil }
