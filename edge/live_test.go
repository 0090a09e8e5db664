package edge

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
)

// ok waits for the answer to a request.
func (c *client) ok(op wire.Op, body any) {
	c.t.Helper()
	seq := c.write(op, body)
	if f := c.expect(wire.OpOK, nil); f.Seq != seq {
		c.t.Fatalf("ok has seq %d, want %d", f.Seq, seq)
	}
}

func TestRooms(t *testing.T) {
	r := startRig(t, nil)
	a, b := r.login("alice", "web"), r.login("bob", "web")
	j := r.job()
	a.write(wire.OpRoomSend, wire.RoomSend{Room: "live", Type: wire.TypeText, Content: "x"})
	a.expectError(wire.CodeNotMember)
	a.ok(wire.OpJoin, wire.Room{Room: "live"})
	b.ok(wire.OpJoin, wire.Room{Room: "live"})
	got, err := r.reg.Lookup(r.ctx, nil, []wire.GroupID{"r:live"})
	if err != nil || len(got.Groups["r:live"]) != 1 {
		t.Fatalf("after the ok the index has %v: %v", got.Groups, err)
	}
	seq := a.write(wire.OpRoomSend, wire.RoomSend{Room: "live", Type: wire.TypeText, Content: "x"})
	eventually(t, "what a member of the room says goes to logic", func() bool {
		ups := r.logic.seen()
		return len(ups) == 1 && wire.Op(ups[0].GetOp()) == wire.OpRoomSend && ups[0].GetSeq() == seq
	})
	said := &rpcpb.PushFrame{Items: []*rpcpb.PushItem{{Group: "r:live", Op: int32(wire.OpRoomMsg), Body: []byte(`{"room":"live"}`)}}}
	j.push(said)
	a.expect(wire.OpRoomMsg, nil)
	b.expect(wire.OpRoomMsg, nil)
	a.ok(wire.OpLeave, wire.Room{Room: "live"})
	j.push(said)
	b.expect(wire.OpRoomMsg, nil)
	a.ping() // nothing came before its pong
	_ = b.ws.CloseNow()
	eventually(t, "an empty room is not in the index", func() bool {
		got, err := r.reg.Lookup(r.ctx, nil, []wire.GroupID{"r:live"})
		return err == nil && len(got.Groups["r:live"]) == 0
	})
	for _, bad := range []struct {
		op   wire.Op
		body any
		code wire.Code
	}{
		{wire.OpJoin, wire.Room{Room: "a:b"}, wire.CodeBadRequest},
		{wire.OpLeave, []int{1}, wire.CodeBadRequest},
		{wire.OpRoomSend, struct{}{}, wire.CodeBadRequest},
		{wire.OpPresenceSub, wire.Users{}, wire.CodeBadRequest},
		{wire.OpPresenceSub, wire.Users{Users: make([]wire.UserID, 201)}, wire.CodeTooLarge},
		{wire.OpPresenceUnsub, wire.Users{Users: []wire.UserID{"a b"}}, wire.CodeBadRequest},
	} {
		a.write(bad.op, bad.body)
		a.expectError(bad.code)
	}
}

