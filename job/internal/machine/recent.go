package machine

import (
	"hash/maphash"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// recent keeps the verdicts of a partition without a pointer: hundreds of
// thousands of them are nothing to the garbage collector. A key is known by two
// hashes with seeds of this process, 128 bits together.
type recent struct {
	id       record.PartitionID
	seeds    [2]maphash.Seed
	codes    []wire.Code // by kept.code
	verdicts *generations[[2]uint64, kept]
}

// kept is a store.Outcome but for its key and partition.
type kept struct {
	id                 wire.MsgID
	hash               uint64
	seq, n, ts, offset int64
	code               int
}

func newRecent(id record.PartitionID) *recent {
	return &recent{
		id: id, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		verdicts: newGenerations[[2]uint64, kept](),
	}
}

func (r *recent) hash(k store.OutcomeKey) [2]uint64 {
	return [2]uint64{maphash.Comparable(r.seeds[0], k), maphash.Comparable(r.seeds[1], k)}
}

func (r *recent) get(k store.OutcomeKey) (store.Outcome, bool) {
	v, ok := r.verdicts.get(r.hash(k))
	if !ok {
		return store.Outcome{}, false
	}
	return store.Outcome{
		OutcomeKey: k, Partition: r.id, ID: v.id, Hash: v.hash, Code: r.codes[v.code], Seq: v.seq, N: v.n, TS: v.ts, Offset: v.offset,
	}, true
}

func (r *recent) put(o *store.Outcome, limit int) {
	r.verdicts.put(r.hash(o.OutcomeKey), kept{
		id: o.ID, hash: o.Hash, seq: o.Seq, n: o.N, ts: o.TS, offset: o.Offset, code: r.code(o.Code),
	}, limit)
}

// code returns the number of a code, of which there are a few dozen.
func (r *recent) code(c wire.Code) int {
	for i, known := range r.codes {
		if known == c {
			return i
		}
	}
	r.codes = append(r.codes, c)
	return len(r.codes) - 1
}
