package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/block"
)

func (f *fixture) admin(status int, method, path, body string) answer {
	f.t.Helper()
	a := f.call(f.token("root", token.RoleAdmin), method, path, body)
	if a.status != status {
		f.t.Fatalf("%s %s %s: %d %s, want %d", method, path, body, a.status, a.body, status)
	}
	return a
}

func TestBans(t *testing.T) {
	f := setup(t)
	f.as("eve", 200, "GET", "/v1/conversations", "")
	f.admin(200, "POST", "/v1/admin/bans", `{"user":"eve"}`)
	if a := f.as("eve", 403, "GET", "/v1/conversations", ""); a.code() != wire.CodeBanned {
		t.Errorf("%s", a.body)
	}
	body := `{"from":"eve","to":"bob","client_id":"c","type":"text","content":"hi"}`
	if a := f.call(f.token("bot", token.RoleService), "POST", "/v1/messages", body); a.code() != wire.CodeBanned {
		t.Errorf("through a service: %d %s", a.status, a.body)
	}
	until := time.Now().Add(time.Hour).UnixMilli()
	f.admin(200, "POST", "/v1/admin/bans", `{"user":"bob","until":`+wire.MsgID(until).String()+`}`)
	type page struct {
		Bans []ban
		Next string
	}
	first := get[page](t, f.admin(200, "GET", "/v1/admin/bans?limit=1", ""))
	if len(first.Bans) != 1 || first.Bans[0].User != "bob" || first.Bans[0].Until != until || first.Bans[0].Since == 0 || first.Next != "bob" {
		t.Errorf("%+v", first)
	}
	if rest := get[page](t, f.admin(200, "GET", "/v1/admin/bans?after=bob", "")); len(rest.Bans) != 1 || rest.Bans[0].User != "eve" || rest.Next != "" {
		t.Errorf("%+v", rest)
	}
	f.admin(200, "DELETE", "/v1/admin/bans/eve", "")
	f.admin(200, "DELETE", "/v1/admin/bans/eve", "")
	f.as("eve", 200, "GET", "/v1/conversations", "")
	for _, bad := range []string{`{}`, `{"user":"a:b"}`, `{"user":"a","until":-1}`, `{"user":"a","until":1}`, `{"user":5}`, `[]`} {
		f.admin(400, "POST", "/v1/admin/bans", bad)
	}
	f.admin(400, "DELETE", "/v1/admin/bans/a%20b", "")
	f.admin(400, "POST", "/v1/admin/kick", `{"user":""}`)
	f.admin(400, "POST", "/v1/admin/kick", `{"user":"a","device":"b:c"}`)
	f.admin(200, "POST", "/v1/admin/kick", `{"user":"a","device":"b"}`)
}

func TestRevocation(t *testing.T) {
	f := setup(t)
	made := get[issued](t, f.call("", "POST", "/v1/login", `{"user":"bob","device":"web"}`))
	other := get[issued](t, f.call("", "POST", "/v1/login", `{"user":"bob","device":"ios"}`))
	alive := func(tok string) int { return f.call(tok, "GET", "/v1/conversations", "").status }
	if a := f.call(made.Token, "POST", "/v1/tokens/revoke", `{"device":"web"}`); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if alive(made.Token) != 401 || alive(other.Token) != 200 {
		t.Errorf("the device's %d, another's %d", alive(made.Token), alive(other.Token))
	}
	if a := f.call("", "POST", "/v1/tokens/refresh", `{"refresh":"`+made.Refresh+`"}`); a.status != 401 {
		t.Errorf("its refresh token: %d", a.status)
	}
	time.Sleep(2 * time.Millisecond) // the next token is of another millisecond
	again := get[issued](t, f.call("", "POST", "/v1/login", `{"user":"bob","device":"web"}`))
	if alive(again.Token) != 200 {
		t.Error("a newer token is void")
	}
	// A refresh overtakes the revocation on its way here: what it gave is void too.
	decided := time.Now().UnixMilli()
	time.Sleep(2 * time.Millisecond)
	fresh := get[issued](t, f.call("", "POST", "/v1/tokens/refresh", `{"refresh":"`+other.Refresh+`"}`))
	fresh = get[issued](t, f.call("", "POST", "/v1/tokens/refresh", `{"refresh":"`+fresh.Refresh+`"}`))
	if _, err := f.store.AppendControl(t.Context(), []control.Entry{{Kind: control.Revoke, User: "bob", Device: "ios", At: decided}}); err != nil {
		t.Fatal(err)
	}
	f.admin(200, "POST", "/v1/admin/kick", `{"user":"eve"}`) // and it is here
	if a := f.call("", "POST", "/v1/tokens/refresh", `{"refresh":"`+fresh.Refresh+`"}`); alive(fresh.Token) != 401 || a.status != 401 {
		t.Errorf("refreshed after a revocation: %d, once more %d", alive(fresh.Token), a.status)
	}
	// One user's devices without end are no load for all.
	for i := range maxRevoked {
		f.as("carl", 200, "POST", "/v1/tokens/revoke", fmt.Sprintf(`{"device":"d%d"}`, i))
		time.Sleep(2 * time.Millisecond)
	}
	f.as("carl", 413, "POST", "/v1/tokens/revoke", `{"device":"one-more"}`)
	f.as("carl", 200, "POST", "/v1/tokens/revoke", `{"device":"d0"}`)
	f.as("carl", 200, "POST", "/v1/tokens/revoke", `{}`)
	f.as("bob", 403, "POST", "/v1/tokens/revoke", `{"user":"eve"}`)
	f.as("bob", 400, "POST", "/v1/tokens/revoke", `{"device":"a b"}`)
	f.admin(200, "POST", "/v1/tokens/revoke", `{"user":"bob"}`)
	if alive(again.Token) != 401 || alive(other.Token) != 401 {
		t.Error("all of the user are void")
	}
}

