package rpcserver

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-im/starling/common/rpc/rpcpb"
)

// stream is one uplink. Four kinds of goroutine work on it: the receiver reads
// batches, the handler (run) takes them in order, the workers do what is slow,
// the sender writes answers.
type stream struct {
	s      *Server
	raw    rpcpb.Logic_UplinkServer
	server string
	out    *answers

	slow    chan func(ctx context.Context)
	workers sync.WaitGroup

	mu       sync.Mutex
	inFlight int           // sends and slow calls without an answer
	idle     chan struct{} // closed while waited for and inFlight is 0
}

func newStream(s *Server, raw rpcpb.Logic_UplinkServer, server string) *stream {
	return &stream{s: s, raw: raw, server: server, out: newAnswers(s.d.Metrics), slow: make(chan func(context.Context), slowQueue)}
}

func (st *stream) run() error {
	ctx, cancel := context.WithCancelCause(st.raw.Context())
	defer cancel(nil)
	batches, recvErr := make(chan *rpcpb.UpBatch, 1), make(chan error, 1)
	st.s.wg.Go(func() { st.receive(ctx, batches, recvErr) }) // ends with the stream's context, after run
	stop, sent := make(chan struct{}), make(chan struct{})
	st.s.wg.Go(func() { // may outlive run by a Send that the stream's end wakes
		defer close(sent)
		if err := st.send(ctx, stop); err != nil {
			cancel(err)
		}
	})
	for range st.s.d.Workers {
		st.workers.Go(func() { st.work(ctx) })
	}

	err := st.handle(ctx, batches, recvErr)
	if err == nil { // the edge said bye, or the server drains: what is in hand is answered
		st.finish(ctx)
		close(stop)
		st.await(ctx, sent)
		err = st.goodbye()
	}
	st.out.close()
	cancel(nil)
	close(st.slow)
	st.workers.Wait()
	return err
}

// await waits for a step of a stream's orderly end, at most drainWait.
func (st *stream) await(ctx context.Context, step <-chan struct{}) {
	t := time.NewTimer(drainWait)
	defer t.Stop()
	select {
	case <-step:
	case <-t.C:
	case <-ctx.Done():
	}
}

// goodbye is nil after the edge's own end, and tells it to go elsewhere when
// this server drains.
func (st *stream) goodbye() error {
	select {
	case <-st.s.draining:
		return status.Error(codes.Unavailable, "draining")
	default:
		return nil
	}
}

func (st *stream) receive(ctx context.Context, batches chan<- *rpcpb.UpBatch, end chan<- error) {
	for {
		b, err := st.raw.Recv()
		if err != nil {
			end <- err
			return
		}
		select {
		case batches <- b:
		case <-ctx.Done():
			end <- ctx.Err()
			return
		}
	}
}

// handle takes batches in order; nil when the stream should end in good order.
func (st *stream) handle(ctx context.Context, batches <-chan *rpcpb.UpBatch, recvErr <-chan error) error {
	for {
		select {
		case b := <-batches:
			st.batch(ctx, b.GetFrames())
		case err := <-recvErr:
			if !errors.Is(err, io.EOF) {
				return err
			}
			select { // the last batch came before the end
			case b := <-batches:
				st.batch(ctx, b.GetFrames())
			default:
			}
			return nil
		case <-st.s.draining:
			return nil
		case <-st.out.full:
			st.s.d.Log.Warn("an edge does not take its answers: cut off", zap.String("server", st.server))
			return status.Error(codes.ResourceExhausted, "answers are not taken")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// finish waits for what is in flight, at most drainWait.
func (st *stream) finish(ctx context.Context) {
	st.mu.Lock()
	st.idle = make(chan struct{})
	if st.inFlight == 0 {
		close(st.idle)
	}
	idle := st.idle
	st.mu.Unlock()
	st.await(ctx, idle)
}

// begin counts a call in; false when there are too many.
func (st *stream) begin() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.inFlight >= maxInFlight {
		return false
	}
	st.inFlight++
	return true
}

func (st *stream) end() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.inFlight--
	if st.inFlight == 0 && st.idle != nil {
		close(st.idle)
		st.idle = nil
	}
}

// send writes answers until stop, then what still waits.
func (st *stream) send(ctx context.Context, stop <-chan struct{}) error {
	for {
		for b := st.out.take(); b != nil; b = st.out.take() {
			if err := st.raw.Send(&rpcpb.DownBatch{Frames: b}); err != nil {
				return err //nolint:wrapcheck // the stream's own end
			}
		}
		select {
		case <-st.out.ready:
		case <-ctx.Done():
			return nil
		case <-stop:
			for b := st.out.take(); b != nil; b = st.out.take() {
				if err := st.raw.Send(&rpcpb.DownBatch{Frames: b}); err != nil {
					return nil //nolint:nilerr // it ends anyhow
				}
			}
			return nil
		}
	}
}

func (st *stream) work(ctx context.Context) {
	for f := range st.slow {
		f(ctx)
		st.s.d.Metrics.slowDepth.Dec()
		st.end()
	}
}
