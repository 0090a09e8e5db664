package verify

import (
	"maps"
	"sync"

	"github.com/starling-im/starling/common/wire"
)

// inbox is what a device has: up to a cursor in each conversation, and single
// seqs beyond.
type inbox struct {
	mu      sync.Mutex
	cursors map[wire.ConvID]int64
	beyond  map[wire.ConvID]map[int64]bool
	dirty   map[wire.ConvID]bool // cursors that moved and were not said yet
	got     int64                // seqs that were new
}

func newInbox() *inbox {
	return &inbox{cursors: make(map[wire.ConvID]int64), beyond: make(map[wire.ConvID]map[int64]bool), dirty: make(map[wire.ConvID]bool)}
}

// take notes a seq and says whether one below it is missing.
func (b *inbox) take(conv wire.ConvID, seq int64) (hole bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if seq <= b.cursors[conv] || b.beyond[conv][seq] {
		return false
	}
	b.got++
	if b.beyond[conv] == nil {
		b.beyond[conv] = make(map[int64]bool)
	}
	b.beyond[conv][seq] = true
	b.advanceLocked(conv, 0)
	return b.cursors[conv] < seq
}

// upto moves a cursor to what sync says.
func (b *inbox) upto(conv wire.ConvID, seq int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advanceLocked(conv, seq)
}

func (b *inbox) advanceLocked(conv wire.ConvID, upto int64) {
	old := b.cursors[conv]
	at := max(old, upto)
	for seq := range b.beyond[conv] {
		if seq <= at {
			delete(b.beyond[conv], seq)
		}
	}
	for b.beyond[conv][at+1] {
		at++
		delete(b.beyond[conv], at)
	}
	if at > old {
		b.cursors[conv] = at
		b.dirty[conv] = true
	}
}

// all returns the cursors of conversations of which anything was shown.
func (b *inbox) all() map[wire.ConvID]int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.cursors)
}

func (b *inbox) at(conv wire.ConvID) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cursors[conv]
}

// top is the highest seq that was shown.
func (b *inbox) top(conv wire.ConvID) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	top := b.cursors[conv]
	for seq := range b.beyond[conv] {
		top = max(top, seq)
	}
	return top
}

// moved returns the cursors that moved since the last time.
func (b *inbox) moved() map[wire.ConvID]int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make(map[wire.ConvID]int64, len(b.dirty))
	for conv := range b.dirty {
		out[conv] = b.cursors[conv]
	}
	clear(b.dirty)
	return out
}

// sayAgain counts every cursor as moved: what was said on a connection that broke
// may not have arrived.
func (b *inbox) sayAgain() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for conv := range b.cursors {
		b.dirty[conv] = true
	}
}

func (b *inbox) count() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.got
}
