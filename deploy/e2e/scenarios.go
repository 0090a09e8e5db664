package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	starling "github.com/starling-im/starling/client/go"
	"github.com/starling-im/starling/common/wire"
)

// Scenario is a story that must come true on every System.
type Scenario struct {
	Name string
	Run  func(t *testing.T, s *System)
}

// Scenarios lists all of them.
func Scenarios() []Scenario {
	return []Scenario{
		{"private", Private},
		{"notes to oneself", Notes},
		{"binary framing", Binary},
		{"group", Group},
		{"membership in order", MembershipInOrder},
		{"non-member refused", NonMember},
		{"offline sync over pages", OfflineSync},
		{"several devices", SeveralDevices},
		{"same device replaced", SameDevice},
		{"history", History},
		{"receipts", Receipts},
		{"retry", Retry},
		{"recall and edit", RecallEdit},
		{"operations", Operations},
		{"bad input", BadInput},
	}
}

// Private: two users talk; both see every message with the same seq.
func Private(t *testing.T, s *System) {
	a, b := s.Join(t, s.Name("alice"), "web-1"), s.Join(t, s.Name("bob"), "web-1")
	conv := wire.PrivateConv(a.User, b.User)
	ack := a.Say(string(b.User), "hello")
	if ack.Conv != conv || ack.ID == 0 || ack.TS == 0 {
		t.Errorf("send_ack %+v, want conversation %s, an id and a time", ack, conv)
	}
	a.Gets(conv, "hello")
	b.Gets(conv, "hello")
	b.Say(string(a.User), "hi")
	for _, p := range []*Person{a, b} {
		p.Gets(conv, "hello", "hi")
		if err := wholeFrom(1, p.Seen(conv)); err != nil {
			t.Errorf("%s: %v", p.User, err)
		}
	}
	if m := b.Seen(conv)[0]; m.ID != ack.ID || m.From != a.User || m.Type != wire.TypeText || m.TS < ack.TS {
		t.Errorf("pushed %+v after %+v", m, ack)
	}
}

// Notes: a user writes to itself, once per message.
func Notes(t *testing.T, s *System) {
	a := s.Join(t, s.Name("alice"), "web-1")
	conv := wire.PrivateConv(a.User, a.User)
	a.Say(string(a.User), "one")
	a.Say(string(a.User), "two")
	a.Gets(conv, "one", "two")
}

// Binary: a binary client and a JSON one understand each other.
func Binary(t *testing.T, s *System) {
	a, b := s.Join(t, s.Name("alice"), "web-1"), s.Join(t, s.Name("bob"), "tcp-1")
	b.C.Close()
	b.Connect(starling.Options{Binary: true})
	conv := wire.PrivateConv(a.User, b.User)
	a.Say(string(b.User), "äöü 🐦")
	b.Gets(conv, "äöü 🐦")
	b.Say(string(a.User), "back")
	a.Gets(conv, "äöü 🐦", "back")
}

// Group: all members get all messages in one order.
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

// MembershipInOrder: who joins sees what comes after, who is removed nothing
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

// NonMember: who is not in a group cannot write to it or read it, whether it
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

