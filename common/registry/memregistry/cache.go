package memregistry

import (
	"cmp"
	"context"
	"slices"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/wire"
)

// Reserve implements registry.Cache.
func (r *Registry) Reserve(ctx context.Context, rs []registry.Reservation) ([]registry.Reserved, error) {
	if err := r.enter(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	out := make([]registry.Reserved, len(rs))
	for i, q := range rs {
		k := sendKey{q.Conv, q.From, q.ClientID}
		if won, ok := r.sends[k]; ok {
			out[i] = won
			continue
		}
		r.sends[k] = registry.Reserved{ID: q.ID, Hash: q.Hash}
		out[i] = registry.Reserved{ID: q.ID, Hash: q.Hash, First: true}
	}
	return out, nil
}

// MarkAcked implements registry.Cache.
func (r *Registry) MarkAcked(ctx context.Context, rs []registry.Reservation, ts []int64) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.mu.Unlock()
	for i, q := range rs {
		r.sends[sendKey{q.Conv, q.From, q.ClientID}] = registry.Reserved{ID: q.ID, Hash: q.Hash, Acked: ts[i]}
	}
	return nil
}

// PutMessages implements registry.Cache.
func (r *Registry) PutMessages(ctx context.Context, ms []registry.CachedMsg) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.mu.Unlock()
	for _, m := range ms {
		r.cached[m.ID] = m
	}
	return nil
}

// GetMessages implements registry.Cache.
func (r *Registry) GetMessages(ctx context.Context, ids []wire.MsgID) (map[wire.MsgID]registry.CachedMsg, error) {
	if err := r.enter(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	out := map[wire.MsgID]registry.CachedMsg{}
	for _, id := range ids {
		if m, ok := r.cached[id]; ok {
			out[id] = m
		}
	}
	return out, nil
}

// FileOffline implements registry.Cache.
func (r *Registry) FileOffline(ctx context.Context, es []registry.OfflineEntry) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.mu.Unlock()
	for _, e := range es {
		l := r.offline[e.User]
		if slices.Contains(l, e) {
			continue
		}
		at, _ := slices.BinarySearchFunc(l, e, func(a, b registry.OfflineEntry) int { return cmp.Compare(a.ID, b.ID) })
		l = slices.Insert(l, at, e)
		if len(l) > OfflineLimit {
			l = slices.Delete(l, 0, len(l)-OfflineLimit)
		}
		r.offline[e.User] = l
	}
	return nil
}

// Offline implements registry.Cache; oldest message first.
func (r *Registry) Offline(ctx context.Context, u wire.UserID) ([]registry.OfflineEntry, error) {
	if err := r.enter(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	return slices.Clone(r.offline[u]), nil
}

// ClearOffline implements registry.Cache.
func (r *Registry) ClearOffline(ctx context.Context, u wire.UserID, conv wire.ConvID, upto int64) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.mu.Unlock()
	r.offline[u] = slices.DeleteFunc(r.offline[u], func(e registry.OfflineEntry) bool {
		return e.Conv == conv && e.Seq <= upto
	})
	return nil
}

// PutMembers implements registry.Cache.
func (r *Registry) PutMembers(ctx context.Context, g wire.GroupID, all []wire.UserID) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.mu.Unlock()
	delete(r.members, g)
	r.addMembersLocked(g, all)
	return nil
}

// ChangeMembers implements registry.Cache.
func (r *Registry) ChangeMembers(ctx context.Context, g wire.GroupID, add, remove []wire.UserID) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.mu.Unlock()
	for _, u := range remove {
		delete(r.members[g], u)
	}
	r.addMembersLocked(g, add)
	return nil
}

func (r *Registry) addMembersLocked(g wire.GroupID, add []wire.UserID) {
	for _, u := range add {
		if r.members[g] == nil {
			r.members[g] = map[wire.UserID]bool{}
		}
		r.members[g][u] = true
	}
}

// AreMembers implements registry.Cache.
func (r *Registry) AreMembers(ctx context.Context, pairs []registry.Membership) ([]bool, error) {
	if err := r.enter(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	out := make([]bool, len(pairs))
	for i, p := range pairs {
		out[i] = r.members[p.Group][p.User]
	}
	return out, nil
}
