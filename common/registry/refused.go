package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// ErrRefused marks what no waiting cures: Redis answers, and does not let this
// client in. The text says what to do.
var ErrRefused = errors.New("refused by redis")

// refusalAlarm is how often the log tells of it while running.
const refusalAlarm = time.Minute

// refusal returns an error with the remedy if err says that the credentials or
// the rights are wrong, else nil.
func refusal(err error) error {
	e, ok := errors.AsType[redis.Error](err)
	if !ok {
		return nil
	}
	switch code, _, _ := strings.Cut(e.Error(), " "); code {
	case "WRONGPASS", "NOAUTH", "ERR":
		if code == "ERR" && !strings.Contains(e.Error(), "AUTH") { // AUTH for a server that has no password
			return nil
		}
		return fmt.Errorf("%w: %w; set redis.username and redis.password (redis.sentinel-username, redis.sentinel-password for Sentinels)", ErrRefused, err)
	case "NOPERM":
		return fmt.Errorf("%w: %w; give the user of redis.username the rights that it lacks (~* +@all)", ErrRefused, err)
	}
	return nil
}

// Check asks Redis whether it lets this client in and keeps what it is given.
// ErrRefused: it does not. Any
// other error may pass by itself, and all can do without Redis until then.
func (r *Redis) Check(ctx context.Context) error {
	err := r.Ping(ctx)
	if refused := refusal(err); refused != nil {
		return refused
	}
	if err != nil {
		return err
	}
	return r.checkEviction(ctx)
}

// checkEviction refuses servers that throw keys away when their memory is full:
// the index would count as known with routes missing. A server that does not
// tell is taken to be right.
func (r *Redis) checkEviction(ctx context.Context) error {
	err := r.do(ctx, "check", func(ctx context.Context) error {
		return r.eachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
			info, err := c.Info(ctx, "memory").Result()
			if err != nil {
				return nil //nolint:nilerr // it does not tell
			}
			return evicts(info)
		})
	})
	if errors.Is(err, ErrRefused) {
		return err
	}
	return nil
}

func evicts(info string) error {
	values := map[string]string{}
	for line := range strings.Lines(info) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			values[k] = v
		}
	}
	policy := values["maxmemory_policy"]
	if values["maxmemory"] == "0" || policy == "" || policy == "noeviction" {
		return nil
	}
	return fmt.Errorf("%w: maxmemory-policy is %s, under which it throws routes of users away unseen; set maxmemory-policy noeviction", ErrRefused, policy)
}

// alarm tells of a refusal while running, again each minute.
func (r *Redis) alarm(err error) {
	refused := refusal(err)
	if refused == nil {
		return
	}
	now := time.Now()
	if last := r.alarmed.Load(); now.UnixNano()-last > refusalAlarm.Nanoseconds() && r.alarmed.CompareAndSwap(last, now.UnixNano()) {
		r.log.Error("redis does not let this process in", zap.Error(refused))
	}
}