func TestEndSession(t *testing.T) {
	f := setup(t)
	if _, err := f.reg.Renew(t.Context(), registry.Lease{Tier: registry.TierEdge, Server: "e1", Epoch: 1, URL: "ws://e1"}, time.Hour); err != nil {
		t.Fatal(err)
	}
	f.reg.SetKnown(true)
	_, err := f.reg.PutRoutes(t.Context(), map[wire.UserID][]registry.Route{"bob": {{Conn: 7, Server: "e1", Epoch: 1, Device: "web"}}})
	if err != nil {
		t.Fatal(err)
	}
	f.as("bob", 200, "DELETE", "/v1/sessions/7", "")
	f.as("bob", 404, "DELETE", "/v1/sessions/8", "")
	f.as("eve", 404, "DELETE", "/v1/sessions/7", "")
	f.as("bob", 400, "DELETE", "/v1/sessions/x", "")
	es, err := f.store.ControlSince(t.Context(), 0, 9)
	if err != nil || len(es) != 1 || es[0].User != "bob" || es[0].Conn != 7 {
		t.Errorf("%+v %v", es, err)
	}
}

func TestBlocks(t *testing.T) {
	f := setup(t)
	f.as("bob", 404, "GET", "/v1/blocks/eve", "")
	for _, u := range []string{"eve", "carl"} {
		f.as("bob", 200, "PUT", "/v1/blocks/"+u, "")
	}
	f.as("bob", 200, "PUT", "/v1/blocks/eve", "")
	f.as("bob", 200, "GET", "/v1/blocks/eve", "")
	first := get[block.List](t, f.as("bob", 200, "GET", "/v1/blocks?limit=1", ""))
	if len(first.Blocks) != 1 || first.Blocks[0].User != "carl" || first.Blocks[0].Since == 0 || first.Next != "carl" {
		t.Errorf("%+v", first)
	}
	if a := f.as("eve", 403, "POST", "/v1/messages", `{"to":"bob","client_id":"c","type":"text","content":"x"}`); a.code() != wire.CodeBlocked {
		t.Error(a.body)
	}
	f.as("bob", 200, "POST", "/v1/messages", `{"to":"eve","client_id":"c","type":"text","content":"x"}`)
	if l := get[block.List](t, f.as("eve", 200, "GET", "/v1/blocks", "")); len(l.Blocks) != 0 {
		t.Errorf("it shows to the other: %+v", l)
	}
	f.as("bob", 200, "DELETE", "/v1/blocks/eve", "")
	f.as("bob", 404, "GET", "/v1/blocks/eve", "")
	f.as("eve", 200, "POST", "/v1/messages", `{"to":"bob","client_id":"c","type":"text","content":"x"}`)
	f.as("bob", 400, "PUT", "/v1/blocks/bob", "")
	f.as("bob", 400, "PUT", "/v1/blocks/a%20b", "")
}

