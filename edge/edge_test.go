package edge

import (
	"testing"

	"github.com/starling-im/starling/common/wire"
)

func TestSendIsAnsweredAndPushArrives(t *testing.T) {
	r := startRig(t, nil)
	bob := r.login("bob", "web")
	seq := bob.write(wire.OpSend, wire.Send{To: "alice", ClientID: "c1", Type: wire.TypeText, Content: "hi"})
	var ack wire.SendAck
	if f := bob.expect(wire.OpSendAck, &ack); f.Seq != seq || ack.ClientID != "c1" {
		t.Fatalf("send_ack %+v with seq %d, want c1 with %d", ack, f.Seq, seq)
	}
	j := r.job()
	j.push(at(7, msg(1, "hello", "", "bob", "nobody")))
	var m wire.Msg
	bob.expect(wire.OpMsg, &m)
	if m.Content != "hello" || m.Seq != 1 {
		t.Fatalf("got %+v", m)
	}
	eventually(t, "the position is told", func() bool { return j.position(1) == 7 })
	if got := j.away(); len(got) != 1 || got[0] != "nobody" {
		t.Fatalf("not here: %v, want nobody", got)
	}
}
