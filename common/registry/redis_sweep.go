package registry

import (
	"context"
	"encoding/json"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/wire"
)

const (
	// sweepEvery is the time from one round to the next. Look-ups leave the dead
	// out anyhow; a round keeps their remains from growing.
	sweepEvery = 10 * time.Minute
	// sweepScan is how many keys a step looks at, sweepPause the time between
	// steps: 10,000 keys a second on each master at most.
	sweepScan  = 200
	sweepPause = 20 * time.Millisecond
)

// Sweep removes what dead edges left in routes and groups, a paced round every
// ten minutes, until ctx ends. One process of all does a round: who is first to
// take the key "index:sweeper". A route goes if its edge lives under another epoch or
// not at all, a group's edge if it does not live; each is compared again as it
// is deleted.
func (r *Redis) Sweep(ctx context.Context) error {
	t := time.NewTicker(sweepEvery / 4)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if _, err := r.sweepInTurn(ctx); err != nil && ctx.Err() == nil {
			r.log.Debug("sweep", zap.Error(err))
		}
	}
}

// sweepInTurn does a round if nobody began one in the last ten minutes.
func (r *Redis) sweepInTurn(ctx context.Context) (mine bool, err error) {
	err = r.do(ctx, "sweep", func(ctx context.Context) (err error) {
		mine, err = r.c.SetNX(ctx, r.cfg.Prefix+"index:sweeper", "", sweepEvery).Result()
		return err
	})
	if err == nil && mine {
		_, err = r.SweepOnce(ctx)
	}
	return mine, err
}

// SweepOnce does one round and returns how many entries it removed. It ends
// early if the index is not known: leases may be missing then, and the living
// look dead.
func (r *Redis) SweepOnce(ctx context.Context) (int, error) {
	var swept atomic.Int64
	err := r.eachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return r.sweepServer(ctx, c, &swept) })
	return int(swept.Load()), err
}

func (r *Redis) sweepServer(ctx context.Context, c *redis.Client, swept *atomic.Int64) error {
	for _, kind := range []string{"user:conn", "group:edges"} {
		for cursor := uint64(0); ; {
			var keys []string
			err := r.do(ctx, "sweep", func(ctx context.Context) (err error) {
				keys, cursor, err = c.Scan(ctx, cursor, r.cfg.Prefix+kind+":{*}", sweepScan).Result()
				return err
			})
			if err != nil {
				return err
			}
			goOn, err := r.sweepKeys(ctx, keys, kind == "user:conn", swept)
			if err != nil || !goOn {
				return err
			}
			if cursor == 0 {
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(sweepPause):
			}
		}
	}
	return nil
}

// sweepKeys removes the dead from some keys; false: the index is not known.
func (r *Redis) sweepKeys(ctx context.Context, keys []string, routes bool, swept *atomic.Int64) (goOn bool, err error) {
	if len(keys) == 0 {
		return true, nil
	}
	hashes := make([]*redis.MapStringStringCmd, len(keys))
	var live []Lease
	err = r.do(ctx, "sweep", func(ctx context.Context) error {
		p := r.c.Pipeline()
		for i, k := range keys {
			hashes[i] = p.HGetAll(ctx, k)
		}
		if err := exec(ctx, p); err != nil {
			return err
		}
		// The leases after what they judge, and the sentinel after them.
		if live, err = r.live(ctx, TierEdge); err != nil {
			return err
		}
		p = r.c.Pipeline()
		read := r.readSentinel(ctx, p)
		if err := exec(ctx, p); err != nil {
			return err
		}
		s, err := read.result(ctx)
		goOn = s.Known && s.whole
		return err
	})
	if err != nil || !goOn {
		return false, err
	}
	epochs := make(map[wire.ServerID]uint64, len(live))
	for _, l := range live {
		epochs[l.Server] = l.Epoch
	}
	for i, k := range keys {
		for field, v := range hashes[i].Val() {
			src, args := deadGroupEdge(field, v, epochs)
			if routes {
				src, args = deadRoute(field, v, epochs)
			}
			if src == "" {
				continue
			}
			err := r.do(ctx, "sweep", func(ctx context.Context) error { return r.script(ctx, src, k, args...) })
			if err != nil {
				return false, err
			}
			swept.Add(1)
			r.m.swept.Inc()
		}
	}
	return true, nil
}

// deadRoute returns the script that removes a route if its edge is dead.
func deadRoute(field, v string, epochs map[wire.ServerID]uint64) (src string, args []any) {
	var rt Route
	if json.Unmarshal([]byte(v), &rt) != nil {
		return "", nil
	}
	if e, ok := epochs[rt.Server]; ok && e <= rt.Epoch {
		return "", nil
	}
	return routeIfEpoch, []any{field, string(rt.Server), strconv.FormatUint(rt.Epoch, 10)}
}

func deadGroupEdge(field, v string, epochs map[wire.ServerID]uint64) (src string, args []any) {
	if _, ok := epochs[wire.ServerID(field)]; ok {
		return "", nil
	}
	return fieldIfEqual, []any{field, v}
}
