package registry

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/wire"
)

const (
	lastSeenTTL = 90 * 24 * time.Hour
	// routesTTL removes the routes of users who never came back after their edge
	// died. Edges announce what lives much more often.
	routesTTL = 24 * time.Hour
	// counterStep bounds the steps of a counter: 8 billion of them fit.
	counterStep = 1 << 30
)

func (r *Redis) connKey(u wire.UserID) string   { return r.key("user:conn", string(u)) }
func (r *Redis) statusKey(u wire.UserID) string { return r.key("user:status", string(u)) }
func (r *Redis) edgesKey(g wire.GroupID) string { return r.key("group:edges", string(g)) }

// leaseCache is the live edges as last read. It holds while sentinel and
// generation stay and leasesFor has not passed.
type leaseCache struct {
	at       time.Time
	sentinel string
	gen      string
	epochs   map[wire.ServerID]uint64
}

func (c *leaseCache) live(rt Route) bool {
	e, ok := c.epochs[rt.Server]
	return ok && e == rt.Epoch
}

func (c *leaseCache) holds(sentinel, gen string) bool {
	return c.epochs != nil && c.sentinel == sentinel && c.gen == gen && time.Since(c.at) < leasesFor
}

// edges returns the live edges, cached ones if they hold under what a pipeline
// just read. The leases are read after the routes that they judge, or have not
// changed since.
func (r *Redis) edges(ctx context.Context, sentinel, gen string) (leaseCache, error) {
	r.mu.Lock()
	c := r.leases
	r.mu.Unlock()
	if c.holds(sentinel, gen) {
		return c, nil
	}
	at := time.Now()
	live, err := r.live(ctx, TierEdge)
	if err != nil {
		return leaseCache{}, err
	}
	c = leaseCache{at: at, sentinel: sentinel, gen: gen, epochs: make(map[wire.ServerID]uint64, len(live))}
	for _, l := range live {
		c.epochs[l.Server] = l.Epoch
	}
	r.mu.Lock()
	r.leases = c
	r.mu.Unlock()
	return c, nil
}

// Lookup implements Index: one pipeline, and a second one when the leases have
// to be read. Routes come by connection id, edges by server id.
func (r *Redis) Lookup(ctx context.Context, users []wire.UserID, groups []wire.GroupID) (Routes, error) {
	out := Routes{Users: map[wire.UserID][]Route{}, Groups: map[wire.GroupID][]wire.ServerID{}}
	err := r.do(ctx, "lookup", func(ctx context.Context) error {
		p := r.c.Pipeline()
		us := make([]*redis.MapStringStringCmd, len(users))
		for i, u := range users {
			us[i] = p.HGetAll(ctx, r.connKey(u))
		}
		gs := make([]*redis.StringSliceCmd, len(groups))
		for i, g := range groups {
			gs[i] = p.HKeys(ctx, r.edgesKey(g))
		}
		gen := p.Get(ctx, r.genKey(TierEdge))
		read := r.readSentinel(ctx, p)
		if err := exec(ctx, p); err != nil {
			return err
		}
		s, err := read.result(ctx)
		if err != nil {
			return err
		}
		live, err := r.edges(ctx, s.raw, gen.Val())
		if err != nil {
			return err
		}
		out.Known = s.Known && s.whole
		for i, u := range users {
			rs := slices.DeleteFunc(parseRoutes(us[i].Val()), func(rt Route) bool { return !live.live(rt) })
			if len(rs) > 0 && !planted.Now(planted.RegistryOmitsRoutes) {
				out.Users[u] = rs
			}
		}
		for i, g := range groups {
			if ss := liveServers(gs[i].Val(), &live); len(ss) > 0 && !planted.Now(planted.RegistryOmitsEdges) {
				out.Groups[g] = ss
			}
		}
		return nil
	})
	if err != nil {
		return Routes{}, err
	}
	return out, nil
}

func liveServers(ids []string, live *leaseCache) []wire.ServerID {
	var out []wire.ServerID
	for _, id := range ids {
		if _, ok := live.epochs[wire.ServerID(id)]; ok {
			out = append(out, wire.ServerID(id))
		}
	}
	slices.Sort(out)
	return out
}

// parseRoutes reads a user:conn hash, sorted by connection; what cannot be
// read is left out, as a route of a dead lease is.
func parseRoutes(h map[string]string) []Route {
	out := make([]Route, 0, len(h))
	for conn, v := range h {
		var rt Route
		if json.Unmarshal([]byte(v), &rt) == nil && connField(rt.Conn) == conn {
			out = append(out, rt)
		}
	}
	slices.SortFunc(out, func(a, b Route) int {
		switch {
		case a.Conn < b.Conn:
			return -1
		case a.Conn > b.Conn:
			return 1
		}
		return 0
	})
	return out
}

func connField(c wire.ConnID) string { return strconv.FormatUint(uint64(c), 10) }

