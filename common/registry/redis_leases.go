package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/wire"
)

// Keys of leases (those of the sentinel are in redis_sentinel.go):
//
//	lease:<tier>:{id}    the lease as JSON, with its ttl
//	leases:{<tier>}      sorted set of ids by the time (ms) of the last renewal;
//	                     lapsed ones stay for a day
//	leases:{<tier>}:gen  counts new leases: a look-up that finds another number
//	                     reads the leases again, so that no route of a lease
//	                     just made is taken for dead
func (r *Redis) leaseKey(tier string, id wire.ServerID) string {
	return r.key("lease:"+tier, string(id))
}
func (r *Redis) idsKey(tier string) string { return r.key("leases", tier) }
func (r *Redis) genKey(tier string) string { return r.key("leases", tier) + ":gen" }

// lapsedFor is how long the id of a lapsed lease is remembered. Every start of a
// process may bring a new id; so long that no clock is wrong by as much, for
// else it would take the ids of the living.
const lapsedFor = 24 * time.Hour

// Scripts that compare and delete, for what is rare. Each has one key.
const (
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

// Renew implements Leases. An edge's renewal also reads the run id of every
// master: another one means that it began anew, perhaps with older data.
func (r *Redis) Renew(ctx context.Context, l Lease, ttl time.Duration) (Standing, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return Standing{}, fmt.Errorf("encode lease: %w", err)
	}
	key := r.leaseKey(l.Tier, l.Server)
	var st Standing
	err = r.do(ctx, "renew", func(ctx context.Context) error {
		p := r.c.Pipeline()
		was := p.SetArgs(ctx, key, b, redis.SetArgs{TTL: ttl, Get: true})
		now := time.Now()
		p.ZAdd(ctx, r.idsKey(l.Tier), redis.Z{Score: float64(now.UnixMilli()), Member: string(l.Server)})
		p.ZRemRangeByScore(ctx, r.idsKey(l.Tier), "-inf", strconv.FormatInt(now.Add(-lapsedFor).UnixMilli(), 10))
		read := r.readSentinel(ctx, p)
		announced := p.HGet(ctx, r.announcedKey(), string(l.Server))
		if err := exec(ctx, p); err != nil {
			return err
		}
		if err := r.countNew(ctx, l, key, was.Val()); err != nil {
			return err
		}
		s, err := read.result(ctx)
		if err != nil {
			return err
		}
		if l.Tier != TierEdge {
			st = Standing{Known: s.Known && s.whole}
			return nil
		}
		if s, err = r.sound(ctx, s, ttl); err != nil {
			return err
		}
		mine := announced.Val() == announcement(l.Epoch, s.Index)
		if mine && !s.Known {
			s.Known, err = r.complete(ctx, s)
		}
		st = Standing{Known: mine && s.Known, Announce: !mine, Index: s.Index}
		return err
	})
	if err != nil {
		return Standing{}, err
	}
	return st, nil
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
