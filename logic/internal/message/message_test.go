package message

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/idgen"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/logictest"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// fixture is a Service over a store, an index and a log in memory.
type fixture struct {
	*Service
	store *memstore.Store
	reg   *memregistry.Registry
	log   *logictest.Log
	ids   *switchIDs
}

// switchIDs can be told to give none.
type switchIDs struct {
	*idgen.Generator
	err error
}

func (s *switchIDs) Next() (wire.MsgID, error) {
	if s.err != nil {
		return 0, s.err
	}
	return s.Generator.Next()
}

func defaults(t *testing.T) Config {
	t.Helper()
	var cfg Config
	cfg.RegisterFlags(flag.NewFlagSet("t", flag.ContinueOnError), "logic.")
	cfg.LookBudget, cfg.WaitBudget = time.Minute, time.Minute
	return cfg
}

func setup(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{store: memstore.New(), reg: memregistry.New()}
	f.log = logictest.New(t.Context(), f.store)
	t.Cleanup(f.log.Close)
	g := idgen.New(1, 0, time.Now)
	g.Extend(time.Now().Add(time.Hour).UnixMilli())
	f.ids = &switchIDs{Generator: g}
	var err error
	f.Service, err = New(defaults(t), Deps{Produce: f.log, Store: f.store, Index: f.reg, IDs: f.ids, Limits: logictest.Limits(16 << 10)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return f
}

type answer struct {
	Ack *wire.SendAck
	Err *wire.Error
}

// sendAll sends in one call, as over HTTP, and waits for all answers, in order.
func (f *fixture) sendAll(t *testing.T, from wire.UserID, bodies ...wire.Send) []answer {
	t.Helper()
	return f.sendOver(t, nil, from, bodies...)
}

func (f *fixture) sendOver(t *testing.T, origin *recordpb.Origin, from wire.UserID, bodies ...wire.Send) []answer {
	t.Helper()
	out := make([]answer, len(bodies))
	var wg sync.WaitGroup
	reqs := make([]Request, len(bodies))
	for i, b := range bodies {
		wg.Add(1)
		reqs[i] = Request{From: from, Origin: origin, Body: b, Done: func(a *wire.SendAck, e *wire.Error) { out[i] = answer{a, e}; wg.Done() }}
	}
	f.Send(t.Context(), reqs)
	wg.Wait()
	return out
}

func text(to, id, content string) wire.Send {
	return wire.Send{To: wire.UserID(to), ClientID: id, Type: wire.TypeText, Content: content}
}

func toGroup(g, id string) wire.Send {
	return wire.Send{Group: wire.GroupID(g), ClientID: id, Type: wire.TypeText, Content: "x"}
}

// acked waits until the reservation is marked.
func (f *fixture) acked(t *testing.T, conv wire.ConvID, from wire.UserID, id string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		got, err := f.reg.Reserve(t.Context(), []registry.Reservation{{Conv: conv, From: from, ClientID: id, ID: 1}})
		if err == nil && got[0].Acked > 0 {
			return
		}
	}
	t.Fatal("the reservation was not marked")
}

func (f *fixture) command(t *testing.T, by, g string, c *recordpb.Command) {
	t.Helper()
	p, err := f.Submit(t.Context(), &recordpb.Record{
		Conv: "g:" + g, From: by, Hash: 1, Body: &recordpb.Record_Command{Command: c},
	}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestSendIsProducedAsDecided(t *testing.T) {
	f := setup(t)
	b := text("bob", "c1", "hi")
	b.Mention, b.ReplyTo = []wire.UserID{"bob"}, 42
	origin := &recordpb.Origin{Server: "edge-1", Conn: 9, Device: "web"}
	got := make(chan answer, 1)
	f.Send(t.Context(), []Request{{From: "alice", Origin: origin, Body: b, Done: func(a *wire.SendAck, e *wire.Error) { got <- answer{a, e} }}})
	a := <-got
	if a.Err != nil || a.Ack.Conv != "p:alice:bob" || a.Ack.ClientID != "c1" || a.Ack.TS == 0 {
		t.Fatalf("answer %+v", a)
	}
	r := f.log.Records()[0]
	want := &recordpb.Limits{LargeGroup: 500, MaxMembers: 100_000, RecallWindowMs: 120_000}
	if r.GetId() != int64(a.Ack.ID) || r.GetOrigin().String() != origin.String() || r.GetLimits().String() != want.String() ||
		r.GetHash() != record.ContentHash("text", "hi") || r.GetResend() || r.GetSend().GetReplyTo() != 42 || r.GetSend().GetMention()[0] != "bob" {
		t.Errorf("record %v", r)
	}
}

func TestRefusedAtOnce(t *testing.T) {
	f := setup(t)
	for name, c := range map[string]struct {
		body wire.Send
		code wire.Code
	}{
		"no target":     {wire.Send{ClientID: "c", Type: "text"}, wire.CodeBadRequest},
		"both targets":  {wire.Send{To: "b", Group: "g", ClientID: "c", Type: "text"}, wire.CodeBadRequest},
		"system type":   {wire.Send{To: "b", ClientID: "c", Type: "system"}, wire.CodeBadRequest},
		"no client_id":  {wire.Send{To: "b", Type: "text"}, wire.CodeBadRequest},
		"too large":     {text("b", "c", strings.Repeat("x", 16<<10+1)), wire.CodeTooLarge},
		"unknown group": {toGroup("none", "c"), wire.CodeNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			a := f.sendAll(t, "alice", c.body)[0]
			if a.Err == nil || a.Err.Code != c.code || a.Err.ClientID != c.body.ClientID {
				t.Errorf("answer %+v", a)
			}
		})
	}
	if n := len(f.log.Records()); n != 0 {
		t.Errorf("%d records produced", n)
	}
}

func TestRepeats(t *testing.T) {
	f := setup(t)
	first := f.sendAll(t, "alice", text("bob", "c1", "hi"))[0]
	f.acked(t, "p:alice:bob", "alice", "c1")
	again := f.sendAll(t, "alice", text("bob", "c1", "hi"))[0]
	if diff := cmp.Diff(first.Ack, again.Ack); diff != "" {
		t.Errorf("the repeat is answered otherwise:\n%s", diff)
	}
	if n := len(f.log.Records()); n != 1 {
		t.Errorf("an acknowledged repeat was produced: %d records", n)
	}
	other := f.sendAll(t, "alice", text("bob", "c1", "other"))[0]
	if other.Err == nil || other.Err.Code != wire.CodeConflict || other.Err.ClientID != "c1" {
		t.Errorf("other content: %+v", other)
	}
	// The same client_id in another conversation, and of another sender, is another message.
	if a := f.sendAll(t, "alice", text("carl", "c1", "other"))[0]; a.Err != nil || a.Ack.ID == first.Ack.ID {
		t.Errorf("other conversation: %+v", a)
	}
	if a := f.sendAll(t, "bob", text("alice", "c1", "other"))[0]; a.Err != nil || a.Ack.ID == first.Ack.ID {
		t.Errorf("other sender: %+v", a)
	}
}

// A retry of a send that was acknowledged and then refused learns of it.
func TestRepeatOfARefusedSend(t *testing.T) {
	f := setup(t)
	f.command(t, "alice", "team", &recordpb.Command{Kind: recordpb.Command_CREATE, Users: []string{"bob"}})
	f.log.Hold(true)
	removed, err := f.Submit(t.Context(), &recordpb.Record{Conv: "g:team", From: "alice", Hash: 1, Body: &recordpb.Record_Command{
		Command: &recordpb.Command{Kind: recordpb.Command_REMOVE, Users: []string{"bob"}},
	}}, false)
	if err != nil {
		t.Fatal(err)
	}
	acked := make(chan answer, 1)
	f.Send(t.Context(), []Request{{From: "bob", Body: toGroup("team", "c1"), Done: func(a *wire.SendAck, e *wire.Error) { acked <- answer{a, e} }}})
	f.log.Hold(false)
	if a := <-acked; a.Err != nil {
		t.Fatalf("not acknowledged: %v", a.Err)
	}
	if err := removed.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = f.log.Flush(t.Context())
	f.acked(t, "g:team", "bob", "c1")
	again := f.sendAll(t, "bob", toGroup("team", "c1"))[0]
	if again.Err == nil || again.Err.Code != wire.CodeNotMember || again.Err.ClientID != "c1" {
		t.Errorf("the retry: %+v %v", again.Ack, again.Err)
	}
	if other := f.sendAll(t, "bob", wire.Send{Group: "team", ClientID: "c1", Type: wire.TypeText, Content: "other"})[0]; other.Err == nil || other.Err.Code != wire.CodeConflict {
		t.Errorf("other content: %+v %v", other.Ack, other.Err)
	}
}

// A retry of a send whose fate is not known is produced again, under the first id.
func TestRetryBeforeTheAck(t *testing.T) {
	f := setup(t)
	f.log.Hold(true)
	var mu sync.Mutex
	var ids []wire.MsgID
	var wg sync.WaitGroup
	for range 10 {
		wg.Add(1)
		go f.Send(t.Context(), []Request{{From: "alice", Body: text("bob", "c1", "hi"), Done: func(a *wire.SendAck, e *wire.Error) {
			defer wg.Done()
			if e != nil {
				t.Errorf("refused: %v", e)
				return
			}
			mu.Lock()
			ids = append(ids, a.ID)
			mu.Unlock()
		}}})
	}
	for f.log.Waiting() < 10 {
		time.Sleep(time.Millisecond)
	}
	f.log.Hold(false)
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("ids differ: %v", ids)
		}
	}
	_ = f.log.Flush(t.Context())
	resent := 0
	for _, r := range f.log.Records() {
		if r.GetResend() {
			resent++
		}
	}
	if n := len(f.log.Records()); n != 10 || resent != 9 {
		t.Errorf("%d records, %d marked as resent", n, resent)
	}
	c, err := f.store.Conversation(t.Context(), "p:alice:bob")
	if err != nil || c.MaxSeq != 1 {
		t.Errorf("ten retries made %+v %v", c, err)
	}
}

