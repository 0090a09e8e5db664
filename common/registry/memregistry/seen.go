package memregistry

import (
	"context"

	"github.com/starling-im/starling/common/wire"
)

// SetLastSeen implements registry.Index.
func (r *Registry) SetLastSeen(ctx context.Context, u wire.UserID, ms int64) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.mu.Unlock()
	r.seen[u] = ms
	return nil
}

// LastSeen implements registry.Index.
func (r *Registry) LastSeen(ctx context.Context, users []wire.UserID) (map[wire.UserID]int64, error) {
	if err := r.enter(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	out := map[wire.UserID]int64{}
	for _, u := range users {
		if ms, ok := r.seen[u]; ok {
			out[u] = ms
		}
	}
	return out, nil
}
