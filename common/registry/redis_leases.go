package registry

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/wire"
)

// Keys of leases and of the sentinel:
//
//	lease:<tier>:{id}    the lease as JSON, with its ttl
//	leases:{<tier>}      sorted set of ids by the time (ms) of the last renewal;
//	                     lapsed ones stay for a day
//	leases:{<tier>}:gen  counts new leases: a look-up that finds another number
//	                     reads the leases again, so that no route of a lease
//	                     just made is taken for dead
//	sentinel             "run id/index id": stands while the index has no holes
//	announced            set of "edge/epoch" that announced under no sentinel yet
func (r *Redis) leaseKey(tier string, id wire.ServerID) string {
	return r.key("lease:"+tier, string(id))
}
func (r *Redis) idsKey(tier string) string { return r.key("leases", tier) }
func (r *Redis) genKey(tier string) string { return r.key("leases", tier) + ":gen" }
func (r *Redis) sentinelKey() string       { return r.cfg.Prefix + "sentinel" }
func (r *Redis) announcedKey() string      { return r.cfg.Prefix + "announced" }

// lapsedFor is how long the id of a lapsed lease is remembered. Every start of a
// process may bring a new id; so long that no clock is wrong by as much, for
// else it would take the ids of the living.
const lapsedFor = 24 * time.Hour

// Scripts that compare and delete, for what is rare. Each has one key.
const (
	deleteIfEqual = `if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0`
	// fieldIfEqual deletes a field of a hash that has this value.
	fieldIfEqual = `if redis.call('HGET',KEYS[1],ARGV[1])==ARGV[2] then return redis.call('HDEL',KEYS[1],ARGV[1]) end return 0`
	// leaseIfEpoch deletes a lease of this epoch.
	leaseIfEpoch = `local v=redis.call('GET',KEYS[1])
if v and cjson.decode(v).epoch==tonumber(ARGV[1]) then return redis.call('DEL',KEYS[1]) end return 0`
	// routeIfEpoch deletes a connection's route of this server and epoch.
	routeIfEpoch = `local v=redis.call('HGET',KEYS[1],ARGV[1]) if not v then return 0 end
local t=cjson.decode(v)
if t.server==ARGV[2] and t.epoch==tonumber(ARGV[3]) then return redis.call('HDEL',KEYS[1],ARGV[1]) end return 0`
)

func (r *Redis) script(ctx context.Context, src, key string, args ...any) error {
	return redis.NewScript(src).Run(ctx, r.c, []string{key}, args...).Err()
}

// Renew implements Leases. Where there is one master its run id is read too:
// another one than the sentinel's means that Redis began anew, perhaps with
// older data, and deletes the sentinel.
func (r *Redis) Renew(ctx context.Context, l Lease, ttl time.Duration) (bool, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return false, fmt.Errorf("encode lease: %w", err)
	}
	key := r.leaseKey(l.Tier, l.Server)
	known := false
	err = r.do(ctx, "renew", func(ctx context.Context) error {
		p := r.c.Pipeline()
		was := p.SetArgs(ctx, key, b, redis.SetArgs{TTL: ttl, Get: true})
		now := time.Now()
		p.ZAdd(ctx, r.idsKey(l.Tier), redis.Z{Score: float64(now.UnixMilli()), Member: string(l.Server)})
		p.ZRemRangeByScore(ctx, r.idsKey(l.Tier), "-inf", strconv.FormatInt(now.Add(-lapsedFor).UnixMilli(), 10))
		sentinel := p.Get(ctx, r.sentinelKey())
		announced := p.SIsMember(ctx, r.announcedKey(), announcement(l.Server, l.Epoch))
		if err := exec(ctx, p); err != nil {
			return err
		}
		if err := r.countNew(ctx, l, key, was.Val()); err != nil {
			return err
		}
		// An edge that has not announced under this index has holes in it,
		// whoever else has.
		if known = sentinel.Val() != "" && (l.Tier != TierEdge || announced.Val()); !known {
			return nil
		}
		known, err = r.sameRun(ctx, sentinel.Val())
		return err
	})
	return known && err == nil, err
}

// countNew raises the generation where the lease is new to others or may be.
func (r *Redis) countNew(ctx context.Context, l Lease, key, was string) error {
	var old Lease
	isNew := json.Unmarshal([]byte(was), &old) != nil || old.Epoch != l.Epoch
	r.mu.Lock()
	counted := r.renewed[key] == l.Epoch
	r.mu.Unlock()
	if !isNew && counted {
		return nil
	}
	if err := r.c.Incr(ctx, r.genKey(l.Tier)).Err(); err != nil {
		return err
	}
	r.mu.Lock()
	r.renewed[key] = l.Epoch
	r.mu.Unlock()
	return nil
}