func TestRepeatWithinABatch(t *testing.T) {
	f := setup(t)
	got := f.sendAll(t, "alice", text("bob", "c1", "hi"), text("bob", "c1", "hi"), text("bob", "c1", "other"))
	if got[0].Err != nil || got[1].Err != nil || got[0].Ack.ID != got[1].Ack.ID {
		t.Errorf("answers %+v %+v", got[0], got[1])
	}
	if got[2].Err == nil || got[2].Err.Code != wire.CodeConflict {
		t.Errorf("other content: %+v", got[2])
	}
}

func TestWithoutTheIndexSendsGoOn(t *testing.T) {
	f := setup(t)
	f.command(t, "alice", "team", &recordpb.Command{Kind: recordpb.Command_CREATE})
	f.reg.SetAway(true)
	got := f.sendAll(t, "alice", text("bob", "c1", "hi"), toGroup("team", "c2"))
	if got[0].Err != nil || got[1].Err != nil {
		t.Errorf("answers %+v %+v", got[0], got[1])
	}
	if got := f.sendAll(t, "eve", toGroup("team", "c3"))[0]; got.Err == nil || got.Err.Code != wire.CodeNotMember {
		t.Errorf("the store knows eve is no member: %+v", got)
	}
	for _, r := range f.log.Records() {
		if r.GetResend() {
			t.Error("marked as resent without knowing")
		}
	}
}

