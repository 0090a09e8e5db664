package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

var errSetAside = errors.New("set aside when it was applied")

// redo builds the effects of an applied entry again, from its verdict and the
// rows that it made; nothing is written.
func (t *turn) redo(ctx context.Context, it *item) error {
	err := t.redoEffects(ctx, it)
	if det, ok := errors.AsType[*store.DeterministicError](err); ok {
		it.pushed, it.err, err = nil, det, nil // it can be read as little as it could be written
	}
	if err != nil {
		return err
	}
	if it.err != nil {
		t.poison = append(t.poison, Poison{Entry: it.Entry, Err: it.err})
	}
	t.effects = append(t.effects, Effects{At: it.PartitionID, Offset: it.Offset, Items: it.pushed})
	return nil
}

func (t *turn) redoEffects(ctx context.Context, it *item) (err error) {
	defer func() {
		if r := recover(); r != nil {
			it.pushed, it.err, err = nil, fmt.Errorf("panic: %v", r), nil
		}
	}()
	if it.rec == nil {
		return nil
	}
	o, ok := t.known[it.key]
	switch {
	case !ok || o.Offset > it.Offset:
		// No verdict: the record was set aside without one, or the window is over.
		return nil
	case o.Offset == it.Offset && o.Code == "":
		it.err = nil // a newer binary could judge it
		return t.redoApplied(ctx, it, o)
	case o.Offset == it.Offset:
		if o.Code == wire.CodeInternal {
			it.err = errSetAside
		}
		it.replyRefused(wire.MsgID(it.rec.GetId()), o.Code)
	case o.Hash != it.rec.GetHash():
		it.replyRefused(wire.MsgID(it.rec.GetId()), wire.CodeConflict)
	default:
		it.answerRepeat(o)
	}
	return nil
}

// redoApplied rebuilds the effects of a record that stood.
func (t *turn) redoApplied(ctx context.Context, it *item, o store.Outcome) error {
	base := t.bases[it.key.Conv]
	if !base.exists {
		return nil
	}
	if o.N == 0 {
		return t.redoQuiet(ctx, it, base, o.Seq)
	}
	rows, err := t.m.st.Rows(ctx, base.head.ID, o.Seq, o.Seq+o.N-1)
	if err != nil {
		return fmt.Errorf("read rows %d+%d of %s: %w", o.Seq, o.N, it.key.Conv, err)
	}
	for _, row := range rows {
		if row.Kind == store.KindUpdate {
			it.pushUpdate(row)
			continue
		}
		file, err := t.redoAudience(ctx, it, base, row.Seq)
		if err != nil {
			return err
		}
		if row.Type != wire.TypeSystem {
			it.pushMessage(row, file)
			continue
		}
		var ev wire.GroupEvent
		if err := wire.Unmarshal([]byte(row.Content), &ev); err != nil {
			it.err = fmt.Errorf("system message %s/%d: %w", it.key.Conv, row.Seq, err)
			return nil
		}
		it.pushEvent(row, ev, file)
	}
	return nil
}

// redoQuiet rebuilds a join or leave of a large group, which took no seq, for
// those whom it concerned: an interval of theirs begins, or ends, at seq.
func (t *turn) redoQuiet(ctx context.Context, it *item, base *conv, seq int64) error {
	users := unique("", userIDs(it.rec.GetCommand().GetUsers()))
	if base.head.Group == nil || seq == 0 || len(users) == 0 {
		return nil // nothing changed
	}
	found, err := t.m.st.Intervals(ctx, base.head.ID, users)
	if err != nil {
		return fmt.Errorf("read intervals of %s: %w", it.key.Conv, err)
	}
	joins := it.quiet("") == wire.EventJoined
	users = slices.DeleteFunc(users, func(u wire.UserID) bool {
		return !slices.ContainsFunc(found, func(m store.Member) bool {
			return m.User == u && (joins && m.JoinedSeq == seq || !joins && m.LeftSeq == seq)
		})
	})
	if joins {
		it.pushQuiet(base.head.Group.Owner, users, wire.EventJoined, seq)
		return nil
	}
	for _, u := range users {
		it.pushQuiet(base.head.Group.Owner, []wire.UserID{u}, it.quiet(u), 0)
	}
	return nil
}

// redoAudience is audience for a seq that stands: those of today's members who
// may see it.
func (t *turn) redoAudience(ctx context.Context, it *item, base *conv, seq int64) ([]wire.UserID, error) {
	if base.head.Group == nil {
		return it.peers(), nil
	}
	d := newDraft(base)
	if !it.small(d) {
		return nil, nil
	}
	if err := t.loadAll(ctx, d); err != nil {
		return nil, err
	}
	var out []wire.UserID
	for _, u := range d.users() {
		if base.members[u].JoinedSeq <= seq && u != it.key.From {
			out = append(out, u)
		}
	}
	return out, nil
}
