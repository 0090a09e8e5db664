package machine

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// Result is what a turn came to.
type Result struct {
	// Effects has one element for each entry of an owned partition, in the
	// order of the entries.
	Effects []Effects
	// Fenced partitions belong to another owner by now; they are released.
	Fenced []record.PartitionID
	// Poison records were set aside. One whose effects are redone is named again.
	Poison []Poison
}

// Poison is a record that cannot be applied, and why.
type Poison struct {
	Entry record.Entry
	Err   error
}

// Turn applies what has arrived, per partition in order, in one transaction
// (more only where a record has to be set aside). Entries of partitions that
// are not owned are ignored. After an error nothing is known of the commit:
// the caller hands over the same entries again, and those meanwhile applied
// are redone. After a LogError its partition has to be released first: it is
// not to be applied any further.
func (m *Machine) Turn(ctx context.Context, es []record.Entry) (Result, error) {
	var res Result
	if err := m.refresh(ctx, &res); err != nil {
		m.met.retried.Inc()
		return res, err
	}
	if err := m.run(ctx, es, make(asides), &res); err != nil {
		m.met.retried.Inc()
		return Result{Fenced: res.Fenced}, err
	}
	return res, nil
}

func (m *Machine) mine(es []record.Entry) []record.Entry {
	out := make([]record.Entry, 0, len(es))
	for i := range es {
		if m.parts[es[i].PartitionID] != nil {
			out = append(out, es[i])
		}
	}
	return out
}