// slowIndex takes reservations and does not answer in time.
type slowIndex struct {
	Index
	late bool
}

func (s *slowIndex) Reserve(ctx context.Context, rs []registry.Reservation) ([]registry.Reserved, error) {
	got, err := s.Index.Reserve(ctx, rs)
	if s.late {
		return nil, context.DeadlineExceeded
	}
	return got, err
}

// An attempt that the index did not answer has an id of its own. It must not
// take the place of the first one's.
func TestAnUnansweredLookMarksNothing(t *testing.T) {
	f := setup(t)
	slow := &slowIndex{Index: f.reg}
	f.d.Index = slow
	f.log.StopMachine(true) // so that the index alone knows the first
	first := f.sendAll(t, "alice", text("bob", "c1", "hi"))[0]
	f.acked(t, "p:alice:bob", "alice", "c1")
	slow.late = true
	if a := f.sendAll(t, "alice", text("bob", "c1", "hi"))[0]; a.Err != nil || a.Ack.ID == first.Ack.ID {
		t.Fatalf("without the index: %+v", a)
	}
	if n := len(f.Service.acked); n != 0 {
		t.Errorf("%d marks wait", n)
	}
	slow.late = false
	if a := f.sendAll(t, "alice", text("bob", "c1", "hi"))[0]; a.Err != nil || a.Ack.ID != first.Ack.ID {
		t.Errorf("afterwards %+v, first %+v", a.Ack, first.Ack)
	}
}

