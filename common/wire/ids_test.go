package wire

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestValidID(t *testing.T) {
	long := strings.Repeat("x", MaxIDLen)
	for _, s := range []string{"a", "alice", "A.b_c@d-9", long} {
		if !ValidID(s) {
			t.Errorf("ValidID(%q) = false", s)
		}
	}
	for _, s := range []string{"", long + "x", "a:b", "a b", "é", "a/b", "a\x00", "a\n"} {
		if ValidID(s) {
			t.Errorf("ValidID(%q) = true", s)
		}
	}
}

func TestValidClientID(t *testing.T) {
	long := strings.Repeat("~", MaxClientIDLen)
	for _, s := range []string{"!", "a:b/c", long} {
		if !ValidClientID(s) {
			t.Errorf("ValidClientID(%q) = false", s)
		}
	}
	for _, s := range []string{"", long + "x", "a b", "\x7f", "é", "a\t"} {
		if ValidClientID(s) {
			t.Errorf("ValidClientID(%q) = true", s)
		}
	}
}

func TestConvParse(t *testing.T) {
	long := strings.Repeat("u", MaxIDLen)
	for id, want := range map[ConvID]Conv{
		"p:alice:bob":                            {A: "alice", B: "bob"},
		"p:a:a":                                  {A: "a", B: "a"},
		"p:Bob:alice":                            {A: "Bob", B: "alice"}, // byte order, not the alphabet's
		"g:team":                                 {Group: "team"},
		ConvID("p:" + long + ":" + long):         {A: UserID(long), B: UserID(long)},
		PrivateConv("bob", "alice"):              {A: "alice", B: "bob"},
		Send{To: "al"}.Conv("bo"):                {A: "al", B: "bo"},
		Send{Group: "g"}.Conv("bo"):              {Group: "g"},
		GroupConv(GroupID(strings.ToUpper("t"))): {Group: "T"},
	} {
		got, err := id.Parse()
		if err != nil || got != want {
			t.Errorf("%q.Parse() = %+v, %v, want %+v", id, got, err, want)
		}
	}
	for _, id := range []ConvID{
		"", "p", "p:", "p:a", "p:a:", "p::a", "p:b:a", "p:a:b:c", "g:", "g:a:b",
		"x:a", "P:a:b", "g: a", ConvID("g:" + long + "u"), "p:a:b ",
	} {
		if got, err := id.Parse(); !errors.Is(err, ErrBadConv) {
			t.Errorf("%q.Parse() = %+v, %v, want ErrBadConv", id, got, err)
		}
	}
}

func TestConvMembers(t *testing.T) {
	c := Conv{A: "a", B: "b"}
	if !c.Has("a") || !c.Has("b") || c.Has("c") || c.Peer("a") != "b" || c.Peer("b") != "a" {
		t.Errorf("members of %+v are wrong", c)
	}
	if self := (Conv{A: "a", B: "a"}); self.Peer("a") != "a" {
		t.Error("peer in notes to oneself is somebody else")
	}
	if (Conv{Group: "g"}).Has("") || !ConvID("g:x").IsGroup() || ConvID("p:a:b").IsGroup() {
		t.Error("group and private conversations are mixed up")
	}
}

func TestMsgIDJSON(t *testing.T) {
	for in, want := range map[string]MsgID{
		`"1"`: 1, `"9223372036854775807"`: 1<<63 - 1, `null`: 5, `"0"`: 0,
	} {
		id := MsgID(5)
		if err := json.Unmarshal([]byte(in), &id); err != nil || id != want {
			t.Errorf("unmarshal %s = %d, %v, want %d", in, id, err, want)
		}
	}
	for _, in := range []string{
		`1`, `""`, `"00"`, `"-1"`, `"+1"`, `"01"`, `"1 "`, `"9223372036854775808"`, `"x"`, `{}`, `"\u0031"`,
	} {
		var id MsgID
		if err := json.Unmarshal([]byte(in), &id); err == nil {
			t.Errorf("unmarshal %s = %d, want an error", in, id)
		}
	}
	if b, err := Marshal(SendAck{ID: 1 << 62}); err != nil || !strings.Contains(string(b), `"id":"4611686018427387904"`) {
		t.Errorf("an id is not a decimal string: %s, %v", b, err)
	}
}

func FuzzConvParse(f *testing.F) {
	for _, s := range []string{"p:a:b", "g:x", "p:b:a", "p:a:b:c", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ConvID(s).Parse()
		if err != nil {
			return
		}
		back := GroupConv(c.Group)
		if c.Group == "" {
			back = PrivateConv(c.B, c.A)
		}
		if string(back) != s {
			t.Errorf("%q parses to %+v, which is %q", s, c, back)
		}
		if ConvID(s).IsGroup() != (c.Group != "") {
			t.Errorf("%q: IsGroup and Parse disagree", s)
		}
	})
}

func FuzzMsgID(f *testing.F) {
	for _, s := range []string{`"1"`, `"01"`, `null`, `12`, `"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var id MsgID
		if err := id.UnmarshalJSON(b); err != nil || string(b) == "null" {
			return
		}
		if back, err := id.MarshalJSON(); err != nil || string(back) != string(b) || id < 0 {
			t.Errorf("%q reads as %d, which is %q, %v", b, id, back, err)
		}
	})
}
