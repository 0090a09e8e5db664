package rpc

import (
	"cmp"
	"slices"
	"sync"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/rpc/rpcpb"
)

// Positions is the edge's end of all push streams: how far each partition has
// come here, whoever sent it. It is what makes a resent frame, and a
// late one of a job that no longer owns the partition, harmless.
//
// The zero value is ready. All methods are safe for concurrent use. Admit only
// decides: an edge that lets two streams pass on frames of one partition at
// once must keep their order by itself (pass on under the lock that it called
// Admit under).
type Positions struct {
	mu      sync.Mutex
	at      map[record.PartitionID]mark
	version uint64 // grows with every move
	told    uint64 // version of the last Changed
	repeats uint64
	losses  uint64
}

// mark is a position and when it moved last.
type mark struct {
	offset  int64
	version uint64
}

// Admit says whether a frame is to be passed on, and moves the position if so.
// False: the frame is at or below the position, drop it. A frame without
// position is always admitted. lost frames are counted; like any other they
// are dropped where the position is already past them.
func (p *Positions) Admit(at *rpcpb.Position, lost bool) bool {
	if at == nil {
		return true
	}
	id := PartitionOf(at)
	p.mu.Lock()
	defer p.mu.Unlock()
	if m, ok := p.at[id]; ok && at.GetOffset() <= m.offset {
		p.repeats++
		return false
	}
	if p.at == nil {
		p.at = make(map[record.PartitionID]mark)
	}
	p.version++
	p.at[id] = mark{offset: at.GetOffset(), version: p.version}
	if lost {
		p.losses++
	}
	return true
}

// Snapshot returns all positions, for a hello.
func (p *Positions) Snapshot() []*rpcpb.Position {
	ps, _ := p.Since(0)
	return ps
}

// Since returns the positions that moved after a version, and the version to
// ask with next: each stream keeps its own, 0 at first.
func (p *Positions) Since(version uint64) ([]*rpcpb.Position, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sinceLocked(version), p.version
}

// Changed returns the positions that moved since the last call, for the one
// reporter that tells every stream. Streams that report by themselves use
// Since.
func (p *Positions) Changed() []*rpcpb.Position {
	p.mu.Lock()
	defer p.mu.Unlock()
	ps := p.sinceLocked(p.told)
	p.told = p.version
	return ps
}

// Counts returns how many frames were dropped as repeats, and how many
// admitted ones said lost.
func (p *Positions) Counts() (repeats, losses uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.repeats, p.losses
}

func (p *Positions) sinceLocked(version uint64) []*rpcpb.Position {
	var ps []*rpcpb.Position
	for id, m := range p.at {
		if m.version > version {
			ps = append(ps, position(id, m.offset))
		}
	}
	slices.SortFunc(ps, func(a, b *rpcpb.Position) int {
		return cmp.Or(cmp.Compare(a.GetTopic(), b.GetTopic()), cmp.Compare(a.GetPartition(), b.GetPartition()))
	})
	return ps
}

// PartitionOf returns the partition that a position counts in.
func PartitionOf(at *rpcpb.Position) record.PartitionID {
	return record.PartitionID{Topic: at.GetTopic(), Number: at.GetPartition()}
}

func position(p record.PartitionID, offset int64) *rpcpb.Position {
	return &rpcpb.Position{Topic: p.Topic, Partition: p.Number, Offset: offset}
}
