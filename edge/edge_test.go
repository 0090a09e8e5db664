package edge

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/token"
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
	if diff := cmp.Diff([]string{"nobody"}, j.away()); diff != "" {
		t.Fatalf("not here (-want +got):\n%s", diff)
	}
	if got := r.logic.edges; len(got) != 1 || got[0] != "edge-1" {
		t.Fatalf("stream metadata names %v, want edge-1", got)
	}
}

func TestSendsOfOneConnectionKeepTheirOrder(t *testing.T) {
	r := startRig(t, nil)
	bob := r.login("bob", "web")
	const n = 2000
	for i := range n {
		bob.write(wire.OpAck, wire.Cursor{Conv: "p:a:bob", Seq: int64(i)})
	}
	eventually(t, "all frames arrive", func() bool { return len(r.logic.seen()) == n })
	for i, u := range r.logic.seen() {
		if want := fmt.Sprintf(`{"conv":"p:a:bob","seq":%d}`, i); string(u.GetBody()) != want {
			t.Fatalf("frame %d is %s, want %s", i, u.GetBody(), want)
		}
	}
}

func TestBinaryFramesAreAnsweredInBinary(t *testing.T) {
	r := startRig(t, nil)
	c := r.dial(nil)
	c.bin = true
	c.auth(r.token("bob", "tv"))
	var b []byte
	for i := range 3 { // several frames in one message
		b = wire.AppendBinary(b, wire.Frame{Op: wire.OpPing, Seq: int32(10 + i)})
	}
	if err := c.ws.Write(c.ctx, websocket.MessageBinary, b); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if f := c.expect(wire.OpPong, nil); f.Seq != int32(10+i) {
			t.Fatalf("pong %d has seq %d", i, f.Seq)
		}
	}
	// Text on the same connection is understood and answered in binary.
	if err := c.ws.Write(c.ctx, websocket.MessageText, []byte(`{"op":"ping","seq":20}`)); err != nil {
		t.Fatal(err)
	}
	typ, _, err := c.ws.Read(c.ctx)
	if err != nil || typ != websocket.MessageBinary {
		t.Fatalf("answer is %v, %v; want binary", typ, err)
	}
}

func TestAuthByUpgrade(t *testing.T) {
	r := startRig(t, nil)
	for name, opts := range map[string]*websocket.DialOptions{
		"authorization": {HTTPHeader: http.Header{"Authorization": {"Bearer " + r.token("bob", "")}}},
		"subprotocol":   {Subprotocols: []string{"starling", r.token("bob", "web")}},
	} {
		t.Run(name, func(t *testing.T) {
			c, resp, err := websocket.Dial(r.ctx, "ws://"+r.addrs.WS+"/ws?device=web&platform=mac", opts)
			if err != nil {
				t.Fatal(err)
			}
			closeBody(resp)
			defer c.CloseNow()
			if len(opts.Subprotocols) > 0 && c.Subprotocol() != "starling" {
				t.Errorf("subprotocol %q is selected", c.Subprotocol())
			}
			var ok wire.AuthOK
			(&client{t: t, ctx: r.ctx, ws: c}).expect(wire.OpAuthOK, &ok)
			if ok.User != "bob" || ok.Device != "web" || ok.Server != "edge-1" || ok.HistoryEpoch != "h1" {
				t.Errorf("auth_ok %+v", ok)
			}
		})
	}
}

func TestBadAuthIsSaidAndClosed(t *testing.T) {
	r := startRig(t, nil)
	expired, err := r.keys.Mint(token.Claims{User: "bob", Device: "web", IssuedAt: time.Now().Add(-2 * time.Hour)}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		first string
		code  wire.Code
	}{
		"garbage token":  {`{"op":"auth","seq":3,"body":{"token":"x","device":"web"}}`, wire.CodeUnauthenticated},
		"expired token":  {`{"op":"auth","body":{"token":"` + expired + `"}}`, wire.CodeUnauthenticated},
		"other frame":    {`{"op":"ping"}`, wire.CodeUnauthenticated},
		"no json":        {`hello`, wire.CodeUnauthenticated},
		"foreign device": {`{"op":"auth","body":{"token":"` + r.token("bob", "web") + `","device":"tv"}}`, wire.CodeForbidden},
		"no device":      {`{"op":"auth","body":{"token":"` + r.token("bob", "") + `"}}`, wire.CodeBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			c := r.dial(nil)
			c.t = t
			if err := c.ws.Write(c.ctx, websocket.MessageText, []byte(tc.first)); err != nil {
				t.Fatal(err)
			}
			c.expectError(tc.code)
			c.expectClose(wire.CloseUnauthenticated)
		})
	}
}

