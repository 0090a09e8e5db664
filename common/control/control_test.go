package control

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func at(ms int64) time.Time { return time.UnixMilli(ms) }

func TestEnds(t *testing.T) {
	s := &Session{User: "bob", Device: "web", Conn: 7, Since: 100, Issued: 90}
	for name, c := range map[string]struct {
		e      Entry
		reason string
	}{
		"ban":                       {Entry{Kind: Ban, User: "bob"}, ReasonBanned},
		"ban with an end":           {Entry{Kind: Ban, User: "bob", Until: 151}, ReasonBanned},
		"ban that has ended":        {Entry{Kind: Ban, User: "bob", Until: 150}, ""},
		"ban of another":            {Entry{Kind: Ban, User: "Bob"}, ""},
		"revoked":                   {Entry{Kind: Revoke, User: "bob", At: 90}, ReasonRevoked},
		"revoked before":            {Entry{Kind: Revoke, User: "bob", At: 89}, ""},
		"device revoked":            {Entry{Kind: Revoke, User: "bob", Device: "web", At: 95}, ReasonRevoked},
		"another device revoked":    {Entry{Kind: Revoke, User: "bob", Device: "ios", At: 95}, ""},
		"kick":                      {Entry{Kind: Kick, User: "bob", At: 100}, ReasonAdmin},
		"kick before it began":      {Entry{Kind: Kick, User: "bob", At: 99}, ""},
		"kick of the connection":    {Entry{Kind: Kick, User: "bob", Conn: 7, At: 100}, ReasonAdmin},
		"whatever the clocks say":   {Entry{Kind: Kick, User: "bob", Conn: 7, At: 1}, ReasonAdmin},
		"kick of another":           {Entry{Kind: Kick, User: "bob", Conn: 8, At: 100}, ""},
		"somebody else's of the id": {Entry{Kind: Kick, User: "eve", Conn: 7, At: 100}, ""},
		"unban":                     {Entry{Kind: Unban, User: "bob", At: 200}, ""},
		"setting":                   {Entry{Kind: Set, Name: "x", Value: "1", At: 200}, ""},
	} {
		if reason, ends := c.e.Ends(s, at(150)); ends != (c.reason != "") || ends && reason != c.reason {
			t.Errorf("%s: %q %v, want %q", name, reason, ends, c.reason)
		}
	}
}

func TestState(t *testing.T) {
	var s State
	if err := s.Deny("bob", "web", at(1), at(2)); err != nil || s.Version() != 0 {
		t.Error("before any entry:", err)
	}
	s.Apply([]Entry{
		{Version: 1, Kind: Ban, User: "bob", Until: 50},
		{Version: 2, Kind: Ban, User: "eve"},
		{Version: 3, Kind: Revoke, User: "carl", Device: "web", At: 20},
		{Version: 4, Kind: Set, Name: "a", Value: "1"},
		{Version: 5, Kind: Set, Name: "b", Value: "2"},
		{Version: 6, Kind: Kick, User: "dan", At: 20},
	})
	code := func(u wire.UserID, d wire.DeviceID, issued, now int64) wire.Code {
		t.Helper()
		if err := s.Deny(u, d, at(issued), at(now)); err != nil {
			return err.Code
		}
		return ""
	}
	for _, c := range []struct {
		user        wire.UserID
		device      wire.DeviceID
		issued, now int64
		want        wire.Code
	}{
		{"bob", "web", 10, 49, wire.CodeBanned},
		{"bob", "web", 10, 50, ""},
		{"eve", "web", 1 << 40, 1 << 41, wire.CodeBanned},
		{"carl", "web", 20, 30, wire.CodeUnauthenticated},
		{"carl", "web", 21, 30, ""},
		{"carl", "ios", 10, 30, ""},
		{"dan", "web", 10, 30, ""}, // may come back
	} {
		if got := code(c.user, c.device, c.issued, c.now); got != c.want {
			t.Errorf("%s/%s issued at %d, at %d: %q, want %q", c.user, c.device, c.issued, c.now, got, c.want)
		}
	}
	s.Apply([]Entry{
		{Version: 2, Kind: Unban, User: "eve"}, // known already
		{Version: 7, Kind: Unban, User: "bob"},
		{Version: 8, Kind: Revoke, User: "carl", At: 25},
		{Version: 9, Kind: Set, Name: "a"},
	})
	if code("bob", "", 1, 10) != "" || code("eve", "", 1, 10) != wire.CodeBanned || code("carl", "ios", 25, 30) != wire.CodeUnauthenticated {
		t.Error("what came later does not count, or what came before no more")
	}
	if diff := cmp.Diff(map[string]string{"b": "2"}, s.Settings()); diff != "" {
		t.Error(diff)
	}
	if got := s.Bans(at(10)); len(got) != 1 || got[0].User != "eve" || s.Version() != 9 {
		t.Errorf("bans %+v, version %d", got, s.Version())
	}
	for _, c := range []struct {
		se   Session
		want string
	}{
		{Session{User: "eve"}, ReasonBanned},
		{Session{User: "carl", Device: "web", Issued: 24}, ReasonRevoked},
		{Session{User: "carl", Device: "web", Issued: 26}, ""},
		{Session{User: "dan", Since: 1}, ""},
	} {
		if reason, ended := s.Ended(&c.se, at(30)); ended != (c.want != "") || ended && reason != c.want {
			t.Errorf("%+v: %q %v", c.se, reason, ended)
		}
	}
	s.Replace([]Entry{{Version: 3, Kind: Ban, User: "zoe"}})
	if code("eve", "", 1, 10) != "" || code("zoe", "", 1, 10) != wire.CodeBanned || len(s.Settings()) != 0 || s.Version() != 3 {
		t.Error("what was there before Replace counts")
	}
}

