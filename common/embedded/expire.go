package embedded

import (
	"context"
	"reflect"
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

	mu      sync.Mutex // taken before miniredis's own lock, so not by what a script calls: that holds it
	touched map[string]struct{}
	again   [unseenTicks]map[string]struct{} // ring of touched sets, for the second look
	due     map[int64][]string               // by tick
	at      map[string]deadline
	tick    int64
}

// deadline is when a key is due, the TTL that made it so, and the tick under
// which it stands in due, which is no later.
type deadline struct {
	tick   int64
	ttl    time.Duration
	listed int64
}

func newExpiry(m *miniredis.Miniredis) *expiry {
	e := &expiry{redis: m, touched: map[string]struct{}{}, due: map[int64][]string{}, at: map[string]deadline{}}
	m.Server().SetPreHook(e.hook)
	return e
}

// hook notes the keys of a command that may set a TTL. A script's were named with
// the script.
func (e *expiry) hook(p *server.Peer, cmd string, args ...string) bool {
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
	if len(keys) > 0 && !nested(p) {
		e.mu.Lock()
		for _, k := range keys {
			e.touched[k] = struct{}{}
		}
		e.mu.Unlock()
	}
	return false
}

// nested says whether a command is called by a script. miniredis knows, but tells
// nobody.
func nested(p *server.Peer) bool {
	ctx := reflect.Indirect(reflect.ValueOf(p.Ctx))
	if ctx.Kind() != reflect.Struct {
		return false // a client's first command
	}
	f := ctx.FieldByName("nested")
	return f.IsValid() && f.Kind() == reflect.Bool && f.Bool()
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
			e.mu.Lock() // before the clock is read: what was touched until then counts from this tick
			e.advance(int64(time.Since(begin) / redisTick))
			e.mu.Unlock()
		}
	}
}

// advance goes on to a tick, over all between where ticks came late; mu is
// held. What was touched since the last may have been touched just now, so its
// time begins at the end of this tick, and is known before any key is deleted.
func (e *expiry) advance(tick int64) {
	if tick <= e.tick {
		return
	}
	for k := range e.touched {
		e.look(k, e.redis.TTL(k), tick)
	}
	for e.tick < tick {
		e.tick++
		slot := &e.again[e.tick%unseenTicks]
		for k := range *slot {
			if ttl := e.redis.TTL(k); ttl != e.at[k].ttl {
				e.look(k, ttl, tick)
			}
		}
		*slot = nil
		e.expire()
	}
	e.again[tick%unseenTicks], e.touched = e.touched, map[string]struct{}{}
}

// look notes when a key is due that was touched in a tick.
func (e *expiry) look(k string, ttl time.Duration, tick int64) {
	if ttl <= 0 {
		delete(e.at, k)
		return
	}
	d := deadline{tick: tick + 1 + int64((ttl+redisTick-1)/redisTick), ttl: ttl}
	// A key stands in due once: one that is renewed again and again is moved on
	// when its first time comes.
	if d.listed = e.at[k].listed; d.listed == 0 || d.listed > d.tick {
		d.listed = d.tick
		e.due[d.tick] = append(e.due[d.tick], k)
	}
	e.at[k] = d
}

// expire deletes the keys of this tick. No key can be set meanwhile: the hook
// waits. (One whose command was noted before and is done after was looked at
// with its former TTL, and is looked at again.)
func (e *expiry) expire() {
	for _, k := range e.due[e.tick] {
		switch d := e.at[k]; {
		case d.listed != e.tick: // it has no TTL any more, or stands elsewhere, too
			continue
		case d.tick != e.tick: // its TTL was set anew
			d.listed = d.tick
			e.due[d.tick] = append(e.due[d.tick], k)
			e.at[k] = d
			continue
		}
		delete(e.at, k)
		if e.redis.TTL(k) > 0 { // it may have been deleted and made again without
			e.redis.Del(k)
		}
	}
	delete(e.due, e.tick)
}
