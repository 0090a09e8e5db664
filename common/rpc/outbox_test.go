package rpc

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/rpc/rpcpb"
)

func big() *Outbox { return NewOutbox(OutboxConfig{MaxFrames: 1000, MaxBytes: 1 << 20}) }

func frame(p record.PartitionID, offset int64) *rpcpb.PushFrame {
	return &rpcpb.PushFrame{
		At:    position(p, offset),
		Items: []*rpcpb.PushItem{{Body: fmt.Appendf(nil, "%d@%d", offset, p.Number)}},
	}
}

func at(p record.PartitionID, offset int64) []*rpcpb.Position {
	return []*rpcpb.Position{position(p, offset)}
}

// show writes frames as "0:5" (partition and offset), with ! for lost, = for a
// position alone and e for a frame without position.
func show(frames []*rpcpb.PushFrame) string {
	var out []string
	for _, f := range frames {
		switch {
		case f.GetAt() == nil:
			out = append(out, "e")
		case f.GetLost():
			out = append(out, fmt.Sprintf("%d:%d!", f.GetAt().GetPartition(), f.GetAt().GetOffset()))
		case len(f.GetItems()) == 0:
			out = append(out, fmt.Sprintf("%d:%d=", f.GetAt().GetPartition(), f.GetAt().GetOffset()))
		default:
			out = append(out, fmt.Sprintf("%d:%d", f.GetAt().GetPartition(), f.GetAt().GetOffset()))
		}
	}
	return strings.Join(out, " ")
}

// all takes everything that is to be sent now.
func all(o *Outbox) []*rpcpb.PushFrame {
	var fs []*rpcpb.PushFrame
	for b := o.Next(MaxBatchFrames); b != nil; b = o.Next(MaxBatchFrames) {
		fs = append(fs, b.GetFrames()...)
	}
	return fs
}

