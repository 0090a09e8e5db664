package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/wire"
)

var errPlanned = errors.New("planned fault")

// bed is a store with a log of one partition.
type bed struct {
	t   *testing.T
	st  *memstore.Store
	p   record.PartitionID
	log []record.Entry
}

func newBed(t *testing.T) *bed {
	t.Helper()
	return &bed{t: t, st: memstore.New(), p: record.PartitionID{Topic: record.TopicMessages}}
}

func (b *bed) machine() *Machine {
	return New(b.st, Config{}, zap.NewNop(), prometheus.NewRegistry())
}

func (b *bed) claim(m *Machine, committed int64) int64 {
	b.t.Helper()
	start, err := m.Claim(b.t.Context(), b.p, "T", 0, int64(len(b.log)), committed)
	if err != nil {
		b.t.Fatal(err)
	}
	return start
}

// send writes messages of alice to bob and returns their entries.
func (b *bed) send(texts ...string) []record.Entry {
	b.t.Helper()
	from := len(b.log)
	for _, text := range texts {
		n := int64(len(b.log))
		v, err := record.Encode(&recordpb.Record{
			Id: 100 + n, Conv: "p:alice:bob", From: "alice", ClientId: fmt.Sprintf("c%d", n), Hash: uint64(n),
			Body: &recordpb.Record_Send{Send: &recordpb.Send{Type: "text", Content: text}},
		})
		if err != nil {
			b.t.Fatal(err)
		}
		b.log = append(b.log, record.Entry{PartitionID: b.p, Offset: n, TS: 1000 + n, Value: v})
	}
	return b.log[from:]
}

func (b *bed) turn(m *Machine, es []record.Entry) Result {
	b.t.Helper()
	res, err := m.Turn(b.t.Context(), es)
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

// want compares the contents of the timeline, in order; seqs must have no hole.
func (b *bed) want(texts ...string) {
	b.t.Helper()
	c, err := b.st.Conversation(b.t.Context(), "p:alice:bob")
	if err != nil {
		b.t.Fatal(err)
	}
	rows, err := b.st.Rows(b.t.Context(), c.ID, 1, 1000)
	if err != nil {
		b.t.Fatal(err)
	}
	var got []string
	for i, r := range rows {
		if r.Seq != int64(i)+1 {
			b.t.Errorf("row %d has seq %d", i, r.Seq)
		}
		got = append(got, r.Content)
	}
	if d := cmp.Diff(texts, got); d != "" {
		b.t.Errorf("timeline (-want +got):\n%s", d)
	}
}

// once fails an operation one time, before or after it was done.
func (b *bed) once(op string, before bool) {
	done := false
	b.st.Hook = func(o string, bef bool) error {
		if done || o != op || bef != before {
			return nil
		}
		done = true
		return errPlanned
	}
}

func seqs(es []Effects) []int64 {
	var out []int64
	for _, e := range es {
		for _, i := range e.Items {
			if i.Kind == Deliver {
				out = append(out, i.Seq)
			}
		}
	}
	return out
}

// TestFaultAtEveryCall fails each call of a turn once, before and after it was
// done; the same entries again bring the same timeline and the same effects.
func TestFaultAtEveryCall(t *testing.T) {
	for _, op := range []string{"Commit", "Lookup"} {
		for _, before := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/before=%t", op, before), func(t *testing.T) {
				b := newBed(t)
				m := b.machine()
				b.claim(m, -1)
				b.turn(m, b.send("one"))
				es := b.send("two", "three")
				b.once(op, before)
				if _, err := m.Turn(t.Context(), es); !errors.Is(err, errPlanned) {
					t.Fatalf("error %v, want the planned one", err)
				}
				res := b.turn(m, es)
				if d := cmp.Diff([]int64{2, 3}, seqs(res.Effects)); d != "" {
					t.Errorf("effects (-want +got):\n%s", d)
				}
				b.want("one", "two", "three")
				b.turn(m, b.send("four"))
				b.want("one", "two", "three", "four")
			})
		}
	}
}

