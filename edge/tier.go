package edge

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

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/common/obs"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/announce"
	"github.com/starling-im/starling/edge/internal/listen"
	"github.com/starling-im/starling/edge/internal/peer"
	"github.com/starling-im/starling/edge/internal/push"
	"github.com/starling-im/starling/edge/internal/roster"
	"github.com/starling-im/starling/edge/internal/session"
	"github.com/starling-im/starling/edge/internal/uplink"
	"github.com/starling-im/starling/edge/internal/watch"
)

// tier is all parts of one edge.
type tier struct {
	cfg      Config
	d        Deps
	log      *zap.Logger
	metrics  *metrics
	sessions *session.Metrics
	lease    registry.Lease
	ids      connIDs
	admin    *obs.Admin

	roster    *roster.Roster
	announcer *announce.Announcer
	uplink    *uplink.Client
	push      *push.Server
	peers     *peer.Caller
	watch     *watch.Watcher
	listens   []*listen.Server // WebSocket, then TCP
	grpc      *grpc.Server

	limits       *limits.Live
	began        int64 // ms, when it started
	control      control.State
	isInformed   chan struct{} // closed when control holds what counts
	tellInformed sync.Once

	history  atomic.Pointer[string] // history_epoch, one string for all sessions
	draining atomic.Bool
	logins   chan struct{} // a slot for each log-in under way

	ctx     context.Context //nolint:containedctx // the module's own run: log-ins start from the loop, which has none
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// start binds, connects to logics, takes the lease, then accepts.
func (t *tier) start(ctx context.Context) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", t.cfg.GRPCAddr)
	if err != nil {
		return fmt.Errorf("edge: %w", obs.ListenError(Prefix+"grpc-addr", t.cfg.GRPCAddr, err))
	}
	if err := t.bind(ctx); err != nil {
		return errors.Join(err, ln.Close())
	}
	t.began = nowMS()
	t.ctx, t.cancel = context.WithCancel(context.WithoutCancel(ctx))
	t.metrics.maxLogins.Set(float64(t.cfg.MaxLogins))
	t.lease.RPCAddr, t.lease.URL = t.cfg.AdvertiseRPC, t.cfg.AdvertiseURL
	if t.lease.RPCAddr == "" {
		t.lease.RPCAddr = ln.Addr().String()
	}
	if t.lease.URL == "" {
		t.lease.URL = "ws://" + t.addrs().WS + "/ws"
	}
	t.running.Go(func() {
		if err := t.grpc.Serve(ln); err != nil {
			t.log.Error("gRPC server ended", zap.Error(err))
		}
	})
	t.running.Go(func() { t.push.LagRun(t.ctx) })
	t.running.Go(func() { t.peers.Run(t.ctx) })
	t.running.Go(func() { t.watch.Run(t.ctx) })
	t.uplink.Start(ctx)
	t.announcer.Start(ctx, t.lease)
	if t.cfg.OnListen != nil {
		a := t.addrs()
		a.GRPC, a.Admin, a.URL = ln.Addr().String(), t.admin.Addr(), t.lease.URL
		t.cfg.OnListen(a)
	}
	for _, l := range t.listens {
		if err := l.Serve(ctx); err != nil {
			return fmt.Errorf("edge: %w", err)
		}
	}
	t.log.Info("edge listens", zap.String("server_id", string(t.lease.Server)), zap.String("url", t.lease.URL), zap.String("rpc_addr", t.lease.RPCAddr))
	return nil
}

// bind takes the addresses; nothing is accepted yet.
func (t *tier) bind(ctx context.Context) error {
	keys := []struct{ key, addr string }{{"listen-addr", t.cfg.ListenAddr}, {"tcp-addr", t.cfg.TCPAddr}}
	for i, l := range t.listens {
		if err := l.Listen(ctx); err != nil {
			for _, bound := range t.listens[:i] {
				err = errors.Join(err, bound.Unlisten())
			}
			return fmt.Errorf("edge: %w", obs.ListenError(Prefix+keys[i].key, keys[i].addr, err))
		}
	}
	return nil
}

// addrs is where clients are served, once they are bound.
func (t *tier) addrs() Addrs {
	a := Addrs{WS: t.listens[0].Addr().String()}
	if len(t.listens) > 1 {
		a.TCP = t.listens[1].Addr().String()
	}
	return a
}

// live counts the connections.
func (t *tier) live() (n int64) {
	for _, l := range t.listens {
		n += l.Live()
	}
	return n
}

// forgetEvery is how often decisions that are over are forgotten.
const forgetEvery = time.Hour

// run has little to do: the parts run by themselves until stop.
func (t *tier) run(ctx context.Context) error {
	tick := time.NewTicker(forgetEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			t.control.Forget(time.Now())
		}
	}
}

// ready says why this edge should get no clients.
func (t *tier) ready() error {
	if t.draining.Load() {
		return errors.New("draining")
	}
	if err := t.uplink.Ready(); err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	return nil
}

const (
	drainPoll     = 20 * time.Millisecond
	drainAlone    = time.Second     // nobody else to go to: do not keep them
	drainReserve  = 3 * time.Second // of the budget, kept for what follows
	flushDeadline = 2 * time.Second
)

// drain sends the clients elsewhere, spread over the drain time, and closes
// who is still here then.
func (t *tier) drain(ctx context.Context) error {
	t.draining.Store(true)
	t.announcer.SetDraining(ctx)
	for _, l := range t.listens {
		l.StopAccepting()
	}
	elsewhere := t.announcer.Elsewhere(ctx)
	window := t.cfg.DrainTime
	if len(elsewhere()) == 0 {
		window = min(window, drainAlone)
	}
	if until, ok := ctx.Deadline(); ok {
		window = max(0, min(window, time.Until(until)-drainReserve))
	}
	ms := t.roster.All(nil)
	t.log.Info("draining", zap.Int("sessions", len(ms)), zap.Duration("window", window))
	for i, m := range ms {
		slot := window * time.Duration(i) / time.Duration(len(ms))
		body, err := wire.Marshal(wire.Reconnect{AfterMS: slot.Milliseconds(), Reason: "drain", Edges: elsewhere()})
		if err != nil {
			return fmt.Errorf("encode reconnect: %w", err)
		}
		m.Session.Answer(wire.Frame{Op: wire.OpReconnect, Body: body})
	}
	t.waitEmpty(ctx, window)
	for _, m := range t.roster.All(nil) {
		m.Session.Close(session.Drained)
	}
	return nil
}

// waitEmpty waits until the clients have left, at most for the window.
func (t *tier) waitEmpty(ctx context.Context, window time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, window)
	defer cancel()
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	for {
		if n, _ := t.roster.Counts(); n == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// stop ends what is left and releases everything.
func (t *tier) stop(ctx context.Context) error {
	if t.cancel == nil {
		return nil // never started
	}
	flush, cancel := context.WithTimeout(ctx, flushDeadline)
	defer cancel()
	errs := make([]error, len(t.listens))
	var closing sync.WaitGroup
	for i, l := range t.listens {
		closing.Go(func() { errs[i] = l.Close(flush, session.Shutdown) })
	}
	closing.Wait()
	err := errors.Join(errs...)
	t.cancel()
	t.grpc.Stop()
	t.push.Wait()
	t.uplink.Stop()
	t.announcer.Stop(ctx)
	t.running.Wait()
	if err != nil {
		return fmt.Errorf("edge: %w", err)
	}
	return nil
}