func TestBroadcast(t *testing.T) {
	f := setup(t)
	got := get[struct{ ID wire.MsgID }](t, f.admin(200, "POST", "/v1/admin/broadcast", `{"type":"text","content":"hi"}`))
	if ps := f.log.Pushes(); got.ID == 0 || len(ps) != 1 || !ps[0].GetAll() || !strings.Contains(string(ps[0].GetBody()), got.ID.String()) {
		t.Errorf("%v %v", got, ps)
	}
	f.admin(400, "POST", "/v1/admin/broadcast", `{"type":"system","content":"hi"}`)
	f.admin(413, "POST", "/v1/admin/broadcast", `{"type":"text","content":"`+strings.Repeat("x", 17<<10)+`"}`)
}

func TestNodes(t *testing.T) {
	f := setup(t)
	for _, l := range []registry.Lease{
		{Tier: registry.TierEdge, Server: "e1", Epoch: 1, URL: "ws://e1", Load: 5},
		{Tier: registry.TierEdge, Server: "e2", Epoch: 1, Load: 6},
		{Tier: registry.TierLogic, Server: "l1", Epoch: 1},
		{Tier: registry.TierJob, Server: "j1", Epoch: 1},
	} {
		if _, err := f.reg.Renew(t.Context(), l, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(stats{Edges: 2, Logics: 1, Jobs: 1, Connections: 11}, get[stats](t, f.admin(200, "GET", "/v1/admin/stats", ""))); diff != "" {
		t.Error(diff)
	}
	if n := get[struct{ Nodes []registry.Lease }](t, f.admin(200, "GET", "/v1/admin/nodes", "")).Nodes; len(n) != 4 || n[0].Server != "e1" || n[0].URL != "ws://e1" {
		t.Errorf("%+v", n)
	}
	f.admin(200, "POST", "/v1/admin/nodes/e2/drain", "")
	f.admin(404, "POST", "/v1/admin/nodes/e9/drain", "")
	f.admin(400, "POST", "/v1/admin/nodes/l1/drain", "")
	if a := f.call(f.token("op", token.RoleOperator), "POST", "/v1/admin/nodes/e1/drain", ""); a.status != 200 {
		t.Errorf("an operator may drain: %d", a.status)
	}
	f.reg.SetAway(true)
	for _, path := range []string{"stats", "nodes"} {
		f.admin(503, "GET", "/v1/admin/"+path, "")
	}
	f.admin(503, "POST", "/v1/admin/nodes/e1/drain", "")
}

func TestSettings(t *testing.T) {
	f := setup(t)
	type all struct{ Settings map[string]setting }
	got := get[all](t, f.admin(200, "GET", "/v1/admin/settings", "")).Settings
	if len(got) != 8 || got["limits.devices"] != (setting{Value: "all", Configured: "all"}) {
		t.Errorf("%+v", got)
	}
	f.admin(200, "PUT", "/v1/admin/settings", `{"limits.devices":"one","limits.max-content":5,"limits.messages-per-second":2.5}`)
	want := map[string]string{"limits.devices": "one", "limits.max-content": "5", "limits.messages-per-second": "2.5"}
	if diff := cmp.Diff(want, f.server.d.Control.Settings()); diff != "" {
		t.Error(diff)
	}
	f.admin(200, "PUT", "/v1/admin/settings", `{"limits.devices":null}`)
	delete(want, "limits.devices")
	for _, bad := range []string{
		`{}`, `[]`, `{"edge.weight":1}`, `{"edge.weight":null}`, `{"limits.devices":"some"}`, `{"limits.max-content":0}`,
		`{"limits.max-content":[1]}`, `{"limits.max-content":true}`, `{"limits.max-content":7,"limits.devices":"some"}`,
	} {
		f.admin(400, "PUT", "/v1/admin/settings", bad)
	}
	if diff := cmp.Diff(want, f.server.d.Control.Settings()); diff != "" {
		t.Error(diff)
	}
	// What another version stored is in nobody's way, and goes when it is told to.
	if err := f.server.d.Control.Decide(t.Context(), control.Entry{Kind: control.Set, Name: "limits.old", Value: "x"}); err != nil {
		t.Fatal(err)
	}
	f.admin(400, "PUT", "/v1/admin/settings", `{"limits.old":1}`)
	f.admin(200, "PUT", "/v1/admin/settings", `{"limits.max-content":7}`)
	f.admin(200, "PUT", "/v1/admin/settings", `{"limits.old":null}`)
	want["limits.max-content"] = "7"
	if diff := cmp.Diff(want, f.server.d.Control.Settings()); diff != "" {
		t.Error(diff)
	}
	if a := f.call(f.token("op", token.RoleOperator), "PUT", "/v1/admin/settings", `{"limits.max-content":7}`); a.status != 403 {
		t.Errorf("an operator changes settings: %d", a.status)
	}
}
