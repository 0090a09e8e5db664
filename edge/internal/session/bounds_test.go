package session

import (
	"fmt"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/ws"
)

// opened returns a world whose session is open, with nothing to be read.
func opened(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.s.Upgraded(&ws.Upgrade{Token: "x", Device: "web"})
	if !w.s.Identify(Identity{User: "bob", Device: "web", Conn: 7}, w.now+600_000) || !w.s.Open(wire.AuthOK{}) {
		t.Fatal("the session does not open")
	}
	w.buf.Reset()
	return w
}

// A batch may bring more than the queue takes: a client that reads is not slow.
func TestBurstBeyondTheQueueIsNotLagged(t *testing.T) {
	w := opened(t)
	body := []byte(`"` + strings.Repeat("x", 400) + `"`)
	for i := range int64(50) { // 20 KB, and the queue takes 1,000 bytes
		if r := w.s.Push(&Shared{Op: wire.OpMsg, Conv: "p:a:b", Seq: i + 1, Body: body}); r != Queued {
			t.Fatalf("push %d is %v though the socket takes all", i+1, r)
		}
	}
	w.s.Flush()
	w.out.Reset()
	w.frames()
	if got := strings.Count(w.out.String(), `"op":"msg"`); got != 50 {
		t.Errorf("%d of 50 arrive", got)
	}
}

// explosive is a logic with a bug.
type explosive struct{ *world }

func (explosive) Ask(wire.ConnID, wire.Frame) (bool, *wire.Error) {
	panic("a bug")
}
func (explosive) Pin() Peer { panic("a bug") }

// A panic while a frame is handled must leave the session's mutex free: the
// loop, pushes and the deadlines all come by there.
func TestPanicInAHandlerLeavesTheMutexFree(t *testing.T) {
	w := opened(t)
	w.s.env.Hub = explosive{w}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the bug is not there")
			}
		}()
		w.s.Message(true, []byte(`{"op":"send","seq":1,"body":{"client_id":"c"}}`))
	}()
	w.s.Flush()
	w.s.Tick(w.now)
	w.s.Gone()
	if got := w.s.Reason(); got != Disconnected {
		t.Errorf("ended as %v", got)
	}
}

// What waits for logic is remembered by its client_id, not by its body.
func TestInFlightKeepsNoBodies(t *testing.T) {
	w := opened(t)
	w.s.env.Limits.QueueBytes = 1 << 20
	for i := range wire.MaxInFlight {
		w.s.Message(true, fmt.Appendf(nil, `{"op":"send","seq":%d,"body":{"client_id":"c%d","content":"%s"}}`, i, i, strings.Repeat("x", 1000)))
	}
	for i, r := range w.s.inflight {
		if want := fmt.Sprintf("c%d", i); r.clientID != want {
			t.Fatalf("request %d has client_id %q, want %q", i, r.clientID, want)
		}
	}
	w.s.PeerBroken(w)
	for i := range wire.MaxInFlight {
		if !strings.Contains(w.buf.String(), fmt.Sprintf(`"retry_after_ms":500,"client_id":"c%d"}`, i)) {
			t.Errorf("c%d is not told unavailable", i)
		}
	}
}

// Two bytes of pong cost far more than two bytes: a client that pings and does
// not read is too slow long before it has the queue's bytes of them.
func TestPongsThatNobodyReads(t *testing.T) {
	w := opened(t)
	w.room = 0
	w.s.Flush()
	limit := answersFactor * w.s.env.Limits.QueueBytes
	for range limit {
		w.s.Ping(nil)
	}
	if got := len(w.s.queue); got > limit/answerCost+1 {
		t.Errorf("%d pongs wait, at most %d are paid for", got, limit/answerCost+1)
	}
	w.s.Tick(w.now)
	if got := w.s.Reason(); got != TooSlow {
		t.Errorf("it ended as %v, want too slow", got)
	}
}

// An answer frees its slot whatever seq the client gives, and no other's.
func TestSlotsAreFreed(t *testing.T) {
	w := opened(t)
	for range 3 * wire.MaxInFlight { // always the same seq
		w.s.Message(true, []byte(`{"op":"send","seq":5,"body":{"client_id":"c"}}`))
		w.s.Message(true, []byte(`{"op":"sync","seq":5,"body":{}}`))
		if len(w.s.inflight) != 2 {
			t.Fatalf("%d in flight, want 2", len(w.s.inflight))
		}
		// Said by itself, answers nothing.
		w.s.Down(&rpcpb.Down{Op: int32(wire.OpRefused), Body: []byte("{}")})
		w.s.Down(&rpcpb.Down{Op: int32(wire.OpError), Seq: 5, Answers: int32(wire.OpSync), Body: []byte("{}")})
		if len(w.s.inflight) != 1 || w.s.inflight[0].op != wire.OpSend {
			t.Fatalf("in flight %+v, want the send", w.s.inflight)
		}
		w.s.Down(&rpcpb.Down{Op: int32(wire.OpSendAck), Seq: 5, Answers: int32(wire.OpSend), Body: []byte("{}")})
		w.s.Flush()
	}
	if len(w.s.inflight) != 0 {
		t.Errorf("%d slots are not freed", len(w.s.inflight))
	}
}

// After a stream broke under a send, what was on it is failed first; then the
// frame goes to the next logic.
func TestFramesOfABrokenStreamAreFailedBeforeTheNextGoes(t *testing.T) {
	w := opened(t)
	w.s.Message(true, []byte(`{"op":"send","seq":1,"body":{"client_id":"c1"}}`))
	w.broken = true // the next Send says so, the one after goes to another logic
	w.s.Message(true, []byte(`{"op":"send","seq":2,"body":{"client_id":"c2"}}`))
	w.s.Flush()
	if got := w.buf.String(); strings.Count(got, "unavailable") != 1 || !strings.Contains(got, `"client_id":"c1"`) {
		t.Errorf("told %s, want c1 to be unavailable", got)
	}
	if !strings.Contains(w.out.String(), "up send 2") || len(w.s.inflight) != 1 || w.s.inflight[0].clientID != "c2" {
		t.Errorf("in flight %+v after\n%s", w.s.inflight, w.out.String())
	}
}

// Answers are queued in batches, too: two large pages in one are no sign of a
// slow client.
func TestLargeAnswersInOneBatch(t *testing.T) {
	w := opened(t)
	page := []byte(`{"x":"` + strings.Repeat("y", 3000) + `"}`)
	for seq := range int32(10) {
		if !w.s.Down(&rpcpb.Down{Op: int32(wire.OpSyncOK), Seq: seq + 1, Answers: int32(wire.OpSync), Body: page}) {
			t.Fatal("the session has ended")
		}
	}
	w.s.Flush()
	w.s.Tick(w.now)
	if got := w.s.Reason(); got != None {
		t.Fatalf("ended as %v", got)
	}
	if got := strings.Count(w.buf.String(), `"op":"sync_ok"`); got != 10 {
		t.Errorf("%d of 10 pages arrive", got)
	}
}