// OfflineSync: who was away gets everything, in order, over many pages, and
// once acknowledged it is not listed again.
func OfflineSync(t *testing.T, s *System) {
	a, bob := s.Join(t, s.Name("alice"), "web-1"), s.Name("bob")
	g := s.Name("team")
	group := a.Group(g, bob)
	private := wire.PrivateConv(a.User, wire.UserID(bob))
	for i := range 60 {
		a.Say(bob, fmt.Sprintf("p%d", i))
		a.SayGroup(g, fmt.Sprintf("g%d", i))
	}
	b := s.Join(t, bob, "web-1")
	convs, pages, _ := b.SyncAll(nil, 7)
	if pages < 121/7 {
		t.Errorf("%d pages of 7 for 121 rows", pages)
	}
	for conv, first := range map[wire.ConvID]string{private: "p", group: "g"} {
		c := convs[conv]
		if c == nil {
			t.Fatalf("sync has no %s", conv)
		}
		if err := wholeFrom(1, c.Messages); err != nil {
			t.Errorf("%s: %v", conv, err)
		}
		got := texts(c.Messages)
		if len(got) != 60 || got[0] != first+"0" || got[59] != first+"59" {
			t.Errorf("%s: %d messages %q", conv, len(got), got)
		}
		if c.More || c.Upto != c.MaxSeq || c.Unread != 60 {
			t.Errorf("%s ends with upto %d of %d, unread %d, more %v", conv, c.Upto, c.MaxSeq, c.Unread, c.More)
		}
		if err := b.C.Ack(conv, c.Upto); err != nil {
			t.Fatal(err)
		}
	}
	Eventually(t, wait, "acknowledged conversations are not listed", func() error {
		if again, _, _ := b.SyncAll(nil, 0); len(again) != 0 {
			return fmt.Errorf("listed: %d", len(again))
		}
		return nil
	})
}

// SeveralDevices: every device of a user gets everything, also what the user
// itself sent elsewhere; a new device starts where the user's others are.
func SeveralDevices(t *testing.T, s *System) {
	user := s.Name("alice")
	phone, web, b := s.Join(t, user, "phone"), s.Join(t, user, "web"), s.Join(t, s.Name("bob"), "d")
	conv := wire.PrivateConv(phone.User, b.User)
	b.Say(user, "to both")
	phone.Say(string(b.User), "from the phone")
	for _, p := range []*Person{phone, web, b} {
		p.Gets(conv, "to both", "from the phone")
	}
	if err := phone.C.Ack(conv, 1); err != nil {
		t.Fatal(err)
	}
	tablet := s.Join(t, user, "tablet")
	Eventually(t, wait, "a new device starts after the highest ack", func() error {
		convs, _, _ := tablet.SyncAll(nil, 0)
		if c := convs[conv]; c == nil || len(c.Messages) != 1 || c.Messages[0].Content != "from the phone" {
			return fmt.Errorf("sync of a new device: %+v", c)
		}
		return nil
	})
	var out struct {
		Sessions []struct{ Device string }
	}
	if code := s.HTTP(t, http.MethodGet, "/v1/sessions", phone.Token, nil, &out); code != http.StatusOK || len(out.Sessions) != 3 {
		t.Errorf("sessions: HTTP %d %+v, want 3", code, out)
	}
}

// SameDevice: a later login of the same device ends the earlier with kick and
// 4009; messages go to the later.
func SameDevice(t *testing.T, s *System) {
	user := s.Name("alice")
	first, b := s.Join(t, user, "web"), s.Join(t, s.Name("bob"), "d")
	second := s.Join(t, user, "web")
	first.GetsFrame(wire.OpKick, func(body []byte) bool {
		var k wire.Kick
		return wire.Unmarshal(body, &k) == nil && k.Reason == "replaced"
	})
	select {
	case <-first.C.Done():
	case <-time.After(wait):
		t.Fatal("the replaced connection is still open")
	}
	if code := closeCode(first.C.Err()); code != wire.CloseReplaced {
		t.Errorf("closed with %d, want %d", code, wire.CloseReplaced)
	}
	b.Say(user, "to the second")
	second.Gets(wire.PrivateConv(second.User, b.User), "to the second")
}

