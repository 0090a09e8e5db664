package e2e

import (
	"errors"
	"sync"
	"testing"

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
		{"errors that stay", ErrorsStay},
		{"what closes", Closes},
		{"control frames", ControlFrames},
		{"log-ins", LogIns},
		{"64 in flight", InFlight},
		{"cursors that lie", Cursors},
		{"bad http", BadHTTP},
		{"huge http", HugeHTTP},
		{"large group", LargeGroup},
		{"retry everywhere", RetryEverywhere},
		{"membership races", MembershipRaces},
	}
}

// Private is the story: two users talk; both see every message with the same seq.
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

// Notes is the story: a user writes to itself, once per message.
func Notes(t *testing.T, s *System) {
	a := s.Join(t, s.Name("alice"), "web-1")
	conv := wire.PrivateConv(a.User, a.User)
	a.Say(string(a.User), "one")
	a.Say(string(a.User), "two")
	a.Gets(conv, "one", "two")
}

// Binary is the story: a binary client and a JSON one understand each other.
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

// Retry is the story: the same client_id again, also ten at once, is one message with one
// id; with another content it is a conflict.
func Retry(t *testing.T, s *System) {
	a, b := s.Join(t, s.Name("alice"), "d"), s.Join(t, s.Name("bob"), "d")
	conv := wire.PrivateConv(a.User, b.User)
	m := wire.Send{To: b.User, ClientID: s.Name("retry"), Content: "once"}
	ids := []wire.MsgID{a.Send(m).ID}
	ids = append(ids, atOnce(t, a, m)...)
	a.stands(conv, m.ClientID, ids)
	m = wire.Send{To: b.User, ClientID: s.Name("at-once"), Content: "ten at once"}
	ids = atOnce(t, a, m)
	a.stands(conv, m.ClientID, ids)
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

// atOnce sends the same ten times at once and returns the ids answered.
func atOnce(t *testing.T, a *Person, m wire.Send) []wire.MsgID {
	t.Helper()
	ids := make([]wire.MsgID, 10)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			ack, err := a.TrySend(m)
			if err != nil {
				t.Errorf("one of ten: %v", err)
			}
			ids[i] = ack.ID
		})
	}
	wg.Wait()
	return ids
}

// stands checks that one message stands under a client_id, and that every
// answer named it: where the index did not answer in time another id may have
// come first, and a second send_ack with the right one after.
func (p *Person) stands(conv wire.ConvID, clientID string, ids []wire.MsgID) {
	p.t.Helper()
	var one wire.MsgID
	p.Until("message "+clientID, func() error {
		for _, m := range p.seen[conv] {
			if m.ClientID == clientID {
				one = m.ID
				return nil
			}
		}
		return errors.New("not pushed yet")
	})
	for _, id := range ids {
		if id == one {
			continue
		}
		p.GetsFrame(wire.OpSendAck, func(body []byte) bool {
			var ack wire.SendAck
			return wire.Unmarshal(body, &ack) == nil && ack.ClientID == clientID && ack.ID == one
		})
	}
}

// RecallEdit is the story: a change takes a seq of its own and shows in history.
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

// BadInput is the story: what is wrong gets an error by the table, and the connection
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
		{wire.OpRoomMsg, map[string]any{}, wire.CodeUnsupported},
		{wire.OpRoomSend, map[string]any{"room": "r", "type": "text", "content": ""}, wire.CodeNotMember},
		{wire.OpJoin, map[string]any{"room": "a:b"}, wire.CodeBadRequest},
		{wire.OpTyping, map[string]any{"to": "bob", "group": "g"}, wire.CodeBadRequest},
		{wire.OpPresenceSub, map[string]any{"users": "bob"}, wire.CodeBadRequest},
		{wire.OpRecall, map[string]any{"conv": "p:x:y", "id": "1"}, wire.CodeNotMember},
	} {
		if _, err := a.C.Call(t.Context(), c.op, c.body); !hasCode(err, c.code) {
			t.Errorf("%s %.60v: %v, want %s", c.op, c.body, err, c.code)
		}
	}
	if _, err := a.C.Ping(t.Context()); err != nil {
		t.Errorf("the connection has not survived: %v", err)
	}
}