// After the index was emptied it holds what the second attempt wrote; the
// store still knows the first. Over HTTP, where no second answer can follow, it
// is asked at once.
func TestTheIndexWasEmptied(t *testing.T) {
	for name, origin := range map[string]*recordpb.Origin{"http": nil, "socket": {Server: "e1", Epoch: 1, Conn: 1}} {
		t.Run(name, func(t *testing.T) {
			f := setup(t)
			send := func(content string) answer { return f.sendOver(t, origin, "alice", text("bob", "c1", content))[0] }
			first := send("hi")
			f.acked(t, "p:alice:bob", "alice", "c1")
			if err := f.log.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			f.reg.Flush()
			switch a := send("other"); {
			case origin == nil:
				if a.Err == nil || a.Err.Code != wire.CodeConflict {
					t.Errorf("another message under the same id: %+v", a)
				}
			case a.Err != nil:
				t.Fatalf("nobody knows yet that this is a conflict: %v", a.Err)
			default:
				f.acked(t, "p:alice:bob", "alice", "c1")
			}
			if a := send("hi"); a.Err != nil || a.Ack.ID != first.Ack.ID {
				t.Errorf("the first again: %+v", a)
			}
			if a := send("other"); a.Err == nil || a.Err.Code != wire.CodeConflict {
				t.Errorf("the other again: %+v", a)
			}
		})
	}
}

// noStore has no answer for outcomes.
type noStore struct{ Store }

func (noStore) Outcome(context.Context, store.OutcomeKey) (store.Outcome, error) {
	return store.Outcome{}, errors.New("connection lost")
}

// While the store cannot say which attempt stands, an acknowledged repeat is
// written again: the second attempt's correction went to a connection that may be
// gone, and the index knows the second alone.
func TestTheIndexAloneIsNotBelieved(t *testing.T) {
	for _, why := range []string{"not judged yet", "the store is away"} {
		t.Run(why, func(t *testing.T) {
			f := setup(t)
			f.log.StopMachine(why == "not judged yet")
			send := func(conn uint64) wire.MsgID {
				t.Helper()
				a := f.sendOver(t, &recordpb.Origin{Server: "e1", Epoch: 1, Conn: conn}, "alice", text("bob", "c1", "hi"))[0]
				if a.Err != nil {
					t.Fatal(a.Err)
				}
				f.acked(t, "p:alice:bob", "alice", "c1")
				return a.Ack.ID
			}
			send(1)
			f.reg.Flush()
			second := send(2)
			if why == "the store is away" {
				f.d.Store = noStore{f.d.Store}
			}
			if id := send(3); id != second {
				t.Errorf("the index knows %v, the answer is %v", second, id)
			}
			records := f.log.Records()
			if len(records) != 3 || records[2].GetOrigin().GetConn() != 3 || !records[2].GetResend() {
				t.Errorf("nothing can tell the third connection of the first attempt: %d records", len(records))
			}
		})
	}
}

func TestMembership(t *testing.T) {
	f := setup(t)
	f.command(t, "alice", "team", &recordpb.Command{Kind: recordpb.Command_CREATE, Users: []string{"bob"}})
	if a := f.sendAll(t, "bob", toGroup("team", "c1"))[0]; a.Err != nil {
		t.Errorf("a member that the index does not know: %v", a.Err)
	}
	f.command(t, "alice", "team", &recordpb.Command{Kind: recordpb.Command_REMOVE, Users: []string{"bob"}})
	if a := f.sendAll(t, "bob", toGroup("team", "c2"))[0]; a.Err == nil || a.Err.Code != wire.CodeNotMember {
		t.Errorf("a removed member: %+v", a)
	}
	f.command(t, "alice", "team", &recordpb.Command{Kind: recordpb.Command_DISMISS})
	if a := f.sendAll(t, "eve", toGroup("team", "c3"))[0]; a.Err == nil || a.Err.Code != wire.CodeNotFound {
		t.Errorf("a dismissed group: %+v", a)
	}
	// What the index affirms is not asked again, though it be wrong: the machine decides.
	if err := f.reg.PutMembers(t.Context(), "team", []wire.UserID{"eve"}); err != nil {
		t.Fatal(err)
	}
	if a := f.sendAll(t, "eve", toGroup("team", "c4"))[0]; a.Err != nil {
		t.Errorf("affirmed by the index: %v", a.Err)
	}
}

