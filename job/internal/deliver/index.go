package deliver

import (
	"context"
	"maps"
	"slices"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/machine"
	"github.com/starling-im/starling/job/internal/route"
)

// maxUnplaced bounds the joiners that wait for the index to be whole; beyond,
// the announcing of the edges is left to bring their groups in.
const maxUnplaced = 10_000

// owed is which edges the index did not take for which groups. Until it does,
// this job, who owns the groups, adds them to what a look-up says.
type owed map[wire.ServerID]map[wire.GroupID]struct{}

func (o owed) add(s wire.ServerID, g wire.GroupID) {
	if o[s] == nil {
		o[s] = make(map[wire.GroupID]struct{})
	}
	o[s][g] = struct{}{}
}

// unplaced is who joined while the index had holes, so that nobody could say at
// which edges. They are looked up with every batch until it can.
type unplaced struct {
	users map[wire.GroupID][]wire.UserID
	n     int
}

func (u *unplaced) add(it *machine.Item) {
	if u.n+len(it.Users) > maxUnplaced {
		return
	}
	if u.users == nil {
		u.users = make(map[wire.GroupID][]wire.UserID)
	}
	u.users[it.Group] = append(u.users[it.Group], it.Users...)
	u.n += len(it.Users)
}

// ask adds them to what is looked up.
func (u *unplaced) ask(names *route.Names) {
	for _, g := range slices.Sorted(maps.Keys(u.users)) {
		names.AddUsers(u.users[g])
	}
}

// joinEdges adds the edges of joiners to the index and to the table, before
// anything of the batch is pushed.
func (d *Deliverer) joinEdges(ctx context.Context, t *route.Table, effects []machine.Effects) {
	place := func(it *machine.Item) {
		for _, s := range t.Joiners(it) {
			d.owed.add(s, it.Group)
		}
	}
	if t.Known {
		for g, users := range d.unplaced.users {
			place(&machine.Item{Group: g, Users: users})
		}
		d.unplaced = unplaced{}
	}
	for i := range effects {
		for j := range effects[i].Items {
			switch it := &effects[i].Items[j]; {
			case it.Kind != machine.Join:
			case t.Known:
				place(it)
			default:
				d.unplaced.add(it)
			}
		}
	}
	for _, s := range slices.Sorted(maps.Keys(d.owed)) {
		if d.Outbox(s) == nil {
			delete(d.owed, s) // its lease ended
			continue
		}
		groups := slices.Sorted(maps.Keys(d.owed[s]))
		for _, g := range groups {
			t.AddGroup(g, s)
		}
		if _, err := d.d.Registry.AddGroupEdge(ctx, s, groups); err != nil {
			d.m.failed.WithLabelValues("group_edge").Inc()
			continue
		}
		delete(d.owed, s)
	}
}

// writeCaches keeps bodies for syncs and members for logic's first look.
func (d *Deliverer) writeCaches(ctx context.Context, effects []machine.Effects) {
	var bodies []registry.CachedMsg
	note := func(err error) {
		if err != nil {
			d.m.failed.WithLabelValues("cache").Inc()
		}
	}
	for i := range effects {
		for j := range effects[i].Items {
			it := &effects[i].Items[j]
			if it.Cache != nil {
				bodies = append(bodies, *it.Cache)
			}
			switch {
			case it.Kind == machine.Join && it.Members != nil:
				note(d.d.Registry.PutMembers(ctx, it.Group, it.Members))
			case it.Kind == machine.Join:
				note(d.d.Registry.ChangeMembers(ctx, it.Group, it.Users, nil))
			case it.Kind == machine.Leave:
				note(d.d.Registry.ChangeMembers(ctx, it.Group, nil, it.Users))
			case it.Kind == machine.Drop:
				note(d.d.Registry.PutMembers(ctx, it.Group, nil))
			}
		}
	}
	if len(bodies) > 0 {
		note(d.d.Registry.PutMessages(ctx, bodies))
	}
}