// sameRun compares the sentinel with the master's run id, and deletes it if it
// is of another run.
func (r *Redis) sameRun(ctx context.Context, sentinel string) (bool, error) {
	id, err := r.runID(ctx)
	if err != nil {
		return false, err
	}
	was, _, _ := strings.Cut(sentinel, "/")
	if was == id {
		return true, nil
	}
	r.log.Warn("redis runs anew: the index counts as unknown until all edges have announced")
	if err := r.c.Del(ctx, r.announcedKey()).Err(); err != nil {
		return false, err
	}
	return false, r.script(ctx, deleteIfEqual, r.sentinelKey(), sentinel)
}

// runID returns the master's run id, "-" where it has none to tell (Cluster:
// many masters; miniredis: no such section, but it keeps nothing over a run).
func (r *Redis) runID(ctx context.Context) (string, error) {
	if !r.single {
		return "-", nil
	}
	info, err := r.c.Info(ctx, "server").Result()
	if err != nil {
		if _, answered := errors.AsType[redis.Error](err); answered { // it knows no such section
			return "-", nil
		}
		return "", err
	}
	for line := range strings.Lines(info) {
		if id, ok := strings.CutPrefix(strings.TrimSpace(line), "run_id:"); ok {
			return id, nil
		}
	}
	return "-", nil
}

// Release implements Leases.
func (r *Redis) Release(ctx context.Context, l Lease) error {
	return r.do(ctx, "release", func(ctx context.Context) error {
		return r.script(ctx, leaseIfEpoch, r.leaseKey(l.Tier, l.Server), strconv.FormatUint(l.Epoch, 10))
	})
}

// Live implements Leases; sorted by server.
func (r *Redis) Live(ctx context.Context, tier string) ([]Lease, error) {
	var out []Lease
	err := r.do(ctx, "live", func(ctx context.Context) (err error) {
		out, err = r.live(ctx, tier)
		return err
	})
	return out, err
}

func (r *Redis) live(ctx context.Context, tier string) ([]Lease, error) {
	ids, err := r.c.ZRange(ctx, r.idsKey(tier), 0, -1).Result()
	if err != nil {
		return nil, err
	}
	slices.Sort(ids)
	p := r.c.Pipeline()
	gets := make([]*redis.StringCmd, len(ids))
	for i, id := range ids {
		gets[i] = p.Get(ctx, r.leaseKey(tier, wire.ServerID(id)))
	}
	if err := exec(ctx, p); err != nil {
		return nil, err
	}
	var out []Lease
	for i, g := range gets {
		if g.Val() == "" {
			continue
		}
		var l Lease
		if err := json.Unmarshal([]byte(g.Val()), &l); err != nil || string(l.Server) != ids[i] {
			r.log.Warn("lease cannot be read", zap.String("server_id", ids[i]), zap.Error(err))
			continue
		}
		out = append(out, l)
	}
	return out, nil
}

// Announced implements Leases.
func (r *Redis) Announced(ctx context.Context, server wire.ServerID, epoch uint64) error {
	return r.do(ctx, "announced", func(ctx context.Context) error {
		p := r.c.Pipeline()
		p.SAdd(ctx, r.announcedKey(), announcement(server, epoch))
		all := p.SMembers(ctx, r.announcedKey())
		if err := exec(ctx, p); err != nil {
			return err
		}
		live, err := r.live(ctx, TierEdge)
		if err != nil {
			return err
		}
		gone := make(map[string]struct{}, len(all.Val()))
		for _, a := range all.Val() {
			gone[a] = struct{}{}
		}
		for _, l := range live {
			a := announcement(l.Server, l.Epoch)
			if _, ok := gone[a]; !ok {
				return nil
			}
			delete(gone, a)
		}
		if len(live) == 0 {
			return nil
		}
		return r.setSentinel(ctx, gone)
	})
}

func announcement(s wire.ServerID, epoch uint64) string {
	return string(s) + "/" + strconv.FormatUint(epoch, 10)
}

func (r *Redis) setSentinel(ctx context.Context, gone map[string]struct{}) error {
	run, err := r.runID(ctx)
	if err != nil {
		return err
	}
	first, err := r.c.SetNX(ctx, r.sentinelKey(), run+"/"+rand.Text(), 0).Result()
	if err != nil {
		return err
	}
	if first {
		r.log.Info("all edges have announced: the index is known")
	}
	if len(gone) == 0 {
		return nil
	}
	return r.c.SRem(ctx, r.announcedKey(), slices.Collect(maps.Keys(gone))).Err()
}
