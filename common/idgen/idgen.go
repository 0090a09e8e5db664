// Package idgen makes message ids: 41 bits of milliseconds since 2024-01-01 UTC,
// 10 bits of a leased worker number, 12 bits of a counter. Ids of one generator
// grow; ids of all generators are unique as long as no two hold one worker
// number at the same time, which the lease sees to.
//
// A Generator is safe for concurrent use. It keeps growing when the clock steps
// back (it stays in its last millisecond) and when 4,096 ids are asked for in
// one millisecond (it borrows the next one), but never goes beyond the end of
// its lease: then Next is ErrLapsed until Extend, or for good after Close. The range ends in 2093.
package idgen

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/wire"
)

// Layout of an id.
const (
	// Epoch is 2024-01-01T00:00:00Z in milliseconds since the Unix epoch.
	Epoch       = 1_704_067_200_000
	workerBits  = 10
	counterBits = 12
	timeBits    = 41

	// MaxWorker is the greatest worker number.
	MaxWorker  = 1<<workerBits - 1
	maxCounter = 1<<counterBits - 1
	maxTime    = 1<<timeBits - 1
)

// ErrLapsed is returned while the generator has no lease on its worker number:
// before the first Extend, and once the lease is over.
var ErrLapsed = errors.New("lease on the worker number has lapsed")

// Generator makes ids for one worker number.
type Generator struct {
	worker int64
	now    func() time.Time

	mu      sync.Mutex
	last    int64 // ms since the Unix epoch, of the last id
	counter int64 // of the last id
	until   int64 // ms since the Unix epoch: the last one ids may bear
	closed  bool
}

// New returns a generator that holds no lease yet. All its ids bear a
// millisecond later than after, up to which the worker number may have been in
// use. A worker outside 0–MaxWorker is a bug and panics.
func New(worker int, after int64, now func() time.Time) *Generator {
	if worker < 0 || worker > MaxWorker {
		panic(fmt.Sprintf("BUG: worker %d is not in 0–%d", worker, MaxWorker))
	}
	return &Generator{
		worker: int64(worker), now: now,
		last: max(after, Epoch), counter: maxCounter,
	}
}

// Extend lets the generator issue until the given millisecond (since the Unix
// epoch), inclusive. It never shortens a lease.
func (g *Generator) Extend(until int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.until = max(g.until, until)
}

// Next returns an id greater than all that this generator made before. It is
// ErrLapsed when the lease is over, also when only borrowing would need more.
func (g *Generator) Next() (wire.MsgID, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.last > Epoch && planted.Now(planted.IDsRepeat) {
		return wire.MsgID((g.last-Epoch)<<(workerBits+counterBits) | g.worker<<counterBits | g.counter), nil
	}
	ms, counter := g.now().UnixMilli(), int64(0)
	if ms <= g.last {
		ms, counter = g.last, g.counter+1
		if counter > maxCounter {
			ms, counter = ms+1, 0
		}
	}
	if g.closed || ms > g.until {
		return 0, ErrLapsed
	}
	if ms-Epoch > maxTime {
		return 0, fmt.Errorf("clock says %d ms, beyond what an id can hold", ms)
	}
	g.last, g.counter = ms, counter
	return wire.MsgID((ms-Epoch)<<(workerBits+counterBits) | g.worker<<counterBits | counter), nil
}

// Last returns the millisecond of the last id, or where issuing starts after.
func (g *Generator) Last() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last
}

// Close ends the generator: every Next after it is ErrLapsed, whatever Extend
// says. It returns Last: what a release of the lease must record as used.
func (g *Generator) Close() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	return g.last
}

// Time returns the millisecond (since the Unix epoch) that an id bears.
func Time(id wire.MsgID) int64 { return int64(id)>>(workerBits+counterBits) + Epoch }

// Worker returns the worker number that made an id.
func Worker(id wire.MsgID) int { return int(int64(id)>>counterBits) & MaxWorker }

// At returns the smallest id of a millisecond since the Unix epoch, to compare
// with when ids of a span of time are looked for.
func At(ms int64) wire.MsgID { return wire.MsgID(max(0, ms-Epoch) << (workerBits + counterBits)) }
