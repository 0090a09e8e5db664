package group

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/message"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// recorder takes records and lets none through.
type recorder struct {
	got     []*recordpb.Record
	retried []bool
}

var errStop = errors.New("stop here")

func (r *recorder) Submit(_ context.Context, rec *recordpb.Record, retried bool) (*message.Pending, error) {
	r.got, r.retried = append(r.got, rec), append(r.retried, retried)
	return nil, errStop
}

func setup(t *testing.T) (*Service, *recorder) {
	t.Helper()
	r := &recorder{}
	s, err := New(memstore.New(), r)
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

func TestCommandsBecomeRecords(t *testing.T) {
	ctx := t.Context()
	c := Command{By: "alice", Key: "k"}
	for name, f := range map[string]struct {
		do   func(s *Service) error
		want *recordpb.Command
	}{
		"create": {func(s *Service) error {
			_, err := s.Create(ctx, c, NewGroup{ID: "team", Name: "n", Description: "d", Members: []wire.UserID{"bob"}})
			return err
		}, &recordpb.Command{Kind: recordpb.Command_CREATE, Name: new("n"), Description: new("d"), Users: []string{"bob"}}},
		"add":      {func(s *Service) error { return s.Add(ctx, c, "team", []wire.UserID{"bob"}) }, &recordpb.Command{Kind: recordpb.Command_ADD, Users: []string{"bob"}}},
		"remove":   {func(s *Service) error { return s.Remove(ctx, c, "team", "bob") }, &recordpb.Command{Kind: recordpb.Command_REMOVE, Users: []string{"bob"}}},
		"role":     {func(s *Service) error { return s.SetRole(ctx, c, "team", "bob", "admin") }, &recordpb.Command{Kind: recordpb.Command_ROLE, Users: []string{"bob"}, Role: "admin"}},
		"mute one": {func(s *Service) error { return s.Mute(ctx, c, "team", "bob", 9) }, &recordpb.Command{Kind: recordpb.Command_MUTE, Users: []string{"bob"}, Until: 9}},
		"mute all": {func(s *Service) error { return s.Mute(ctx, c, "team", "", 9) }, &recordpb.Command{Kind: recordpb.Command_MUTE, Until: 9}},
		"dismiss":  {func(s *Service) error { return s.Dismiss(ctx, c, "team") }, &recordpb.Command{Kind: recordpb.Command_DISMISS}},
	} {
		t.Run(name, func(t *testing.T) {
			s, r := setup(t)
			if err := f.do(s); !errors.Is(err, errStop) {
				t.Fatalf("err %v", err)
			}
			got := r.got[0]
			if got.GetConv() != "g:team" || got.GetFrom() != "alice" || got.GetClientId() != "k" || !r.retried[0] || got.GetHash() == 0 ||
				got.GetCommand().String() != f.want.String() {
				t.Errorf("record %v", got)
			}
		})
	}
}

func TestBadCommandsAreNotProduced(t *testing.T) {
	ctx := t.Context()
	s, r := setup(t)
	many := make([]wire.UserID, MaxUsers+1)
	for i := range many {
		many[i] = "u"
	}
	c := Command{By: "alice"}
	create := func(n NewGroup) error { _, err := s.Create(ctx, c, n); return err }
	for name, err := range map[string]error{
		"bad id":           create(NewGroup{ID: "a:b"}),
		"long name":        create(NewGroup{ID: "g", Name: strings.Repeat("x", MaxName+1)}),
		"name not UTF-8":   create(NewGroup{ID: "g", Name: "\xff"}),
		"long description": create(NewGroup{ID: "g", Description: strings.Repeat("x", MaxDescription+1)}),
		"too many members": create(NewGroup{ID: "g", Members: many}),
		"bad member":       create(NewGroup{ID: "g", Members: []wire.UserID{"a b"}}),
		"nobody":           s.Add(ctx, c, "g", nil),
		"too many added":   s.Add(ctx, c, "g", many),
		"bad removed":      s.Remove(ctx, c, "g", ""),
		"bad role":         s.SetRole(ctx, c, "g", "bob", "king"),
		"role of nobody":   s.SetRole(ctx, c, "g", "", "admin"),
		"negative time":    s.Mute(ctx, c, "g", "bob", -1),
		"bad muted":        s.Mute(ctx, c, "g", "a b", 1),
		"bad group":        s.Dismiss(ctx, c, "a b"),
		"bad key":          s.Dismiss(ctx, Command{By: "alice", Key: "a b"}, "g"),
	} {
		we := new(wire.Error)
		if !errors.As(err, &we) || we.Code != wire.CodeBadRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(r.got) != 0 {
		t.Errorf("produced %v", r.got)
	}
}

func TestMadeIDs(t *testing.T) {
	a, b := madeID(Command{By: "alice", Key: "k"}), madeID(Command{By: "alice", Key: "k"})
	if a != b || !wire.ValidID(string(a)) {
		t.Errorf("ids of one key: %q %q", a, b)
	}
	for _, other := range []Command{{By: "alice", Key: "k2"}, {By: "bob", Key: "k"}, {By: "alice"}} {
		if id := madeID(other); id == a || !wire.ValidID(string(id)) {
			t.Errorf("%+v has id %q", other, id)
		}
	}
}

// A rename says what was asked and nothing else: what it leaves out stays as
// others have it when its turn comes.
func TestRenameSaysWhatWasAsked(t *testing.T) {
	s, r := setup(t)
	asked := func(name, description *string) *recordpb.Record {
		t.Helper()
		if _, err := s.Rename(t.Context(), Command{By: "alice", Key: "k"}, "team", name, description); !errors.Is(err, errStop) {
			t.Fatal(err)
		}
		return r.got[len(r.got)-1]
	}
	first := asked(new("new"), nil)
	if c := first.GetCommand(); c.GetName() != "new" || c.Description != nil {
		t.Errorf("the record says %v", c)
	}
	if again := asked(new("new"), nil); again.GetHash() != first.GetHash() {
		t.Error("the repeat has another hash")
	}
	for what, r := range map[string]*recordpb.Record{
		"another name":          asked(new("newer"), nil),
		"the description, too":  asked(new("new"), new("d")),
		"an empty description":  asked(new("new"), new("")),
		"the description alone": asked(nil, new("new")),
	} {
		if r.GetHash() == first.GetHash() {
			t.Errorf("%s has the same hash", what)
		}
	}
	for what, ask := range map[string][2]*string{
		"nothing":       {nil, nil},
		"an empty name": {new(""), nil},
		"a long name":   {new(strings.Repeat("x", MaxName+1)), nil},
	} {
		_, err := s.Rename(t.Context(), Command{By: "alice"}, "team", ask[0], ask[1])
		if we, ok := errors.AsType[*wire.Error](err); !ok || we.Code != wire.CodeBadRequest {
			t.Errorf("%s: %v", what, err)
		}
	}
}