// TestStateUnreadable: after a commit of unknown outcome nothing goes on until
// the row could be read.
func TestStateUnreadable(t *testing.T) {
	b := newBed(t)
	m := b.machine()
	b.claim(m, -1)
	es := b.send("one")
	failing := true
	b.st.Hook = func(op string, before bool) error {
		if failing && (op == "Commit" && !before || op == "State") {
			return errPlanned
		}
		return nil
	}
	for range 3 {
		if _, err := m.Turn(t.Context(), es); !errors.Is(err, errPlanned) {
			t.Fatalf("error %v, want the planned one", err)
		}
	}
	failing = false
	if got := seqs(b.turn(m, es).Effects); !slices.Equal(got, []int64{1}) {
		t.Errorf("redone effects have seqs %v, want 1", got)
	}
	b.want("one")
}

func TestAnotherOwner(t *testing.T) {
	b := newBed(t)
	old, next := b.machine(), b.machine()
	b.claim(old, -1)
	b.turn(old, b.send("one"))
	if start := b.claim(next, 1); start != 1 {
		t.Errorf("start %d, want 1", start)
	}
	es := b.send("two")
	res := b.turn(old, es)
	if !slices.Equal(res.Fenced, []record.PartitionID{b.p}) || len(res.Effects) != 0 || len(old.Owned()) != 0 {
		t.Errorf("the former owner got %+v and owns %v", res, old.Owned())
	}
	if res := b.turn(old, es); len(res.Effects) != 0 {
		t.Errorf("a partition that is not owned had effects %+v", res.Effects)
	}
	b.turn(next, es)
	b.want("one", "two")
}

// TestFencedAmongOthers: one partition is lost, the turn of the other goes on.
func TestFencedAmongOthers(t *testing.T) {
	b := newBed(t)
	m := b.machine()
	b.claim(m, -1)
	other := record.PartitionID{Topic: record.TopicMessages, Number: 1}
	if _, err := m.Claim(t.Context(), other, "T", 0, 1, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := b.machine().Claim(t.Context(), other, "T", 0, 1, -1); err != nil {
		t.Fatal(err)
	}
	es := b.send("one")
	lost := record.Entry{PartitionID: other, Offset: 0, TS: 1, Value: []byte("junk")}
	res := b.turn(m, []record.Entry{lost, es[0]})
	if !slices.Equal(res.Fenced, []record.PartitionID{other}) || len(res.Effects) != 1 || len(res.Poison) != 0 {
		t.Errorf("result %+v", res)
	}
	b.want("one")
}

// TestFencedWhileUnknown: the commit's outcome is unknown, and when the row is
// read it has another epoch.
func TestFencedWhileUnknown(t *testing.T) {
	b := newBed(t)
	m := b.machine()
	b.claim(m, -1)
	es := b.send("one")
	b.st.Hook = func(op string, before bool) error {
		if op != "Commit" || !before {
			return nil
		}
		b.st.Hook = nil
		b.claim(b.machine(), -1)
		return errPlanned
	}
	res, err := m.Turn(t.Context(), es)
	if !errors.Is(err, errPlanned) || !slices.Equal(res.Fenced, []record.PartitionID{b.p}) {
		t.Errorf("result %+v, error %v", res, err)
	}
}

// TestPoisonIsFound: records that the store cannot take are found among
// others, wherever they stand, and nothing else is lost.
func TestPoisonIsFound(t *testing.T) {
	for _, at := range [][]int{{0}, {4}, {7}, {2, 3}, {0, 1, 2, 3, 4, 5, 6, 7}} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			b := newBed(t)
			bad := &refusing{Machine: b.st}
			m := New(bad, Config{}, zap.NewNop(), prometheus.NewRegistry())
			b.claim(m, -1)
			var texts, good []string
			for i := range 8 {
				if slices.Contains(at, i) {
					texts = append(texts, "poison")
				} else {
					texts = append(texts, fmt.Sprint(i))
					good = append(good, fmt.Sprint(i))
				}
			}
			es := b.send(texts...)
			res := b.turn(m, es)
			if len(res.Effects) != 8 || len(res.Poison) != len(at) {
				t.Errorf("%d effects, %d set aside: %+v", len(res.Effects), len(res.Poison), res.Poison)
			}
			for i, p := range res.Poison {
				if p.Entry.Offset != int64(at[i]) {
					t.Errorf("set aside %d, want %d", p.Entry.Offset, at[i])
				}
			}
			if len(good) > 0 {
				b.want(good...)
			}
			o, err := b.st.Outcome(t.Context(), store.OutcomeKey{Conv: "p:alice:bob", From: "alice", ClientID: fmt.Sprintf("c%d", at[0])})
			if err != nil || o.Code != wire.CodeInternal {
				t.Errorf("verdict %+v, %v", o, err)
			}
			st, err := b.st.State(t.Context(), b.p)
			if err != nil || st.Applied != 7 || st.SetAside != int64(len(at)) {
				t.Errorf("state %+v, %v", st, err)
			}
		})
	}
}

