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

// Check asks Redis whether it lets this client in. ErrRefused: it does not. Any
// other error may pass by itself, and all can do without Redis until then.
func (r *Redis) Check(ctx context.Context) error {
	err := r.Ping(ctx)
	if refused := refusal(err); refused != nil {
		return refused
	}
	return err
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
