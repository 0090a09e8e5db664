package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/starling-im/starling/common/wire"
)

// OfflineSync is the story: who was away gets everything, in order, over many pages, and
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
	a.Until("what was acknowledged is applied", func() error {
		if p, g := len(texts(a.seen[private])), len(texts(a.seen[group])); p != 60 || g != 60 {
			return fmt.Errorf("%d and %d of 60", p, g)
		}
		return nil
	})
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

// SeveralDevices is the story: every device of a user gets everything, also what the user
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

// SameDevice is the story: a later login of the same device ends the earlier with kick and
// 4009; messages go to the later.
func SameDevice(t *testing.T, s *System) {
	user := s.Name("alice")
	first := s.Join(t, user, "web")
	second := s.Join(t, user, "web") // at the next edge, where there are several
	first.isReplaced(t)
	b := s.Join(t, s.Name("bob"), "d")
	third := s.Join(t, user, "web")
	second.isReplaced(t)
	b.Say(user, "to the third")
	third.Gets(wire.PrivateConv(third.User, b.User), "to the third")
}

// isReplaced waits until the connection was ended for a newer one.
func (p *Person) isReplaced(t *testing.T) {
	t.Helper()
	p.GetsFrame(wire.OpKick, func(body []byte) bool {
		var k wire.Kick
		return wire.Unmarshal(body, &k) == nil && k.Reason == "replaced"
	})
	select {
	case <-p.C.Done():
	case <-time.After(wait):
		t.Fatal("the replaced connection is still open")
	}
	if code := closeCode(p.C.Err()); code != wire.CloseReplaced {
		t.Errorf("closed with %d, want %d", code, wire.CloseReplaced)
	}
}

// History is the story: pages by seq in both directions hold every message once.
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

// Receipts is the story: ack and read reach the sender as receipts and count unread down.
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
