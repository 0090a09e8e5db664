// Package job is the tier that turns the log into history and pushes: it owns
// partitions, runs the partition machine over their records, and brings what
// the machine decided to the edges, confirmed by position. It listens on its
// admin port alone; everything else it dials.
//
// Register is all that others need. The tier keeps no state of its own beside
// what can be made anew: kill it at any moment.
package job

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/app"
	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/obs"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/consume"
	"github.com/starling-im/starling/job/internal/deliver"
	"github.com/starling-im/starling/job/internal/machine"
)

// Names of the tier's modules and of its consumer groups.
const (
	Module      = "job"
	ModuleAdmin = "job.admin"

	GroupMachine = "starling-job"
	GroupPush    = "starling-job-push"
)

// Deps is what the tier works with. Metrics may be shared with other tiers.
type Deps struct {
	Log         *zap.Logger
	Metrics     prometheus.Registerer
	Gatherer    prometheus.Gatherer
	Registry    registry.Registry
	Store       store.Store
	Producer    mq.Producer
	NewConsumer func(group string, topics []string) (mq.Consumer, error)
	After       []string // modules that start before the tier and stop after it
}

// Register adds the tier's modules.
func Register(m app.Registrar, cfg Config, d Deps) error {
	t, err := newTier(cfg, d)
	if err != nil {
		return err
	}
	admin, err := obs.NewAdmin(obs.AdminConfig{Addr: cfg.AdminAddr, Key: "job.admin-addr", Modules: app.StatesOf(m)},
		d.Gatherer, app.ReadyOf(m, Module), t.log)
	if err != nil {
		return fmt.Errorf("job: admin port: %w", err)
	}
	m.Register(ModuleAdmin, app.Module{Start: admin.Start, Stop: admin.Stop})
	m.Register(Module, app.Module{Start: t.start, Run: t.run, Drain: t.drain, Ready: t.readiness}, append([]string{ModuleAdmin}, d.After...)...)
	return nil
}

// tier is one job.
type tier struct {
	cfg Config
	d   Deps
	log *zap.Logger

	deliverer *deliver.Deliverer
	ledger    *ledger
	epoch     uint64

	shard atomic.Pointer[consume.Shard] // nil until started

	pushes         *consume.Pushes
	pushesConsumer mq.Consumer

	draining  chan struct{} // closed: take no new work
	drainOnce sync.Once
	drained   chan struct{} // closed: nothing is in hand
}

func newTier(cfg Config, d Deps) (*tier, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.ID == "" {
		cfg.ID = makeServerID()
	}
	t := &tier{
		cfg: cfg, d: d, log: d.Log.With(zap.String("tier", "job"), zap.String("job_id", cfg.ID)),
		epoch:    uint64(time.Now().UnixMilli()),
		draining: make(chan struct{}), drained: make(chan struct{}),
		ledger: newLedger(d.Metrics),
	}
	var err error
	t.deliverer, err = deliver.New(cfg.Deliver, deliver.Deps{
		Server: wire.ServerID(cfg.ID), Log: t.log, Metrics: d.Metrics, Registry: d.Registry, Producer: d.Producer,
	})
	if err != nil {
		return nil, fmt.Errorf("job: %w", err)
	}
	return t, nil
}

// makeServerID returns a name that no other process has.
func makeServerID() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	host, _ := os.Hostname()
	host = strings.Map(func(r rune) rune {
		if wire.ValidID(string(r)) {
			return r
		}
		return '-'
	}, host)
	return fmt.Sprintf("job-%.40s-%s", host, hex.EncodeToString(b[:]))
}

// start makes the consumers; they join their groups when the module runs.
func (t *tier) start(context.Context) error {
	durable := []string{record.TopicMessages, record.TopicGroups}
	c, err := t.d.NewConsumer(GroupMachine, durable)
	if err != nil {
		return fmt.Errorf("job: %w", err)
	}
	if t.pushesConsumer, err = t.d.NewConsumer(GroupPush, []string{record.TopicPush}); err != nil {
		return errors.Join(fmt.Errorf("job: %w", err), c.Close())
	}
	mc := t.cfg.Machine
	mc.Partitions = make(map[string]int32, len(durable))
	for _, topic := range durable {
		if n := t.d.Producer.Partitions(topic); n > 0 {
			mc.Partitions[topic] = n
		}
	}
	t.pushes = consume.NewPushes(t.log, t.d.Metrics, t.deliverer.Ephemeral)
	t.shard.Store(consume.NewShard(t.cfg.Consume, consume.Deps{
		Log: t.log, Metrics: t.d.Metrics, Deliverer: t.deliverer, Consumer: c, Producer: t.d.Producer,
		Machine: machine.New(t.d.Store, mc, t.log, t.d.Metrics),
	}))
	return nil
}

// run works until ctx ends. The consumers end first (at a drain, before ctx
// does), the streams to the edges last.
func (t *tier) run(ctx context.Context) error {
	rest, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives the consumers
	defer stop()
	var others sync.WaitGroup
	leaser := registry.NewLeaser(t.d.Registry, t.lease, 0, registry.LeaserCallbacks{})
	others.Go(func() {
		if err := leaser.Run(rest); err != nil {
			t.log.Info("lease", zap.Error(err))
		}
	})
	others.Go(func() { deliver.NewStreams(t.deliverer).Run(rest) })
	others.Go(func() { t.keepHouse(rest) })

	consuming, end := context.WithCancel(ctx)
	defer end()
	stopAtDrain := make(chan struct{})
	others.Go(func() {
		defer close(stopAtDrain)
		select {
		case <-t.draining:
		case <-consuming.Done():
		}
		end()
	})
	errs := make([]error, 2)
	var consumers sync.WaitGroup
	consumers.Go(func() { defer end(); errs[0] = t.shard.Load().Run(consuming) })
	consumers.Go(func() { defer end(); errs[1] = t.pushes.Run(consuming, t.pushesConsumer) })
	consumers.Wait()
	<-stopAtDrain
	close(t.drained)
	err := errors.Join(errs...)
	if err == nil {
		<-ctx.Done()
	} else {
		err = fmt.Errorf("job: %w", err)
	}
	stop()
	others.Wait()
	return err
}

// drain stops the consumers and waits until what they had in hand is done.
func (t *tier) drain(ctx context.Context) error {
	t.drainOnce.Do(func() { close(t.draining) })
	select {
	case <-t.drained:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("job: drain: %w", ctx.Err())
	}
}

func (t *tier) readiness() error {
	s := t.shard.Load()
	if s == nil {
		return errors.New("job: not started")
	}
	if err := s.Ready(); err != nil {
		return fmt.Errorf("job: records wait: %w", err)
	}
	return nil
}

func (t *tier) lease() registry.Lease {
	return registry.Lease{Tier: registry.TierJob, Server: wire.ServerID(t.cfg.ID), Epoch: t.epoch}
}
