package api

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/group"
	"github.com/starling-im/starling/logic/internal/history"
)

func names(n int) string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf(`"u%04d"`, i)
	}
	return strings.Join(out, ",")
}

// Pages of any size hold every member once, in order, with receipts beside.
func TestPagesOfMembersAndReceipts(t *testing.T) {
	f := setup(t)
	const n = 25
	f.as("u0000", 200, "POST", "/v1/groups", `{"id":"team","name":"T","members":[`+names(n)+`]}`)
	f.as("u0000", 200, "POST", "/v1/messages", `{"group":"team","client_id":"c","type":"text","content":"x"}`)
	for i := range n {
		if _, err := f.store.MoveCursors(t.Context(), moves(wire.UserID(fmt.Sprintf("u%04d", i)), "g:team", 2*int64(i%2), 0)); err != nil {
			t.Fatal(err)
		}
	}
	for _, limit := range []int{1, 7, 24, 25, 26, 500} {
		var members, readers []string
		have, pages := 0, 0
		for after := ""; ; pages++ {
			p := get[group.Members](t, f.as("u0001", 200, "GET", fmt.Sprintf("/v1/groups/team/members?limit=%d&after=%s", limit, after), ""))
			if len(p.Members) > limit || len(p.Members) == 0 {
				t.Fatalf("a page of %d of %d", len(p.Members), limit)
			}
			for _, m := range p.Members {
				members = append(members, string(m.User))
			}
			if after = p.Next; after == "" {
				break
			}
		}
		for after := ""; ; {
			p := get[history.Receipts](t, f.as("u0001", 200, "GET", fmt.Sprintf("/v1/conversations/g:team/receipts?seq=2&limit=%d&after=%s", limit, after), ""))
			for _, r := range p.Receipts {
				readers = append(readers, string(r.User))
			}
			have += len(p.HaveIt)
			if after = p.Next; after == "" {
				break
			}
		}
		if len(members) != n || members[0] != "u0000" || members[n-1] != "u0024" || pages != (n-1)/limit {
			t.Errorf("limit %d: %d members on %d pages", limit, len(members), pages+1)
		}
		if diff := cmp.Diff(members, readers); diff != "" || have != n/2 {
			t.Errorf("limit %d: %d have it; receipts of others than the members:\n%s", limit, have, diff)
		}
	}
	for _, path := range []string{"/v1/groups/team/members?limit=501", "/v1/groups/team/members?limit=-1", "/v1/conversations/g:team/receipts?limit=0"} {
		f.as("u0001", 400, "GET", path, "")
	}
}

// Seqs at the ends of their range are no way around them.
func TestHistoryAtTheEndsOfTheRange(t *testing.T) {
	f := setup(t)
	f.as("alice", 200, "POST", "/v1/messages", `{"to":"bob","client_id":"c","type":"text","content":"x"}`)
	for query, want := range map[string]int{
		"after=9223372036854775807": 0, "after=9223372036854775806": 0, "before=9223372036854775807": 1, "before=1": 0,
		"after=1&before=1": 0, "after=9223372036854775807&before=5": 0,
	} {
		p := get[history.Messages](t, f.as("bob", 200, "GET", "/v1/conversations/p:alice:bob/messages?"+query, ""))
		if len(p.Messages) != want {
			t.Errorf("%s: %d messages", query, len(p.Messages))
		}
	}
	for _, query := range []string{"after=9223372036854775808", "before=1e3", "after=%00", "limit=1;drop"} {
		f.as("bob", 400, "GET", "/v1/conversations/p:alice:bob/messages?"+query, "")
	}
}

