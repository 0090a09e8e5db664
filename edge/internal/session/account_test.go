package session

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/ledger"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/ws"
)

func (w *world) account() ledger.Push { return w.s.env.Metrics.Ledger("edge e") }

// However a session goes and ends, each frame that was queued is written, cut off
// or waits.
func TestLedgerOfQueues(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := opened(t)
		body := []byte(`"` + strings.Repeat("x", 100) + `"`)
		check := func(what string) {
			t.Helper()
			w.s.Tick(w.now)
			if a := w.account(); a.Difference != 0 || a.Columns["waiting"] != int64(len(w.s.queue)) {
				t.Fatalf("seed %d, after %s: %d in the queue, %+v", seed, what, len(w.s.queue), a)
			}
		}
		for i := range int64(40) {
			switch rng.IntN(4) {
			case 0:
				w.room = rng.IntN(600) - 1
				w.s.Writable()
			case 1:
				w.s.Flush()
			default:
				w.s.Push(&Shared{Op: wire.OpMsg, Conv: wire.ConvID(fmt.Sprint("g:", i%3)), Seq: i, Body: body})
			}
			check("a step")
		}
		end := map[int]func(){
			0: func() { w.s.Close(TooSlow) }, 1: func() { w.s.Close(Drained) }, 2: func() { w.s.Kick("x", Replaced) }, 3: w.s.Gone,
		}
		end[rng.IntN(4)]()
		check("the end")
		w.s.Gone()
		check("the socket is gone")
		if a := w.account(); a.Columns["waiting"] != 0 || a.Taken == 0 {
			t.Fatalf("seed %d: %+v", seed, a)
		}
	}
}

// A frame that leaves the queue without a reason is found, at the next look or
// when the connection ends.
func TestLedgerFindsWhatIsMissing(t *testing.T) {
	for name, look := range map[string]func(w *world){
		"tick": func(w *world) { w.s.Tick(w.now) }, "end": func(w *world) { w.s.Gone() },
	} {
		w := opened(t)
		w.room = 0
		for i := range int64(3) {
			w.s.Push(&Shared{Op: wire.OpMsg, Conv: "p:a:b", Seq: i + 1, Body: []byte(`"x"`)})
		}
		w.s.queue = w.s.queue[:1]
		look(w)
		if a := w.account(); a.Difference != 2 {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// deadSocket is one whose connection broke.
type deadSocket struct{ *world }

func (deadSocket) Write([]byte) (int, error) { return 0, ErrGone }

// Once the socket is gone nobody is here, though the session has yet to be closed,
// and nothing is put into a queue that nobody empties.
func TestNothingIsQueuedToAGoneSocket(t *testing.T) {
	w := opened(t)
	f := &Shared{Op: wire.OpMsg, Conv: "p:a:b", Seq: 1, Body: []byte(`"x"`)}
	w.s.sock = deadSocket{w}
	if r := w.s.Push(f); r != Queued {
		t.Fatalf("the push that finds out is %v", r)
	}
	w.s.Flush()
	if r := w.s.Push(f); r != NotHere || w.s.State() != Open {
		t.Errorf("a push is %v in state %v", r, w.s.State())
	}
	w.s.Answer(wire.Frame{Op: wire.OpPong})
	if a := w.account(); a.Columns["waiting"] != 0 || a.Difference != 0 || len(w.s.queue) != 0 {
		t.Errorf("%d in the queue, %+v", len(w.s.queue), a)
	}
}

// What is counted costs no memory of its own.
func TestLedgerAllocatesNothing(t *testing.T) {
	w := newWorld(t)
	w.s.Upgraded(&ws.Upgrade{})
	if n := testing.AllocsPerRun(100, func() { w.s.writtenLocked(1); w.s.cutLocked(-1); w.s.auditLocked() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
