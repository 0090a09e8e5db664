package route

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/machine"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func routes(servers ...wire.ServerID) []registry.Route {
	var out []registry.Route
	for i, s := range servers {
		out = append(out, registry.Route{Conn: wire.ConnID(i + 1), Server: s})
	}
	return out
}

func table(known bool, unlisted ...wire.ServerID) *Table {
	return NewTable(registry.Routes{
		Known: known,
		Users: map[wire.UserID][]registry.Route{
			"a": routes("e1", "e1"), // two devices at one edge
			"b": routes("e2", "e1"),
		},
		Groups: map[wire.GroupID][]wire.ServerID{"g": {"e3", "e1"}},
	}, []wire.ServerID{"e1", "e2", "e3", "e4"}, unlisted)
}

// show writes what is sent as "edge:users" (or group, conn, all).
func show(sent []Sent) string {
	var out []string
	for _, s := range sent {
		to := strings.Join(s.Item.GetUsers(), "+")
		if s.Item.GetGroup() != "" {
			to += "@" + s.Item.GetGroup()
		}
		if s.Item.GetConn() != 0 {
			to += fmt.Sprintf("#%d", s.Item.GetConn())
		}
		if s.Item.GetAll() {
			to += "*"
		}
		out = append(out, fmt.Sprintf("%s:%s", s.Server, to))
	}
	return strings.Join(out, " ")
}

func TestItem(t *testing.T) {
	users := []wire.UserID{"a", "b", "c"}
	origin := &recordpb.Origin{Server: "e9", Conn: 4}
	for name, c := range map[string]struct {
		item                   machine.Item
		known, holes, unlisted string
	}{
		"users": {
			machine.Item{Kind: machine.Deliver, Users: users},
			"e1:a+b e2:b",
			"e1:a+b+c e2:a+b+c e3:a+b+c e4:a+b+c",
			"e1:a+b e2:b e4:a+b+c",
		},
		"group": {
			machine.Item{Kind: machine.Deliver, Group: "g", Users: users},
			"e1:@g e3:@g",
			"e1:@g e2:@g e3:@g e4:@g",
			"e1:@g e3:@g e4:@g",
		},
		"nobody": {machine.Item{Kind: machine.Deliver}, "", "", ""},
		"reply": {
			machine.Item{Kind: machine.Reply, Users: users[:1], Origin: origin},
			"e9:a#4", "e9:a#4", "e9:a#4",
		},
		"reply to nobody": {machine.Item{Kind: machine.Reply, Users: users[:1]}, "", "", ""},
		"join": {
			machine.Item{Kind: machine.Join, Group: "h", Users: users},
			"e1:a+b+c@h e2:a+b+c@h e3:a+b+c@h e4:a+b+c@h",
			"e1:a+b+c@h e2:a+b+c@h e3:a+b+c@h e4:a+b+c@h",
			"e1:a+b+c@h e2:a+b+c@h e3:a+b+c@h e4:a+b+c@h",
		},
		"leave": {
			machine.Item{Kind: machine.Leave, Group: "g", Users: users[2:]},
			"e1:c@g e2:c@g e3:c@g e4:c@g",
			"e1:c@g e2:c@g e3:c@g e4:c@g",
			"e1:c@g e2:c@g e3:c@g e4:c@g",
		},
		"drop": {
			machine.Item{Kind: machine.Drop, Group: "g"},
			"e1:@g e2:@g e3:@g e4:@g",
			"e1:@g e2:@g e3:@g e4:@g",
			"e1:@g e2:@g e3:@g e4:@g",
		},
		"unknown kind": {machine.Item{Kind: 99, Users: users, Group: "g"}, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := show(table(true).Item(&c.item)); got != c.known {
				t.Errorf("known: %q, want %q", got, c.known)
			}
			if got := show(table(false).Item(&c.item)); got != c.holes {
				t.Errorf("with holes: %q, want %q", got, c.holes)
			}
			if got := show(table(true, "e4").Item(&c.item)); got != c.unlisted {
				t.Errorf("with an unlisted edge: %q, want %q", got, c.unlisted)
			}
		})
	}
}

func TestItemKeepsTheBody(t *testing.T) {
	it := machine.Item{
		Kind: machine.Deliver, Users: []wire.UserID{"a"},
		Op: wire.OpMsg, Body: []byte("{}"), Conv: "p:a:b", Seq: 7,
	}
	got := table(true).Item(&it)[0].Item
	if got.GetOp() != int32(wire.OpMsg) || string(got.GetBody()) != "{}" || got.GetConv() != "p:a:b" || got.GetSeq() != 7 {
		t.Errorf("got %v", got)
	}
}

func TestPush(t *testing.T) {
	for _, c := range []struct {
		entry *recordpb.Push
		want  string
	}{
		{&recordpb.Push{Users: []string{"b", "zoe"}}, "e1:b e2:b"},
		{&recordpb.Push{Group: "g"}, "e1:@g e3:@g"},
		{&recordpb.Push{All: true, Users: []string{"b"}}, "e1:* e2:* e3:* e4:*"},
		{&recordpb.Push{}, ""},
	} {
		if got := show(table(true).Push(c.entry)); got != c.want {
			t.Errorf("%v: %q, want %q", c.entry, got, c.want)
		}
	}
	if got := table(true).Push(&recordpb.Push{Users: []string{"a"}, ExceptConn: 5}); got[0].Item.GetExceptConn() != 5 {
		t.Errorf("the connection left out was forgotten: %v", got)
	}
}

func TestAddGroupAndJoiners(t *testing.T) {
	tb := table(true)
	join := &machine.Item{Kind: machine.Join, Group: "h", Users: []wire.UserID{"b", "a", "c"}}
	for _, s := range tb.Joiners(join) {
		tb.AddGroup("h", s)
		tb.AddGroup("h", s)
	}
	if got := show(tb.Item(&machine.Item{Kind: machine.Deliver, Group: "h"})); got != "e1:@h e2:@h" {
		t.Errorf("a group delivery after the join: %q", got)
	}
	if !tb.Online("a") || tb.Online("c") {
		t.Error("a is online, c is not")
	}
	if got := tb.Servers(); !slices.Equal(got, []wire.ServerID{"e1", "e2", "e3"}) {
		t.Errorf("servers %v", got)
	}
}

func TestNames(t *testing.T) {
	var n Names
	n.AddEffects([]machine.Effects{
		{Items: []machine.Item{
			{Kind: machine.Deliver, Users: []wire.UserID{"b", "a"}, File: []wire.UserID{"z"}},
			{Kind: machine.Deliver, Group: "g", Users: []wire.UserID{"ignored"}},
			{Kind: machine.Reply, Users: []wire.UserID{"replied"}},
		}},
		{Items: []machine.Item{
			{Kind: machine.Join, Group: "h", Users: []wire.UserID{"a", "c"}},
			{Kind: machine.Leave, Group: "g", Users: []wire.UserID{"left"}},
		}},
	})
	if d := cmp.Diff([]wire.UserID{"b", "a", "c"}, n.Users); d != "" {
		t.Errorf("users (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]wire.GroupID{"g", "h"}, n.Groups); d != "" {
		t.Errorf("groups (-want +got):\n%s", d)
	}
	if !n.HasUser("c") || n.HasUser("z") {
		t.Error("c is among the names, z is only filed")
	}
}
