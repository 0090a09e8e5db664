package uplink

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/edge/internal/session"
)

const (
	maxBatchFrames = 512
	maxBatchBytes  = 1 << 20
	maxQueueBytes  = 16 << 20
	firstPause     = 50 * time.Millisecond
	longestPause   = time.Second
)

// Peer is the stream to one logic, renewed when it breaks: each incarnation of
// a stream is a Peer of its own, so that what was in flight on the old one is
// told apart.
type Peer struct {
	name string
	link *link

	mu     sync.Mutex
	broken bool
	queue  []*rpcpb.Up
	bytes  int
	wake   chan struct{} // holds a value when the queue is not empty
}

// Send implements session.Peer.
func (p *Peer) Send(up *rpcpb.Up) error {
	size := len(up.GetBody()) + 64
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.link.c.metrics
	switch {
	case p.broken:
		return session.ErrPeerBroken
	case len(p.queue) >= p.link.c.cfg.QueueFrames, p.bytes+size > maxQueueBytes:
		m.dropped.WithLabelValues("full").Inc()
		return session.ErrPeerFull
	}
	p.queue = append(p.queue, up)
	p.bytes += size
	m.depth.Inc()
	if len(p.queue) == 1 {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// take removes a batch from the queue.
func (p *Peer) take() []*rpcpb.Up {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, size := 0, 0
	for n < len(p.queue) && n < maxBatchFrames && (n == 0 || size < maxBatchBytes) {
		size += len(p.queue[n].GetBody()) + 64
		n++
	}
	batch := p.queue[:n:n]
	if p.queue = p.queue[n:]; len(p.queue) == 0 {
		p.queue = nil
	}
	p.bytes -= size
	p.link.c.metrics.depth.Sub(float64(n))
	return batch
}

// fail ends the incarnation: nothing is queued on it any more.
func (p *Peer) fail() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken = true
	m := p.link.c.metrics
	m.depth.Sub(float64(len(p.queue)))
	m.dropped.WithLabelValues("broken").Add(float64(len(p.queue)))
	p.queue, p.bytes = nil, 0
}

// link keeps a stream to one address for as long as it is wanted.
type link struct {
	c      *Client
	addr   string
	cc     *grpc.ClientConn
	logic  rpcpb.LogicClient
	cancel context.CancelFunc

	// Guarded by Client.mu.
	peer   *Peer // nil while there is no stream
	wanted bool  // its lease lives, or it is in the fixed list
	drains bool  // its lease says so: no new connections
}

// run keeps the stream up until ctx ends or the link is not wanted any more.
func (l *link) run(ctx context.Context) {
	defer l.cancel()
	pause := firstPause
	for ctx.Err() == nil {
		start := time.Now()
		err := l.stream(ctx)
		if ctx.Err() != nil || !l.c.stillWanted(l) {
			break
		}
		l.c.log.Debug("stream to logic ended", zap.String("addr", l.addr), zap.Error(err))
		if time.Since(start) > longestPause {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPause)
	}
	_ = l.cc.Close()
}

// stream opens one stream and works until it breaks.
func (l *link) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(rpc.WithServer(ctx, l.c.cfg.Server))
	defer cancel()
	st, err := l.logic.Uplink(ctx)
	if err != nil {
		return fmt.Errorf("open stream to %s: %w", l.addr, err)
	}
	p := &Peer{name: l.addr, link: l, wake: make(chan struct{}, 1)}
	// A stream is opened without a word from the other side; the connection
	// under it stands, or the first Send and Recv say so.
	l.c.ready(l, p)
	var sender sync.WaitGroup
	sender.Go(func() {
		defer cancel()
		l.send(ctx, p, st)
	})
	for {
		batch, rerr := st.Recv()
		if rerr != nil {
			err = fmt.Errorf("receive from %s: %w", l.addr, rerr)
			break
		}
		l.c.metrics.answers.Add(float64(len(batch.GetFrames())))
		l.c.sink.Answers(batch.GetFrames())
	}
	l.c.unready(l)
	p.fail()
	cancel()
	sender.Wait()
	l.c.sink.Broken(p)
	return err
}

func (l *link) send(ctx context.Context, p *Peer, st grpc.BidiStreamingClient[rpcpb.UpBatch, rpcpb.DownBatch]) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		for batch := p.take(); len(batch) > 0; batch = p.take() {
			if err := st.Send(&rpcpb.UpBatch{Frames: batch}); err != nil {
				return // Recv says why
			}
			l.c.metrics.batches.Inc()
			l.c.metrics.frames.Add(float64(len(batch)))
		}
	}
}

// dial prepares a link; it connects when it is used.
func (c *Client) dial(addr string) (*link, error) {
	cc, err := rpc.Dial(addr)
	if err != nil {
		return nil, fmt.Errorf("uplink: %w", err)
	}
	return &link{c: c, addr: addr, cc: cc, logic: rpcpb.NewLogicClient(cc), wanted: true}, nil
}
