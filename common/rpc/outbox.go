package rpc

import (
	"cmp"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/rpc/rpcpb"
)

// Bounds of one PushBatch: large enough that a backlog goes out in few
// messages, small enough that a fresh frame does not wait behind one.
const (
	MaxBatchFrames = 512
	MaxBatchBytes  = 256 << 10
)

// frameOverhead is what a held frame costs beside its encoding, roughly.
const frameOverhead = 128

// Outbox is the job's end of the push streams to one edge: the frames that the
// edge has not confirmed, bounded, and what is to be sent on the present
// stream. It survives streams; it dies with the edge's lease.
//
// Per partition it knows a floor: nothing at or below is held, because the edge
// confirmed it, because it was dropped, or because it was never here. An edge
// whose hello is below the floor, or without a position, is told lost: it may
// have missed something (a new one too, if it had sessions before this job knew
// of it; without sessions it costs nothing). What is above the floor is sent
// again. So nothing needs remembering of a loss but the floor, and a
// new owner of the partition, whose floor is where it starts, derives the same.
//
// All methods are safe for concurrent use; none blocks, starts a goroutine or
// reads a clock. A frame must not be changed once pushed (it may be shared
// between outboxes).
type Outbox struct {
	maxFrames, maxBytes int

	mu    sync.Mutex
	up    bool // a stream stands: after Resume, until Down
	edge  map[record.PartitionID]int64
	parts map[record.PartitionID]*boxPart
	queue []*boxFrame // to be sent on the present stream, in order; dead ones are skipped
	dead  int         // of queue
	n     uint64      // number of the newest frame
	stats OutboxStats
}

// OutboxConfig bounds an Outbox: what is held, sent or not, until confirmed.
type OutboxConfig struct {
	MaxFrames int
	MaxBytes  int
}

// OutboxStats is what metrics show of an Outbox. Frames and Bytes are its
// depth, Held of it the frames with a position; the rest only grows. At any
// moment Pushed = Confirmed + Lost + Released + Held, and Ephemeral =
// EphemeralSent + EphemeralDropped + Frames - Held.
type OutboxStats struct {
	Frames, Bytes    int
	Held             int
	Pushed           uint64 // frames with a position taken in
	Confirmed        uint64 // of these, confirmed by the edge
	Lost             uint64 // dropped because the box was full: the edge is told lost
	Released         uint64 // left to the next owner of their partition
	LostTold         uint64 // lost frames sent
	Ephemeral        uint64 // frames without position handed over
	EphemeralSent    uint64 // of these, sent
	EphemeralDropped uint64 // of these, met no stream or a full box, or its stream ended
}

// boxPart is one partition's part of the box.
type boxPart struct {
	floor   int64       // nothing at or below is held
	target  int64       // effects up to here were pushed, or brought this edge nothing
	told    int64       // highest offset that the edge has, or was sent on this stream
	held    []*boxFrame // unconfirmed, ascending, above floor
	waiting bool        // claimed on a standing stream: the next hello decides
	marker  bool        // a kindFloor is in the queue
	beat    bool        // a kindPosition is in the queue
}

// frameKind says what a boxFrame is.
type frameKind uint8

const (
	kindFrame     frameKind = iota // as pushed
	kindEphemeral                  // as pushed, without position
	kindFloor                      // made when sent: the floor, as lost
	kindPosition                   // made when sent: only a position
)

// boxFrame is one element of the queue.
type boxFrame struct {
	kind   frameKind
	part   record.PartitionID
	at     int64
	n      uint64
	size   int
	frame  *rpcpb.PushFrame
	queued bool
	dead   bool
}

// NewOutbox returns an empty outbox without a stream.
func NewOutbox(cfg OutboxConfig) *Outbox {
	return &Outbox{
		maxFrames: cfg.MaxFrames, maxBytes: cfg.MaxBytes,
		edge:  make(map[record.PartitionID]int64),
		parts: make(map[record.PartitionID]*boxPart),
	}
}

// Claim starts a partition: what is at or below floor is none of this outbox's
// business. What was held of the partition before is forgotten. With reopen
// the caller must end the present stream and open another one: only a new
// hello tells whether the edge stands below the floor; until then nothing of
// the partition is sent.
func (o *Outbox) Claim(p record.PartitionID, floor int64) (reopen bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.releaseLocked(p)
	part := &boxPart{floor: floor, target: floor, told: -1}
	o.parts[p] = part
	if !o.up {
		return false
	}
	e, ok := o.edge[p]
	if ok && e >= floor {
		part.floor, part.told = e, e
	}
	if ok && e >= floor || floor < 0 { // below the log's start nothing can be missed
		return false
	}
	part.waiting = true
	return true
}

// Release forgets a partition; its frames are not sent any more. Whoever owns
// it next begins at or below what the edge has not confirmed.
func (o *Outbox) Release(p record.PartitionID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.releaseLocked(p)
}

