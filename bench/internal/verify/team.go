package verify

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

const (
	teamMin = 3
	teamMax = 12
)

// team is a group whose members change. Its owner never leaves.
type team struct {
	r     *run
	id    wire.GroupID
	owner *person

	busy sync.Mutex // held by a change: one after the other

	mu      sync.Mutex
	members map[*person]bool // as far as is known
}

func (r *run) makeTeams(ctx context.Context) error {
	for i := range r.cfg.Groups {
		t := &team{r: r, id: wire.GroupID(fmt.Sprintf("%sg%d", r.cfg.Prefix, i)), owner: r.people[i%len(r.people)], members: make(map[*person]bool)}
		t.members[t.owner] = true
		var first []wire.UserID
		for j := range min(teamMax*2/3, len(r.people)-1) {
			p := r.people[(i*5+j*3+1)%len(r.people)]
			if !t.members[p] {
				t.members[p] = true
				first = append(first, p.id)
			}
		}
		body := map[string]any{"id": t.id, "name": "team", "members": first}
		if err := t.ask(ctx, trace.OpCreate, t.owner, http.MethodPost, "/v1/groups", body, first, ""); err != nil {
			return fmt.Errorf("make group %s: %w", t.id, err)
		}
		r.teams = append(r.teams, t)
	}
	return nil
}

func (t *team) has(p *person) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.members[p]
}

// ask makes a change and notes it. It is asked under one key until an answer
// settles it.
func (t *team) ask(ctx context.Context, op string, by *person, method, path string, body any, users []wire.UserID, role string) error {
	call := t.r.calls.Add(1)
	t.r.trace.Add(&trace.Event{Kind: trace.Call, Call: call, User: by.id, Op: op, Conv: wire.GroupConv(t.id), Users: users, Role: role})
	err := t.r.api.insist(ctx, method, path, by.devices[0].token, body, nil, "Idempotency-Key", fmt.Sprintf("%s%d", t.r.cfg.Prefix, call))
	t.r.trace.Add(&trace.Event{Kind: trace.Return, Call: call, Code: codeOf(err)})
	return err
}

// command changes who is in the group: p comes, or goes, or is made an admin.
func (t *team) command(ctx context.Context, p *person, odds int) {
	t.busy.Lock()
	defer t.busy.Unlock()
	if p == t.owner || ctx.Err() != nil || !t.r.working() {
		return
	}
	t.mu.Lock()
	in, n := t.members[p], len(t.members)
	t.mu.Unlock()
	path := "/v1/groups/" + string(t.id) + "/members"
	one := []wire.UserID{p.id}
	switch {
	case !in && n < teamMax:
		t.let(ctx, p, min(odds%4, teamMax-1-n), path)
	case in && odds < 200:
		role := []string{"admin", "member"}[odds%2]
		_ = t.ask(ctx, trace.OpRole, t.owner, http.MethodPut, path+"/"+string(p.id)+"/role", map[string]any{"role": role}, one, role)
	case in && n > teamMin:
		op, by := trace.OpRemove, t.owner
		if odds < 500 {
			op, by = trace.OpLeave, p
		}
		if t.ask(ctx, op, by, http.MethodDelete, path+"/"+string(p.id), nil, one, "") == nil {
			t.set(p, false)
		}
	}
}

// let adds p, and of p's peers as many more as there may be.
func (t *team) let(ctx context.Context, p *person, more int, path string) {
	come := []*person{p}
	for _, q := range p.peers {
		if len(come) <= more && !t.has(q) && !slices.Contains(come, q) {
			come = append(come, q)
		}
	}
	ids := make([]wire.UserID, len(come))
	for i, q := range come {
		ids[i] = q.id
	}
	if t.ask(ctx, trace.OpAdd, t.owner, http.MethodPost, path, map[string]any{"members": ids}, ids, "") != nil {
		return
	}
	for _, q := range come {
		t.set(q, true)
	}
}

func (t *team) set(p *person, in bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if in {
		t.members[p] = true
	} else {
		delete(t.members, p)
	}
}

// learn asks the system who is in: changes whose outcome nobody was told may have
// been made.
func (t *team) learn(ctx context.Context) error {
	in := make(map[wire.UserID]bool)
	for after := ""; ; {
		var page struct {
			Members []struct{ User wire.UserID }
			Next    string
		}
		if err := t.r.api.insist(ctx, http.MethodGet, "/v1/groups/"+string(t.id)+"/members?limit=100&after="+after, t.owner.devices[0].token, nil, &page); err != nil {
			return fmt.Errorf("members of %s: %w", t.id, err)
		}
		for _, m := range page.Members {
			in[m.User] = true
		}
		if after = page.Next; after == "" {
			break
		}
	}
	for _, p := range t.r.people {
		t.set(p, in[p.id])
	}
	return nil
}

// who are the members, in the order of people.
func (t *team) who() []*person {
	return slices.DeleteFunc(slices.Clone(t.r.people), func(p *person) bool { return !t.has(p) })
}
