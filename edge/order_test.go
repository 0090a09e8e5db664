package edge

import (
	"fmt"
	"testing"

	"github.com/starling-im/starling/common/wire"
)

// Streams to logic break again and again under a connection that sends without
// pause: every send is answered exactly once, by its ack or by unavailable, and
// none that came later is at logic before one that came earlier.
func TestBrokenStreamsKeepOrderAndAnswerEverything(t *testing.T) {
	r := startRig(t, nil)
	bob := r.login("bob", "web")
	const n = 3000
	slots := make(chan struct{}, wire.MaxInFlight/2)
	answers, done := map[int32]wire.Op{}, make(chan error, 1)
	go func() {
		for len(answers) < n {
			f, err := bob.read()
			if err != nil {
				done <- err
				return
			}
			if was, twice := answers[f.Seq]; twice {
				done <- fmt.Errorf("seq %d is answered by %v and %v", f.Seq, was, f.Op)
				return
			}
			answers[f.Seq] = f.Op
			<-slots
		}
		done <- nil
	}()
	for i := range n {
		slots <- struct{}{}
		if i%500 == 250 {
			r.logic.set(func() { r.logic.kill() })
		}
		bob.write(wire.OpSend, wire.Send{To: "a", ClientID: fmt.Sprintf("c%d", i), Type: wire.TypeText, Content: "x"})
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	acks, failures := 0, 0
	for seq, op := range answers {
		switch op {
		case wire.OpSendAck:
			acks++
		case wire.OpError:
			failures++
		default:
			t.Errorf("seq %d is answered by %v", seq, op)
		}
	}
	if acks == 0 || failures == 0 {
		t.Errorf("%d acks and %d failures: the test shows nothing", acks, failures)
	}
	last := int32(0)
	for _, u := range r.logic.seen() {
		if u.GetSeq() <= last {
			t.Fatalf("logic got seq %d after %d", u.GetSeq(), last)
		}
		last = u.GetSeq()
	}
	// No slot is lost: a whole window fits at once.
	eventually(t, "a stream stands", func() bool { return r.edge.Ready() == nil })
	r.logic.set(func() { r.logic.mute = true })
	for i := range wire.MaxInFlight {
		bob.write(wire.OpSend, wire.Send{To: "a", ClientID: fmt.Sprintf("d%d", i), Type: wire.TypeText, Content: "x"})
	}
	bob.ping()
}
