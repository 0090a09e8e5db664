package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// judgeUpdate decides a recall or an edit.
func (t *turn) judgeUpdate(ctx context.Context, it *item, d *draft) (ruling, error) {
	u := it.rec.GetUpdate()
	if s := u.GetStatus(); s != wire.StatusRecalled && s != wire.StatusEdited {
		return ruling{}, fmt.Errorf("%w: update to %q", record.ErrUnknown, s)
	}
	if !d.exists {
		return refuse(wire.CodeNotFound)
	}
	role, code, err := t.mayChange(ctx, it, d)
	if err != nil || code != "" {
		return ruling{code: code}, err
	}
	tg, found, err := t.target(ctx, d, wire.MsgID(u.GetTargetId()))
	if err != nil {
		return ruling{}, err
	}
	if !found {
		return refuse(wire.CodeNotFound)
	}
	if code := it.updateCode(u, tg.row, role); code != "" {
		return refuse(code)
	}
	row := t.take(it, d, store.Row{
		Kind: store.KindUpdate, ID: tg.row.ID, From: it.key.From, Type: tg.row.Type, Content: u.GetContent(),
		ClientID: it.key.ClientID, Status: u.GetStatus(), TargetSeq: tg.row.Seq,
	})
	t.apply(d, tg, row)
	it.pushUpdate(row)
	return ruling{seq: row.Seq, n: 1}, nil
}

// mayChange says why the user may not touch anything here. Recalling is
// allowed to the muted and the blocked, editing is speaking.
func (t *turn) mayChange(ctx context.Context, it *item, d *draft) (role string, code wire.Code, err error) {
	if it.rec.GetUpdate().GetStatus() == wire.StatusEdited {
		if code, err = t.maySpeak(ctx, it, d); err != nil || code != "" {
			return "", code, err
		}
	}
	switch {
	case it.conv.Group != "":
	case it.conv.Has(it.key.From):
		return store.RoleMember, "", nil
	default:
		return "", wire.CodeForbidden, nil
	}
	m, code, err := t.actor(ctx, it, d)
	return m.Role, code, err
}

// updateCode says why this message cannot be changed so by this user.
func (it *item) updateCode(u *recordpb.Update, row store.Row, role string) wire.Code {
	window := cmp.Or(it.rec.GetLimits().GetRecallWindowMs(), defaultRecallWindow)
	own := row.From == it.key.From && it.TS-row.TS <= window
	admin := u.GetStatus() == wire.StatusRecalled && role != store.RoleMember
	switch {
	case row.Type == wire.TypeSystem:
		return wire.CodeForbidden
	case !own && !admin:
		return wire.CodeForbidden
	case row.Status == wire.StatusRecalled:
		return wire.CodeConflict
	}
	return ""
}

// target returns a message as it stands now, this turn's changes included.
func (t *turn) target(ctx context.Context, d *draft, id wire.MsgID) (target, bool, error) {
	if tg, ok := d.targets[id]; ok {
		return tg, true, nil
	}
	if d.head.New {
		return target{}, false, nil
	}
	row, err := t.m.st.RowByID(ctx, d.head.ID, id)
	if errors.Is(err, store.ErrNotFound) {
		return target{}, false, nil
	}
	if err != nil {
		return target{}, false, fmt.Errorf("read message %d of %s: %w", id, d.head.Conv, err)
	}
	return target{row: row, inRows: -1, inUpds: -1}, true, nil
}

// apply gives the target its new state: in the row that this turn writes, or
// in one update of the row that stands.
func (t *turn) apply(d *draft, tg target, by store.Row) {
	if planted.Now(planted.JobForgetsChange) {
		return
	}
	tg.row.Status, tg.row.Content, tg.row.Version = by.Status, by.Content, by.Version
	switch {
	case tg.inRows >= 0:
		r := &t.out.Rows[tg.inRows].Row
		r.Status, r.Content, r.Version = by.Status, by.Content, by.Version
	case tg.inUpds >= 0:
		u := &t.out.Updates[tg.inUpds]
		u.Status, u.Content, u.Version = by.Status, by.Content, by.Version
	default:
		tg.inUpds = len(t.out.Updates)
		t.out.Updates = append(t.out.Updates, store.RowUpdate{
			Conv: d.head, TargetSeq: tg.row.Seq, Status: by.Status, Content: by.Content, Version: by.Version,
		})
	}
	d.targets[tg.row.ID] = tg
}