// History: pages by seq in both directions hold every message once.
func History(t *testing.T, s *System) {
	a, b := s.Join(t, s.Name("alice"), "d"), s.Name("bob")
	conv := wire.PrivateConv(a.User, wire.UserID(b))
	for i := range 25 {
		a.Say(b, fmt.Sprint(i))
	}
	Eventually(t, wait, "history is whole", func() error {
		if n := len(a.History(conv)); n != 25 {
			return fmt.Errorf("%d of 25", n)
		}
		return nil
	})
	get := func(query string) []wire.Msg {
		var page struct{ Messages []wire.Msg }
		if code := s.HTTP(t, http.MethodGet, "/v1/conversations/"+url.PathEscape(string(conv))+"/messages?"+query, a.Token, nil, &page); code != http.StatusOK {
			t.Fatalf("history?%s: HTTP %d", query, code)
		}
		return page.Messages
	}
	for _, c := range []struct {
		query       string
		first, last int64
	}{{"limit=10", 16, 25}, {"before=16&limit=10", 6, 15}, {"after=20&limit=10", 21, 25}, {"after=3&limit=4", 4, 7}, {"after=3&before=6&limit=9", 4, 5}} {
		ms := get(c.query)
		if len(ms) == 0 || ms[0].Seq != c.first || ms[len(ms)-1].Seq != c.last {
			t.Errorf("history?%s: %d rows, want seq %d to %d", c.query, len(ms), c.first, c.last)
		}
	}
	var list struct {
		Conversations []struct {
			Conv   wire.ConvID
			MaxSeq int64 `json:"max_seq"`
			Last   wire.Msg
		}
	}
	if code := s.HTTP(t, http.MethodGet, "/v1/conversations", a.Token, nil, &list); code != http.StatusOK || len(list.Conversations) != 1 ||
		list.Conversations[0].MaxSeq != 25 || list.Conversations[0].Last.Content != "24" {
		t.Errorf("conversations: HTTP %d %+v", code, list)
	}
}

// Receipts: ack and read reach the sender as receipts and count unread down.
func Receipts(t *testing.T, s *System) {
	a, b := s.Join(t, s.Name("alice"), "d"), s.Join(t, s.Name("bob"), "d")
	conv := wire.PrivateConv(a.User, b.User)
	for range 3 {
		a.Say(string(b.User), "x")
	}
	b.Gets(conv, "x", "x", "x")
	receipt := func(delivered, read int64) func([]byte) bool {
		return func(body []byte) bool {
			var r wire.Receipt
			return wire.Unmarshal(body, &r) == nil && r.Conv == conv && r.User == b.User && r.Delivered == delivered && r.Read == read
		}
	}
	if err := b.C.Ack(conv, 3); err != nil {
		t.Fatal(err)
	}
	a.GetsFrame(wire.OpReceipt, receipt(3, 0))
	if err := b.C.Read(conv, 2); err != nil {
		t.Fatal(err)
	}
	a.GetsFrame(wire.OpReceipt, receipt(3, 2))
	var list struct {
		Conversations []struct{ Unread int64 }
	}
	if s.HTTP(t, http.MethodGet, "/v1/conversations", b.Token, nil, &list); len(list.Conversations) != 1 || list.Conversations[0].Unread != 1 {
		t.Errorf("after reading 2 of 3: %+v, want unread 1", list)
	}
}

// Retry: the same client_id again, also ten at once, is one message with one
// id; with another content it is a conflict.
func Retry(t *testing.T, s *System) {
	a, b := s.Join(t, s.Name("alice"), "d"), s.Join(t, s.Name("bob"), "d")
	conv := wire.PrivateConv(a.User, b.User)
	m := wire.Send{To: b.User, ClientID: s.Name("retry"), Content: "once"}
	first := a.Send(m)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			ack, err := a.TrySend(m)
			if err != nil || ack.ID != first.ID {
				t.Errorf("retry: %+v, %v; want id %s", ack, err, first.ID)
			}
		})
	}
	wg.Wait()
	m = wire.Send{To: b.User, ClientID: s.Name("at-once"), Content: "ten at once"}
	ids := make(chan wire.MsgID, 10)
	for range 10 {
		wg.Go(func() {
			ack, err := a.TrySend(m)
			if err != nil {
				t.Errorf("one of ten: %v", err)
			}
			ids <- ack.ID
		})
	}
	wg.Wait()
	close(ids)
	one := <-ids
	for id := range ids {
		if id != one {
			t.Errorf("ten at once got ids %s and %s", one, id)
		}
	}
	m.Content = "another"
	if _, err := a.TrySend(m); !hasCode(err, wire.CodeConflict) {
		t.Errorf("same client_id, other content: %v, want conflict", err)
	}
	a.Say(string(b.User), "end")
	b.Gets(conv, "once", "ten at once", "end")
	if got := texts(b.History(conv)); len(got) != 3 {
		t.Errorf("history: %q", got)
	}
}

