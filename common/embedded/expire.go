package embedded

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
)

// unseenTicks is after how many ticks a key is looked at a second time: the
// hook is told before the command is done.
const unseenTicks = 10

// expiry deletes keys whose time has come. miniredis has no clock of its own,
// and its FastForward sorts all keys under the lock that every command needs:
// with a few hundred thousand messages cached that alone would stop Redis for
// good. Here a tick looks only at keys that were named by a command which may
// set a TTL, and at those that are due. The TTL that Redis tells stays the one
// that was set.
type expiry struct {
	redis *miniredis.Miniredis

	mu      sync.Mutex // never held by a command; taken before miniredis's own lock
	touched map[string]struct{}
	again   [unseenTicks]map[string]struct{} // ring of touched sets, for the second look
	due     map[int64][]string               // by tick
	at      map[string]int64                 // tick at which a key is due
	tick    int64
}

func newExpiry(m *miniredis.Miniredis) *expiry {
	e := &expiry{redis: m, touched: map[string]struct{}{}, due: map[int64][]string{}, at: map[string]int64{}}
	m.Server().SetPreHook(e.hook)
	return e
}

// hook notes the keys of a command that may set a TTL.
func (e *expiry) hook(_ *server.Peer, cmd string, args ...string) bool {
	var keys []string
	switch cmd {
	case "SET", "GETEX", "SETEX", "PSETEX", "EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT", "RESTORE":
		keys = args[:min(1, len(args))]
	case "RENAME", "RENAMENX", "COPY":
		keys = args[:min(2, len(args))]
	case "EVAL", "EVALSHA":
		if len(args) > 1 {
			n, _ := strconv.Atoi(args[1])
			keys = args[2:min(2+max(n, 0), len(args))]
		}
	}
	if len(keys) > 0 {
		e.mu.Lock()
		for _, k := range keys {
			e.touched[k] = struct{}{}
		}
		e.mu.Unlock()
	}
	return false
}

// run deletes what is due until ctx ends.
func (e *expiry) run(ctx context.Context) {
	t := time.NewTicker(redisTick)
	defer t.Stop()
	begin := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			e.advance(int64(time.Since(begin) / redisTick))
		}
	}
}

// advance goes on to a tick.
func (e *expiry) advance(tick int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.tick < tick {
		e.tick++
		slot := &e.again[e.tick%unseenTicks]
		for k := range *slot {
			if _, seen := e.at[k]; !seen {
				e.look(k)
			}
		}
		for k := range e.touched {
			e.look(k)
		}
		*slot, e.touched = e.touched, map[string]struct{}{}
		e.expire()
	}
}

// look notes when a key is due.
func (e *expiry) look(k string) {
	ttl := e.redis.TTL(k)
	if ttl <= 0 {
		delete(e.at, k)
		return
	}
	at := e.tick + int64((ttl+redisTick-1)/redisTick)
	if e.at[k] != at {
		e.at[k] = at
		e.due[at] = append(e.due[at], k)
	}
}

// expire deletes the keys of this tick. No key can be set meanwhile: the hook
// waits. (One whose command was noted before and is done after was looked at
// with its former TTL, and is looked at again.)
func (e *expiry) expire() {
	for _, k := range e.due[e.tick] {
		if e.at[k] != e.tick {
			continue // its TTL was set anew
		}
		delete(e.at, k)
		if e.redis.TTL(k) > 0 { // it may have been deleted and made again without
			e.redis.Del(k)
		}
	}
	delete(e.due, e.tick)
}
