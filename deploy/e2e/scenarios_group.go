package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"

	"github.com/starling-im/starling/common/wire"
)

// Group is the story: all members get all messages in one order.
func Group(t *testing.T, s *System) {
	var ps []*Person
	var names []string
	for i := range 5 {
		ps = append(ps, s.Join(t, s.Name("member"), "web-1"))
		names = append(names, string(ps[i].User))
	}
	g := s.Name("team")
	conv := ps[0].Group(g, names[1:]...)
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(func() {
			for i := range 20 {
				if _, err := p.TrySend(wire.Send{Group: wire.GroupID(g), Content: fmt.Sprintf("%s/%d", p.User, i)}); err != nil {
					t.Errorf("send of %s: %v", p.User, err)
				}
			}
		})
	}
	wg.Wait()
	var order []string
	for _, p := range ps {
		p.Until("100 messages", func() error {
			if n := len(texts(p.seen[conv])); n != 100 {
				return fmt.Errorf("has %d", n)
			}
			return nil
		})
		if err := wholeFrom(1, p.Seen(conv)); err != nil {
			t.Errorf("%s: %v", p.User, err)
		}
		if order == nil {
			order = texts(p.Seen(conv))
		}
		p.Gets(conv, order...)
	}
}

// MembershipInOrder is the story: who joins sees what comes after, who is removed nothing
// more; both see their own event.
func MembershipInOrder(t *testing.T, s *System) {
	owner, b, c := s.Join(t, s.Name("owner"), "d"), s.Join(t, s.Name("bob"), "d"), s.Join(t, s.Name("carol"), "d")
	g := s.Name("team")
	conv := owner.Group(g, string(b.User))
	owner.SayGroup(g, "before carol")
	members := "/v1/groups/" + g + "/members"
	if code := s.HTTP(t, http.MethodPost, members, owner.Token, map[string]any{"members": []string{string(c.User)}}, nil); code != http.StatusOK {
		t.Fatalf("add carol: HTTP %d", code)
	}
	owner.SayGroup(g, "with carol")
	c.Gets(conv, "with carol")
	c.SayGroup(g, "thanks")
	if code := s.HTTP(t, http.MethodDelete, members+"/"+string(b.User), owner.Token, nil, nil); code != http.StatusOK {
		t.Fatalf("remove bob: HTTP %d", code)
	}
	owner.SayGroup(g, "without bob")
	owner.Gets(conv, "before carol", "with carol", "thanks", "without bob")
	c.Gets(conv, "with carol", "thanks", "without bob")
	b.Gets(conv, "before carol", "with carol", "thanks")
	b.GetsFrame(wire.OpGroup, func(body []byte) bool {
		var e wire.GroupEvent
		return wire.Unmarshal(body, &e) == nil && e.Event == wire.EventRemoved && e.User == b.User
	})
	if got := texts(b.History(conv)); len(got) != 3 {
		t.Errorf("history of the removed: %q", got)
	}
	if got := texts(c.History(conv)); len(got) != 3 || got[0] != "with carol" {
		t.Errorf("history of the joiner: %q", got)
	}
	if _, err := b.TrySend(wire.Send{Group: wire.GroupID(g), Content: "still here?"}); !hasCode(err, wire.CodeNotMember) {
		t.Errorf("send of the removed: %v, want not_member", err)
	}
}

// NonMember is the story: who is not in a group cannot write to it or read it, whether it
// exists or not.
func NonMember(t *testing.T, s *System) {
	owner, x := s.Join(t, s.Name("owner"), "d"), s.Join(t, s.Name("eve"), "d")
	g := s.Name("team")
	conv := owner.Group(g)
	if _, err := x.TrySend(wire.Send{Group: wire.GroupID(g), Content: "let me in"}); !hasCode(err, wire.CodeNotMember) {
		t.Errorf("send to a group of others: %v, want not_member", err)
	}
	if _, err := x.TrySend(wire.Send{Group: wire.GroupID(s.Name("nosuch")), Content: "?"}); !hasCode(err, wire.CodeNotFound) {
		t.Errorf("send to no group: %v, want not_found", err)
	}
	path := "/v1/conversations/" + url.PathEscape(string(conv)) + "/messages"
	if code := s.HTTP(t, http.MethodGet, path, x.Token, nil, nil); code != http.StatusForbidden && code != http.StatusNotFound {
		t.Errorf("history for a stranger: HTTP %d", code)
	}
	if code := s.HTTP(t, http.MethodPost, "/v1/groups/"+g+"/members", x.Token, map[string]any{"members": []string{string(x.User)}}, nil); code != http.StatusForbidden {
		t.Errorf("a stranger adds itself: HTTP %d", code)
	}
	owner.SayGroup(g, "quiet here")
	owner.Gets(conv, "quiet here")
}

// Operations is the story: a command with the same Idempotency-Key happens once, and its
// fate can be asked for.
func Operations(t *testing.T, s *System) {
	a := s.Join(t, s.Name("alice"), "d")
	key := s.Name("key")
	body := map[string]any{"name": "once"}
	var first, second struct{ ID string }
	if code := s.HTTP(t, http.MethodPost, "/v1/groups", a.Token, body, &first, "Idempotency-Key", key); code != http.StatusOK {
		t.Fatalf("create: HTTP %d", code)
	}
	if code := s.HTTP(t, http.MethodPost, "/v1/groups", a.Token, body, &second, "Idempotency-Key", key); code != http.StatusOK || second.ID != first.ID {
		t.Errorf("create again: HTTP %d, %q, want %q", code, second.ID, first.ID)
	}
	ack := a.Send(wire.Send{To: a.User, ClientID: s.Name("op"), Content: "x"})
	_ = ack
	var op json.RawMessage
	Eventually(t, wait, "the send's outcome is known", func() error {
		if code := s.HTTP(t, http.MethodGet, "/v1/operations/"+ack.ID.String(), a.Token, nil, &op); code != http.StatusOK {
			return fmt.Errorf("HTTP %d", code)
		}
		return nil
	})
}