// refusing cannot take rows with a certain content, and of outcomes with code
// internal only what verdicts allows.
type refusing struct {
	store.Machine
	verdicts bool
}

func (r *refusing) Commit(ctx context.Context, t *store.Turn) ([]record.PartitionID, error) {
	for i := range t.Rows {
		if t.Rows[i].Content == "poison" {
			return nil, fmt.Errorf("commit: %w", &store.DeterministicError{Err: errors.New("bad content")})
		}
	}
	for i := range t.Outcomes {
		if r.verdicts && t.Outcomes[i].Code != "" {
			return nil, &store.DeterministicError{Err: errors.New("bad verdict")}
		}
	}
	return r.Machine.Commit(ctx, t)
}

// TestPoisonWithoutVerdict: not even the verdict can be written.
func TestPoisonWithoutVerdict(t *testing.T) {
	b := newBed(t)
	m := New(&refusing{Machine: b.st, verdicts: true}, Config{}, zap.NewNop(), prometheus.NewRegistry())
	b.claim(m, -1)
	res := b.turn(m, b.send("one", "poison", "two"))
	if len(res.Poison) != 1 || !strings.Contains(res.Poison[0].Err.Error(), "bad content") {
		t.Errorf("poison %+v, want one with the first cause", res.Poison)
	}
	b.want("one", "two")
	if _, err := b.st.Outcome(t.Context(), store.OutcomeKey{Conv: "p:alice:bob", From: "alice", ClientID: "c1"}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("verdict error %v, want none to be written", err)
	}
}

// hopeless cannot even move the partition.
type hopeless struct{ store.Machine }

func (hopeless) Commit(context.Context, *store.Turn) ([]record.PartitionID, error) {
	return nil, &store.DeterministicError{Err: errPlanned}
}

func TestNothingCanBeCommitted(t *testing.T) {
	b := newBed(t)
	m := New(hopeless{b.st}, Config{}, zap.NewNop(), prometheus.NewRegistry())
	b.claim(m, -1)
	if _, err := m.Turn(t.Context(), b.send("one", "two")); !errors.Is(err, errPlanned) {
		t.Errorf("error %v, want the planned one", err)
	}
}

// panicking panics when a certain message is looked for.
type panicking struct{ store.Machine }

func (panicking) RowByID(context.Context, int64, wire.MsgID) (store.Row, error) {
	panic("out of range")
}

