package group

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
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
		}, &recordpb.Command{Kind: recordpb.Command_CREATE, Name: "n", Description: "d", Users: []string{"bob"}}},
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

func TestHashCoversTheCommand(t *testing.T) {
	base := &recordpb.Command{Kind: recordpb.Command_ADD, Users: []string{"a", "b"}}
	for _, other := range []*recordpb.Command{
		{Kind: recordpb.Command_REMOVE, Users: []string{"a", "b"}},
		{Kind: recordpb.Command_ADD, Users: []string{"ab"}},
		{Kind: recordpb.Command_ADD, Users: []string{"a", "b"}, Name: "n"},
		{Kind: recordpb.Command_ADD, Users: []string{"a", "b"}, Until: 1},
		{Kind: recordpb.Command_ADD, Users: []string{"a", "b"}, Role: "admin"},
		{Kind: recordpb.Command_ADD, Users: []string{"a", "b"}, Description: "d"},
	} {
		if hash(other) == hash(base) {
			t.Errorf("%v has the same hash", other)
		}
	}
}

// A repeat of a rename is the same command, whatever others changed meanwhile.
func TestHashOfARename(t *testing.T) {
	st := memstore.New()
	r := &recorder{}
	s, err := New(st, r)
	if err != nil {
		t.Fatal(err)
	}
	p, err := st.Claim(t.Context(), record.PartitionID{Topic: record.TopicGroups}, "t", 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &store.Conversation{Conv: "g:team", MaxSeq: 1, MinSeq: 1, Group: &store.Group{Name: "n", Description: "d", Owner: "alice"}}
	put := func() {
		t.Helper()
		turn := &store.Turn{Conversations: []*store.Conversation{c}, Partitions: []store.PartitionMove{
			{PartitionID: p.PartitionID, Epoch: p.Epoch, From: p.Applied, To: p.Applied + 1},
		}}
		p.Applied++
		if fenced, err := st.Commit(t.Context(), turn); err != nil || len(fenced) > 0 {
			t.Fatal(fenced, err)
		}
	}
	put()
	str := func(s string) *string { return &s }
	hashOf := func(name, description *string) uint64 {
		t.Helper()
		if _, err := s.Rename(t.Context(), Command{By: "alice", Key: "k"}, "team", name, description); !errors.Is(err, errStop) {
			t.Fatal(err)
		}
		return r.got[len(r.got)-1].GetHash()
	}
	first := hashOf(str("new"), nil)
	c.Group.Description = "changed by another"
	put()
	if again := hashOf(str("new"), nil); again != first {
		t.Error("the repeat has another hash")
	}
	if got := r.got[1].GetCommand(); got.GetDescription() != "changed by another" || got.GetName() != "new" {
		t.Errorf("the record says %v", got)
	}
	for what, h := range map[string]uint64{
		"another name": hashOf(str("newer"), nil), "the description, too": hashOf(str("new"), str("d")),
		"an empty description": hashOf(str("new"), str("")), "the description alone": hashOf(nil, str("new")),
	} {
		if h == first {
			t.Errorf("%s has the same hash", what)
		}
	}
}
