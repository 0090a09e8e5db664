package live

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// world is all that a Service stands on.
type world struct {
	t       *testing.T
	s       *Service
	now     time.Time
	heads   map[wire.ConvID]*store.Conversation
	members map[registry.Membership]bool // by the store
	cached  map[registry.Membership]bool // by the index
	reads   int
	away    error // of the store
	noIDs   error
	log     error // of Produce
	lost    error // of the delivery
	taken   []wire.UserID
	wait    time.Duration
	pushed  []*recordpb.Push
}

func (w *world) Conversation(_ context.Context, c wire.ConvID) (*store.Conversation, error) {
	w.reads++
	if h := w.heads[c]; h != nil || w.away != nil {
		return h, w.away
	}
	return nil, store.ErrNotFound
}

func (w *world) MemberOf(_ context.Context, c wire.ConvID, u wire.UserID) (store.Member, error) {
	p, _ := c.Parse()
	if w.members[registry.Membership{Group: p.Group, User: u}] {
		return store.Member{User: u, JoinedSeq: 1}, nil
	}
	if w.away != nil {
		return store.Member{}, w.away
	}
	return store.Member{}, store.ErrNotFound
}

func (w *world) AreMembers(_ context.Context, ps []registry.Membership) ([]bool, error) {
	return []bool{w.cached[ps[0]]}, nil
}

func (*world) MaxContent() int { return 100 }

func (w *world) Take(u wire.UserID) time.Duration {
	w.taken = append(w.taken, u)
	return w.wait
}

func (w *world) Next() (wire.MsgID, error) { return 77, w.noIDs }

func (*world) Partitions(string) int32 { return 8 }

func (w *world) Produce(p record.PartitionID, _ int64, value []byte, done func(mq.Delivery)) error {
	if w.log != nil {
		return w.log
	}
	e := new(recordpb.Push)
	if err := proto.Unmarshal(value, e); err != nil || p.Topic != record.TopicPush || e.GetVersion() != record.Version {
		w.t.Errorf("%v in %v: %v", e, p, err)
	}
	w.pushed = append(w.pushed, e)
	done(mq.Delivery{Err: w.lost})
	return nil
}

