package rpcserver

import (
	"sync"

	"github.com/starling-im/starling/common/rpc/rpcpb"
)

// answers is the bounded queue of a stream's answers. put may be called from
// anywhere, also after the stream has ended: then it drops.
type answers struct {
	m *Metrics

	mu     sync.Mutex
	queue  []*rpcpb.Down
	bytes  int
	closed bool
	over   bool          // the bound was reached: the stream must end
	ready  chan struct{} // cap 1
	full   chan struct{} // closed when over
}

func newAnswers(m *Metrics) *answers {
	return &answers{m: m, ready: make(chan struct{}, 1), full: make(chan struct{})}
}

// put queues one answer. It never blocks.
func (a *answers) put(d *rpcpb.Down) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		a.m.dropped.WithLabelValues("stream_ended").Inc()
		return
	case a.over || len(a.queue) >= outQueue || a.bytes+len(d.GetBody()) > outBytes:
		a.m.dropped.WithLabelValues("queue_full").Inc()
		if !a.over {
			a.over = true
			close(a.full)
		}
		return
	}
	a.queue = append(a.queue, d)
	a.bytes += len(d.GetBody())
	a.m.outDepth.Inc()
	select {
	case a.ready <- struct{}{}:
	default:
	}
}

// take returns what waits, up to batchBytes (at least one), nil if nothing.
func (a *answers) take() []*rpcpb.Down {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, size := 0, 0
	for n < len(a.queue) && (n == 0 || size+len(a.queue[n].GetBody()) <= batchBytes) {
		size += len(a.queue[n].GetBody())
		n++
	}
	if n == 0 {
		return nil
	}
	out := a.queue[:n:n]
	a.queue = a.queue[n:]
	if len(a.queue) == 0 {
		a.queue = nil
	}
	a.bytes -= size
	a.m.outDepth.Sub(float64(n))
	return out
}

// close drops what waits and all that is put later.
func (a *answers) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.m.outDepth.Sub(float64(len(a.queue)))
	a.m.dropped.WithLabelValues("stream_ended").Add(float64(len(a.queue)))
	a.queue, a.bytes = nil, 0
}