func wantSent(t *testing.T, o *Outbox, want string) {
	t.Helper()
	if got := show(all(o)); got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func wantUnconfirmed(t *testing.T, o *Outbox, p record.PartitionID, want int64) {
	t.Helper()
	got, ok := o.Unconfirmed(p)
	if !ok {
		got = -1
	}
	if got != want {
		t.Errorf("unconfirmed %d, want %d (-1: none)", got, want)
	}
}

func TestOutboxHoldsUntilAStreamStands(t *testing.T) {
	o := big()
	o.Claim(pA, 9)
	o.Claim(pB, -1)
	o.Push(frame(pA, 10))
	o.Push(frame(pB, 0))
	o.Push(frame(pA, 11))
	if o.Push(&rpcpb.PushFrame{}) {
		t.Error("a frame without position was kept while no stream stands")
	}
	wantSent(t, o, "")
	wantUnconfirmed(t, o, pA, 10)
	o.Resume(nil) // an edge without positions may have missed what was before
	wantSent(t, o, "0:9! 0:10 1:0 0:11")
	wantSent(t, o, "")
	o.Push(&rpcpb.PushFrame{})
	o.Push(frame(pB, 1))
	wantSent(t, o, "e 1:1")
	wantUnconfirmed(t, o, pB, 0)
	o.Confirm([]*rpcpb.Position{position(pA, 11), position(pB, 0)})
	wantUnconfirmed(t, o, pA, -1)
	wantUnconfirmed(t, o, pB, 1)
	if st := o.Stats(); st.Frames != 1 || st.Pushed != 4 || st.Confirmed != 3 || st.EphemeralDropped != 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestOutboxResumesAfterTheEdgesPositions(t *testing.T) {
	o := big()
	o.Claim(pA, -1)
	o.Resume(nil)
	for i := range int64(5) {
		o.Push(frame(pA, i))
	}
	o.Next(3) // 0 1 2 leave, the stream is cut
	o.Down()
	wantSent(t, o, "")
	o.Push(frame(pA, 5))
	o.Resume(at(pA, 1)) // 0 and 1 arrived, 2 did not
	wantSent(t, o, "0:2 0:3 0:4 0:5")
	o.Resume(at(pA, 5)) // all arrived, the confirmation did not
	wantSent(t, o, "")
	wantUnconfirmed(t, o, pA, -1)
}

func TestOutboxTellsLostBelowTheFloor(t *testing.T) {
	o := big()
	o.Claim(pA, 19)
	o.Push(frame(pA, 20))
	o.Resume(at(pA, 12)) // 13–19 were never here: of a former owner
	wantSent(t, o, "0:19! 0:20")
	o.Resume(at(pA, 19))
	wantSent(t, o, "0:20")
	// One without a position may have had sessions before this job knew of it.
	o.Resume(nil)
	wantSent(t, o, "0:19! 0:20")
}

func TestOutboxOverflowLosesThePartitionAlone(t *testing.T) {
	o := NewOutbox(OutboxConfig{MaxFrames: 4, MaxBytes: 1 << 20})
	o.Claim(pA, -1)
	o.Claim(pB, -1)
	o.Resume(nil)
	o.Push(frame(pB, 0))
	for i := range int64(3) {
		if !o.Push(frame(pA, i)) {
			t.Fatalf("frame %d was not taken", i)
		}
	}
	if o.Push(frame(pA, 3)) {
		t.Error("a frame beyond the bound was taken")
	}
	o.Push(frame(pA, 4))
	wantSent(t, o, "1:0 0:3! 0:4")
	wantUnconfirmed(t, o, pA, 4) // what was lost holds no commit
	if st := o.Stats(); st.Lost != 4 || st.LostTold != 1 || st.Frames != 2 {
		t.Errorf("stats %+v", st)
	}
	// The stream is cut before the edge hears of it: it is told again.
	o.Resume(at(pB, 0))
	wantSent(t, o, "0:3! 0:4")
	o.Confirm(at(pA, 4))
	o.Resume([]*rpcpb.Position{position(pA, 4), position(pB, 0)})
	wantSent(t, o, "")
}

func TestOutboxOverflowWhileDown(t *testing.T) {
	o := NewOutbox(OutboxConfig{MaxFrames: 2, MaxBytes: 1 << 20})
	o.Claim(pA, 4)
	for i := range int64(4) {
		o.Push(frame(pA, 5+i)) // 5, 6 held; 7 overflows; 8 held
	}
	o.Resume(nil) // also without a position: frames meant for it are gone
	wantSent(t, o, "0:7! 0:8")
}

func TestOutboxOverflowTwiceTellsOnce(t *testing.T) {
	o := NewOutbox(OutboxConfig{MaxFrames: 2, MaxBytes: 1 << 20})
	o.Claim(pA, -1)
	o.Resume(nil)
	for i := range int64(100) {
		o.Push(frame(pA, i))
	}
	// 0 1 (2) 3 4 (5) … 96 97 (98) 99: the queue is not sent, its dead must not pile up.
	if len(o.queue) > 10 {
		t.Errorf("%d elements in the queue of a box of 2", len(o.queue))
	}
	wantSent(t, o, "0:98! 0:99")
}

func TestOutboxBytes(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 100<<10)
	fat := func(offset int64) *rpcpb.PushFrame {
		return &rpcpb.PushFrame{At: position(pA, offset), Items: []*rpcpb.PushItem{{Body: body}}}
	}
	o := big()
	o.Claim(pA, -1)
	o.Resume(nil)
	for i := range int64(5) {
		o.Push(fat(i))
	}
	var sizes []int
	for b := o.Next(MaxBatchFrames); b != nil; b = o.Next(MaxBatchFrames) {
		sizes = append(sizes, len(b.GetFrames()))
	}
	if !slices.Equal(sizes, []int{2, 2, 1}) {
		t.Errorf("batches of %v frames, want two of 100 KiB in each 256 KiB", sizes)
	}
	for i := range int64(6) {
		o.Push(fat(5 + i))
	}
	if st := o.Stats(); st.Bytes > 1<<20 || st.Lost == 0 {
		t.Errorf("stats %+v: a box of 1 MiB took 1.1", st)
	}
	if b := o.Next(MaxBatchFrames); len(b.GetFrames()) != 1 || !b.GetFrames()[0].GetLost() {
		t.Errorf("sent %v, want lost", b)
	}
}

func TestOutboxNextMax(t *testing.T) {
	o := NewOutbox(OutboxConfig{MaxFrames: 5000, MaxBytes: 1 << 30})
	o.Claim(pA, -1)
	o.Resume(nil)
	for i := range int64(1000) {
		o.Push(frame(pA, i))
	}
	for _, c := range []struct{ max, want int }{{3, 3}, {MaxBatchFrames, 512}, {10000, 485}} {
		if got := len(o.Next(c.max).GetFrames()); got != c.want {
			t.Errorf("Next(%d) gave %d frames, want %d", c.max, got, c.want)
		}
	}
	if b := o.Next(10); b != nil {
		t.Errorf("nothing left, got %v", b)
	}
}

func TestOutboxBeat(t *testing.T) {
	o := big()
	o.Claim(pA, 3)
	o.Advance(pA, 5)
	if o.Beat() {
		t.Error("something to send without a stream")
	}
	o.Resume(at(pA, 3))
	wantUnconfirmed(t, o, pA, 4)
	for range 2 { // the second finds one waiting
		if !o.Beat() {
			t.Error("nothing to send though the position moved")
		}
	}
	wantSent(t, o, "0:5=")
	if o.Beat() {
		t.Error("the position was sent already")
	}
	o.Push(frame(pA, 7))
	o.Advance(pA, 8)
	o.Beat()
	o.Push(frame(pA, 9))
	o.Beat() // one is waiting
	wantSent(t, o, "0:7 0:8= 0:9")
	o.Advance(pA, 4) // never back
	wantUnconfirmed(t, o, pA, 4)
	o.Confirm(at(pA, 9))
	wantUnconfirmed(t, o, pA, -1)
}

// A position that waits in the queue must not pass what was dropped after it
// was queued.
func TestOutboxBeatNeverPassesALoss(t *testing.T) {
	o := NewOutbox(OutboxConfig{MaxFrames: 1, MaxBytes: 1 << 20})
	o.Claim(pA, -1)
	o.Resume(at(pA, -1))
	o.Push(frame(pA, 0))
	o.Advance(pA, 1)
	o.Beat()
	o.Push(frame(pA, 2)) // overflow: 0–2 are lost
	wantSent(t, o, "0:2!")
}

func TestOutboxClaimOnAStandingStream(t *testing.T) {
	o := big()
	o.Resume([]*rpcpb.Position{position(pA, 50)})
	if o.Claim(pA, 40) {
		t.Error("the edge is known to stand above: no new hello is needed")
	}
	for i := int64(41); i < 53; i++ {
		o.Push(frame(pA, i)) // up to 50 the edge has from the former owner
	}
	wantSent(t, o, "0:51 0:52")
	wantUnconfirmed(t, o, pA, 51)

	if !o.Claim(pB, 9) {
		t.Error("nobody knows where the edge stands: a new hello is needed")
	}
	o.Push(frame(pB, 10))
	o.Advance(pB, 11)
	o.Beat()
	wantSent(t, o, "") // a frame now would hide what the edge missed below
	o.Confirm(at(pB, 7))
	wantSent(t, o, "")
	wantUnconfirmed(t, o, pB, 10)
	o.Resume([]*rpcpb.Position{position(pA, 52), position(pB, 7)})
	wantSent(t, o, "1:9! 1:10")
	o.Beat()
	wantSent(t, o, "1:11=")
}

func TestOutboxRelease(t *testing.T) {
	o := big()
	o.Claim(pA, -1)
	o.Claim(pB, -1)
	o.Resume(nil)
	o.Push(frame(pA, 0))
	o.Push(frame(pB, 0))
	o.Push(&rpcpb.PushFrame{})
	o.Advance(pA, 3)
	o.Beat()
	o.Release(pA)
	if o.Push(frame(pA, 4)) {
		t.Error("a frame of a released partition was taken")
	}
	wantSent(t, o, "1:0 e")
	wantUnconfirmed(t, o, pA, -1)
	if st := o.Stats(); st.Frames != 1 {
		t.Errorf("stats %+v", st)
	}
	o.Confirm(at(pA, 1))
	o.Resume(nil)
	wantSent(t, o, "1:0")
}

func TestOutboxPushOutOfTurn(t *testing.T) {
	o := big()
	if o.Push(frame(pA, 0)) {
		t.Error("a frame of a partition that was not claimed was taken")
	}
	o.Claim(pA, 4)
	o.Resume(nil)
	o.Push(frame(pA, 6))
	for _, again := range []int64{3, 4, 5, 6} {
		if o.Push(frame(pA, again)) {
			t.Errorf("offset %d after 6 was taken", again)
		}
	}
	wantSent(t, o, "0:4! 0:6")
}

func TestOutboxDropsEphemeralWhenTheStreamEnds(t *testing.T) {
	o := NewOutbox(OutboxConfig{MaxFrames: 2, MaxBytes: 1 << 20})
	o.Resume(nil)
	o.Push(&rpcpb.PushFrame{})
	o.Push(&rpcpb.PushFrame{})
	if o.Push(&rpcpb.PushFrame{}) {
		t.Error("a full box took an ephemeral frame")
	}
	o.Down()
	o.Resume(nil)
	wantSent(t, o, "")
	if st := o.Stats(); st.EphemeralDropped != 3 || st.Frames != 0 || st.Bytes != 0 {
		t.Errorf("stats %+v", st)
	}
}