// RecallEdit: a change takes a seq of its own and shows in history.
func RecallEdit(t *testing.T, s *System) {
	a, b := s.Join(t, s.Name("alice"), "d"), s.Join(t, s.Name("bob"), "d")
	conv := wire.PrivateConv(a.User, b.User)
	oops, typo := a.Say(string(b.User), "oops"), a.Say(string(b.User), "tpyo")
	b.Gets(conv, "oops", "tpyo")
	ctx := t.Context()
	if _, err := a.C.Call(ctx, wire.OpRecall, wire.RecallBody{Conv: conv, ID: oops.ID}); err != nil {
		t.Fatalf("recall: %v", err)
	}
	if _, err := a.C.Call(ctx, wire.OpEdit, wire.RecallBody{Conv: conv, ID: typo.ID, Content: "typo"}); err != nil {
		t.Fatalf("edit: %v", err)
	}
	b.GetsFrame(wire.OpUpdate, func(body []byte) bool {
		var u wire.Update
		return wire.Unmarshal(body, &u) == nil && u.Seq == 3 && u.TargetSeq == 1 && u.Status == wire.StatusRecalled
	})
	b.GetsFrame(wire.OpUpdate, func(body []byte) bool {
		var u wire.Update
		return wire.Unmarshal(body, &u) == nil && u.Seq == 4 && u.TargetSeq == 2 && u.Content == "typo"
	})
	if ms := b.History(conv); len(ms) != 2 || ms[0].Content != "" || ms[0].Status != wire.StatusRecalled || ms[1].Content != "typo" {
		t.Errorf("history: %+v", ms)
	}
	if _, err := b.C.Call(ctx, wire.OpRecall, wire.RecallBody{Conv: conv, ID: typo.ID}); !hasCode(err, wire.CodeForbidden) {
		t.Errorf("recall of another's message: %v, want forbidden", err)
	}
}

// Operations: a command with the same Idempotency-Key happens once, and its
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

// BadInput: what is wrong gets an error by the table, and the connection
// lives.
func BadInput(t *testing.T, s *System) {
	a := s.Join(t, s.Name("alice"), "d")
	for _, c := range []struct {
		op   wire.Op
		body any
		code wire.Code
	}{
		{wire.OpSend, map[string]any{"to": 7}, wire.CodeBadRequest},
		{wire.OpSend, map[string]any{"to": "bob", "client_id": "x y", "type": "text", "content": ""}, wire.CodeBadRequest},
		{wire.OpSend, map[string]any{"to": "b:b", "client_id": "x", "type": "text", "content": ""}, wire.CodeBadRequest},
		{wire.OpSend, map[string]any{"to": "bob", "group": "g", "client_id": "x", "type": "text", "content": ""}, wire.CodeBadRequest},
		{wire.OpSend, map[string]any{"to": "bob", "client_id": "x", "type": "system", "content": ""}, wire.CodeBadRequest},
		{wire.OpSend, map[string]any{"to": "bob", "client_id": "x", "type": "text", "content": string(make([]byte, 20<<10))}, wire.CodeTooLarge},
		{wire.OpSync, map[string]any{"limit": 9999}, wire.CodeBadRequest},
		{wire.OpSync, map[string]any{"token": "forged"}, wire.CodeBadRequest},
		{wire.OpMsg, map[string]any{}, wire.CodeUnsupported},
		{wire.OpRoomSend, map[string]any{"room": "r"}, wire.CodeUnsupported},
		{wire.OpRecall, map[string]any{"conv": "p:x:y", "id": "1"}, wire.CodeForbidden},
	} {
		if _, err := a.C.Call(t.Context(), c.op, c.body); !hasCode(err, c.code) {
			t.Errorf("%s %.60v: %v, want %s", c.op, c.body, err, c.code)
		}
	}
	if _, err := a.C.Ping(t.Context()); err != nil {
		t.Errorf("the connection has not survived: %v", err)
	}
}
