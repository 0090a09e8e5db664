package push

import (
	"fmt"
	"sync"
	"testing"

	"github.com/starling-im/starling/common/ledger"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
)

func (r *rig) account() map[string]ledger.Push {
	out := make(map[string]ledger.Push)
	for _, p := range r.srv.Ledger("edge e1") {
		out[p.What] = p
		if p.Difference != 0 {
			r.t.Fatalf("does not balance: %+v", p)
		}
	}
	return out
}

// The ledger balances at any moment while streams push the same frames, to who
// is here, is not, is slow or sent it, and end amid it.
func TestLedgerBalancesAllTheTime(t *testing.T) {
	r := start(t)
	own, _ := r.open("alice", "team")
	r.open("bob", "team")
	_, slow := r.open("carl", "team")
	slow.full = true
	const frames = 300
	var work sync.WaitGroup
	seen := make(chan struct{})
	for n := range 3 {
		j := r.job()
		work.Go(func() {
			for i := range int64(frames) {
				it := msg(fmt.Sprint("some text that fills a queue ", i), "alice", "bob", "carl", "nobody")
				it.ExceptConn = uint64(own.ID().Conn)
				g := &rpcpb.PushItem{Op: int32(wire.OpMsg), Body: []byte(`"x"`), Group: "team", Conv: "g:team", Seq: i + 1}
				typing := &rpcpb.PushItem{Op: int32(wire.OpTyping), Body: []byte(`"x"`), Group: "team"}
				if j.st.Send(&rpcpb.PushBatch{Frames: []*rpcpb.PushFrame{frame(1, i+1, it, g), {Items: []*rpcpb.PushItem{typing}}}}) != nil {
					return
				}
			}
			if n > 0 { // the first ends amid it
				<-seen
			}
			j.cancel()
		})
	}
	last := r.job()
	var a map[string]ledger.Push
	last.push(frame(2, 1, msg("a", "bob")))
	eventually(t, "what came is done", func() bool {
		a = r.account()
		return last.position(2) == 1 && a["frames from jobs"].Columns["repeats"] > 0
	})
	close(seen)
	work.Wait()
	for i := range int64(frames) { // whatever came of those that ended
		it := msg(fmt.Sprint("some text that fills a queue ", i), "bob", "carl", "nobody")
		typing := &rpcpb.PushItem{Op: int32(wire.OpTyping), Body: []byte(`"x"`), Group: "team"}
		last.push(frame(1, frames+i, it), &rpcpb.PushFrame{Items: []*rpcpb.PushItem{typing}})
	}
	eventually(t, "and the last", func() bool { a = r.account(); return last.position(1) == 2*frames-1 })
	f, users, pushes := a["frames from jobs"].Columns, a["users named by frames"].Columns, a["pushes to sessions"].Columns
	if f["applied"] == 0 || users["here"] == 0 || users["not here"] == 0 {
		t.Errorf("frames %v, users %v", f, users)
	}
	for _, c := range []string{"queued", "told lagged", "left out (ephemeral)", "sent by it"} {
		if pushes[c] == 0 {
			t.Errorf("nothing was %s: %v", c, pushes)
		}
	}
}

// What is done with a frame or a session and not counted shows.
func TestLedgerFindsWhatIsMissing(t *testing.T) {
	r := start(t)
	r.srv.account.took(5)
	r.srv.account.did(5, &done{applied: 3, repeats: 1, users: 3, here: 1, away: 1, sessions: 4, own: 1})
	want := map[string]int64{"frames from jobs": 1, "users named by frames": 1, "pushes to sessions": 3}
	for _, p := range r.srv.Ledger("edge e1") {
		if p.Difference != want[p.What] {
			t.Errorf("%+v", p)
		}
	}
}