// PutRoutes implements Index. It writes first and reads after, so of two edges
// that log the same device in at once at least one sees both routes; which of
// the two stays is decided by the connection ids alone, so all who see both
// delete the same one.
func (r *Redis) PutRoutes(ctx context.Context, routes map[wire.UserID][]Route) (map[wire.UserID][]Route, error) {
	stood := map[wire.UserID][]Route{}
	err := r.do(ctx, "put_routes", func(ctx context.Context) error {
		p := r.c.Pipeline()
		reads := make(map[wire.UserID]*redis.MapStringStringCmd, len(routes))
		for u, rs := range routes {
			for _, rt := range rs {
				b, err := json.Marshal(rt)
				if err != nil {
					return err
				}
				p.HSet(ctx, r.connKey(u), connField(rt.Conn), b)
			}
			p.Expire(ctx, r.connKey(u), routesTTL)
			reads[u] = p.HGetAll(ctx, r.connKey(u))
		}
		sentinel, gen := p.Get(ctx, r.sentinelKey()), p.Get(ctx, r.genKey(TierEdge))
		if err := exec(ctx, p); err != nil {
			return err
		}
		live, err := r.edges(ctx, sentinel.Val(), gen.Val())
		if err != nil {
			return err
		}
		p = r.c.Pipeline()
		for u, rs := range routes {
			s, gone := settle(rs, parseRoutes(reads[u].Val()), &live)
			if len(s) > 0 {
				stood[u] = s
			}
			for _, rt := range gone { // compared again: its edge may just have announced it anew
				p.Eval(ctx, routeIfEpoch, []string{r.connKey(u)}, connField(rt.Conn), string(rt.Server), strconv.FormatUint(rt.Epoch, 10))
			}
		}
		return exec(ctx, p)
	})
	if err != nil {
		return nil, err
	}
	return stood, nil
}

// settle returns what stands beside mine (of several of mine each stands beside
// the rest) or stood for their devices, and which are to go: older ones of a device, mine where a newer one lives, and all
// of dead leases, which no sweeper has to find then. A newer one of a dead lease
// is no reason to give way.
func settle(mine, all []Route, live *leaseCache) (stood, gone []Route) {
	for _, o := range all {
		lives := live.live(o)
		own := slices.ContainsFunc(mine, func(m Route) bool { return m.Conn == o.Conn })
		older := slices.ContainsFunc(mine, func(m Route) bool { return replaces(m, o) })
		newer := own && slices.ContainsFunc(all, func(p Route) bool { return replaces(p, o) && live.live(p) })
		if older || newer || !own && !lives {
			gone = append(gone, o)
		}
		if older || lives && !newer && (!own || len(mine) > 1) {
			stood = append(stood, o)
		}
	}
	return stood, gone
}

// replaces says whether a is a newer connection of b's device.
func replaces(a, b Route) bool { return a.Device == b.Device && a.Conn > b.Conn }

// DropRoute implements Index.
func (r *Redis) DropRoute(ctx context.Context, u wire.UserID, rt Route) error {
	return r.do(ctx, "drop_route", func(ctx context.Context) error {
		return r.script(ctx, routeIfEpoch, r.connKey(u), connField(rt.Conn), string(rt.Server), strconv.FormatUint(rt.Epoch, 10))
	})
}

// AddGroupEdge implements Index. Counters grow by steps that nobody can guess,
// so that one which begins anew, because its field was removed or the index
// emptied, is not what a late removal knows.
func (r *Redis) AddGroupEdge(ctx context.Context, server wire.ServerID, groups []wire.GroupID) ([]int64, error) {
	cmds := make([]*redis.IntCmd, len(groups))
	err := r.pipe(ctx, "add_group_edge", func(p redis.Pipeliner) {
		for i, g := range groups {
			cmds[i] = p.HIncrBy(ctx, r.edgesKey(g), string(server), 1+rand.Int64N(counterStep)) //nolint:gosec // a token against chance, not against people
			p.Expire(ctx, r.edgesKey(g), routesTTL)
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]int64, len(groups))
	for i, c := range cmds {
		out[i] = c.Val()
	}
	return out, nil
}

// DropGroupEdges implements Index. The script goes along whole: a pipeline
// cannot find out that the server does not know it.
func (r *Redis) DropGroupEdges(ctx context.Context, server wire.ServerID, groups []wire.GroupID, counters []int64) error {
	return r.pipe(ctx, "drop_group_edges", func(p redis.Pipeliner) {
		for i, g := range groups {
			p.Eval(ctx, fieldIfEqual, []string{r.edgesKey(g)}, string(server), strconv.FormatInt(counters[i], 10))
		}
	})
}

// SetLastSeen implements Index.
func (r *Redis) SetLastSeen(ctx context.Context, u wire.UserID, ms int64) error {
	return r.do(ctx, "set_last_seen", func(ctx context.Context) error {
		return r.c.Set(ctx, r.statusKey(u), ms, lastSeenTTL).Err()
	})
}

// LastSeen implements Index.
func (r *Redis) LastSeen(ctx context.Context, users []wire.UserID) (map[wire.UserID]int64, error) {
	cmds := make([]*redis.StringCmd, len(users))
	err := r.pipe(ctx, "last_seen", func(p redis.Pipeliner) {
		for i, u := range users {
			cmds[i] = p.Get(ctx, r.statusKey(u))
		}
	})
	if err != nil {
		return nil, err
	}
	out := make(map[wire.UserID]int64, len(users))
	for i, c := range cmds {
		if ms, err := c.Int64(); err == nil {
			out[users[i]] = ms
		}
	}
	return out, nil
}