func TestPresenceIsWatched(t *testing.T) {
	r := startRig(t, nil)
	a := r.login("alice", "web")
	watch := func(want wire.Presence) {
		t.Helper()
		var got wire.Presence
		a.expect(wire.OpPresence, &got)
		if got.User != want.User || got.Online != want.Online || (got.LastSeen != 0) != (want.LastSeen != 0) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	a.write(wire.OpPresenceSub, wire.Users{Users: []wire.UserID{"bob", "alice"}})
	watch(wire.Presence{User: "bob"})
	watch(wire.Presence{User: "alice", Online: true})
	b := r.login("bob", "web")
	watch(wire.Presence{User: "bob", Online: true})
	_ = b.ws.CloseNow()
	watch(wire.Presence{User: "bob", LastSeen: 1})
	a.ok(wire.OpPresenceUnsub, wire.Users{Users: []wire.UserID{"bob"}})
}

func TestDecisionsEndSessions(t *testing.T) {
	r := startRig(t, nil)
	end := func(c *client, reason string) {
		t.Helper()
		var k wire.Kick
		c.expect(wire.OpKick, &k)
		if k.Reason != reason {
			t.Errorf("reason %q, want %q", k.Reason, reason)
		}
		c.expectClose(wire.CloseBanned)
	}
	eve, old, other := r.login("eve", "web"), r.login("bob", "web"), r.login("bob", "ios")
	good := r.login("alice", "web")
	r.logic.decide(control.Entry{Kind: control.Ban, User: "eve"})
	end(eve, "banned")
	again := r.dial(nil)
	again.write(wire.OpAuth, wire.Auth{Token: r.token("eve", "web")})
	again.expectError(wire.CodeBanned)
	again.expectClose(wire.CloseBanned)

	stolen := r.token("bob", "web")
	r.logic.decide(control.Entry{Kind: control.Revoke, User: "bob", Device: "web"})
	end(old, "revoked")
	other.ping()
	thief := r.dial(nil)
	thief.write(wire.OpAuth, wire.Auth{Token: stolen})
	thief.expectError(wire.CodeUnauthenticated)
	thief.expectClose(wire.CloseUnauthenticated)
	time.Sleep(2 * time.Millisecond) // the next token is of another millisecond
	fresh := r.login("bob", "web")

	r.logic.decide(control.Entry{Kind: control.Kick, User: "bob", Conn: wire.ConnID(other.conn)})
	end(other, "admin")
	fresh.ping()
	r.logic.decide(control.Entry{Kind: control.Kick, User: "bob"})
	end(fresh, "admin")
	r.login("bob", "web").ping() // may come back
	r.logic.decide(control.Entry{Kind: control.Unban, User: "eve"})
	eventually(t, "eve may come back", func() bool {
		c := r.dial(nil)
		c.write(wire.OpAuth, wire.Auth{Token: r.token("eve", "web")})
		f, err := c.read()
		return err == nil && f.Op == wire.OpAuthOK
	})
	good.ping()
}

// What was decided while an edge heard nothing counts when it hears again.
func TestDecisionsMissed(t *testing.T) {
	r := startRig(t, nil)
	eve := r.login("eve", "web")
	r.logic.set(func() { // unheard: nobody is woken
		r.logic.control = append(r.logic.control, control.Entry{Version: 1, Kind: control.Ban, User: "eve"})
	})
	eve.ping()
	r.logic.cut()
	eve.expect(wire.OpKick, nil)
	eve.expectClose(wire.CloseBanned)
}

// Of what was decided long ago, and is over, nobody is ended when the edge is
// told all of it again.
func TestDecisionsThatAreOver(t *testing.T) {
	r := startRig(t, nil)
	hour := time.Hour.Milliseconds()
	r.logic.set(func() {
		past := time.Now().UnixMilli() - 2*hour
		r.logic.control = []control.Entry{
			{Version: 1, Kind: control.Ban, User: "eve", At: past, Until: past + hour},
			{Version: 2, Kind: control.Ban, User: "bob", At: past},
			{Version: 3, Kind: control.Unban, User: "bob", At: past + hour},
		}
	})
	r.logic.cut()
	eventually(t, "all is known", func() bool { return counter(r, "starling_edge_control_version") == 3 })
	eve, bob, last := r.login("eve", "web"), r.login("bob", "web"), r.login("last", "web")
	follows := func() (n int) {
		r.logic.set(func() { n = len(r.logic.follows) })
		return n
	}
	before := follows()
	r.logic.cut()
	eventually(t, "it is told all again", func() bool { return follows() > before })
	r.logic.decide(control.Entry{Kind: control.Kick, User: "last"})
	last.expect(wire.OpKick, nil)
	eve.ping()
	bob.ping()
}

// An edge that lives long forgets decisions that are over.
func TestDecisionsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tr tier
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = tr.run(ctx) })
		issued := time.Now()
		tr.control.Apply([]control.Entry{{Version: 1, Kind: control.Revoke, User: "bob", At: issued.UnixMilli()}})
		time.Sleep(control.Kept)
		if tr.control.Deny("bob", "web", issued, time.Now()) == nil {
			t.Error("forgotten too early")
		}
		time.Sleep(2 * forgetEvery)
		if tr.control.Deny("bob", "web", issued, time.Now()) != nil {
			t.Error("kept for good")
		}
		cancel()
		wg.Wait()
	})
}