// TestRevokedByAnotherClock: a revocation does not go back where the clock of who
// decided it is behind.
func TestRevokedByAnotherClock(t *testing.T) {
	var s State
	s.Apply([]Entry{{Version: 1, Kind: Revoke, User: "bob", At: 20}, {Version: 2, Kind: Revoke, User: "bob", At: 10}})
	if s.Deny("bob", "web", at(15), at(30)) == nil {
		t.Error("a token that was revoked is good again")
	}
	if ms, devices := s.Revoked("bob", ""); ms != 20 || devices != 1 {
		t.Errorf("revoked at %d, %d devices", ms, devices)
	}
}

func TestForget(t *testing.T) {
	var s State
	s.Apply([]Entry{
		{Version: 1, Kind: Ban, User: "a"},
		{Version: 2, Kind: Ban, User: "b", Until: 5},
		{Version: 3, Kind: Revoke, User: "c", At: 5},
		{Version: 4, Kind: Revoke, User: "d", At: 10},
	})
	s.Forget(at(10).Add(Kept))
	if s.Deny("a", "", at(1), at(1)) == nil || s.Deny("d", "", at(1), at(1)) == nil {
		t.Error("what counts was forgotten")
	}
	if len(s.bans) != 1 || len(s.revoked) != 1 {
		t.Errorf("kept: %v %v", s.bans, s.revoked)
	}
}

func TestOverAt(t *testing.T) {
	kept, kicks := Kept.Milliseconds(), KeptKicks.Milliseconds()
	for name, c := range map[string]struct {
		e    Entry
		want int64
	}{
		"ban for good":   {Entry{Kind: Ban, At: 3}, math.MaxInt64},
		"ban":            {Entry{Kind: Ban, At: 3, Until: 5}, 5},
		"unban":          {Entry{Kind: Unban, At: 3}, 3 + kept},
		"revocation":     {Entry{Kind: Revoke, At: 3}, 3 + kept},
		"kick":           {Entry{Kind: Kick, At: 3}, 3 + kicks},
		"drain":          {Entry{Kind: Drain, At: 3}, 3 + kicks},
		"setting":        {Entry{Kind: Set, At: 3, Value: "1"}, math.MaxInt64},
		"setting undone": {Entry{Kind: Set, At: 3}, 3 + kept},
	} {
		if got := c.e.OverAt(); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