func TestPanicIsSetAside(t *testing.T) {
	b := newBed(t)
	m := New(panicking{b.st}, Config{}, zap.NewNop(), prometheus.NewRegistry())
	b.claim(m, -1)
	b.turn(m, b.send("one"))
	es := b.send("two", "x", "three")
	v, err := record.Encode(&recordpb.Record{
		Id: 500, Conv: "p:alice:bob", From: "alice", ClientId: "u", Hash: 5,
		Body: &recordpb.Record_Update{Update: &recordpb.Update{TargetId: 77, Status: wire.StatusRecalled}},
	})
	if err != nil {
		t.Fatal(err)
	}
	es[1].Value = v
	res := b.turn(m, es)
	if len(res.Poison) != 1 || res.Poison[0].Entry.Offset != 2 || !strings.Contains(res.Poison[0].Err.Error(), "out of range") {
		t.Errorf("poison %+v", res.Poison)
	}
	b.want("one", "two", "three")
}

func TestClaim(t *testing.T) {
	p := record.PartitionID{Topic: record.TopicMessages}
	cases := []struct {
		name                 string
		applied              int64 // records applied before, from offset 0
		topicID              string
		low, high, committed int64
		start                int64
		err                  error
	}{
		{name: "first", applied: 0, topicID: "T", high: 5, committed: -1, start: 0},
		{name: "committed behind", applied: 5, topicID: "T", high: 9, committed: 3, start: 3},
		{name: "committed ahead", applied: 5, topicID: "T", high: 9, committed: 8, start: 5},
		{name: "nothing committed: all is redone", applied: 5, topicID: "T", high: 9, committed: -1, start: 0},
		{name: "committed is gone", applied: 5, topicID: "T", low: 4, high: 9, committed: 2, start: 4},
		{name: "all applied", applied: 5, topicID: "T", high: 5, committed: 5, start: 5},
		{name: "just kept", applied: 5, topicID: "T", low: 5, high: 9, committed: 1, start: 5},
		{name: "gap", applied: 5, topicID: "T", low: 6, high: 9, committed: 5, err: ErrLogGap},
		{name: "short", applied: 5, topicID: "T", high: 4, committed: 4, err: ErrLogShort},
		{name: "another topic", applied: 5, topicID: "U", high: 9, committed: 5, err: ErrTopicID},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t)
			if c.applied > 0 {
				m := b.machine()
				b.claim(m, -1)
				for range c.applied {
					b.turn(m, b.send("x"))
				}
			}
			m := b.machine()
			start, err := m.Claim(t.Context(), p, c.topicID, c.low, c.high, c.committed)
			if !errors.Is(err, c.err) || start != c.start {
				t.Errorf("start %d, error %v; want %d, %v", start, err, c.start, c.err)
			}
			var le *LogError
			if c.err != nil && (!errors.As(err, &le) || le.Applied != c.applied-1 || !strings.Contains(err.Error(), p.String())) {
				t.Errorf("error %v does not name partition and figures", err)
			}
			if owned := len(m.Owned()) == 1; owned != (c.err == nil) {
				t.Errorf("owned: %t", owned)
			}
		})
	}
}

// TestClaimFails: the epoch may be raised, but nothing is owned.
func TestClaimFails(t *testing.T) {
	b := newBed(t)
	m := b.machine()
	b.once("Claim", false)
	if _, err := m.Claim(t.Context(), b.p, "T", 0, 0, -1); !errors.Is(err, errPlanned) {
		t.Errorf("error %v", err)
	}
	if len(m.Owned()) != 0 {
		t.Error("the partition is owned")
	}
}

// TestGapInTheLog: a record that was never handed over stops the machine.
func TestGapInTheLog(t *testing.T) {
	b := newBed(t)
	m := b.machine()
	b.claim(m, -1)
	es := b.send("one", "two", "three")
	if _, err := m.Turn(t.Context(), []record.Entry{es[0], es[2]}); !errors.Is(err, ErrLogGap) {
		t.Errorf("error %v, want %v", err, ErrLogGap)
	}
	b.turn(m, es)
	b.want("one", "two", "three")
}

