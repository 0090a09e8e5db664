package presence

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func setup(t *testing.T) (*Service, *memregistry.Registry) {
	t.Helper()
	reg := memregistry.New()
	s, err := New(reg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reg.Renew(t.Context(), registry.Lease{Tier: registry.TierEdge, Server: "e1", Epoch: 1, URL: "ws://e1"}, time.Minute); err != nil {
		t.Fatal(err)
	}
	_, err = reg.PutRoutes(t.Context(), map[wire.UserID][]registry.Route{"bob": {
		{Conn: 2, Server: "e1", Epoch: 1, Device: "phone", Platform: "ios"},
		{Conn: 1, Server: "e1", Epoch: 1, Device: "web", Platform: "web"},
		{Conn: 3, Server: "e1", Epoch: 1, Device: "web2", Platform: "web"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s, reg
}

func TestPresence(t *testing.T) {
	s, reg := setup(t)
	if err := reg.SetLastSeen(t.Context(), "carl", 9); err != nil {
		t.Fatal(err)
	}
	got, err := s.Of(t.Context(), []wire.UserID{"carl", "bob"})
	want := []wire.Presence{{User: "carl", Platforms: []string{}, LastSeen: 9}, {User: "bob", Online: true, Platforms: []string{"ios", "web"}}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if got, err := s.Of(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("of nobody: %v %v", got, err)
	}
	// A dead edge's routes count no more.
	reg.SetNow(time.Hour.Milliseconds())
	if got, err := s.Of(t.Context(), []wire.UserID{"bob"}); err != nil || got[0].Online {
		t.Errorf("after the edge's end: %+v %v", got, err)
	}
}

func TestSessionsInOrder(t *testing.T) {
	s, _ := setup(t)
	got, err := s.Sessions(t.Context(), "bob")
	if err != nil || len(got) != 3 || got[0].Conn != "1" || got[2].Conn != "3" {
		t.Errorf("%+v %v", got, err)
	}
}

func TestLimitsAndAway(t *testing.T) {
	s, reg := setup(t)
	for _, c := range []struct {
		users []wire.UserID
		code  wire.Code
	}{
		{make([]wire.UserID, wire.MaxPresenceUsers+1), wire.CodeTooLarge},
		{[]wire.UserID{"a b"}, wire.CodeBadRequest},
		{[]wire.UserID{""}, wire.CodeBadRequest},
	} {
		_, err := s.Of(t.Context(), c.users)
		we := new(wire.Error)
		if !errors.As(err, &we) || we.Code != c.code {
			t.Errorf("%d users: %v", len(c.users), err)
		}
	}
	reg.SetAway(true)
	_, err1 := s.Of(t.Context(), []wire.UserID{"bob"})
	_, err2 := s.Sessions(t.Context(), "bob")
	_, err3 := s.Edges(t.Context(), "")
	for _, err := range []error{err1, err2, err3} {
		we := new(wire.Error)
		if !errors.As(err, &we) || we.Code != wire.CodeUnavailable || we.RetryAfterMS <= 0 {
			t.Errorf("with the index away: %v", err)
		}
	}
}