func setup(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, now: time.UnixMilli(1000),
		heads: map[wire.ConvID]*store.Conversation{
			"g:team": {Conv: "g:team", Group: &store.Group{Members: 3}},
			"g:mass": {Conv: "g:mass", Group: &store.Group{Members: 4}},
			"g:gone": {Conv: "g:gone", Group: &store.Group{Members: 3, Dismissed: true}},
		},
		members: map[registry.Membership]bool{}, cached: map[registry.Membership]bool{},
	}
	var err error
	w.s, err = New(Deps{
		Push: NewPusher(w, nil), Store: w, Index: w, IDs: w, LargeGroup: 3, Limits: w, Now: func() time.Time { return w.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// one returns the only entry since the last call, without what is the same in all.
func (w *world) one() *recordpb.Push {
	w.t.Helper()
	if len(w.pushed) != 1 {
		w.t.Fatalf("%d entries", len(w.pushed))
	}
	p := w.pushed[0]
	w.pushed = nil
	return p
}

func codeOf(err error) wire.Code {
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e.Code
	}
	return ""
}

func TestTypingInPrivate(t *testing.T) {
	w := setup(t)
	typing := func(from, to wire.UserID) error {
		return w.s.Typing(t.Context(), from, 5, wire.Typing{To: to, From: "forged"})
	}
	if err := typing("alice", "bob"); err != nil {
		t.Fatal(err)
	}
	p := w.one()
	if diff := cmp.Diff([]string{"bob"}, p.GetUsers()); diff != "" || p.GetGroup() != "" || wire.Op(p.GetOp()) != wire.OpTyping || p.GetExceptConn() != 5 ||
		string(p.GetBody()) != `{"to":"bob","from":"alice"}` {
		t.Errorf("%v", p)
	}
	if _ = typing("alice", "bob"); w.reads != 1 {
		t.Errorf("%d reads of what there is not", w.reads)
	}
	w.pushed, w.now = nil, w.now.Add(noneLasts+1)
	w.heads["p:alice:bob"] = &store.Conversation{Conv: "p:alice:bob", BlockedByB: true}
	if err := typing("alice", "bob"); err != nil || len(w.pushed) != 0 {
		t.Errorf("blocked: %v, %d entries", err, len(w.pushed))
	}
	if err := typing("bob", "alice"); err != nil || len(w.pushed) != 1 {
		t.Errorf("who blocks: %v, %d entries", err, len(w.pushed))
	}
	w.heads["p:alice:bob"], w.reads = nil, 0
	if _ = typing("alice", "bob"); w.reads != 0 {
		t.Error("the head is read again at once")
	}
	w.now = w.now.Add(headsLast + 1)
	if err := typing("alice", "bob"); err != nil || w.reads != 1 || len(w.pushed) != 2 {
		t.Errorf("later: %v, %d reads, %d entries", err, w.reads, len(w.pushed))
	}
	w.away, w.now = errors.New("away"), w.now.Add(time.Hour)
	if err := typing("alice", "bob"); !errors.Is(err, w.away) {
		t.Error(err)
	}
	if err := w.s.Typing(t.Context(), "alice", 5, wire.Typing{}); codeOf(err) != wire.CodeBadRequest {
		t.Error(err)
	}
}

func TestTypingInGroups(t *testing.T) {
	w := setup(t)
	for name, c := range map[string]struct {
		group          wire.GroupID
		stored, cached bool
		code           wire.Code
		told           bool
	}{
		"a member by the index": {"team", false, true, "", true},
		"a member by the store": {"team", true, false, "", true},
		"a stranger":            {"team", false, false, wire.CodeNotMember, false},
		"a large group":         {"mass", true, true, "", false},
		"dismissed":             {"gone", true, true, wire.CodeNotFound, false},
		"none":                  {"none", true, true, wire.CodeNotFound, false},
	} {
		k := registry.Membership{Group: c.group, User: "alice"}
		w.members[k], w.cached[k], w.pushed = c.stored, c.cached, nil
		err := w.s.Typing(t.Context(), "alice", 5, wire.Typing{Group: c.group})
		if codeOf(err) != c.code || (err == nil) != (c.code == "") || (len(w.pushed) == 1) != c.told {
			t.Errorf("%s: %v, %v", name, err, w.pushed)
		}
		if c.told && (w.pushed[0].GetGroup() != "team" || len(w.pushed[0].GetUsers()) > 0) {
			t.Errorf("%s: %v", name, w.pushed[0])
		}
	}
}

func TestRoomSend(t *testing.T) {
	w := setup(t)
	send := func(b wire.RoomSend) (code wire.Code) {
		calls := 0
		w.s.RoomSend("alice", b, func(e *wire.Error) {
			if calls++; e != nil {
				code = e.Code
			}
		})
		if calls != 1 {
			t.Errorf("answered %d times", calls)
		}
		return code
	}
	good := wire.RoomSend{Room: "room", Type: wire.TypeText, Content: "hi"}
	if c := send(good); c != "" {
		t.Fatal(c)
	}
	if p := w.one(); p.GetGroup() != "r:room" || wire.Op(p.GetOp()) != wire.OpRoomMsg || p.GetAll() ||
		string(p.GetBody()) != `{"room":"room","id":"77","from":"alice","type":"text","content":"hi","ts":1000}` {
		t.Errorf("%v", p)
	}
	for name, c := range map[string]struct {
		b    wire.RoomSend
		code wire.Code
	}{
		"bad room":    {wire.RoomSend{Room: "a:b", Type: wire.TypeText}, wire.CodeBadRequest},
		"bad type":    {wire.RoomSend{Room: "r", Type: wire.TypeSystem}, wire.CodeBadRequest},
		"no JSON":     {wire.RoomSend{Room: "r", Type: wire.TypeCustom, Content: "x"}, wire.CodeBadRequest},
		"too large":   {wire.RoomSend{Room: "r", Type: wire.TypeText, Content: string(make([]byte, 101))}, wire.CodeTooLarge},
		"as it comes": {good, ""},
	} {
		if got := send(c.b); got != c.code {
			t.Errorf("%s: %q", name, got)
		}
	}
	if w.wait = time.Second; send(good) != wire.CodeRateLimited || w.taken[len(w.taken)-1] != "alice" {
		t.Errorf("too fast: %v", w.taken)
	}
	w.wait = 0
	for _, fail := range []func(){
		func() { w.lost = errors.New("lost") }, func() { w.log = errors.New("full") }, func() { w.noIDs = errors.New("none") },
	} {
		if fail(); send(good) != wire.CodeUnavailable {
			t.Error("not told")
		}
	}
}

func TestBroadcast(t *testing.T) {
	w := setup(t)
	id, err := w.s.Broadcast(t.Context(), wire.TypeText, "all")
	if err != nil || id != 77 {
		t.Fatal(id, err)
	}
	if p := w.one(); !p.GetAll() || wire.Op(p.GetOp()) != wire.OpBroadcast || string(p.GetBody()) != `{"id":"77","type":"text","content":"all","ts":1000}` {
		t.Errorf("%v", p)
	}
	if _, err := w.s.Broadcast(t.Context(), wire.TypeSystem, "x"); codeOf(err) != wire.CodeBadRequest {
		t.Error(err)
	}
	if _, err := w.s.Broadcast(t.Context(), wire.TypeText, string(make([]byte, 101))); codeOf(err) != wire.CodeTooLarge {
		t.Error(err)
	}
	for _, fail := range []func(){
		func() { w.lost = errors.New("lost") }, func() { w.log = errors.New("full") }, func() { w.noIDs = errors.New("none") },
	} {
		fail()
		if _, err := w.s.Broadcast(t.Context(), wire.TypeText, "x"); codeOf(err) != wire.CodeUnavailable {
			t.Error(err)
		}
	}
}
