package rpc

import (
	"cmp"
	"maps"
	"slices"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/rpc/rpcpb"
)

// sendLocked takes a frame out of the queue and returns what goes on the wire
// in its place; nil: nothing any more.
func (o *Outbox) sendLocked(bf *boxFrame) *rpcpb.PushFrame {
	bf.queued = false
	if bf.dead {
		o.dead--
		return nil
	}
	if bf.kind == kindEphemeral {
		o.dropLocked(bf)
		o.stats.EphemeralSent++
		return bf.frame
	}
	part := o.parts[bf.part] // stands: Release kills what it has in the queue
	switch bf.kind {
	case kindFloor:
		part.marker = false
		if part.floor <= part.told {
			return nil
		}
		part.told = part.floor
		o.stats.LostTold++
		return &rpcpb.PushFrame{At: position(bf.part, part.floor), Lost: true}
	case kindPosition:
		part.beat = false
		if bf.at <= max(part.told, part.floor) {
			return nil
		}
		part.told = bf.at
		return &rpcpb.PushFrame{At: position(bf.part, bf.at)}
	case kindFrame, kindEphemeral:
	}
	part.told = bf.at
	return bf.frame
}

// overflowLocked drops what is held of a partition: all up to its target is
// lost.
func (o *Outbox) overflowLocked(p record.PartitionID, part *boxPart) {
	o.stats.Lost += uint64(len(part.held)) + 1
	for _, bf := range part.held {
		o.dropLocked(bf)
	}
	part.held = nil
	part.floor = part.target
	if o.up && !part.waiting {
		o.markLocked(p, part)
	}
	o.compactLocked()
}

// confirmLocked moves the floor to where the edge is.
func (o *Outbox) confirmLocked(part *boxPart, offset int64) {
	part.told = max(part.told, offset)
	part.floor = max(part.floor, offset)
	done := 0
	for ; done < len(part.held) && part.held[done].at <= offset; done++ {
		o.dropLocked(part.held[done])
		o.stats.Confirmed++
	}
	clear(part.held[:done])
	part.held = part.held[done:]
}

func (o *Outbox) markLocked(p record.PartitionID, part *boxPart) {
	if part.marker {
		return
	}
	part.marker = true
	o.enqueueLocked(&boxFrame{kind: kindFloor, part: p})
}

func (o *Outbox) releaseLocked(p record.PartitionID) {
	part := o.parts[p]
	if part == nil {
		return
	}
	o.stats.Released += uint64(len(part.held))
	for _, bf := range part.held {
		o.dropLocked(bf)
	}
	for _, bf := range o.queue {
		if bf.part == p && bf.kind != kindEphemeral && !bf.dead {
			bf.dead = true
			o.dead++
		}
	}
	delete(o.parts, p)
	o.compactLocked()
}

func (o *Outbox) downLocked() {
	o.up = false
	for _, bf := range o.queue {
		bf.queued = false
		if bf.kind == kindEphemeral {
			o.dropLocked(bf)
			o.stats.EphemeralDropped++
		}
	}
	o.queue, o.dead = nil, 0
	for _, part := range o.parts {
		part.marker, part.beat = false, false
	}
}

// partitionsLocked returns the claimed partitions in order: what is sent must
// not depend on the order of a map, or a seeded run could not be run again.
func (o *Outbox) partitionsLocked() []record.PartitionID {
	return slices.SortedFunc(maps.Keys(o.parts), func(a, b record.PartitionID) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Number, b.Number))
	})
}

func (o *Outbox) enqueueLocked(bf *boxFrame) {
	bf.queued = true
	o.queue = append(o.queue, bf)
}

// addLocked and dropLocked keep the depth.
func (o *Outbox) addLocked(bf *boxFrame) {
	o.stats.Frames++
	o.stats.Bytes += bf.size
}

func (o *Outbox) dropLocked(bf *boxFrame) {
	o.stats.Frames--
	o.stats.Bytes -= bf.size
	if bf.queued {
		bf.dead, bf.frame = true, nil
		o.dead++
	}
}

// compactLocked keeps the dead of a queue that is not being sent from growing
// without bound.
func (o *Outbox) compactLocked() {
	if o.dead*2 <= len(o.queue) {
		return
	}
	o.queue = slices.DeleteFunc(o.queue, func(bf *boxFrame) bool {
		if bf.dead {
			bf.queued = false
		}
		return bf.dead
	})
	o.dead = 0
}