// Push takes a frame in. False: it was not taken, because its partition is not
// claimed or already past its offset, because it has no position and met no
// stream or a full box, or because the box overflowed (the edge will be told
// lost).
func (o *Outbox) Push(f *rpcpb.PushFrame) bool {
	size := proto.Size(f) + frameOverhead
	o.mu.Lock()
	defer o.mu.Unlock()
	full := o.stats.Frames+1 > o.maxFrames || o.stats.Bytes+size > o.maxBytes
	o.n++
	bf := &boxFrame{kind: kindFrame, n: o.n, size: size, frame: f}
	if f.GetAt() == nil {
		o.stats.Ephemeral++
		if full || !o.up {
			o.stats.EphemeralDropped++
			return false
		}
		bf.kind = kindEphemeral
		o.addLocked(bf)
		o.enqueueLocked(bf)
		return true
	}
	bf.part, bf.at = PartitionOf(f.GetAt()), f.GetAt().GetOffset()
	part := o.parts[bf.part]
	if part == nil || bf.at <= part.target {
		return false
	}
	part.target = bf.at
	o.stats.Pushed++
	switch {
	case bf.at <= part.floor: // the edge has it from another owner
		o.stats.Confirmed++
		return true
	case full:
		o.overflowLocked(bf.part, part)
		return false
	}
	if planted.Now(planted.OutboxDropsFrame) {
		return true
	}
	o.addLocked(bf)
	part.held = append(part.held, bf)
	if o.up && !part.waiting {
		o.enqueueLocked(bf)
	}
	return true
}

// Advance says that all effects of a partition up to offset have been pushed
// or brought this edge nothing. The position goes with the next Beat.
func (o *Outbox) Advance(p record.PartitionID, offset int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if part := o.parts[p]; part != nil {
		part.target = max(part.target, offset)
	}
}

// Beat queues a position for every partition whose target the edge has not
// been sent, and says whether there is anything to send. Called each second.
func (o *Outbox) Beat() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.up {
		return false
	}
	for _, p := range o.partitionsLocked() {
		part := o.parts[p]
		if part.waiting || part.beat || part.target <= max(part.told, part.floor) {
			continue
		}
		part.beat = true
		o.enqueueLocked(&boxFrame{kind: kindPosition, part: p, at: part.target})
	}
	return len(o.queue) > o.dead
}

// Next returns what goes next on the present stream, at most maxFrames (and
// MaxBatchFrames, MaxBatchBytes; a larger frame goes alone); nil: nothing.
func (o *Outbox) Next(maxFrames int) *rpcpb.PushBatch {
	o.mu.Lock()
	defer o.mu.Unlock()
	maxFrames = min(maxFrames, MaxBatchFrames)
	var b rpcpb.PushBatch
	bytes, taken := 0, 0
	for _, bf := range o.queue {
		if len(b.Frames) == maxFrames || bytes > 0 && bytes+bf.size > MaxBatchBytes {
			break
		}
		taken++
		if f := o.sendLocked(bf); f != nil {
			b.Frames = append(b.Frames, f)
			bytes += bf.size
		}
	}
	clear(o.queue[:taken])
	o.queue = o.queue[taken:]
	if len(o.queue) == 0 {
		o.queue = nil
	}
	if len(b.Frames) == 0 {
		return nil
	}
	return &b
}

// Confirm takes the positions of a reply: what is at or below is done.
func (o *Outbox) Confirm(positions []*rpcpb.Position) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, at := range positions {
		p, offset := PartitionOf(at), at.GetOffset()
		o.edge[p] = offset
		if part := o.parts[p]; part != nil && !part.waiting {
			o.confirmLocked(part, offset)
		}
	}
	o.compactLocked()
}

// Resume begins a stream with the positions of the edge's hello: what the edge
// does not have is queued again, in order, and losses are told first.
func (o *Outbox) Resume(hello []*rpcpb.Position) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.downLocked()
	o.up = true
	clear(o.edge)
	for _, at := range hello {
		o.edge[PartitionOf(at)] = at.GetOffset()
	}
	var again []*boxFrame
	for _, p := range o.partitionsLocked() {
		part := o.parts[p]
		e, ok := o.edge[p]
		part.waiting, part.told = false, -1
		if ok {
			o.confirmLocked(part, e)
		}
		if part.floor > part.told {
			o.markLocked(p, part)
		}
		again = append(again, part.held...)
	}
	slices.SortFunc(again, func(a, b *boxFrame) int { return cmp.Compare(a.n, b.n) })
	for _, bf := range again {
		o.enqueueLocked(bf)
	}
}

// Down says that the stream is gone: frames without position are dropped, the
// others wait for Resume.
func (o *Outbox) Down() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.downLocked()
}

// Unconfirmed returns the lowest offset of a partition whose effects are not
// done at this edge; ok is false if all are (or were told lost), and for a
// partition not claimed.
func (o *Outbox) Unconfirmed(p record.PartitionID) (offset int64, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	part := o.parts[p]
	if part == nil || part.floor >= part.target {
		return 0, false
	}
	return part.floor + 1, true
}

// Stats returns depth and counters.
func (o *Outbox) Stats() OutboxStats {
	o.mu.Lock()
	defer o.mu.Unlock()
	st := o.stats
	for _, part := range o.parts { // what is there, not what was counted
		st.Held += len(part.held)
	}
	return st
}
