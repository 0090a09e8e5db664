package registry

import (
	"math/rand/v2"
	"slices"
)

// spread is how much an empty edge is preferred: one with the mean load for its
// weight comes first 1/5 as often, one with twice that 1/9.
const spread = 0.25

// Suitable returns the edges that take connections, those to be tried first in
// front: of the region before all others, and among them at random, the more
// often the more weight and the less load for it they have. So many clients
// that ask at once spread over all, though the loads are of a renewal ago.
// Draining edges, those without a URL and those of weight 0 are left out. An
// empty region and one without edges prefer nobody.
func Suitable(edges []Lease, region string) []Lease {
	type candidate struct {
		lease Lease
		far   bool
		order float64
	}
	var all []candidate
	var load, weight float64
	for _, l := range edges {
		if l.Draining || l.URL == "" || l.Weight <= 0 {
			continue
		}
		all = append(all, candidate{lease: l, far: region != "" && l.Region != region})
		load += float64(max(l.Load, 0))
		weight += float64(l.Weight)
	}
	mean := load / max(weight, 1)
	for i := range all {
		l := &all[i].lease
		share := float64(l.Weight)
		if mean > 0 {
			share /= spread + float64(max(l.Load, 0))/float64(l.Weight)/mean
		}
		// The first of exponential clocks to ring is one's with the chance of
		// its share, the next of the others' likewise.
		all[i].order = rand.ExpFloat64() / share //nolint:gosec // no secret
	}
	slices.SortFunc(all, func(a, b candidate) int {
		switch {
		case a.far != b.far && a.far, a.far == b.far && a.order > b.order:
			return 1
		case a.far != b.far, a.order < b.order:
			return -1
		}
		return 0
	})
	out := make([]Lease, len(all))
	for i, c := range all {
		out[i] = c.lease
	}
	return out
}