// Who repeats a message after having left is not told that it could not stand: it
// does. What is known of it says so, or the machine.
func TestRepeatAfterLeaving(t *testing.T) {
	for _, index := range []string{"knows it", "was emptied", "is away"} {
		t.Run(index, func(t *testing.T) {
			f := setup(t)
			f.command(t, "alice", "team", &recordpb.Command{Kind: recordpb.Command_CREATE, Users: []string{"bob"}})
			first := f.sendOver(t, &recordpb.Origin{Server: "edge-1", Conn: 9}, "bob", toGroup("team", "c1"))[0]
			if first.Err != nil {
				t.Fatal(first.Err)
			}
			f.command(t, "alice", "team", &recordpb.Command{Kind: recordpb.Command_REMOVE, Users: []string{"bob"}})
			switch index {
			case "was emptied":
				f.reg.Flush()
			case "is away":
				f.reg.SetAway(true)
			}
			n := len(f.log.Records())
			again := f.sendOver(t, &recordpb.Origin{Server: "edge-1", Conn: 9}, "bob", toGroup("team", "c1"))[0]
			if again.Err != nil {
				t.Fatalf("refused: %v", again.Err)
			}
			if written := len(f.log.Records()) > n; again.Ack.ID != first.Ack.ID && !written {
				t.Errorf("acknowledged as %v, the first as %v, and the machine is not asked", again.Ack.ID, first.Ack.ID)
			}
			if fresh := f.sendOver(t, &recordpb.Origin{Server: "edge-1", Conn: 9}, "bob", toGroup("team", "c2"))[0]; index != "is away" && (fresh.Err == nil || fresh.Err.Code != wire.CodeNotMember) {
				t.Errorf("a new message of his: %+v", fresh)
			}
		})
	}
}

func TestOrderOfABatch(t *testing.T) {
	f := setup(t)
	var bodies []wire.Send
	for i := range 200 {
		bodies = append(bodies, text("bob", fmt.Sprintf("c%03d", i), "x"))
	}
	f.sendAll(t, "alice", bodies...)
	for i, r := range f.log.Records() {
		if want := fmt.Sprintf("c%03d", i); r.GetClientId() != want {
			t.Fatalf("record %d is %s", i, r.GetClientId())
		}
	}
}

func TestUnavailable(t *testing.T) {
	for name, breakIt := range map[string]func(f *fixture){
		"queue full":  func(f *fixture) { f.log.SetFull(true) },
		"broker away": func(f *fixture) { f.log.SetDown(errors.New("timed out")) },
		"no ids":      func(f *fixture) { f.ids.err = idgen.ErrLapsed },
	} {
		t.Run(name, func(t *testing.T) {
			f := setup(t)
			breakIt(f)
			a := f.sendAll(t, "alice", text("bob", "c1", "hi"))[0]
			if a.Err == nil || a.Err.Code != wire.CodeUnavailable || a.Err.RetryAfterMS <= 0 || a.Err.ClientID != "c1" {
				t.Errorf("answer %+v", a)
			}
			_, err := f.Change(t.Context(), "alice", nil, wire.StatusRecalled, wire.RecallBody{Conv: "p:alice:bob", ID: 1})
			if name != "broker away" && err == nil {
				t.Error("a recall was taken")
			}
		})
	}
}

