package edge

import (
	"hash/fnv"
	"sync"
	"time"

	"github.com/starling-im/starling/common/wire"
)

// Layout of a connection id: ms since 2024, 10 bits of the edge's name, a
// counter. Ids of one edge grow; of two edges the later one is greater, as
// their clocks are.
const (
	idEpoch     = 1704067200000 // 2024-01-01 in ms
	edgeBits    = 10
	counterBits = 12
)

// connIDs makes connection ids. It is safe for concurrent use.
type connIDs struct {
	edge uint64

	mu   sync.Mutex
	last uint64 // ms and counter of the last id
}

func (c *connIDs) init(server wire.ServerID) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(server)) // never fails
	c.edge = uint64(h.Sum32()) & (1<<edgeBits - 1)
}

// next returns an id greater than all before. A burst borrows from the next
// millisecond.
func (c *connIDs) next() wire.ConnID {
	now := uint64(time.Now().UnixMilli()-idEpoch) << counterBits
	c.mu.Lock()
	c.last = max(c.last+1, now)
	v := c.last
	c.mu.Unlock()
	ms, n := v>>counterBits, v&(1<<counterBits-1)
	return wire.ConnID(ms<<(edgeBits+counterBits) | c.edge<<counterBits | n)
}
