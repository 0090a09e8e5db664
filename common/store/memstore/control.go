package memstore

import (
	"cmp"
	"context"
	"slices"

	"github.com/starling-im/starling/common/control"
)

// AppendControl stores entries under the next versions.
func (s *Store) AppendControl(ctx context.Context, es []control.Entry) (int64, error) {
	return get(ctx, s, "AppendControl", func() (int64, error) {
		for _, e := range es {
			s.controls++
			e.Version = s.controls
			s.control = slices.DeleteFunc(s.control, func(old control.Entry) bool {
				return old.Subject() == e.Subject()
			})
			s.control = append(s.control, e)
		}
		return s.controls, nil
	})
}

// ControlSince returns the entries after a version.
func (s *Store) ControlSince(ctx context.Context, version int64, limit int) ([]control.Entry, error) {
	return get(ctx, s, "ControlSince", func() ([]control.Entry, error) {
		i, _ := slices.BinarySearchFunc(s.control, version+1, func(e control.Entry, v int64) int { return cmp.Compare(e.Version, v) })
		return slices.Clone(s.control[i:min(len(s.control), i+max(0, limit))]), nil
	})
}

// PurgeControl deletes entries that are over.
func (s *Store) PurgeControl(ctx context.Context, now int64) error {
	return s.do(ctx, "PurgeControl", func() error {
		s.control = slices.DeleteFunc(s.control, func(e control.Entry) bool { return e.OverAt() < now })
		return nil
	})
}