func TestChanges(t *testing.T) {
	f := setup(t)
	id := f.sendAll(t, "alice", text("bob", "c1", "hi"))[0].Ack.ID
	for name, c := range map[string]struct {
		from   wire.UserID
		status string
		body   wire.RecallBody
		code   wire.Code
	}{
		"edit":         {"alice", wire.StatusEdited, wire.RecallBody{Conv: "p:alice:bob", ID: id, Content: "ho"}, ""},
		"not mine":     {"bob", wire.StatusEdited, wire.RecallBody{Conv: "p:alice:bob", ID: id, Content: "ho"}, wire.CodeForbidden},
		"unknown":      {"alice", wire.StatusRecalled, wire.RecallBody{Conv: "p:alice:bob", ID: 1}, wire.CodeNotFound},
		"outsider":     {"eve", wire.StatusRecalled, wire.RecallBody{Conv: "p:alice:bob", ID: id}, wire.CodeNotMember},
		"bad conv":     {"alice", wire.StatusRecalled, wire.RecallBody{Conv: "p:bob:alice", ID: id}, wire.CodeBadRequest},
		"no id":        {"alice", wire.StatusRecalled, wire.RecallBody{Conv: "p:alice:bob"}, wire.CodeBadRequest},
		"empty edit":   {"alice", wire.StatusEdited, wire.RecallBody{Conv: "p:alice:bob", ID: id}, wire.CodeBadRequest},
		"edit too big": {"alice", wire.StatusEdited, wire.RecallBody{Conv: "p:alice:bob", ID: id, Content: strings.Repeat("x", 16<<10+1)}, wire.CodeTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := f.Change(t.Context(), c.from, nil, c.status, c.body)
			if err == nil {
				err = p.Wait(t.Context())
			}
			we := new(wire.Error)
			if errors.As(err, &we); we.Code != c.code || c.code == "" && err != nil {
				t.Errorf("answer %v, want %q", err, c.code)
			}
		})
	}
	got, err := f.store.Contents(t.Context(), "p:alice:bob", []int64{1})
	if err != nil || got[1].Text != "ho" {
		t.Errorf("content now %q %v", got[1].Text, err)
	}
}

func TestNoVerdictInTime(t *testing.T) {
	f := setup(t)
	f.log.StopMachine(true)
	f.cfg.WaitBudget = 30 * time.Millisecond
	p, err := f.Change(t.Context(), "alice", nil, wire.StatusRecalled, wire.RecallBody{Conv: "p:alice:bob", ID: 5})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("wait: %v", err)
	}
	if _, err := f.OperationByID(t.Context(), "alice", p.ID); err == nil {
		t.Error("an outcome is known")
	}
}

// slowStore answers after a while, as a store does that is behind.
type slowStore struct {
	Store
	after int
	asked int
	err   error
}

func (s *slowStore) Outcome(ctx context.Context, key store.OutcomeKey) (store.Outcome, error) {
	s.asked++
	if s.asked <= s.after {
		return store.Outcome{}, s.err
	}
	return store.Outcome{OutcomeKey: key}, nil
}

func TestAwaitPollsAndWaitsErrorsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, cause := range []error{store.ErrNotFound, errors.New("connection lost")} {
			st := &slowStore{after: 10, err: cause}
			s := &Service{d: Deps{Store: st}}
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if _, err := s.Await(ctx, store.OutcomeKey{}); err != nil {
				t.Fatal(err)
			}
			cancel()
			// 5+10+20+40+50·6 ms
			if took := time.Since(start); took != 375*time.Millisecond || st.asked != 11 {
				t.Errorf("took %v, asked %d times", took, st.asked)
			}
		}
		st := &slowStore{after: 1 << 30, err: store.ErrNotFound}
		s := &Service{d: Deps{Store: st}}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := s.Await(ctx, store.OutcomeKey{}); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("await: %v", err)
		}
		if st.asked > 110 {
			t.Errorf("asked %d times in 5 s", st.asked)
		}
	})
}

func TestKeyOfACommand(t *testing.T) {
	f := setup(t)
	submit := func(hash uint64) (*Pending, error) {
		return f.Submit(t.Context(), &recordpb.Record{
			Conv: "g:team", From: "alice", ClientId: "key", Hash: hash,
			Body: &recordpb.Record_Command{Command: &recordpb.Command{Kind: recordpb.Command_CREATE}},
		}, true)
	}
	first, err := submit(1)
	if err != nil || first.Wait(t.Context()) != nil {
		t.Fatal(err)
	}
	again, err := submit(1)
	if err != nil || again.ID != first.ID || again.Wait(t.Context()) != nil {
		t.Errorf("a repeat: %v %+v", err, again)
	}
	if _, err := submit(2); err == nil {
		t.Error("another command under the same key was taken")
	}
	f.reg.SetAway(true) // then the verdict tells
	other, err := submit(2)
	if err != nil {
		t.Fatal(err)
	}
	we := new(wire.Error)
	if err := other.Wait(t.Context()); !errors.As(err, &we) || we.Code != wire.CodeConflict {
		t.Errorf("another command: %v", err)
	}
	op, err := f.OperationByKey(t.Context(), "alice", "g:team", "key")
	if err != nil || !op.Done || op.ID != first.ID {
		t.Errorf("operation %+v %v", op, err)
	}
}