// run commits entries as one transaction, or as several where one record
// stands in the way.
func (m *Machine) run(ctx context.Context, es []record.Entry, aside asides, res *Result) error {
	for es = m.mine(es); len(es) > 0; es = m.mine(es) {
		t, err := m.build(ctx, es, aside)
		if bad, ok := errors.AsType[*poisonError](err); ok {
			if err := aside.raise(bad.entry, bad.err); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		done, err := m.commit(ctx, t, res)
		var det *store.DeterministicError
		switch {
		case errors.As(err, &det) && len(es) > 1:
			m.met.halved.Inc()
			half := len(es) / 2
			if err := m.run(ctx, es[:half], aside, res); err != nil {
				return err
			}
			es = es[half:]
		case errors.As(err, &det):
			if err := aside.raise(es[0], det); err != nil {
				return err
			}
		case err != nil:
			return err
		case done:
			return nil
		} // else some were fenced out, or are further than thought: the rest again
	}
	return nil
}

// commit writes a turn and merges it. done is false when a guard did not let it
// pass: nothing was applied; partitions of others are released, our own are
// known to be further.
func (m *Machine) commit(ctx context.Context, t *turn, res *Result) (done bool, err error) {
	if len(t.out.Partitions) > 0 {
		fenced, err := m.st.Commit(ctx, &t.out)
		if err != nil {
			m.suspect(t.out.Partitions)
			if rerr := m.refresh(ctx, res); rerr != nil {
				return false, errors.Join(fmt.Errorf("commit turn: %w", err), rerr)
			}
			return false, fmt.Errorf("commit turn: %w", err)
		}
		if len(fenced) > 0 {
			return false, m.notPassed(ctx, fenced, res)
		}
		t.merge()
	}
	m.met.redone.Add(float64(t.redone))
	res.Effects = append(res.Effects, t.effects...)
	res.Poison = append(res.Poison, t.poison...)
	for i := range t.poison {
		m.log.Error("record set aside", zap.Stringer("partition", t.poison[i].Entry.PartitionID),
			zap.Int64("offset", t.poison[i].Entry.Offset), zap.Error(t.poison[i].Err))
	}
	return true, nil
}

// notPassed takes what the guard did not let pass. Another epoch is another
// owner's, and the partition is fenced; but ours with another applied offset is
// a commit of our own whose answer was lost and which arrived only now.
func (m *Machine) notPassed(ctx context.Context, ids []record.PartitionID, res *Result) error {
	was := make(map[record.PartitionID]int64, len(ids))
	for _, id := range ids {
		if p := m.parts[id]; p != nil {
			was[id], p.stale = p.applied, true
			p.forget()
		}
	}
	if err := m.refresh(ctx, res); err != nil {
		return fmt.Errorf("commit turn: a guard did not let it pass: %w", err)
	}
	for id, applied := range was {
		if p := m.parts[id]; p != nil && p.applied == applied {
			return fmt.Errorf("commit turn: the guard of %v stands at %d as before, and did not let it pass", id, applied)
		}
	}
	return nil
}

// turn is one transaction in the making. All it changes are drafts and its own
// maps; the machine's caches change in merge alone.
type turn struct {
	m       *Machine
	out     store.Turn
	moves   map[record.PartitionID]int // index in out.Partitions
	drafts  map[wire.ConvID]*draft
	bases   map[wire.ConvID]*conv
	known   map[store.OutcomeKey]store.Outcome // before this turn
	pending map[store.OutcomeKey]store.Outcome // of this turn
	members map[memberKey]int                  // index in out.Members
	effects []Effects
	poison  []Poison
	redone  int
	replays map[string]int // judged again, by what they came to
}

type memberKey struct {
	conv   wire.ConvID
	user   wire.UserID
	joined int64
}

// item is one entry while it is judged.
type item struct {
	record.Entry
	rec    *recordpb.Record // nil: cannot be decoded, or stands in the wrong place
	err    error            // why it cannot be judged
	conv   wire.Conv
	key    store.OutcomeKey
	part   *partition
	pushed []Item // effects so far
	events int    // system messages so far
}

// build judges all entries. A poisonError names one that cannot be judged.
func (m *Machine) build(ctx context.Context, es []record.Entry, aside asides) (*turn, error) {
	t := &turn{
		m:      m,
		moves:  make(map[record.PartitionID]int),
		drafts: make(map[wire.ConvID]*draft), bases: make(map[wire.ConvID]*conv),
		known: make(map[store.OutcomeKey]store.Outcome), pending: make(map[store.OutcomeKey]store.Outcome),
		members: make(map[memberKey]int), replays: make(map[string]int),
	}
	items := make([]item, len(es))
	for i := range es {
		if i > 0 && es[i].PartitionID == es[i-1].PartitionID && planted.Now(planted.JobReordersRecords) {
			es[i].Value, es[i-1].Value = es[i-1].Value, es[i].Value
			items[i-1] = m.decode(es[i-1])
		}
		items[i] = m.decode(es[i])
	}
	if err := t.prefetch(ctx, items); err != nil {
		return nil, err
	}
	for i := range items {
		if err := t.entry(ctx, &items[i], aside); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// decode reads a record and checks that it belongs where it stands.
func (m *Machine) decode(e record.Entry) item {
	it := item{Entry: e, part: m.parts[e.PartitionID]}
	rec, err := record.Decode(e.Value)
	if it.err = err; rec == nil {
		return it
	}
	id := wire.ConvID(rec.GetConv())
	n := m.cfg.Partitions[e.Topic]
	if record.Topic(id) != e.Topic || n > 0 && record.PartitionOf(rec.GetConv(), n) != e.Number {
		it.err = fmt.Errorf("record %d stands in %v, which is not its conversation's partition", rec.GetId(), e.PartitionID)
		return it
	}
	if it.conv, err = id.Parse(); err != nil {
		it.err = fmt.Errorf("record %d: %w", rec.GetId(), err)
		return it
	}
	it.rec = rec
	it.key = store.OutcomeKey{Conv: id, From: wire.UserID(rec.GetFrom()), ClientID: rec.GetClientId()}
	return it
}

// prefetch asks once for all verdicts and heads that the turn needs and memory
// does not have.
func (t *turn) prefetch(ctx context.Context, items []item) error {
	var keys []store.OutcomeKey
	var convs []wire.ConvID
	for i := range items {
		it := &items[i]
		if it.rec == nil {
			continue
		}
		if t.needsOutcome(it) {
			keys = append(keys, it.key)
		}
		if _, ok := t.bases[it.key.Conv]; !ok {
			c, cached := it.part.convs.get(it.key.Conv)
			t.bases[it.key.Conv] = c
			if !cached {
				convs = append(convs, it.key.Conv)
			}
		}
	}
	if len(keys) == 0 && len(convs) == 0 {
		return nil
	}
	t.m.met.lookups.WithLabelValues("outcome", "store").Add(float64(len(keys)))
	t.m.met.lookups.WithLabelValues("conversation", "store").Add(float64(len(convs)))
	found, err := t.m.st.Lookup(ctx, keys, convs)
	if err != nil {
		return fmt.Errorf("read verdicts and conversations: %w", err)
	}
	maps.Copy(t.known, found.Outcomes)
	for i := range items {
		if it := &items[i]; it.rec != nil && t.bases[it.key.Conv] == nil {
			c := newConv(it.key.Conv, it.conv, found.Conversations[it.key.Conv])
			t.bases[it.key.Conv] = c
			it.part.convs.put(it.key.Conv, c, t.m.share(t.m.cfg.MaxCachedConversations))
		}
	}
	return nil
}

// share is one partition's part of a bound.
func (m *Machine) share(limit int) int { return limit / max(len(m.parts), 1) }

// entry judges one entry, redoes it, or sets it aside.
func (t *turn) entry(ctx context.Context, it *item, aside asides) error {
	if it.Offset <= it.part.applied {
		t.redone++
		return t.redo(ctx, it)
	}
	mv := t.move(it.part)
	next := max(mv.To+1, it.part.next)
	if it.Offset < next {
		return nil // twice in one turn
	}
	if it.Offset > next {
		t.m.met.stops.Inc()
		return &LogError{PartitionID: it.PartitionID, Err: ErrLogGap, Epoch: it.part.epoch, Applied: next - 1, Low: it.Offset, High: it.Offset + 1}
	}
	aside.note(it)
	mv.To = it.Offset
	if a, ok := aside[keyOf(it.Entry)]; ok {
		mv.Add.SetAside++
		t.setAside(it, a)
	} else if err := t.guarded(ctx, it, mv); err != nil {
		return err
	}
	if it.rec.GetSend() != nil && planted.Now(planted.JobForgetsEffects) {
		it.pushed = nil
	}
	t.effects = append(t.effects, Effects{At: it.PartitionID, Offset: it.Offset, Items: it.pushed})
	return nil
}

func (t *turn) move(p *partition) *store.PartitionMove {
	i, ok := t.moves[p.id]
	if !ok {
		i = len(t.out.Partitions)
		t.moves[p.id] = i
		t.out.Partitions = append(t.out.Partitions,
			store.PartitionMove{PartitionID: p.id, Epoch: p.epoch, From: p.applied, To: p.applied})
	}
	return &t.out.Partitions[i]
}

// merge makes what was committed the state in memory.
func (t *turn) merge() {
	size := int64(0)
	for i := range t.out.Partitions {
		mv := &t.out.Partitions[i]
		p := t.m.parts[mv.PartitionID]
		size += mv.To - p.applied
		p.applied, p.next = mv.To, max(mv.To+1, p.next)
		t.m.met.counted(mv.Add)
	}
	for _, d := range t.drafts {
		d.merge()
	}
	limit := t.m.share(t.m.cfg.MaxCachedOutcomes)
	for i := range t.out.Outcomes {
		o := &t.out.Outcomes[i]
		t.m.parts[o.Partition].recent.put(o, limit)
	}
	for result, n := range t.replays {
		t.m.met.replays.WithLabelValues(result).Add(float64(n))
	}
	t.m.met.turns.Inc()
	t.m.met.turnSize.Observe(float64(size))
}
