// Package deliver does what the partition machine decided, after its commit:
// it looks up who is where, pushes one frame per (record, edge) into the
// outbox of each edge, writes caches and files what met nobody online. Streams
// carries the outboxes to the edges.
//
// The order of one Act: edges of joiners into the index, look-up, pushes, then
// caches and offline lists (they do not hold the message up). Everything but
// the pushes is best effort: Redis is an index, never the truth; what a call
// could not do is counted, and a look-up that failed means every edge.
//
// Deliverer has no goroutine and no clock: a simulation steps it. Claim,
// Release and Act are called by one goroutine (the actor); everything else is
// safe at any time from any.
package deliver

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/machine"
	"github.com/starling-im/starling/job/internal/route"
)

// Registry is what delivery needs of the index.
type Registry interface {
	Live(ctx context.Context, tier string) ([]registry.Lease, error)
	Lookup(ctx context.Context, users []wire.UserID, groups []wire.GroupID) (registry.Routes, error)
	AddGroupEdge(ctx context.Context, server wire.ServerID, groups []wire.GroupID) ([]int64, error)
	PutMessages(ctx context.Context, ms []registry.CachedMsg) error
	PutMembers(ctx context.Context, g wire.GroupID, all []wire.UserID) error
	ChangeMembers(ctx context.Context, g wire.GroupID, add, remove []wire.UserID) error
	FileOffline(ctx context.Context, es []registry.OfflineEntry) error
}

// Producer is what delivery needs of the log, for im_offline_messages.
type Producer interface {
	Produce(p record.PartitionID, ts int64, value []byte, done func(mq.Delivery)) error
	Partitions(topic string) int32
}

// Deps is what a Deliverer works with. Server is this job's name. Producer may be nil: then nothing is
// produced to im_offline_messages.
type Deps struct {
	Server   wire.ServerID
	Log      *zap.Logger
	Metrics  prometheus.Registerer
	Registry Registry
	Producer Producer
}

// Deliverer executes effects. Make it with New.
type Deliverer struct {
	cfg Config
	d   Deps
	m   *metrics

	changed chan struct{} // edges came or went; for Streams

	mu    sync.Mutex // held while a batch is pushed, so that an edge has all of it or none
	edges map[wire.ServerID]*Edge
	acted map[record.PartitionID]int64 // claimed partitions: effects done up to
	begun map[record.PartitionID]int64 // of these: effects looked up for, to the edges known by then
	gone  gone

	owed     owed     // edges of groups that the index did not take; actor only
	unplaced unplaced // joiners whose edges the index could not say; actor only

	recent   recent // for answers "not here"
	absences absences
}

// New returns a Deliverer without edges and partitions.
func New(cfg Config, d Deps) (*Deliverer, error) {
	dl := &Deliverer{
		cfg: cfg, d: d, m: newMetrics(d.Metrics),
		changed: make(chan struct{}, 1),
		edges:   make(map[wire.ServerID]*Edge),
		acted:   make(map[record.PartitionID]int64),
		begun:   make(map[record.PartitionID]int64),
		owed:    make(owed),
	}
	if err := d.Metrics.Register(&boxCollector{dl}); err != nil {
		return nil, fmt.Errorf("register outbox metrics: %w", err)
	}
	return dl, nil
}

// Claim starts a partition at the offset that the machine said. The streams of
// the servers returned must be opened anew (Streams does it): their edges may
// stand below the start, which only a hello tells.
func (d *Deliverer) Claim(p record.PartitionID, start int64) (reopen []wire.ServerID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.acted[p] = start - 1
	delete(d.begun, p)
	for _, s := range d.serversLocked() {
		if e := d.edges[s]; e.box.Claim(p, start-1) {
			e.reopen()
			reopen = append(reopen, s)
		}
	}
	return reopen
}

// Release ends a partition. Frames of it that are not sent yet are dropped:
// the next owner begins at or below them, because nothing above what every
// edge confirmed was ever committed. Effects of it that come later are left
// out; they must not be acted before a new Claim.
func (d *Deliverer) Release(p record.PartitionID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.acted, p)
	delete(d.begun, p)
	for _, e := range d.edges {
		e.box.Release(p)
	}
}

// Committable returns the next offset to read of each claimed partition: all
// below is done, and confirmed by every live edge.
func (d *Deliverer) Committable() map[record.PartitionID]int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[record.PartitionID]int64, len(d.acted))
	for p, acted := range d.acted {
		next := acted + 1
		for _, e := range d.edges {
			if o, ok := e.box.Unconfirmed(p); ok {
				next = min(next, o)
			}
		}
		out[p] = next
	}
	return out
}

