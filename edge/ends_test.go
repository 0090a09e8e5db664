package edge

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
)

// nothingLeft waits until neither the edge nor the index knows of a user or a
// group.
func (r *rig) nothingLeft(user wire.UserID, group wire.GroupID) {
	r.t.Helper()
	for _, gauge := range []string{"connections", "sessions_open", "logins_pending", "write_waiting", "uplink_queue_depth", "removal_queue_depth"} {
		eventually(r.t, gauge+" is 0", func() bool { return counter(r, "starling_edge_"+gauge) == 0 })
	}
	eventually(r.t, "the index has nothing", func() bool {
		got, err := r.reg.Lookup(r.ctx, []wire.UserID{user}, []wire.GroupID{group})
		return err == nil && len(got.Users[user]) == 0 && len(got.Groups[group]) == 0
	})
}

// A connection may die in every state; nothing of it stays.
func TestConnectionsDieInEveryState(t *testing.T) {
	auth := func(r *rig) string { return masked(0x81, `{"op":"auth","body":{"token":"`+r.token("bob", "web")+`"}}`) }
	opened := func(r *rig, c *raw) {
		c.upgrade()
		c.send(auth(r))
		if f := c.frame(); f.Op != wire.OpAuthOK {
			r.t.Fatalf("got %v", f.Op)
		}
	}
	for name, die := range map[string]func(r *rig, c *raw){
		"at once":        func(*rig, *raw) {},
		"in the upgrade": func(_ *rig, c *raw) { c.send("GET /ws HT") },
		"before auth":    func(_ *rig, c *raw) { c.upgrade() },
		"in its auth":    func(r *rig, c *raw) { c.upgrade(); c.send(auth(r)[:20]) },
		"after its auth": func(r *rig, c *raw) { c.upgrade(); c.send(auth(r)) },
		"open":           opened,
		"in a frame":     func(r *rig, c *raw) { opened(r, c); c.send(masked(0x81, `{"op":"ping"}`)[:9]) },
		"with a send out": func(r *rig, c *raw) {
			opened(r, c)
			c.send(masked(0x81, `{"op":"send","seq":1,"body":{"client_id":"c"}}`))
		},
		"closing": func(r *rig, c *raw) { opened(r, c); c.send(masked(0x88, "")) },
		"broken":  func(r *rig, c *raw) { opened(r, c); c.send("\x81\x02{}") },
	} {
		t.Run(name, func(t *testing.T) {
			r := startRig(t, nil)
			r.logic.set(func() { r.logic.mute = true; r.logic.groups["bob"] = []string{"team"} })
			c := r.raw()
			die(r, c)
			_ = c.Close()
			eventually(t, "it was accepted", func() bool { return counter(r, "starling_edge_accepted_total") == 1 })
			r.nothingLeft("bob", "team")
		})
	}
}

// A connection may also die while its log-in is at logic or in the registry;
// what the log-in writes after that is undone.
func TestConnectionDiesDuringItsLogin(t *testing.T) {
	r := startRig(t, nil)
	for i := range 20 {
		c := r.raw()
		died := make(chan struct{})
		closed := counter(r, "starling_edge_sessions_closed_total")
		die := sync.OnceFunc(func() {
			_ = c.Close()
			eventually(t, "its end is noticed", func() bool { return counter(r, "starling_edge_sessions_closed_total") > closed })
			close(died)
		})
		r.logic.set(func() {
			r.logic.groups["bob"] = []string{"team", fmt.Sprintf("g%d", i)}
			if i%2 == 0 {
				r.logic.onLogin = func(*rpcpb.LoginRequest) { die() }
			} else {
				r.logic.onLogin = nil
			}
		})
		c.upgrade()
		c.send(masked(0x81, `{"op":"auth","body":{"token":"`+r.token("bob", "web")+`"}}`))
		if i%2 == 1 {
			time.Sleep(time.Duration(i*50) * time.Microsecond) // anywhere in it
			die()
		}
		<-died
		eventually(t, "the log-in is over", func() bool { return counter(r, "starling_edge_logins_pending") == 0 })
	}
	r.nothingLeft("bob", "team")
	r.nothingLeft("bob", "g7")
}

// Many log-ins of one device at once: one of them stays, everywhere.
func TestManyLoginsOfOneDevice(t *testing.T) {
	r := startRig(t, nil)
	r.logic.set(func() { r.logic.groups["bob"] = []string{"team"} })
	const n = 40
	tok := r.token("bob", "web")
	clients := make([]*client, n)
	for i := range clients {
		clients[i] = r.dial(nil)
	}
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			err := c.ws.Write(c.ctx, websocket.MessageText, []byte(`{"op":"auth","seq":1,"body":{"token":"`+tok+`"}}`))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	eventually(t, "one session is left", func() bool {
		return counter(r, "starling_edge_sessions_closed_total") == n-1 &&
			counter(r, "starling_edge_sessions_open") == 1 && counter(r, "starling_edge_logins_pending") == 0
	})
	eventually(t, "one route is left", func() bool {
		got, err := r.reg.Lookup(r.ctx, []wire.UserID{"bob"}, nil)
		return err == nil && got.Known && len(got.Users["bob"]) == 1
	})
	r.job().push(at(1, msg(1, "who is it", "", "bob")))
	stayed := 0
	for _, c := range clients {
		for {
			f, err := c.read()
			if err == nil && f.Op != wire.OpMsg {
				continue
			}
			if err == nil {
				stayed++
			} else if got := websocket.CloseStatus(err); got != wire.CloseReplaced {
				t.Errorf("closed with %d, %v", got, err)
			}
			break
		}
	}
	if stayed != 1 {
		t.Errorf("%d clients get the push, want 1", stayed)
	}
}
