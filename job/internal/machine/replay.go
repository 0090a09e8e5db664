package machine

import (
	"slices"
	"time"

	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// A record that was set aside may be written again (starling deadletter
// replay): the same record, with the time that it had in the log. It is judged
// as of its new place and takes the place of the verdict internal that it had,
// if it had one. So it is judged once: after that another verdict stands, and a
// further replay is dropped as a repeat. docs/decisions/017 has the reasons.

// replay says whether the record is one that was set aside before.
func (it *item) replay() bool { return it.rec.GetReplayOf() > 0 }

// mayReplay says whether a replay is to be judged: if the verdict internal on
// this very record stands, less than the window after its first place in the
// log; later nobody could tell whether it was replayed before. Or if nothing
// stands: only until what may have made it a repeat in its first place, and so
// left it without a verdict, may be forgotten.
func (t *turn) mayReplay(it *item, first store.Outcome, repeated bool) bool {
	age := time.Duration(it.TS-it.rec.GetReplayOf()) * time.Millisecond
	if !repeated {
		return age < min(t.m.cfg.RepeatWindow, t.m.cfg.OutcomeRetention-t.m.cfg.RepeatWindow)
	}
	return it.takesPlaceOf(first) && age < t.m.cfg.RepeatWindow
}

func (it *item) takesPlaceOf(o store.Outcome) bool {
	return o.Code == wire.CodeInternal && o.ID == wire.MsgID(it.rec.GetId()) && o.Hash == it.rec.GetHash()
}

// replayed counts a replay that was judged, and takes back the verdict internal
// with its refusal, in the store and in this turn.
func (t *turn) replayed(it *item, code wire.Code) {
	switch code {
	case "":
		t.replays["applied"]++
	case wire.CodeInternal: // counted where it was set aside
	default:
		t.replays["refused"]++
	}
	first, ok := t.firstOf(it)
	if !ok || !it.takesPlaceOf(first) {
		return
	}
	if _, ours := t.pending[it.key]; ours {
		t.out.Outcomes = slices.DeleteFunc(t.out.Outcomes, func(o store.Outcome) bool { return o.OutcomeKey == it.key })
		t.out.Refusals = slices.DeleteFunc(t.out.Refusals, func(r store.Refusal) bool { return r.User == it.key.From && r.ID == first.ID })
	}
	if old, stands := t.known[it.key]; stands && it.takesPlaceOf(old) {
		t.out.Voided = append(t.out.Voided, old)
	}
}
