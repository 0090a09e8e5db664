package deliver

import (
	"context"
	"slices"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/machine"
)

// Edge is one live edge as a job sees it: its lease and its outbox. All fields
// but box are guarded by Deliverer.mu.
type Edge struct {
	box      *rpc.Outbox
	lease    registry.Lease
	unlisted bool
	dirty    bool // got frames in the batch under way

	wake  chan struct{} // there is something to send
	again chan struct{} // open the stream anew
}

func (e *Edge) signal() { poke(e.wake) }
func (e *Edge) reopen() { poke(e.again) }

// poke leaves a note in a channel of capacity 1; one note is enough.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// AddEdge starts holding frames for an edge; a known one gets its new lease.
// Everything acted so far is none of its business, and what goes to the other
// edges just now passes it by: if it stands below that, it is told lost.
func (d *Deliverer) AddEdge(l registry.Lease) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.edges[l.Server]; e != nil {
		if e.lease.RPCAddr != l.RPCAddr {
			e.lease = l
			poke(d.changed)
		}
		e.lease = l
		return
	}
	e := &Edge{
		lease: l,
		box:   rpc.NewOutbox(rpc.OutboxConfig{MaxFrames: d.cfg.OutboxFrames, MaxBytes: d.cfg.OutboxBytes}),
		wake:  make(chan struct{}, 1), again: make(chan struct{}, 1),
	}
	for p, floor := range d.acted {
		if begun, ok := d.begun[p]; ok {
			floor = max(floor, begun)
		}
		e.box.Claim(p, floor)
	}
	d.edges[l.Server] = e
	poke(d.changed)
	d.d.Log.Info("edge found", zap.String("server_id", string(l.Server)), zap.String("rpc_addr", l.RPCAddr))
}

// RemoveEdge ends an edge whose lease ended: its outbox is dropped and holds
// back no commit any more.
func (d *Deliverer) RemoveEdge(server wire.ServerID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.edges[server]
	if e == nil {
		return
	}
	st := e.box.Stats()
	d.gone.add(&st)
	delete(d.edges, server)
	poke(d.changed)
	d.d.Log.Info("edge gone", zap.String("server_id", string(server)))
}

// Outbox returns what is held for an edge, nil if it is not known.
func (d *Deliverer) Outbox(server wire.ServerID) *rpc.Outbox {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.edges[server]; e != nil {
		return e.box
	}
	return nil
}

// Servers returns all edges, in order.
func (d *Deliverer) Servers() []wire.ServerID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.serversLocked()
}

// Refresh reads the leases and adds the edges that are new.
func (d *Deliverer) Refresh(ctx context.Context) {
	ls, err := d.d.Registry.Live(ctx, registry.TierEdge)
	if err != nil {
		d.m.failed.WithLabelValues("leases").Inc()
		return
	}
	for _, l := range ls {
		d.AddEdge(l)
	}
}

// Hello takes the first reply of a stream; from here on Outbox(server).Next
// gives what is to be sent on it.
func (d *Deliverer) Hello(server wire.ServerID, h *rpcpb.EdgeHello) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.edges[server]; e != nil {
		e.unlisted = h.GetUnlisted()
		e.box.Resume(h.GetPositions())
	}
}

// Reply takes any later reply: "not here" is filed before the positions that
// may let the commit pass it. A later hello changes unlisted alone.
func (d *Deliverer) Reply(ctx context.Context, server wire.ServerID, r *rpcpb.PushReply) {
	if len(r.GetNotHere()) > 0 {
		d.notHere(ctx, server, r.GetNotHere())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.edges[server]
	if e == nil {
		return
	}
	if h := r.GetHello(); h != nil {
		e.unlisted = h.GetUnlisted()
	}
	e.box.Confirm(r.GetPositions())
}

func (d *Deliverer) serversLocked() []wire.ServerID {
	out := make([]wire.ServerID, 0, len(d.edges))
	for s := range d.edges {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// begin notes that effects go to the edges of now, and returns these and those
// that cannot write their routes.
func (d *Deliverer) begin(effects []machine.Effects) (all, unlisted []wire.ServerID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for p, offset := range lastOf(effects) {
		if _, claimed := d.acted[p]; claimed {
			d.begun[p] = offset
		}
	}
	all = d.serversLocked()
	for _, s := range all {
		if d.edges[s].unlisted {
			unlisted = append(unlisted, s)
		}
	}
	return all, unlisted
}

// missing says whether a server has no outbox.
func (d *Deliverer) missing(servers []wire.ServerID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(servers, func(s wire.ServerID) bool { return d.edges[s] == nil })
}
