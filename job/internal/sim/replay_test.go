package sim

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// letter is a record that no job can judge where it stands, and whose it is.
type letter struct {
	record.Entry
	s *send
}

// poison writes a record once, or twice, as a newer binary would.
func (w *world) poison(r *recordpb.Record, s *send) {
	newer := proto.CloneOf(r)
	newer.Version, newer.Limits = record.Version+1, w.limits
	b, err := proto.Marshal(newer)
	if err != nil {
		w.fail("encode: %w", err)
		return
	}
	for n := 1 + w.rng.IntN(2); n > 0; n-- {
		w.letters = append(w.letters, letter{w.append(w.place(r), b), s})
		w.junk++
	}
}

// replay writes a record that was set aside again, as the operator does who has
// it fixed; or as one who has not.
func (w *world) replay() {
	if len(w.letters) == 0 {
		return
	}
	l := pick(w, w.letters)
	if st, err := w.st.State(context.Background(), l.PartitionID); err != nil || st.Applied < l.Offset {
		return // nobody knows of it yet
	}
	d := record.DeadLetter{Topic: l.Topic, Partition: l.Number, Offset: l.Offset, TS: l.TS, Value: l.Value}
	r := new(recordpb.Record)
	if err := proto.Unmarshal(l.Value, r); err != nil {
		w.fail("read a letter: %w", err)
		return
	}
	if w.chance(20) {
		r.ReplayOf = l.TS
		b, err := proto.Marshal(r)
		if err != nil {
			w.fail("encode: %w", err)
		}
		w.append(l.PartitionID, b)
		w.junk++
		return
	}
	r.Version = record.Version
	fixed, err := proto.Marshal(r)
	if err != nil {
		w.fail("encode: %w", err)
	}
	d.Value = fixed
	b, err := d.Replay()
	if err != nil {
		w.fail("replay: %w", err)
		return
	}
	l.s.again++
	e := w.append(l.PartitionID, b)
	w.tell("%v@%d is a replay of %d: %s of %s", e.PartitionID, e.Offset, l.Offset, l.s.clientID, l.s.from)
}

// checkReplays: of what was replayed no verdict internal is left.
func (w *world) checkReplays() {
	for _, s := range w.sends {
		o, err := w.st.Outcome(context.Background(), store.OutcomeKey{Conv: s.conv, From: s.from, ClientID: s.clientID})
		if s.again == 0 || err == nil && o.Code != wire.CodeInternal {
			continue
		}
		w.fail("%s of %s to %s was replayed %d times, and its verdict is %q (%v)", s.clientID, s.from, s.conv, s.again, o.Code, err)
	}
}
