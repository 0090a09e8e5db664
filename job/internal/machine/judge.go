package machine

import (
	"cmp"
	"context"
	"fmt"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// Limits for a record that carries none.
const (
	defaultLargeGroup   = 500
	defaultRecallWindow = 2 * 60 * 1000 // ms
)

// ruling is what judging a record came to: refused with a code, or the first
// of n seqs.
type ruling struct {
	code   wire.Code
	seq, n int64
}

func refuse(code wire.Code) (ruling, error) { return ruling{code: code}, nil }

// judge decides a record that was not applied before.
func (t *turn) judge(ctx context.Context, it *item, mv *store.PartitionMove) error {
	if !t.fresh(it, &mv.Add) {
		return nil
	}
	if it.rec.GetSend() != nil && planted.Now(planted.JobRefusesSilently) {
		t.decide(it, wire.CodeMuted, 0, 0)
		mv.Add.Refused++
		return nil
	}
	d := t.draft(it.key.Conv)
	var r ruling
	var err error
	counter := &mv.Add.Stored
	switch {
	case it.rec.GetSend() != nil:
		r, err = t.judgeSend(ctx, it, d)
	case it.rec.GetUpdate() != nil:
		counter = &mv.Add.Updates
		r, err = t.judgeUpdate(ctx, it, d)
	case it.rec.GetCommand() != nil:
		counter = &mv.Add.Commands
		r, err = t.judgeCommand(ctx, it, d)
	default:
		err = fmt.Errorf("%w: no body", record.ErrUnknown)
	}
	if err != nil {
		return err
	}
	t.decide(it, r.code, r.seq, r.n)
	if r.code != "" {
		mv.Add.Refused++
		t.refusal(it, r.code)
		return nil
	}
	if planted.Now(planted.JobMiscounts) {
		return nil
	}
	*counter++
	return nil
}

// draft returns the conversation as the turn would leave it so far.
func (t *turn) draft(id wire.ConvID) *draft {
	d, ok := t.drafts[id]
	if !ok {
		d = newDraft(t.bases[id])
		t.drafts[id] = d
	}
	return d
}

// touch makes the draft's head part of the transaction. A conversation that
// begins has the id of the record that begins it.
func (t *turn) touch(it *item, d *draft) {
	if !d.touched {
		if !d.exists {
			d.head.ID, d.head.New = it.rec.GetId(), true
		}
		d.touched, d.exists = true, true
		t.out.Conversations = append(t.out.Conversations, d.head)
	}
}

// take appends a row to the timeline: the next seq, and a time after all before.
func (t *turn) take(it *item, d *draft, row store.Row) store.Row {
	t.touch(it, d)
	h := d.head
	h.MaxSeq++
	if planted.Now(planted.JobSkipsSeq) {
		h.MaxSeq++
	}
	h.LastTS = max(it.TS, h.LastTS+1)
	row.Seq, row.TS, row.Version = h.MaxSeq, h.LastTS, it.Offset
	if planted.Now(planted.JobTurnsClockBack) {
		row.TS -= 10_000
	}
	if row.Kind == store.KindMessage {
		h.LastMsg = row.Seq
		d.targets[row.ID] = target{row: row, inRows: len(t.out.Rows), inUpds: -1}
	}
	t.out.Rows = append(t.out.Rows, store.ConvRow{Conv: h, Row: row})
	if row.Type == wire.TypeText && planted.Now(planted.JobStoresOtherText) {
		t.out.Rows[len(t.out.Rows)-1].Content += "?"
	}
	return row
}

// setMember changes one interval, in the draft and in the transaction.
func (t *turn) setMember(it *item, d *draft, m store.Member) {
	t.touch(it, d)
	if d.head.Group != nil {
		d.set(m)
	}
	k := memberKey{d.head.Conv, m.User, m.JoinedSeq}
	if i, ok := t.members[k]; ok {
		t.out.Members[i].Member = m
		return
	}
	t.members[k] = len(t.out.Members)
	t.out.Members = append(t.out.Members, store.MemberChange{Conv: d.head, Member: m})
}

// member returns a user's newest interval in a group. In a small group all
// members are loaded at the first question, in a large one just this one.
func (t *turn) member(ctx context.Context, it *item, d *draft, u wire.UserID) (store.Member, error) {
	if m, ok := d.known(u); ok {
		return m, nil
	}
	if it.small(d) {
		if err := t.loadAll(ctx, d); err != nil {
			return store.Member{}, err
		}
		m, _ := d.known(u)
		return m, nil
	}
	if err := t.loadSome(ctx, d, []wire.UserID{u}); err != nil {
		return store.Member{}, err
	}
	m, _ := d.known(u)
	return m, nil
}

// loadAll makes the base full.
func (t *turn) loadAll(ctx context.Context, d *draft) error {
	if d.base.full {
		return nil
	}
	t.m.met.lookups.WithLabelValues("members", "store").Inc()
	all, err := t.m.st.ActiveMembers(ctx, d.base.head.ID)
	if err != nil {
		return fmt.Errorf("read members of %s: %w", d.head.Conv, err)
	}
	d.base.members = make(map[wire.UserID]store.Member, len(all))
	for _, m := range all {
		d.base.members[m.User] = m
	}
	d.base.full, d.base.active, d.active = true, nil, nil
	return nil
}

// loadSome asks for the users that the draft does not know; then all are known.
func (t *turn) loadSome(ctx context.Context, d *draft, users []wire.UserID) error {
	unknown := d.unknown(users)
	if len(unknown) == 0 {
		return nil
	}
	if len(d.base.members) > maxKnownMembers {
		d.base.members = make(map[wire.UserID]store.Member)
		unknown = d.unknown(users)
	}
	t.m.met.lookups.WithLabelValues("intervals", "store").Add(float64(len(unknown)))
	found, err := t.m.st.Intervals(ctx, d.base.head.ID, unknown)
	if err != nil {
		return fmt.Errorf("read intervals of %s: %w", d.head.Conv, err)
	}
	for _, u := range unknown {
		d.base.members[u] = store.Member{User: u} // none, unless one is found
	}
	for _, m := range found { // by JoinedSeq: the newest stays
		if old := d.base.members[m.User]; !isActive(old) {
			d.base.members[m.User] = m
		}
	}
	return nil
}

// large is the number of members above which a group is large.
func (it *item) large() int {
	return int(cmp.Or(it.rec.GetLimits().GetLargeGroup(), defaultLargeGroup))
}

func (it *item) small(d *draft) bool {
	return d.head.Group == nil || d.head.Group.Members <= it.large()
}

// audience is who gets an offline entry: everyone but the sender in a private
// conversation or a small group, else nobody.
func (t *turn) audience(ctx context.Context, it *item, d *draft) ([]wire.UserID, error) {
	if d.head.Group == nil {
		return it.peers(), nil
	}
	if !it.small(d) {
		return nil, nil
	}
	if err := t.loadAll(ctx, d); err != nil {
		return nil, err
	}
	return without(d.users(), it.key.From), nil
}

func (it *item) peers() []wire.UserID {
	if p := it.conv.Peer(it.key.From); p != it.key.From {
		return []wire.UserID{p}
	}
	return nil
}

func without(users []wire.UserID, u wire.UserID) []wire.UserID {
	out := make([]wire.UserID, 0, len(users))
	for _, v := range users {
		if v != u {
			out = append(out, v)
		}
	}
	return out
}