func TestSettingsChangeWhileItRuns(t *testing.T) {
	r := startRig(t, nil)
	a := r.login("alice", "web")
	r.logic.decide(
		control.Entry{Kind: control.Set, Name: "limits.frames-per-second", Value: "0.001"},
		control.Entry{Kind: control.Set, Name: "limits.frame-burst", Value: "2"},
		control.Entry{Kind: control.Set, Name: "limits.of-the-future", Value: "2"},
	)
	eventually(t, "there is a limit on frames", func() bool {
		a.write(wire.OpAck, wire.Cursor{Conv: "p:alice:bob", Seq: 1})
		seq := a.write(wire.OpPing, struct{}{})
		for {
			f, err := a.read()
			if err != nil {
				t.Fatal(err)
			}
			if f.Op == wire.OpError {
				var e wire.Error
				if wire.Decode(f.Body, &e); e.Code != wire.CodeRateLimited || e.RetryAfterMS <= 0 {
					t.Fatalf("%+v", e)
				}
				return true
			}
			if f.Op == wire.OpPong && f.Seq == seq {
				return false
			}
		}
	})
	a.ping() // which is not counted
	r.logic.decide(control.Entry{Kind: control.Set, Name: "limits.frames-per-second"}, control.Entry{Kind: control.Set, Name: "limits.frame-burst"})
	eventually(t, "and none any more", func() bool {
		a.write(wire.OpJoin, wire.Room{Room: "r"})
		for {
			f, err := a.read()
			if err != nil {
				t.Fatal(err)
			}
			if f.Op != wire.OpPong {
				return f.Op == wire.OpOK
			}
		}
	})
}

func TestConnectionsOfAUser(t *testing.T) {
	r := startLimited(t, func(l *limits.Config) { l.ConnectionsPerUser = 2 })
	r.login("bob", "a")
	_, err := r.reg.Renew(r.ctx, registry.Lease{Tier: registry.TierEdge, Server: "edge-2", Epoch: 1, RPCAddr: "127.0.0.1:1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	far := registry.Route{Conn: 5, Server: "edge-2", Epoch: 1, Device: "far"}
	if _, err := r.reg.PutRoutes(r.ctx, map[wire.UserID][]registry.Route{"bob": {far}}); err != nil {
		t.Fatal(err)
	}
	third := r.dial(nil)
	third.write(wire.OpAuth, wire.Auth{Token: r.token("bob", "c")})
	third.expectError(wire.CodeRateLimited)
	third.expectClose(wire.ClosePolicy)
	eventually(t, "who was refused takes no place", func() bool {
		got, err := r.reg.Lookup(r.ctx, []wire.UserID{"bob"}, nil)
		return err == nil && len(got.Users["bob"]) == 2
	})
	r.login("bob", "a").ping() // its device's own place
	r.login("eve", "c").ping()
}

func TestDevicePolicies(t *testing.T) {
	for policy, gone := range map[string][]bool{ // phone on ios, tablet on ios, web; then another phone on ios
		limits.DevicesAll: {false, false, false}, limits.DevicesPlatform: {true, true, false}, limits.DevicesOne: {true, true, true},
	} {
		t.Run(policy, func(t *testing.T) {
			r := startRig(t, nil)
			join := func(device, platform string) *client {
				c := r.dial(nil)
				c.write(wire.OpAuth, wire.Auth{Token: r.token("bob", device), Platform: platform})
				c.expect(wire.OpAuthOK, nil)
				return c
			}
			cs := []*client{join("phone", "ios"), join("tablet", "ios"), join("web", "web")}
			r.logic.decide(control.Entry{Kind: control.Set, Name: "limits.devices", Value: policy})
			eventually(t, "the policy is known", func() bool { return counter(r, "starling_edge_control_version") == 1 })
			join("phone2", "ios").ping()
			for i, c := range cs {
				if gone[i] {
					c.expect(wire.OpKick, nil)
					c.expectClose(wire.CloseReplaced)
				} else {
					c.ping()
				}
			}
		})
	}
}