// TestFirstClaimOfAnOldLog: what is below its start was never ours.
func TestFirstClaimOfAnOldLog(t *testing.T) {
	b := newBed(t)
	es := b.send("a", "b", "c", "d")
	m := b.machine()
	if start, err := m.Claim(t.Context(), b.p, "T", 2, 4, -1); err != nil || start != 2 {
		t.Fatalf("start %d, error %v", start, err)
	}
	b.turn(m, es[2:])
	b.want("c", "d")
	if n, owned := m.Applied(b.p); n != 3 || !owned {
		t.Errorf("applied %d, %t", n, owned)
	}
}

// TestTwiceInOneTurn: the second copy of an entry is left out.
func TestTwiceInOneTurn(t *testing.T) {
	b := newBed(t)
	m := b.machine()
	b.claim(m, -1)
	es := b.send("one", "two")
	res := b.turn(m, []record.Entry{es[0], es[1], es[0], es[1]})
	if d := cmp.Diff([]int64{1, 2}, seqs(res.Effects)); d != "" {
		t.Errorf("effects (-want +got):\n%s", d)
	}
}

// TestWrongPartition: a record that stands where its conversation does not
// belong would be judged by two machines.
func TestWrongPartition(t *testing.T) {
	b := newBed(t)
	m := New(b.st, Config{Partitions: map[string]int32{record.TopicMessages: 64}}, zap.NewNop(), prometheus.NewRegistry())
	right := record.PartitionOf("p:alice:bob", 64)
	b.p.Number = right
	b.claim(m, -1)
	b.turn(m, b.send("one"))
	b.log, b.p.Number = nil, (right+1)%64
	b.claim(m, -1)
	if res := b.turn(m, b.send("two")); len(res.Poison) != 1 {
		t.Errorf("poison %+v, want the record", res.Poison)
	}
	b.want("one")
}

// TestSmallCaches: with next to no memory all stays the same.
func TestSmallCaches(t *testing.T) {
	b := newBed(t)
	m := New(b.st, Config{MaxCachedConversations: 1, MaxCachedOutcomes: 1}, zap.NewNop(), prometheus.NewRegistry())
	b.claim(m, -1)
	var want []string
	for i := range 10 {
		text := fmt.Sprint(i)
		b.turn(m, b.send(text))
		want = append(want, text)
	}
	again := b.log[3]
	again.Offset = int64(len(b.log))
	b.log = append(b.log, again)
	b.turn(m, b.log[10:])
	b.want(want...)
}

func TestGenerations(t *testing.T) {
	g := newGenerations[int, int]()
	for i := range 100 {
		g.put(i, i, 10)
		if _, ok := g.get(0); !ok {
			t.Fatalf("0 was forgotten at %d though it is asked for all the time", i)
		}
		if n := len(g.young) + len(g.old); n > 12 {
			t.Fatalf("%d kept, want about 10", n)
		}
	}
	if _, ok := g.get(50); ok {
		t.Error("50 is still there")
	}
}

func TestMetrics(t *testing.T) {
	b := newBed(t)
	reg := prometheus.NewRegistry()
	m := New(b.st, Config{}, zap.NewNop(), reg)
	b.claim(m, -1)
	es := b.send("one", "two")
	es = append(es, record.Entry{PartitionID: b.p, Offset: 2, TS: 1, Value: []byte("junk")})
	b.turn(m, es)
	b.turn(m, es)
	fams, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range fams {
		for _, s := range f.GetMetric() {
			name := f.GetName()
			for _, l := range s.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = s.GetCounter().GetValue() + s.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"starling_job_machine_records_total stored": 2, "starling_job_machine_records_total set_aside": 1,
		"starling_job_machine_redone_total": 3, "starling_job_machine_turns_total": 1, "starling_job_machine_partitions": 1,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	c := Config{MaxCachedConversations: 1, MaxCachedOutcomes: 1, RepeatWindow: 7 * 24 * time.Hour}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	err := (&Config{}).Validate()
	for _, key := range []string{"job.max-cached-conversations: ", "job.max-cached-outcomes: ", "job.repeat-window: "} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
}