// Act does the effects of committed records, in order. It fails only when ctx
// ends; then the effects count as not done.
func (d *Deliverer) Act(ctx context.Context, effects []machine.Effects) error {
	effects = d.due(effects)
	if len(effects) == 0 {
		return nil
	}
	var names route.Names
	names.AddEffects(effects)
	d.unplaced.ask(&names)
	t, err := d.lookup(ctx, &names, effects)
	if err != nil {
		return err
	}
	d.joinEdges(ctx, t, effects)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("act: %w", err)
	}
	d.push(t, effects)
	d.writeCaches(ctx, effects)
	d.fileOffline(ctx, t, &names, effects)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("act: %w", err)
	}
	d.done(effects)
	return nil
}

// Ephemeral pushes entries of im_push, at most once: where each stands goes with
// it, so that an edge knows what it was brought before, by whomever.
func (d *Deliverer) Ephemeral(ctx context.Context, entries []route.Push) error {
	var names route.Names
	for _, e := range entries {
		for _, u := range e.GetUsers() {
			names.AddUsers([]wire.UserID{wire.UserID(u)})
		}
		if e.GetGroup() != "" {
			names.AddGroup(wire.GroupID(e.GetGroup()))
		}
	}
	t, err := d.lookup(ctx, &names, nil)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range entries {
		once := &rpcpb.Position{Topic: e.At.Topic, Partition: e.At.Number, Offset: e.Offset}
		for _, s := range t.Push(e.Push) {
			if edge := d.edges[s.Server]; edge != nil {
				edge.box.Push(&rpcpb.PushFrame{Once: once, Items: []*rpcpb.PushItem{s.Item}})
				edge.signal()
			}
		}
	}
	d.m.ephemeral.Add(float64(len(entries)))
	return nil
}

// due leaves out effects of partitions that are not claimed (any more), and
// what was acted before.
func (d *Deliverer) due(effects []machine.Effects) []machine.Effects {
	d.mu.Lock()
	defer d.mu.Unlock()
	keep := func(e *machine.Effects) bool {
		acted, ok := d.acted[e.At]
		return ok && e.Offset > acted
	}
	for i := range effects {
		if !keep(&effects[i]) { // rare: only then is the slice copied
			effects = slices.Clone(effects)
			return slices.DeleteFunc(effects, func(e machine.Effects) bool { return !keep(&e) })
		}
	}
	return effects
}

// lookup asks the index where everybody is, and sees to it that each edge it
// names has an outbox. The edges known at its end are those that effects go to;
// for one that comes later they are behind. It fails only when ctx ended.
func (d *Deliverer) lookup(ctx context.Context, names *route.Names, effects []machine.Effects) (*route.Table, error) {
	r := registry.Routes{Known: true}
	if len(names.Users)+len(names.Groups) > 0 {
		var err error
		if r, err = d.d.Registry.Lookup(ctx, names.Users, names.Groups); err != nil {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("look up routes: %w", err)
			}
			d.m.failed.WithLabelValues("lookup").Inc()
			r = registry.Routes{}
		} else if !r.Known {
			d.Refresh(ctx) // every live edge, also one that came just now
		}
	}
	t := route.NewTable(r, nil, nil)
	if d.missing(t.Servers()) {
		d.Refresh(ctx)
	}
	if !r.Known {
		d.m.guessed.Inc()
	}
	t.All, t.Unlisted = d.begin(effects)
	return t, nil
}

// push fills one frame per (record, edge) and hands it to the outboxes.
func (d *Deliverer) push(t *route.Table, effects []machine.Effects) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range effects {
		e := &effects[i]
		frames := make(map[wire.ServerID]*rpcpb.PushFrame)
		for j := range e.Items {
			for _, s := range t.Item(&e.Items[j]) {
				f := frames[s.Server]
				if f == nil {
					f = &rpcpb.PushFrame{At: &rpcpb.Position{Topic: e.At.Topic, Partition: e.At.Number, Offset: e.Offset}}
					frames[s.Server] = f
				}
				f.Items = append(f.Items, s.Item)
			}
		}
		d.recent.remember(e, t)
		for s, f := range frames {
			if edge := d.edges[s]; edge != nil {
				edge.box.Push(f)
				edge.dirty = true
			}
		}
	}
	for _, edge := range d.edges {
		if edge.dirty {
			edge.dirty = false
			edge.signal()
		}
	}
}

// done moves the partitions past effects.
func (d *Deliverer) done(effects []machine.Effects) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for p, offset := range lastOf(effects) {
		if _, ok := d.acted[p]; !ok {
			continue
		}
		d.acted[p] = offset
		for _, e := range d.edges {
			e.box.Advance(p, offset)
		}
	}
	d.m.acted.Add(float64(len(effects)))
}

// lastOf returns the last offset of each partition.
func lastOf(effects []machine.Effects) map[record.PartitionID]int64 {
	last := make(map[record.PartitionID]int64)
	for i := range effects {
		last[effects[i].At] = effects[i].Offset
	}
	return last
}
