package api

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/logic/internal/group"
	"github.com/starling-im/starling/logic/internal/message"
)

func TestGroups(t *testing.T) {
	f := setup(t)
	got := get[group.Info](t, f.as("alice", 200, "POST", "/v1/groups", `{"id":"team","name":"Team","description":"d","members":["bob"]}`))
	if diff := cmp.Diff(group.Info{ID: "team", Name: "Team", Owner: "alice", Description: "d"}, got); diff != "" {
		t.Error(diff)
	}
	f.as("alice", 409, "POST", "/v1/groups", `{"id":"team","name":"Other"}`)
	f.as("bob", 200, "GET", "/v1/groups/team", "")
	for _, path := range []string{"/v1/groups/team", "/v1/groups/team/members"} {
		f.as("eve", 403, "GET", path, "")
		if a := f.call(f.token("svc", token.RoleService), "GET", path, ""); a.status != 200 {
			t.Errorf("a service may look into %s: %d", path, a.status)
		}
	}
	f.as("alice", 404, "GET", "/v1/groups/none", "")
	f.as("alice", 200, "PATCH", "/v1/groups/team", `{"name":"New"}`)
	if got := get[group.Info](t, f.as("bob", 200, "GET", "/v1/groups/team", "")); got.Name != "New" || got.Description != "d" {
		t.Errorf("renamed: %+v", got)
	}
	f.as("alice", 400, "PATCH", "/v1/groups/team", `{}`)
	f.as("alice", 400, "PATCH", "/v1/groups/team", `{"name":""}`)
	f.as("alice", 200, "POST", "/v1/groups/team/members", `{"members":["carl","dora"]}`)
	f.as("alice", 400, "POST", "/v1/groups/team/members", `{"members":[]}`)
	f.as("alice", 400, "POST", "/v1/groups/team/members", `{"members":["a:b"]}`)
	f.as("alice", 200, "PUT", "/v1/groups/team/members/bob/role", `{"role":"admin"}`)
	f.as("alice", 400, "PUT", "/v1/groups/team/members/bob/role", `{"role":"king"}`)
	f.as("alice", 200, "POST", "/v1/groups/team/mute", `{"until":99}`)
	f.as("alice", 400, "POST", "/v1/groups/team/mute", `{"until":-1}`)
	f.as("alice", 200, "DELETE", "/v1/groups/team/members/dora", "")
	f.as("eve", 403, "DELETE", "/v1/groups/team/members/bob", "")
	var members []string
	for after := ""; ; {
		p := get[group.Members](t, f.as("bob", 200, "GET", "/v1/groups/team/members?limit=2&after="+after, ""))
		for _, m := range p.Members {
			members = append(members, string(m.User)+" "+m.Role)
		}
		if after = p.Next; after == "" {
			break
		}
	}
	if diff := cmp.Diff([]string{"alice owner", "bob admin", "carl member"}, members); diff != "" {
		t.Error(diff)
	}
	f.as("alice", 200, "DELETE", "/v1/groups/team", "")
	f.as("alice", 404, "GET", "/v1/groups/team", "")
}

func TestIdempotencyKey(t *testing.T) {
	f := setup(t)
	key := []string{"Idempotency-Key", "k1"}
	first := get[group.Info](t, f.as("alice", 200, "POST", "/v1/groups", `{"name":"A"}`, key...))
	again := get[group.Info](t, f.as("alice", 200, "POST", "/v1/groups", `{"name":"A"}`, key...))
	if first.ID != again.ID || first.ID == "" {
		t.Errorf("ids %q and %q", first.ID, again.ID)
	}
	f.as("alice", 409, "POST", "/v1/groups", `{"name":"B"}`, key...)
	if other := get[group.Info](t, f.as("alice", 200, "POST", "/v1/groups", `{"name":"A"}`)); other.ID == first.ID {
		t.Error("without a key it is another group")
	}
	f.as("alice", 400, "POST", "/v1/groups", `{"name":"A"}`, "Idempotency-Key", strings.Repeat("x", 65))
}

func TestOperations(t *testing.T) {
	f := setupWaiting(t, shortBudget)
	f.log.StopMachine(true)
	a := f.as("alice", 202, "POST", "/v1/groups", `{"id":"team","name":"A"}`, "Idempotency-Key", "k1")
	op := get[message.Operation](t, a)
	if op.ID == 0 {
		t.Fatalf("accepted: %s", a.body)
	}
	path := "/v1/operations/" + op.ID.String()
	if got := get[message.Operation](t, f.as("alice", 202, "GET", path, "")); got.Done || got.ID != op.ID {
		t.Errorf("pending: %+v", got)
	}
	f.log.StopMachine(false)
	f.decided("alice", "POST", "/v1/groups", `{"id":"team","name":"A"}`, "k1")
	if got := get[message.Operation](t, f.as("alice", 200, "GET", path, "")); !got.Done || got.Code != "" || got.Conv != "g:team" {
		t.Errorf("done: %+v", got)
	}
	if got := get[message.Operation](t, f.as("alice", 200, "GET", "/v1/operations?conv=g:team&client_id=k1", "")); got.ID != op.ID {
		t.Errorf("by key: %+v", got)
	}
	f.as("alice", 404, "GET", "/v1/operations?conv=g:team&client_id=other", "")
	f.as("bob", 404, "GET", "/v1/operations?conv=g:team&client_id=k1", "")
	f.as("alice", 400, "GET", "/v1/operations?conv=zz&client_id=k1", "")
	f.as("alice", 400, "GET", "/v1/operations?conv=g:team", "")
	f.as("alice", 404, "GET", "/v1/operations/5", "")
	f.as("alice", 400, "GET", "/v1/operations/zz", "")
}
