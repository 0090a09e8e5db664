package job

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/store/shards"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/consume"
	"github.com/starling-im/starling/job/internal/deliver"
	"github.com/starling-im/starling/job/internal/machine"
)

// worker is the tier's part for one shard: nothing in it waits for another
// shard's. With several, each is a job of its own to the group, the edges and
// the registry.
type worker struct {
	shard  shards.Shard
	group  string
	server wire.ServerID
	lease  registry.Lease
	log    *zap.Logger
	reg    prometheus.Registerer

	deliverer *deliver.Deliverer
	house     *house
	loop      atomic.Pointer[consume.Shard] // nil until started
}

// newWorker makes the part for a shard; several says that it is not alone.
func newWorker(cfg *Config, d *Deps, log *zap.Logger, epoch uint64, shard shards.Shard, several bool) (*worker, error) {
	w := &worker{shard: shard, group: groupOf(shard.Name), server: wire.ServerID(cfg.ID), log: log, reg: d.Metrics}
	if several {
		w.server = wire.ServerID(cfg.ID + "." + shard.Name)
		w.log = log.With(zap.String("shard", shard.Name))
		w.reg = prometheus.WrapRegistererWith(prometheus.Labels{"shard": shard.Name}, d.Metrics)
	}
	if !wire.ValidID(string(w.server)) {
		return nil, fmt.Errorf("job.id: %q is not 1-64 of [A-Za-z0-9._@-] with the name of a shard after it; give a shorter one", w.server)
	}
	w.lease = registry.Lease{Tier: registry.TierJob, Server: w.server, Epoch: epoch}
	w.house = newHouse(w.log, w.reg, shard, cfg)
	var err error
	w.deliverer, err = deliver.New(cfg.Deliver, deliver.Deps{
		Server: w.server, Log: w.log, Metrics: w.reg, Registry: d.Registry, Producer: d.Producer,
	})
	if err != nil {
		return nil, fmt.Errorf("job: %w", err)
	}
	return w, nil
}

// groupOf is the consumer group of a shard. It goes by the name, so that a
// shard keeps its offsets wherever it stands in the list.
func groupOf(shard string) string {
	if shard == shards.DefaultName {
		return GroupMachine
	}
	return GroupMachine + "." + shard
}

// start makes the loop over the log; it joins its group when it runs, and owns
// the consumer.
func (w *worker) start(cfg *Config, d *Deps, c mq.Consumer, partitions map[string]int32) {
	mc := cfg.Machine
	mc.Partitions, mc.OutcomeRetention = partitions, cfg.OutcomeRetention
	w.loop.Store(consume.NewShard(cfg.Consume, consume.Deps{
		Check: w.shard.Check, Holds: w.shard.Holds.Has,
		Log: w.log, Metrics: w.reg, Deliverer: w.deliverer, Consumer: c, Producer: d.Producer,
		Machine: machine.New(w.shard.Store, mc, w.log, w.reg),
	}))
}

// serve runs what outlives the consumers: lease, streams, housekeeping.
func (w *worker) serve(ctx context.Context, reg registry.Registry) {
	var wg sync.WaitGroup
	leaser := registry.NewLeaser(reg, func() registry.Lease { return w.lease }, 0, registry.LeaserCallbacks{})
	wg.Go(func() {
		if err := leaser.Run(ctx); err != nil {
			w.log.Info("lease", zap.Error(err))
		}
	})
	wg.Go(func() { deliver.NewStreams(w.deliverer).Run(ctx) })
	wg.Go(func() { w.house.keep(ctx) })
	wg.Wait()
}

// ready says why records of the shard wait.
func (w *worker) ready() error {
	loop := w.loop.Load()
	if loop == nil {
		return errors.New("not started")
	}
	if err := loop.Ready(); err != nil {
		return fmt.Errorf("records of shard %s wait: %w", w.shard.Name, err)
	}
	return nil
}
