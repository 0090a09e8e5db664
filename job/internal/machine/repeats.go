package machine

import (
	"cmp"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// needsOutcome says whether the store must be asked for the first record under
// the entry's key; what memory has is taken into the turn. Why nothing else is
// asked before: docs/decisions/006.
func (t *turn) needsOutcome(it *item) bool {
	if o, ok := it.part.recent.get(it.key); ok {
		t.known[it.key] = o
		return false
	}
	return true
}

// firstOf returns the verdict that makes the entry a repeat: of the same key,
// within the window by record time; of a replay, by that of its first place.
func (t *turn) firstOf(it *item) (store.Outcome, bool) {
	o, ok := t.pending[it.key]
	if !ok {
		o, ok = t.known[it.key]
	}
	if ok && planted.Now(planted.NobodyChecksRepeats) {
		return store.Outcome{}, false
	}
	at := cmp.Or(it.rec.GetReplayOf(), it.TS)
	return o, ok && at-o.TS < t.m.cfg.RepeatWindow.Milliseconds()
}

// fresh says whether a record is to be judged; a repeat is answered and counted.
func (t *turn) fresh(it *item, add *store.Counts) bool {
	first, repeated := t.firstOf(it)
	switch {
	case it.replay() && !t.mayReplay(it, first, repeated):
		add.Repeats++
		t.replays["dropped"]++
		return false
	case repeated && !it.replay():
		t.repeat(it, first, add)
		return false
	}
	return true
}

// repeat answers a record whose key is taken.
func (t *turn) repeat(it *item, first store.Outcome, add *store.Counts) {
	if first.Hash != it.rec.GetHash() {
		add.Refused++
		t.refusal(it, wire.CodeConflict)
		return
	}
	add.Repeats++
	it.answerRepeat(first)
}

// answerRepeat tells the sender the first one's id and fate. With the same id
// (one record that stands twice in the log) nobody waits for an answer.
func (it *item) answerRepeat(first store.Outcome) {
	switch {
	case first.ID == wire.MsgID(it.rec.GetId()):
	case first.Code != "":
		it.replyRefused(first.ID, first.Code)
	case it.acked():
		it.reply(wire.OpSendAck, wire.SendAck{ClientID: it.key.ClientID, ID: first.ID, Conv: it.key.Conv, TS: first.TS})
	}
}

// decide writes the verdict on the first record under a key.
func (t *turn) decide(it *item, code wire.Code, seq, n int64) {
	o := store.Outcome{
		OutcomeKey: it.key, Partition: it.PartitionID, ID: wire.MsgID(it.rec.GetId()), Hash: it.rec.GetHash(),
		Code: code, Seq: seq, N: n, TS: it.TS, Offset: it.Offset,
	}
	if it.replay() {
		t.replayed(it, code)
	}
	if _, repeated := t.known[it.key]; repeated && planted.Now(planted.NobodyChecksRepeats) {
		return // else the store's key would find it
	}
	t.pending[it.key] = o
	t.out.Outcomes = append(t.out.Outcomes, o)
}

// acked says whether the sender has a send_ack, to be taken back by refused.
// Who commands, recalls or edits waits for the verdict instead.
func (it *item) acked() bool {
	return it.rec.GetUpdate() == nil && it.rec.GetCommand() == nil
}

// refusal keeps the refusal of a send for the sender's next sync and tells its
// connection.
func (t *turn) refusal(it *item, code wire.Code) {
	if !it.acked() {
		return
	}
	r := it.refused(wire.MsgID(it.rec.GetId()), code)
	t.out.Refusals = append(t.out.Refusals, store.Refusal{User: it.key.From, Refused: r, TS: it.TS})
	it.replyRefused(r.ID, code)
}

func (it *item) refused(id wire.MsgID, code wire.Code) wire.Refused {
	return wire.Refused{ClientID: it.key.ClientID, ID: id, Conv: it.key.Conv, Code: code}
}

func (it *item) replyRefused(id wire.MsgID, code wire.Code) {
	if it.acked() {
		it.reply(wire.OpRefused, it.refused(id, code))
	}
}

// reply speaks to the connection that sent the record, if one did.
func (it *item) reply(op wire.Op, body any) {
	if it.rec.GetOrigin().GetConn() == 0 {
		return
	}
	it.pushed = append(it.pushed, Item{
		Kind: Reply, Users: []wire.UserID{it.key.From}, Origin: it.rec.GetOrigin(), Op: op, Body: encode(body),
	})
}

// encode marshals a body of our own making.
func encode(v any) []byte {
	b, err := wire.Marshal(v)
	if err != nil {
		panic("BUG: body cannot be encoded: " + err.Error()) // judged under recover: the record is set aside
	}
	return b
}
