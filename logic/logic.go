// Package logic is the tier that decides: it authenticates, authorises, numbers
// and produces what users send, answers sync and the HTTP API, and serves the
// page. It is stateless: any instance can serve any request, and it holds no
// sockets of end users.
//
// Register puts the tier's modules into a process:
//
//	logic.work   worker number, marks of acknowledged sends, cursors, probe of the store
//	logic.admin  metrics, health, profiles
//	logic        gRPC for edges, HTTP, the lease that edges find it by
//
// README.md tells of settings, metrics and how it fails.
package logic

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/client/web"
	"github.com/starling-im/starling/common/app"
	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/obs"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/store/shards"
	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/logic/internal/api"
	"github.com/starling-im/starling/logic/internal/block"
	"github.com/starling-im/starling/logic/internal/controller"
	"github.com/starling-im/starling/logic/internal/group"
	"github.com/starling-im/starling/logic/internal/history"
	"github.com/starling-im/starling/logic/internal/live"
	"github.com/starling-im/starling/logic/internal/message"
	"github.com/starling-im/starling/logic/internal/presence"
	"github.com/starling-im/starling/logic/internal/receipt"
	"github.com/starling-im/starling/logic/internal/rpcserver"
	"github.com/starling-im/starling/logic/internal/worker"
)

// Names of the tier's modules. Module starts all of them.
const (
	Module      = "logic"
	ModuleWork  = "logic.work"
	ModuleAdmin = "logic.admin"
)

// Deps is what the tier stands on. Tokens nil: this instance mints none.
// Embedded: anyone may log in under any name. After names the modules that must
// start before the tier's and stop after them: store, log, index. Listening, if
// given, is told the HTTP port's address once it listens.
type Deps struct {
	Log      *zap.Logger
	Metrics  prometheus.Registerer
	Gatherer prometheus.Gatherer
	Registry registry.Registry
	Store    shards.Store
	Producer mq.Producer
	Tokens   *token.Keyring
	Verifier *token.Verifier
	Limits   limits.Config // zero: the defaults
	Embedded bool
	After    []string

	Listening func(httpAddr string)
}

// tier is all parts of one instance.
type tier struct {
	cfg Config
	d   Deps

	worker   *worker.Lease
	messages *message.Service
	receipts *receipt.Buffer
	live     *live.Service
	control  *controller.Service
	limits   *limits.Live
	quota    *quota
	probe    *probe
	readyz   func() error // what /readyz asks; set before anything runs
	http     *api.Server
	rpc      *rpcserver.Server
	serve    *serving
}

// Register adds the tier's modules.
func Register(m app.Registrar, cfg Config, d Deps) error {
	t, err := newTier(cfg, d)
	if err != nil {
		return err
	}
	if _, ok := m.(*app.Manager); ok {
		t.readyz = app.ReadyOf(m, Module) // shows draining, too
	}
	admin, err := obs.NewAdmin(obs.AdminConfig{Addr: cfg.AdminAddr, Key: Prefix + "admin-addr", Modules: app.StatesOf(m)},
		t.d.Gatherer, t.readyz, t.d.Log)
	if err != nil {
		return fmt.Errorf("logic.admin: %w", err)
	}
	m.Register(ModuleAdmin, app.Module{Start: admin.Start, Stop: admin.Stop})
	m.Register(ModuleWork, app.Module{Start: t.startWork, Run: t.work}, d.After...)
	m.Register(Module, app.Module{
		Start: t.serve.start, Run: t.serve.run, Drain: t.serve.drain, Stop: t.serve.stop, Ready: t.ready,
	}, ModuleAdmin, ModuleWork)
	return nil
}

func newTier(cfg Config, d Deps) (*tier, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if d.Store == nil || d.Registry == nil || d.Producer == nil || d.Verifier == nil {
		return nil, errors.New("logic: store, registry, producer and verifier are needed")
	}
	if d.Log == nil {
		d.Log = zap.NewNop()
	}
	if d.Gatherer == nil {
		d.Gatherer = prometheus.DefaultGatherer
	}
	if d.Limits == (limits.Config{}) {
		d.Limits = limits.Default()
	}
	id := cfg.id()
	t := &tier{cfg: cfg, d: d, limits: limits.NewLive(d.Limits), probe: newProbe(d.Store, d.Metrics, d.Log)}
	t.readyz = t.ready
	t.worker = worker.New(string(id)+"/"+rand.Text()[:8], d.Store, d.Log, time.Now)
	hist, err := t.useCases()
	if err != nil {
		return nil, err
	}
	if err := t.faces(hist); err != nil {
		return nil, err
	}
	t.serve = newServing(t, id)
	return t, nil
}

