// Package edge is the tier that holds the sockets of clients: it verifies
// tokens by itself, frames, queues and pushes, and passes what clients ask on to
// logic. It stores nothing and knows neither Kafka nor SQL.
//
// Register puts the tier's modules into a process:
//
//	edge.admin  metrics, health, profiles
//	edge        WebSockets, the stream to logics, pushes of jobs, the lease
//
// README.md tells of the life of a connection, settings, metrics and how it
// fails.
package edge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/app"
	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/common/obs"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/edge/internal/announce"
	"github.com/starling-im/starling/edge/internal/listen"
	"github.com/starling-im/starling/edge/internal/peer"
	"github.com/starling-im/starling/edge/internal/push"
	"github.com/starling-im/starling/edge/internal/roster"
	"github.com/starling-im/starling/edge/internal/session"
	"github.com/starling-im/starling/edge/internal/uplink"
	"github.com/starling-im/starling/edge/internal/watch"
)

// Names of the tier's modules. Module starts both.
const (
	Module      = "edge"
	ModuleAdmin = "edge.admin"
)

// Deps is what the tier stands on. After names the modules that must start
// before the tier's and stop after them.
type Deps struct {
	Log      *zap.Logger
	Metrics  prometheus.Registerer
	Gatherer prometheus.Gatherer
	Registry registry.Registry
	Tokens   *token.Verifier
	Limits   limits.Config // zero: the defaults
	After    []string
}

// ConfigureNetpoll sets the process-wide event loops; pollers 0 takes one for
// each 20 processors. Register does it by itself: a main calls it only if
// something else in the process uses netpoll before. The first call counts.
func ConfigureNetpoll(pollers int) error {
	if err := listen.ConfigureNetpoll(pollers); err != nil {
		return fmt.Errorf("edge: %w", err)
	}
	return nil
}

// Register adds the tier's modules.
func Register(m app.Registrar, cfg Config, d Deps) error {
	t, err := newTier(cfg, d)
	if err != nil {
		return err
	}
	ready := t.ready
	if _, ok := m.(*app.Manager); ok {
		ready = app.ReadyOf(m, Module) // shows draining, too
	}
	t.admin, err = obs.NewAdmin(obs.AdminConfig{
		Addr: cfg.AdminAddr, Key: Prefix + "admin-addr", Modules: app.StatesOf(m), Ledger: func(context.Context) any { return t.account() },
	}, t.d.Gatherer, ready, t.log)
	if err != nil {
		return fmt.Errorf("edge.admin: %w", err)
	}
	m.Register(ModuleAdmin, app.Module{Start: t.admin.Start, Stop: t.admin.Stop}, d.After...)
	m.Register(Module, app.Module{
		Start: t.start, Run: t.run, Drain: t.drain, Stop: t.stop, Ready: t.ready,
	}, append([]string{ModuleAdmin}, d.After...)...)
	return nil
}

// newTier puts the parts together; nothing runs yet.
func newTier(cfg Config, d Deps) (*tier, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if d.Registry == nil || d.Tokens == nil {
		return nil, errors.New("edge: registry and token verifier are needed")
	}
	if d.Log == nil {
		d.Log = zap.NewNop()
	}
	if d.Metrics == nil {
		d.Metrics = prometheus.NewRegistry()
	}
	if d.Gatherer == nil {
		d.Gatherer = prometheus.DefaultGatherer
	}
	if err := ConfigureNetpoll(cfg.Pollers); err != nil {
		return nil, err
	}
	if d.Limits == (limits.Config{}) {
		d.Limits = limits.Default()
	}
	log := d.Log.Named("edge")
	t := &tier{
		cfg: cfg, d: d, log: log, roster: roster.New(), logins: make(chan struct{}, cfg.MaxLogins),
		limits: limits.NewLive(d.Limits), isInformed: make(chan struct{}), metrics: newMetrics(d.Metrics),
		sessions: session.NewMetrics(d.Metrics),
	}
	t.lease = registry.Lease{
		Tier: registry.TierEdge, Server: cfg.id(), Region: cfg.Region, Zone: cfg.Zone, Weight: cfg.Weight,
	}
	t.ids.init(t.lease.Server)
	env := &session.Env{
		Limits: session.Limits{
			QueueBytes: int(cfg.QueueBytes), AuthTimeout: cfg.AuthTimeout, AuthBytes: int(cfg.AuthBytes),
			Heartbeat: cfg.Heartbeat, WriteTimeout: cfg.WriteTimeout, CloseGrace: cfg.closeGrace,
		},
		Hub: t, Rates: t.limits, Metrics: t.sessions, Log: log, Now: nowMS,
	}
	t.listens = listeners(cfg, listen.NewGate(cfg.MaxConnections, func() int { return t.limits.Get().ConnectionsPerIP }), env, d.Metrics, log)
	t.uplink = uplink.New(uplink.Config{
		Server: t.lease.Server, Addrs: cfg.LogicAddrs, QueueFrames: cfg.UplinkQueue, LoginWait: cfg.LoginWait,
	}, d.Registry, t, d.Metrics, log)
	t.announcer = announce.New(announce.Config{
		TTL: cfg.LeaseTTL, Round: cfg.AnnounceRound,
		Rivals: func(m *roster.Member, r *registry.Route) bool {
			return t.rivals(m.Device, r.Device, m.Platform, r.Platform)
		},
	}, d.Registry, t.roster, announce.Events{
		Load:         t.live,
		HelloChanged: func() { t.push.HelloChanged() },
		Missed:       func() { t.push.LagAll() },
		Newer:        t.replaced,
		Older:        func(m *roster.Member, r registry.Route) { t.peers.Replace(m.User, r, m.Conn) },
	}, d.Metrics, log)
	t.peers = peer.New(d.Registry, d.Metrics, log)
	t.watch = watch.New(d.Registry, d.Metrics, log)
	t.push = push.New(t.roster, groups{t.announcer, t}, t.announcer.Hello, d.Metrics, log)
	t.grpc = rpc.NewServer()
	rpcpb.RegisterEdgeServer(t.grpc, grpcServer{t.push, t})
	if err := d.Metrics.Register(ledgerCollector{t}); err != nil {
		return nil, fmt.Errorf("edge: register the ledger: %w", err)
	}
	return t, nil
}

// listeners makes the servers of clients: WebSocket first, and TCP if it is wanted.
func listeners(cfg Config, gate *listen.Gate, env *session.Env, reg prometheus.Registerer, log *zap.Logger) []*listen.Server {
	c := listen.Config{
		Addr: cfg.ListenAddr, Origins: cfg.Origins, Gate: gate,
		HeadBytes: int(cfg.AuthBytes), HeadTimeout: cfg.AuthTimeout, CutTime: cfg.cutTime,
	}
	of := func(name string) prometheus.Registerer {
		return prometheus.WrapRegistererWith(prometheus.Labels{"listener": name}, reg)
	}
	list := []*listen.Server{listen.New(c, env, of("ws"), log)}
	if cfg.TCPAddr != "" {
		c.Addr, c.Plain = cfg.TCPAddr, true
		list = append(list, listen.New(c, env, of("tcp"), log))
	}
	return list
}

func nowMS() int64 { return time.Now().UnixMilli() }
