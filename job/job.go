// Package job is the tier that turns the log into history and pushes: it owns
// partitions, runs the partition machine over their records, and brings what
// the machine decided to the edges, confirmed by position. It listens on its
// admin port alone; everything else it dials.
//
// With several shards a process has a job for each: a member of the shard's own
// group, a machine, streams to the edges, a lease; a database that is away holds
// up its own partitions alone.
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
	"github.com/starling-im/starling/common/store/shards"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/consume"
)

// Names of the tier's modules and of its consumer groups. GroupMachine is that
// of the shard shards.DefaultName; another shard's has "." and its name after it.
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
	Shards      []shards.Shard // at least one; together they hold everything
	Producer    mq.Producer
	NewConsumer func(group string, topics []string) (mq.Consumer, error)
	// Ends says where partitions of the log end, for the ledger; nil: nobody can.
	Ends  func(ctx context.Context, ps []record.PartitionID) (map[record.PartitionID]int64, error)
	After []string // modules that start before the tier and stop after it
}

// Register adds the tier's modules.
func Register(m app.Registrar, cfg Config, d Deps) error {
	t, err := newTier(cfg, d)
	if err != nil {
		return err
	}
	admin, err := obs.NewAdmin(obs.AdminConfig{
		Addr: cfg.AdminAddr, Key: "job.admin-addr", Modules: app.StatesOf(m), Ledger: func(ctx context.Context) any { return t.account(ctx) },
	}, d.Gatherer, app.ReadyOf(m, Module), t.log)
	if err != nil {
		return fmt.Errorf("job: admin port: %w", err)
	}
	m.Register(ModuleAdmin, app.Module{Start: admin.Start, Stop: admin.Stop})
	m.Register(Module, app.Module{Start: t.start, Run: t.run, Drain: t.drain, Ready: t.readiness}, append([]string{ModuleAdmin}, d.After...)...)
	return nil
}

// tier is the jobs of one process.
type tier struct {
	cfg Config
	d   Deps
	log *zap.Logger

	workers []*worker // one a shard
	started atomic.Bool

	pushes         *consume.Pushes // by the first worker's streams
	pushesConsumer mq.Consumer

	asking    chan struct{} // holds a value while somebody asks where the log ends
	draining  chan struct{} // closed: take no new work
	drainOnce sync.Once
	drained   chan struct{} // closed: nothing is in hand
}

func newTier(cfg Config, d Deps) (*tier, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if len(d.Shards) == 0 {
		return nil, errors.New("job: no shard is given")
	}
	if cfg.ID == "" {
		cfg.ID = makeServerID()
	}
	t := &tier{
		cfg: cfg, d: d, log: d.Log.With(zap.String("tier", "job"), zap.String("job_id", cfg.ID)),
		asking: make(chan struct{}, 1), draining: make(chan struct{}), drained: make(chan struct{}),
	}
	epoch := uint64(time.Now().UnixMilli())
	for _, shard := range d.Shards {
		w, err := newWorker(&t.cfg, &t.d, t.log, epoch, shard, len(d.Shards) > 1)
		if err != nil {
			return nil, err
		}
		t.workers = append(t.workers, w)
	}
	return t, nil
}

// makeServerID returns a name that no other process has, and that leaves room
// for a shard's.
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
	return fmt.Sprintf("job-%.30s-%s", host, hex.EncodeToString(b[:]))
}

// start makes the consumers; they join their groups when the module runs.
func (t *tier) start(context.Context) (err error) {
	partitions := make(map[string]int32)
	for _, topic := range shards.Topics() {
		if n := t.d.Producer.Partitions(topic); n > 0 {
			partitions[topic] = n
		}
	}
	var made []mq.Consumer
	defer func() {
		for _, c := range made {
			if err != nil {
				err = errors.Join(err, c.Close())
			}
		}
	}()
	for _, w := range t.workers {
		c, err := t.d.NewConsumer(w.group, shards.Topics())
		if err != nil {
			return fmt.Errorf("job: %w", err)
		}
		made = append(made, c)
		w.start(&t.cfg, &t.d, c, partitions)
	}
	if t.pushesConsumer, err = t.d.NewConsumer(GroupPush, []string{record.TopicPush}); err != nil {
		return fmt.Errorf("job: %w", err)
	}
	t.pushes = consume.NewPushes(t.log, t.d.Metrics, t.workers[0].deliverer.Ephemeral)
	t.started.Store(true)
	return nil
}

// run works until ctx ends. The consumers end first (at a drain, before ctx
// does), all at once, the streams to the edges last.
func (t *tier) run(ctx context.Context) error {
	rest, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives the consumers
	defer stop()
	var others sync.WaitGroup
	for _, w := range t.workers {
		others.Go(func() { w.serve(rest, t.d.Registry) })
	}
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
	errs := make([]error, len(t.workers)+1)
	var consumers sync.WaitGroup
	for i, w := range t.workers {
		consumers.Go(func() { defer end(); errs[i] = w.loop.Load().Run(consuming) })
	}
	consumers.Go(func() { defer end(); errs[len(t.workers)] = t.pushes.Run(consuming, t.pushesConsumer) })
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
	if !t.started.Load() {
		return errors.New("job: not started")
	}
	var errs []error
	for _, w := range t.workers {
		errs = append(errs, w.ready())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("job: %w", err)
	}
	return nil
}
