package logic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/starling-im/starling/common/obs"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
)

// leaseNotice is how long edges get to read that this instance drains, before
// their streams are ended.
const leaseNotice = 300 * time.Millisecond

// serving is the module that listens and is found.
type serving struct {
	t        *tier
	id       wire.ServerID
	epoch    uint64
	grpc     *grpc.Server
	rpcAddr  string
	leaser   *registry.Leaser
	draining atomic.Bool
	serving  sync.WaitGroup
	failed   chan error // cap 1
}

func newServing(t *tier, id wire.ServerID) *serving {
	return &serving{t: t, id: id, failed: make(chan error, 1)}
}

// start listens on both ports.
func (s *serving) start(ctx context.Context) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", s.t.cfg.GRPCAddr)
	if err != nil {
		return obs.ListenError(Prefix+"grpc-addr", s.t.cfg.GRPCAddr, err) //nolint:wrapcheck // names key and remedy
	}
	if err := s.t.http.Start(ctx); err != nil {
		return errors.Join(err, ln.Close())
	}
	s.rpcAddr = s.t.cfg.AdvertiseRPC
	if s.rpcAddr == "" {
		s.rpcAddr = ln.Addr().String()
	}
	s.epoch = uint64(time.Now().UnixMilli())
	s.leaser = registry.NewLeaser(s.t.d.Registry, s.lease, 0, registry.LeaserCallbacks{
		OnDown: func(err error) { s.t.d.Log.Warn("lease not renewed", zap.Error(err)) },
		OnUp:   func() { s.t.d.Log.Info("lease stands", zap.String("server_id", string(s.id))) },
	})
	s.grpc = rpc.NewServer()
	rpcpb.RegisterLogicServer(s.grpc, s.t.rpc)
	s.serving.Go(func() {
		if err := s.grpc.Serve(ln); err != nil {
			s.failed <- fmt.Errorf("serve gRPC: %w", err)
		}
	})
	if s.t.d.Listening != nil {
		s.t.d.Listening(s.t.http.Addr())
	}
	s.t.d.Log.Info("grpc listens", zap.String("addr", ln.Addr().String()))
	return nil
}

func (s *serving) lease() registry.Lease {
	return registry.Lease{
		Tier: registry.TierLogic, Server: s.id, Epoch: s.epoch, RPCAddr: s.rpcAddr, Draining: s.draining.Load(),
	}
}

// run keeps the lease until ctx ends.
func (s *serving) run(ctx context.Context) error {
	return runAll(ctx, s.t.http.Run, s.keepLease, func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.failed:
			return err
		}
	})
}

// keepLease lets the lease lapse by itself if the index is away at the end.
func (s *serving) keepLease(ctx context.Context) error {
	if err := s.leaser.Run(ctx); err != nil {
		s.t.d.Log.Info("lease not released", zap.Error(err))
	}
	return nil
}

// drain says so in the index, then ends streams and calls in good order.
func (s *serving) drain(ctx context.Context) error {
	s.draining.Store(true)
	s.leaser.Kick()
	notice := time.NewTimer(leaseNotice)
	defer notice.Stop()
	select {
	case <-notice.C:
	case <-ctx.Done():
	}
	s.t.rpc.Drain()
	err := s.t.http.Drain(ctx)
	return errors.Join(err, s.stopGRPC(ctx))
}

// stopGRPC ends the server after its calls, or at the end of ctx at once.
func (s *serving) stopGRPC(ctx context.Context) error {
	done := make(chan struct{})
	s.serving.Go(func() {
		s.grpc.GracefulStop()
		close(done)
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
		return fmt.Errorf("end gRPC calls: %w", ctx.Err())
	}
}

func (s *serving) stop(ctx context.Context) error {
	err := s.t.http.Stop(ctx)
	s.grpc.Stop()
	s.serving.Wait()
	s.t.rpc.Wait()
	return err
}

// runAll runs fs until ctx ends or one fails; then the others end, too.
func runAll(ctx context.Context, fs ...func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(fs))
	var wg sync.WaitGroup
	for i, f := range fs {
		wg.Go(func() {
			if errs[i] = f(ctx); errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
