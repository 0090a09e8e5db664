package history

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// waiting returns the messages of a conversation that wait for the user, which
// may be in the cache. Without the index there are none.
func (p *page) waiting(ctx context.Context, conv wire.ConvID) map[wire.MsgID]bool {
	if !p.asked {
		p.asked = true
		entries, err := p.s.d.Index.Offline(ctx, p.user)
		if err != nil {
			p.s.d.Log.Debug("offline list not read", zap.Error(err))
		}
		p.offline = map[wire.ConvID]map[wire.MsgID]bool{}
		for _, e := range entries {
			if p.offline[e.Conv] == nil {
				p.offline[e.Conv] = map[wire.MsgID]bool{}
			}
			p.offline[e.Conv][e.ID] = true
		}
	}
	return p.offline[conv]
}

// bodies fills in what rows read without bodies lack, and what edits say.
func (p *page) bodies(ctx context.Context, uc *store.UserConv, rows []store.Row, waiting map[wire.MsgID]bool, direct bool) error {
	if direct {
		p.s.d.Metrics.bodies.WithLabelValues("store").Add(float64(len(rows)))
	} else if err := p.merge(ctx, uc.Conv, rows, waiting); err != nil {
		return err
	}
	return p.edits(ctx, uc, rows)
}

// merge takes bodies from the cache where they are of the row's version, and
// the rest from the store.
func (p *page) merge(ctx context.Context, conv wire.ConvID, rows []store.Row, waiting map[wire.MsgID]bool) error {
	cached := p.cached(ctx, rows, waiting)
	lacking := map[int64]*store.Row{}
	for i := range rows {
		r := &rows[i]
		if r.Kind != store.KindMessage || r.Status == wire.StatusRecalled {
			continue
		}
		if c, ok := cached[r.ID]; ok && c.Conv == conv && c.Seq == r.Seq && c.Version == r.Version {
			r.Content = c.Content
			p.s.d.Metrics.bodies.WithLabelValues("cache").Inc()
			continue
		}
		lacking[r.Seq] = r
	}
	if len(lacking) == 0 {
		return nil
	}
	p.s.d.Metrics.bodies.WithLabelValues("store").Add(float64(len(lacking)))
	contents, err := p.s.d.Store.Contents(ctx, conv, slices.Collect(maps.Keys(lacking)))
	if err != nil {
		return fmt.Errorf("read bodies: %w", err)
	}
	for seq, r := range lacking {
		// The message may have been changed since its row was read.
		if c, ok := contents[seq]; ok {
			r.Content, r.Status, r.Version = c.Text, c.Status, c.Version
		}
	}
	return nil
}

// cached asks the index for the messages that wait; without it there are none.
func (p *page) cached(ctx context.Context, rows []store.Row, waiting map[wire.MsgID]bool) map[wire.MsgID]registry.CachedMsg {
	var ids []wire.MsgID
	for i := range rows {
		if rows[i].Kind == store.KindMessage && waiting[rows[i].ID] {
			ids = append(ids, rows[i].ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	got, err := p.s.d.Index.GetMessages(ctx, ids)
	if err != nil {
		p.s.d.Log.Debug("cached messages not read", zap.Error(err))
	}
	return got
}

// edits gives each edit the present content of its target: empty once that was
// recalled, and empty if the user may not see the target.
func (p *page) edits(ctx context.Context, uc *store.UserConv, rows []store.Row) error {
	var targets []int64
	for i := range rows {
		r := &rows[i]
		if r.Kind != store.KindUpdate {
			continue
		}
		r.Content = ""
		if r.Status != wire.StatusEdited {
			continue
		}
		sees, err := p.sees(ctx, uc, r.TargetSeq)
		if err != nil {
			return err
		}
		if sees {
			targets = append(targets, r.TargetSeq)
		}
	}
	if len(targets) == 0 {
		return nil
	}
	contents, err := p.s.d.Store.Contents(ctx, uc.Conv, targets)
	if err != nil {
		return fmt.Errorf("read edits: %w", err)
	}
	for i := range rows {
		if r := &rows[i]; r.Kind == store.KindUpdate && r.Status == wire.StatusEdited {
			r.Content = contents[r.TargetSeq].Text
		}
	}
	return nil
}

// sees says whether a seq at or below the user's end is in one of the user's
// intervals. Only what lies before the newest one has to be asked for.
func (p *page) sees(ctx context.Context, uc *store.UserConv, seq int64) (bool, error) {
	if seq >= uc.JoinedSeq {
		return true, nil
	}
	rows, err := p.s.d.Store.Timeline(ctx, p.user, uc.Conv, seq-1, seq, 1, false)
	if err != nil {
		return false, fmt.Errorf("read target of an edit: %w", err)
	}
	return len(rows) == 1, nil
}
