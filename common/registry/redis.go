package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
	"go.uber.org/zap"
)

// ErrOpen is the error of calls that were not tried, because the ones before
// failed.
var ErrOpen = errors.New("registry: calls to redis are suspended")

// Redis is the Registry in Redis.
type Redis struct {
	cfg     Config
	log     *zap.Logger
	c       redis.UniversalClient
	breaker *gobreaker.CircuitBreaker[struct{}]
	m       *redisMetrics

	mu       sync.Mutex
	leases   leaseCache
	sentinel sentinel          // the last one seen
	renewed  map[string]uint64 // lease key -> epoch this client has announced as new
	alarmed  atomic.Int64      // unix ns: when the log last told of a refusal
}

var _ Registry = (*Redis)(nil)

// New makes the client. It does not need Redis to answer: Ping tells.
func New(cfg Config, log *zap.Logger, reg prometheus.Registerer) (*Redis, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	secure, err := cfg.tlsConfig()
	if err != nil {
		return nil, err
	}
	r := &Redis{cfg: cfg, log: log, m: newRedisMetrics(reg), renewed: map[string]uint64{}}
	r.c = redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs:                 cfg.Addrs,
		MasterName:            cfg.Master,
		IsClusterMode:         cfg.Cluster,
		SentinelUsername:      cfg.SentinelUsername,
		SentinelPassword:      cfg.SentinelPassword.Reveal(),
		TLSConfig:             secure,
		Username:              cfg.Username,
		Password:              cfg.Password.Reveal(),
		DB:                    cfg.DB,
		ClientName:            "starling",
		DisableIdentity:       true,
		MaxRetries:            -1,
		DialerRetries:         1,
		DialTimeout:           cfg.Timeout,
		ReadTimeout:           cfg.Timeout,
		WriteTimeout:          cfg.Timeout,
		PoolTimeout:           cfg.Timeout,
		ContextTimeoutEnabled: true,
		PoolSize:              cfg.PoolSize,
		ConnMaxIdleTime:       5 * time.Minute,
	})
	r.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:    "redis",
		Timeout: cfg.BreakFor,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			return n.ConsecutiveFailures >= uint32(cfg.BreakAfter)
		},
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			open := 0.0
			if to == gobreaker.StateOpen {
				open = 1
			}
			r.m.open.Set(open)
			log.Warn("registry breaker", zap.Stringer("from", from), zap.Stringer("to", to))
		},
	})
	return r, nil
}

// do bounds, guards and measures one call. f's error is wrapped with op.
func (r *Redis) do(ctx context.Context, op string, f func(ctx context.Context) error) error {
	_, err := r.breaker.Execute(func() (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
		defer cancel()
		start := time.Now()
		err := f(ctx)
		r.m.seconds.WithLabelValues(op).Observe(time.Since(start).Seconds())
		return struct{}{}, err
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
		r.m.errs.WithLabelValues(op, "open").Inc()
		return fmt.Errorf("%s: %w", op, ErrOpen)
	case errors.Is(err, context.DeadlineExceeded):
		r.m.errs.WithLabelValues(op, "timeout").Inc()
	default:
		r.m.errs.WithLabelValues(op, "error").Inc()
		r.alarm(err)
	}
	if c, ok := r.c.(*redis.ClusterClient); ok && !errors.Is(err, context.Canceled) {
		// The client asks who has the slots once a minute, and when a server
		// sends it elsewhere, which a dead one does not. It does so beside this
		// call, once at a time.
		c.ReloadState(ctx)
	}
	return fmt.Errorf("redis %s: %w", op, err)
}

// pipe is do with one pipeline.
func (r *Redis) pipe(ctx context.Context, op string, f func(p redis.Pipeliner)) error {
	return r.do(ctx, op, func(ctx context.Context) error {
		p := r.c.Pipeline()
		f(p)
		return exec(ctx, p)
	})
}

// exec sends a pipeline. A missing key is an answer, not an error.
func exec(ctx context.Context, p redis.Pipeliner) error {
	if p.Len() == 0 {
		return nil
	}
	cmds, err := p.Exec(ctx)
	if err == nil {
		return nil
	}
	for _, c := range cmds {
		if e := c.Err(); e != nil && !errors.Is(e, redis.Nil) {
			return e
		}
	}
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

// key joins a kind and an id in braces: one id's keys share a Cluster slot.
func (r *Redis) key(kind, id string) string { return r.cfg.Prefix + kind + ":{" + id + "}" }

// Ping implements Registry.
func (r *Redis) Ping(ctx context.Context) error {
	return r.do(ctx, "ping", func(ctx context.Context) error { return r.c.Ping(ctx).Err() })
}

// Clock implements Registry: the masters' TIME, taken for that of the middle of
// its round trip.
func (r *Redis) Clock(ctx context.Context) (offset time.Duration, err error) {
	var mu sync.Mutex
	read := func(ctx context.Context, c *redis.Client) error {
		start := time.Now()
		theirs, err := c.Time(ctx).Result()
		if err != nil {
			return err
		}
		d := theirs.Sub(start.Add(time.Since(start) / 2))
		mu.Lock()
		defer mu.Unlock()
		if d.Abs() > offset.Abs() {
			offset = d
		}
		return nil
	}
	err = r.do(ctx, "clock", func(ctx context.Context) error { return r.eachMaster(ctx, read) })
	return offset, err
}

// eachMaster calls f for each master, of a Cluster for several at once.
func (r *Redis) eachMaster(ctx context.Context, f func(context.Context, *redis.Client) error) error {
	switch c := r.c.(type) {
	case *redis.ClusterClient:
		return c.ForEachMaster(ctx, f)
	case *redis.Client:
		return f(ctx, c)
	}
	return fmt.Errorf("a client of type %T", r.c)
}

// Close implements Registry.
func (r *Redis) Close() error {
	if err := r.c.Close(); err != nil {
		return fmt.Errorf("close redis client: %w", err)
	}
	return nil
}
