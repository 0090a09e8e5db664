package memregistry

import (
	"context"

	"github.com/starling-im/starling/common/wire"
)

// AddGroupEdge implements registry.Index.
func (r *Registry) AddGroupEdge(ctx context.Context, server wire.ServerID, groups []wire.GroupID) ([]int64, error) {
	if err := r.enter(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	out := make([]int64, len(groups))
	for i, g := range groups {
		if r.index.edges[g] == nil {
			r.index.edges[g] = map[wire.ServerID]int64{}
		}
		r.counters++
		r.index.edges[g][server] = r.counters
		out[i] = r.counters
	}
	return out, nil
}

// DropGroupEdges implements registry.Index.
func (r *Registry) DropGroupEdges(ctx context.Context, server wire.ServerID, groups []wire.GroupID, counters []int64) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.mu.Unlock()
	for i, g := range groups {
		if r.index.edges[g][server] == counters[i] {
			delete(r.index.edges[g], server)
		}
	}
	return nil
}