// useCases makes what decides.
func (t *tier) useCases() (*history.Service, error) {
	var err error
	d := &t.d
	t.control, err = controller.New(controller.Deps{Store: d.Store, Metrics: d.Metrics, Log: d.Log, Changed: t.changed})
	if err != nil {
		return nil, fmt.Errorf("logic: %w", err)
	}
	t.quota, err = newQuota(t.limits)
	if err != nil {
		return nil, fmt.Errorf("logic: %w", err)
	}
	t.messages, err = message.New(t.cfg.Limits, message.Deps{
		Log: d.Log, Produce: d.Producer, Store: d.Store, Index: d.Registry, IDs: t.worker,
		Limits: t.quota, Metrics: message.NewMetrics(d.Metrics),
	})
	if err != nil {
		return nil, fmt.Errorf("logic: %w", err)
	}
	pusher := live.NewPusher(d.Producer, d.Metrics)
	t.live, err = live.New(live.Deps{
		Log: d.Log, Push: pusher, Store: d.Store, Index: d.Registry, IDs: t.worker,
		LargeGroup: t.cfg.Limits.LargeGroup, Limits: t.quota,
	})
	if err != nil {
		return nil, fmt.Errorf("logic: %w", err)
	}
	t.receipts, err = receipt.New(receipt.Deps{
		Log: d.Log, Store: d.Store, Index: d.Registry, Push: pusher,
		LargeGroup: t.cfg.Limits.LargeGroup, Metrics: receipt.NewMetrics(d.Metrics),
	})
	if err != nil {
		return nil, fmt.Errorf("logic: %w", err)
	}
	hist, err := history.New(history.Deps{Log: d.Log, Store: d.Store, Index: d.Registry, Metrics: history.NewMetrics(d.Metrics)})
	if err != nil {
		return nil, fmt.Errorf("logic: %w", err)
	}
	return hist, nil
}

// faces makes what edges and HTTP clients call.
func (t *tier) faces(hist *history.Service) error {
	d := &t.d
	var err error
	t.rpc, err = rpcserver.New(rpcserver.Deps{
		Log: d.Log, Messages: t.messages, Sync: hist, Cursors: t.receipts, Live: t.live, Control: t.control, Store: d.Store,
		Metrics: rpcserver.NewMetrics(d.Metrics), Workers: t.cfg.Workers,
	})
	if err != nil {
		return fmt.Errorf("logic: %w", err)
	}
	groups, err := group.New(d.Store, t.messages)
	if err != nil {
		return fmt.Errorf("logic: %w", err)
	}
	blocks, err := block.New(d.Store, t.messages)
	if err != nil {
		return fmt.Errorf("logic: %w", err)
	}
	where, err := presence.New(d.Registry)
	if err != nil {
		return fmt.Errorf("logic: %w", err)
	}
	t.http, err = api.New(t.cfg.HTTPAddr, api.Deps{
		Log: d.Log, Metrics: api.NewMetrics(d.Metrics), Messages: t.messages, Groups: groups, Blocks: blocks, Live: t.live, Control: t.control, Limits: t.limits, Quota: t.quota,
		History: hist, Presence: where,
		Tokens: d.Tokens, Verifier: d.Verifier, Embedded: d.Embedded || t.cfg.OpenLogin, Ready: func() error { return t.readyz() }, Page: web.Files(),
	})
	if err != nil {
		return fmt.Errorf("logic: %w", err)
	}
	return nil
}

// ready says why this instance should get no work. A store that is away is no
// reason: messages are taken all the same (the probe tells of it).
func (t *tier) ready() error {
	var errs []error
	if t.serve.draining.Load() {
		errs = append(errs, errors.New("draining"))
	}
	if err := t.worker.Ready(); err != nil {
		errs = append(errs, fmt.Errorf("message ids: %w", err))
	}
	if err := t.d.Producer.Ready(); err != nil {
		errs = append(errs, fmt.Errorf("log: %w", err))
	}
	return errors.Join(errs...)
}

// changed takes over settings that were changed while this runs.
func (t *tier) changed(settings map[string]string) {
	if err := t.limits.Change(settings); err != nil {
		t.d.Log.Warn("settings that this logic does not know are left out", zap.Error(err))
	}
}

// startWork takes a worker number. Where the first shard is away it is taken
// later, and readiness says so until then.
func (t *tier) startWork(ctx context.Context) error {
	if err := t.worker.Acquire(ctx); err != nil {
		t.d.Log.Warn("started without a worker number: no message is taken before there is one", zap.Error(err))
	}
	return nil
}

// work runs what goes on behind the calls. It ends after the faces have
// drained, so what they left is still written.
func (t *tier) work(ctx context.Context) error {
	return runAll(ctx, t.worker.Run, t.messages.Run, t.receipts.Run, t.probe.run, t.control.Run)
}