func TestSilenceIsNoAuth(t *testing.T) {
	t.Parallel() // it waits
	r := startRig(t, func(c *Config) { c.AuthTimeout = 300 * time.Millisecond })
	var c *client
	eventually(t, "an upgrade is in time", func() bool {
		var err error
		c, err = r.tryDial(nil)
		return err == nil
	})
	c.expectError(wire.CodeUnauthenticated)
	c.expectClose(wire.CloseUnauthenticated)
}

func TestTokenEndsAndIsRenewed(t *testing.T) {
	t.Parallel() // it waits
	r := startRig(t, nil)
	mint := func(user string, ttl time.Duration) string {
		raw, err := r.keys.Mint(token.Claims{User: wire.UserID(user), Device: "web"}, ttl)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	const ttl = 5 * time.Second
	stays, goes := r.dial(nil), r.dial(nil)
	stays.auth(mint("bob", ttl))
	seq := stays.write(wire.OpAuth, wire.Auth{Token: mint("bob", time.Hour)})
	if f := stays.expect(wire.OpAuthOK, nil); f.Seq != seq {
		t.Fatalf("renewal answered with seq %d, want %d", f.Seq, seq)
	}
	goes.auth(mint("eve", ttl)) // it ends after the one that was renewed would
	goes.expectError(wire.CodeUnauthenticated)
	goes.expectClose(wire.CloseUnauthenticated)
	stays.ping()
	stays.write(wire.OpAuth, wire.Auth{Token: mint("eve", time.Hour)})
	stays.expectError(wire.CodeForbidden)
	stays.expectClose(wire.CloseUnauthenticated)
}

func TestSameDeviceReplaces(t *testing.T) {
	r := startRig(t, nil)
	old, other := r.login("bob", "web"), r.login("bob", "phone")
	fresh := r.login("bob", "web")
	var k wire.Kick
	old.expect(wire.OpKick, &k)
	if k.Reason != "replaced" {
		t.Fatalf("kicked for %q", k.Reason)
	}
	old.expectClose(wire.CloseReplaced)
	fresh.ping()
	other.ping()
	eventually(t, "one route a device", func() bool {
		got, err := r.reg.Lookup(r.ctx, []wire.UserID{"bob"}, nil)
		return err == nil && got.Known && len(got.Users["bob"]) == 2
	})
}

func TestGroupPushesAndChanges(t *testing.T) {
	r := startRig(t, nil)
	r.logic.set(func() { r.logic.groups["bob"] = []string{"team"} })
	bob, eve := r.login("bob", "web"), r.login("eve", "web")
	where := func() bool {
		got, err := r.reg.Lookup(r.ctx, nil, []wire.GroupID{"team"})
		return err == nil && len(got.Groups["team"]) == 1
	}
	if !where() {
		t.Fatal("the edge is not named for the group after auth_ok")
	}
	j := r.job()
	add := &rpcpb.PushItem{Action: rpcpb.PushItem_GROUP_ADD, Group: "team", Users: []string{"eve"}}
	remove := &rpcpb.PushItem{Action: rpcpb.PushItem_GROUP_REMOVE, Group: "team", Users: []string{"bob"}}
	drop := &rpcpb.PushItem{Action: rpcpb.PushItem_GROUP_DROP, Group: "team"}
	j.push(at(1, msg(1, "one", "team")), at(2, add, msg(2, "two", "team")),
		at(3, msg(3, "three", "team"), remove), at(4, msg(4, "four", "team")), at(5, drop), at(6, msg(6, "six", "team")))
	// A repeat and a late frame are dropped.
	j.push(at(2, msg(2, "two again", "", "bob", "eve")), at(7, msg(7, "end", "", "bob", "eve")))
	read := func(c *client) (got []string) {
		for len(got) == 0 || got[len(got)-1] != "end" {
			var m wire.Msg
			c.expect(wire.OpMsg, &m)
			got = append(got, m.Content)
		}
		return got
	}
	if diff := cmp.Diff([]string{"one", "two", "three", "end"}, read(bob)); diff != "" {
		t.Errorf("bob (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"two", "three", "four", "end"}, read(eve)); diff != "" {
		t.Errorf("eve (-want +got):\n%s", diff)
	}
	eventually(t, "the group is forgotten", func() bool { return !where() })
}

func TestChangesDuringLoginAreRemembered(t *testing.T) {
	r := startRig(t, nil)
	j := r.job()
	r.logic.set(func() {
		r.logic.groups["bob"] = []string{"stays", "leaves"}
		r.logic.onLogin = func(*rpcpb.LoginRequest) {
			// The groups are being read: a join and a leave pass by.
			j.push(at(1, &rpcpb.PushItem{Action: rpcpb.PushItem_GROUP_ADD, Group: "joins", Users: []string{"bob"}},
				&rpcpb.PushItem{Action: rpcpb.PushItem_GROUP_REMOVE, Group: "leaves", Users: []string{"bob"}},
				msg(1, "too early", "", "bob")))
			eventually(t, "the change is applied", func() bool { return j.position(1) == 1 })
		}
	})
	bob := r.login("bob", "web")
	j.push(at(2, msg(1, "leaves", "leaves"), msg(1, "joins", "joins"), msg(1, "stays", "stays")))
	for _, want := range []string{"joins", "stays"} {
		var m wire.Msg
		bob.expect(wire.OpMsg, &m)
		if m.Content != want {
			t.Fatalf("got %q, want %q", m.Content, want)
		}
	}
}

func TestDeliverToOneConnectionAndAllButOne(t *testing.T) {
	r := startRig(t, nil)
	a, b, c := r.login("bob", "a"), r.login("bob", "b"), r.login("eve", "c")
	one, except, all := msg(1, "one", "", "bob"), msg(2, "except", "", "bob"), msg(3, "all", "")
	one.Conn, except.ExceptConn, all.All = a.conn, a.conn, true
	foreign := msg(4, "foreign", "", "eve")
	foreign.Conn = a.conn
	r.job().push(at(1, one, except, foreign, all))
	for c, want := range map[*client][]string{a: {"one", "all"}, b: {"except", "all"}, c: {"all"}} {
		for _, w := range want {
			var m wire.Msg
			c.expect(wire.OpMsg, &m)
			if m.Content != w {
				t.Fatalf("got %q, want %q", m.Content, w)
			}
		}
	}
}

func TestTooManyInFlight(t *testing.T) {
	r := startRig(t, nil)
	r.logic.set(func() { r.logic.mute = true })
	bob := r.login("bob", "web")
	for i := range wire.MaxInFlight + 1 {
		bob.write(wire.OpSend, wire.Send{To: "a", ClientID: fmt.Sprintf("c%d", i), Type: wire.TypeText, Content: "x"})
	}
	e := bob.expectError(wire.CodeOverloaded)
	if e.ClientID != fmt.Sprintf("c%d", wire.MaxInFlight) || e.RetryAfterMS != 100 {
		t.Fatalf("overloaded %+v", e)
	}
	bob.ping()
}

func TestBrokenStreamFailsWhatIsInFlightAndIsReplaced(t *testing.T) {
	r := startRig(t, nil)
	r.logic.set(func() { r.logic.mute = true })
	bob := r.login("bob", "web")
	seq := bob.write(wire.OpSend, wire.Send{To: "a", ClientID: "c1", Type: wire.TypeText, Content: "x"})
	eventually(t, "logic has it", func() bool { return len(r.logic.seen()) == 1 })
	r.logic.set(func() { r.logic.mute = false; r.logic.kill() })
	var e wire.Error
	if f := bob.expect(wire.OpError, &e); f.Seq != seq || e.Code != wire.CodeUnavailable || e.ClientID != "c1" || e.RetryAfterMS != 500 {
		t.Fatalf("seq %d, %+v", f.Seq, e)
	}
	eventually(t, "a new stream stands", func() bool { return r.edge.Ready() == nil })
	bob.write(wire.OpSend, wire.Send{To: "a", ClientID: "c1", Type: wire.TypeText, Content: "x"})
	bob.expect(wire.OpSendAck, nil)
}

func TestNoLogicForALogin(t *testing.T) {
	r := startRig(t, func(c *Config) { c.LoginWait = 300 * time.Millisecond })
	r.logic.set(func() { r.logic.refuse = true })
	c := r.dial(nil)
	c.write(wire.OpAuth, wire.Auth{Token: r.token("bob", "web")})
	if e := c.expectError(wire.CodeUnavailable); e.RetryAfterMS == 0 {
		t.Fatal("no retry_after_ms")
	}
	c.expectClose(wire.CloseTryLater)
}

func TestFramesAheadOfAuthOKAreHandledInOrder(t *testing.T) {
	r := startRig(t, nil)
	c := r.dial(nil)
	c.write(wire.OpAuth, wire.Auth{Token: r.token("bob", "web")})
	first := c.write(wire.OpPing, struct{}{})
	c.write(wire.OpSend, wire.Send{To: "a", ClientID: "c1", Type: wire.TypeText, Content: "x"})
	c.expect(wire.OpAuthOK, nil)
	if f := c.expect(wire.OpPong, nil); f.Seq != first {
		t.Fatalf("pong has seq %d", f.Seq)
	}
	c.expect(wire.OpSendAck, nil)
}

func TestRegistryAwayMakesTheEdgeUnlisted(t *testing.T) {
	r := startRig(t, func(c *Config) { c.LeaseTTL = 2 * time.Second })
	j := r.job()
	if j.hello.GetServer() != "edge-1" || j.hello.GetUnlisted() || j.hello.GetEpoch() == 0 {
		t.Fatalf("hello %+v", j.hello)
	}
	r.reg.SetAway(true)
	bob := r.login("bob", "web") // log-in goes on
	eventually(t, "the stream ends for a new hello", j.over)
	j = r.job()
	if !j.hello.GetUnlisted() {
		t.Fatal("the hello does not say unlisted")
	}
	j.push(at(1, msg(1, "still here", "", "bob")))
	bob.expect(wire.OpMsg, nil)
	r.reg.SetAway(false)
	eventually(t, "it is listed again", j.over)
	j = r.job()
	if j.hello.GetUnlisted() || len(j.hello.GetPositions()) != 1 || j.hello.GetPositions()[0].GetOffset() != 1 {
		t.Fatalf("hello %+v", j.hello)
	}
	got, err := r.reg.Lookup(r.ctx, []wire.UserID{"bob"}, nil)
	if err != nil || !got.Known || len(got.Users["bob"]) != 1 {
		t.Fatalf("look-up %+v, %v: bob was not announced", got, err)
	}
}

func TestLapsedLeaseLagsAll(t *testing.T) {
	r := startRig(t, func(c *Config) { c.LeaseTTL = 300 * time.Millisecond })
	bob := r.login("bob", "web")
	epoch := r.job().hello.GetEpoch()
	lapses := counter(r, "starling_edge_lease_lapses_total")
	r.reg.SetAway(true)
	eventually(t, "the lease lapses", func() bool { return counter(r, "starling_edge_lease_lapses_total") > lapses })
	r.reg.SetAway(false)
	f := bob.expect(wire.OpLagged, nil)
	if string(f.Body) != "{}" {
		t.Fatalf("lagged %s, want {}", f.Body)
	}
	if now := r.job().hello.GetEpoch(); now <= epoch {
		t.Fatalf("epoch %d after %d", now, epoch)
	}
}

func TestEmptiedIndexIsAnnouncedAnew(t *testing.T) {
	r := startRig(t, func(c *Config) { c.LeaseTTL = 300 * time.Millisecond })
	r.logic.set(func() { r.logic.groups["bob"] = []string{"team"} })
	r.login("bob", "web")
	r.reg.Flush()
	eventually(t, "all is announced", func() bool {
		got, err := r.reg.Lookup(r.ctx, []wire.UserID{"bob"}, []wire.GroupID{"team"})
		return err == nil && got.Known && len(got.Users["bob"]) == 1 && len(got.Groups["team"]) == 1
	})
}

func TestLostFramesLagAll(t *testing.T) {
	r := startRig(t, nil)
	bob := r.login("bob", "web")
	f := at(9)
	f.Lost = true
	r.job().push(f)
	if f := bob.expect(wire.OpLagged, nil); string(f.Body) != "{}" {
		t.Fatalf("lagged %s, want {}", f.Body)
	}
}

// After a loss the groups are read again before anything of a group is passed
// on: the removal that was lost must not leave a member behind, nor the join
// somebody out. What comes before a membership is not for its session.
func TestLostFramesReadTheGroupsAgain(t *testing.T) {
	r := startRig(t, nil)
	r.logic.set(func() { r.logic.groups["bob"] = []string{"left"} })
	bob := r.login("bob", "web")
	j := r.job()
	j.push(at(1, msg(1, "before", "left")))
	bob.expect(wire.OpMsg, nil)
	r.logic.set(func() {
		r.logic.groups["bob"] = []string{"joined"}
		r.logic.joined = 7
	})
	f := at(5)
	f.Lost = true
	j.push(f, at(6, msg(2, "not for bob any more", "left")))
	bob.expect(wire.OpLagged, nil)
	j.push(at(7, msg(3, "nor this", "left"), msg(6, "before bob joined", "joined"), msg(7, "for bob", "joined")))
	var m wire.Msg
	if bob.expect(wire.OpMsg, &m); m.Content != "for bob" {
		t.Errorf("got %q", m.Content)
	}
}

func TestDrain(t *testing.T) {
	r := startRig(t, func(c *Config) { c.DrainTime = 300 * time.Millisecond })
	bob, eve := r.login("bob", "web"), r.login("eve", "web")
	done := make(chan error, 1)
	go func() { done <- r.edge.Drain(r.ctx) }()
	var slots []int64
	for _, c := range []*client{bob, eve} {
		var rc wire.Reconnect
		c.expect(wire.OpReconnect, &rc)
		if rc.Reason != "drain" {
			t.Errorf("reason %q", rc.Reason)
		}
		slots = append(slots, rc.AfterMS)
	}
	if slots[0] == slots[1] {
		t.Errorf("slots %v are not spread", slots)
	}
	_ = eve.ws.Close(websocket.StatusNormalClosure, "")
	bob.expectClose(wire.CloseRestart)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := r.edge.Ready(); err == nil || !strings.Contains(err.Error(), "drain") {
		t.Errorf("ready: %v", err)
	}
	if c, resp, err := websocket.Dial(r.ctx, "ws://"+r.addrs.WS+"/ws", nil); err == nil {
		_ = c.CloseNow()
		closeBody(resp)
		t.Error("a draining edge accepts")
	}
}

// Who was let in before the drain and logs in after it would stay on an edge that
// goes on without taking anybody.
func TestLogInAtADrainedEdge(t *testing.T) {
	r := startRig(t, func(c *Config) { c.DrainTime = 10 * time.Millisecond })
	late, between := r.dial(nil), r.dial(nil)
	asked, drained := make(chan struct{}), make(chan struct{})
	tell := sync.OnceFunc(func() { close(asked) })
	r.logic.set(func() {
		r.logic.onLogin = func(*rpcpb.LoginRequest) {
			tell()
			<-drained
		}
	})
	between.write(wire.OpAuth, wire.Auth{Token: r.token("eve", "web")})
	<-asked
	if err := r.edge.Drain(r.ctx); err != nil {
		t.Fatal(err)
	}
	close(drained)
	between.expectClose(wire.CloseRestart)
	late.write(wire.OpAuth, wire.Auth{Token: r.token("bob", "web")})
	if e := late.expectError(wire.CodeUnavailable); e.RetryAfterMS == 0 {
		t.Errorf("%+v", e)
	}
	late.expectClose(wire.CloseRestart)
}

func TestHeartbeatMissed(t *testing.T) {
	t.Parallel() // it waits
	r := startRig(t, func(c *Config) { c.Heartbeat = 3 * time.Second })
	alive, silent := r.login("bob", "a"), r.login("bob", "b")
	closed := make(chan error, 1)
	go func() {
		_, err := silent.read()
		closed <- err
	}()
	for {
		select {
		case err := <-closed:
			if got := websocket.CloseStatus(err); got != wire.CloseHeartbeat {
				t.Errorf("closed with %d (%v)", got, err)
			}
			time.Sleep(500 * time.Millisecond) // the edge looks at all in turn
			alive.ping()
			return
		case <-time.After(50 * time.Millisecond):
			alive.ping()
		}
	}
}

func TestUnknownAndServerOperationsStay(t *testing.T) {
	r := startRig(t, nil)
	bob := r.login("bob", "web")
	for msg, code := range map[string]wire.Code{
		`{"op":"dance","seq":1}`:                   wire.CodeUnsupported,
		`{"op":"msg","seq":2,"body":{}}`:           wire.CodeUnsupported,
		`{"op":`:                                   wire.CodeBadRequest,
		`{"op":5}`:                                 wire.CodeBadRequest,
		`{"op":"send","body":[]}`:                  wire.CodeBadRequest,
		`{"op":"auth","body":{"token":{"a":"b"}}}`: wire.CodeBadRequest,
	} {
		if err := bob.ws.Write(bob.ctx, websocket.MessageText, []byte(msg)); err != nil {
			t.Fatal(err)
		}
		bob.expectError(code)
	}
	bob.ping()
}