// Who was removed sees the past up to then, and nothing of what came after;
// who never was in sees nothing.
func TestWhatIsLeftToFormerMembers(t *testing.T) {
	f := setup(t)
	say := func(id string) {
		t.Helper()
		f.as("alice", 200, "POST", "/v1/messages", `{"group":"team","client_id":"`+id+`","type":"text","content":"`+id+`"}`)
	}
	f.as("alice", 200, "POST", "/v1/groups", `{"id":"team","name":"T","members":["bob"]}`)
	say("before")
	f.as("alice", 200, "DELETE", "/v1/groups/team/members/bob", "")
	say("after")
	a := f.as("bob", 200, "GET", "/v1/conversations/g:team/messages", "")
	if !strings.Contains(a.body, `"before"`) || strings.Contains(a.body, `"after"`) {
		t.Errorf("history of a former member: %s", a.body)
	}
	list := get[history.Conversations](t, f.as("bob", 200, "GET", "/v1/conversations", "")).Conversations
	if len(list) != 1 || !list[0].Left || list[0].MaxSeq != 3 || list[0].Last == nil || list[0].Last.Seq > 3 {
		t.Errorf("list of a former member: %+v", list)
	}
	for _, path := range []string{"/v1/groups/team", "/v1/groups/team/members", "/v1/conversations/g:team/receipts"} {
		if a := f.call(f.token("bob"), "GET", path, ""); a.code() != wire.CodeNotMember {
			t.Errorf("%s of a former member: %d %s", path, a.status, a.body)
		}
	}
	for _, role := range []string{token.RoleUser, token.RoleOperator, token.RoleAdmin, token.RoleService} {
		for _, path := range []string{"/v1/conversations/g:team/messages", "/v1/conversations/g:team/receipts", "/v1/conversations/p:alice:bob/messages"} {
			if a := f.call(f.token("eve", role), "GET", path, ""); a.code() != wire.CodeNotMember {
				t.Errorf("%s of a stranger with role %s: %d %s", path, role, a.status, a.body)
			}
		}
	}
	if a := f.call(f.token("bob"), "POST", "/v1/messages", `{"group":"team","client_id":"c","type":"text","content":"x"}`); a.code() != wire.CodeNotMember {
		t.Errorf("a send of a former member: %d %s", a.status, a.body)
	}
}

// Ten at once under one key are one group; another body is a conflict at any
// time, also while the first is not decided.
func TestOneKeyAtOnce(t *testing.T) {
	f := setup(t)
	got := make([]answer, 10)
	var wg sync.WaitGroup
	tok := f.token("alice")
	for i := range got {
		wg.Go(func() { got[i] = f.call(tok, "POST", "/v1/groups", `{"name":"A"}`, "Idempotency-Key", "k") })
	}
	wg.Wait()
	for _, a := range got {
		if a.status != http.StatusOK || a.body != got[0].body {
			t.Errorf("%d %s, the first %s", a.status, a.body, got[0].body)
		}
	}
	if n := len(get[history.Conversations](t, f.as("alice", 200, "GET", "/v1/conversations", "")).Conversations); n != 1 {
		t.Errorf("%d groups", n)
	}
}

func TestOneKeyUndecided(t *testing.T) {
	f := setupWaiting(t, shortBudget)
	f.decided("alice", "POST", "/v1/groups", `{"id":"team","name":"A"}`, "k1")
	f.log.StopMachine(true)
	first := f.as("alice", 202, "PATCH", "/v1/groups/team", `{"name":"B"}`, "Idempotency-Key", "k2")
	again := f.as("alice", 202, "PATCH", "/v1/groups/team", `{"name":"B"}`, "Idempotency-Key", "k2")
	if first.body != again.body {
		t.Errorf("another operation: %s and %s", first.body, again.body)
	}
	f.as("alice", 409, "PATCH", "/v1/groups/team", `{"name":"C"}`, "Idempotency-Key", "k2")
}

// What is busy says when to come again.
func TestRetryAfter(t *testing.T) {
	f := setup(t)
	f.log.SetFull(true)
	a := f.call(f.token("alice"), "POST", "/v1/messages", `{"to":"bob","client_id":"c7","type":"text","content":"x"}`)
	if a.status != http.StatusServiceUnavailable || a.code() != wire.CodeUnavailable || a.header.Get("Retry-After") != "1" ||
		!strings.Contains(a.body, `"client_id":"c7"`) || !strings.Contains(a.body, `"retry_after_ms":500`) {
		t.Errorf("%d %s %v", a.status, a.body, a.header)
	}
	a = f.call(f.token("alice"), "POST", "/v1/groups", `{"name":"A"}`)
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") != "1" {
		t.Errorf("a command: %d %s", a.status, a.body)
	}
	if a := f.call("", "GET", "/v1/conversations", ""); a.header.Get("Retry-After") != "" {
		t.Error("a refusal says when to come again")
	}
}
