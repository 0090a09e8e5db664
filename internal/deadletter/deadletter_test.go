package deadletter

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/store/shards"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const start = int64(1_700_000_000_000)

// rig is an office over two shards, the second of which holds partition 1.
type rig struct {
	*Office
	t    *testing.T
	st   *memstore.Store
	at   record.PartitionID
	part store.PartitionState
	now  int64
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, st: memstore.New(), at: record.PartitionID{Topic: record.TopicMessages, Number: 1}, now: start}
	r.Office = &Office{
		Shards: []shards.Shard{
			{Name: "main", Store: memstore.New(), Holds: shards.Partitions{record.TopicMessages: {0}}},
			{Name: "b", Store: r.st, Holds: shards.Partitions{record.TopicMessages: {1}}},
		},
		Window: 7 * 24 * time.Hour, Retention: 8 * 24 * time.Hour, Now: func() time.Time { return time.UnixMilli(r.now) },
	}
	var err error
	if r.part, err = r.st.Claim(t.Context(), r.at, "T", 0); err != nil {
		t.Fatal(err)
	}
	return r
}

// judged moves the partition to an offset, with a verdict.
func (r *rig) judged(offset int64, os ...store.Outcome) {
	r.t.Helper()
	mv := store.PartitionMove{PartitionID: r.at, Epoch: r.part.Epoch, From: r.part.Applied, To: offset, Add: store.Counts{SetAside: 1}}
	turn := &store.Turn{Partitions: []store.PartitionMove{mv}, Outcomes: os}
	for _, o := range os {
		turn.Voided = append(turn.Voided, store.Outcome{OutcomeKey: o.OutcomeKey, ID: o.ID, TS: start})
	}
	if fenced, err := r.st.Commit(r.t.Context(), turn); err != nil || len(fenced) > 0 {
		r.t.Fatal(fenced, err)
	}
	r.part.Applied = offset
}

func rec() *recordpb.Record {
	return &recordpb.Record{
		Version: record.Version, Id: 7, Conv: "p:a:b", From: "a", ClientId: "c", Hash: 5,
		Body: &recordpb.Record_Send{Send: &recordpb.Send{Type: "text", Content: "hi"}},
	}
}

func (r *rig) letter(m proto.Message) *record.DeadLetter {
	r.t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	return &record.DeadLetter{Topic: r.at.Topic, Partition: r.at.Number, Offset: 3, TS: start, Error: "a bug", Value: b}
}

func (r *rig) look(d *record.DeadLetter) *Letter {
	r.t.Helper()
	l, err := r.Look(r.t.Context(), d)
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

func verdict(code wire.Code) store.Outcome {
	return store.Outcome{
		OutcomeKey: store.OutcomeKey{Conv: "p:a:b", From: "a", ClientID: "c"}, ID: 7, Hash: 5, Code: code, TS: start, Offset: 3,
	}
}

func TestStates(t *testing.T) {
	newer := rec()
	newer.Version++
	other, conflict, later := verdict(""), verdict(wire.CodeInternal), verdict("")
	other.ID, conflict.Hash, later.TS = 8, 6, start+9*store.DayMS
	for name, tc := range map[string]struct {
		record  proto.Message
		verdict *store.Outcome
		after   time.Duration
		want    State
		replay  string // why not
	}{
		"no verdict":                  {want: Open},
		"no verdict, a day old":       {after: 24 * time.Hour, want: Late, replay: "no verdict"},
		"internal":                    {verdict: new(verdict(wire.CodeInternal)), want: Open},
		"it stands":                   {verdict: new(verdict("")), want: Applied, replay: "nothing to replay"},
		"stands since days":           {verdict: &later, after: 10 * 24 * time.Hour, want: Applied, replay: "nothing to replay"},
		"refused":                     {verdict: new(verdict(wire.CodeMuted)), want: Refused, replay: "muted"},
		"another record's":            {verdict: &other, want: Taken, replay: "another record"},
		"another content's":           {verdict: &conflict, want: Taken, replay: "another record"},
		"too old":                     {verdict: new(verdict(wire.CodeInternal)), after: 7 * 24 * time.Hour, want: Late, replay: "older than job.repeat-window"},
		"old enough":                  {verdict: new(verdict(wire.CodeInternal)), after: 7*24*time.Hour - time.Millisecond, want: Open},
		"of a newer version":          {record: newer, verdict: new(verdict(wire.CodeInternal)), want: Unreadable, replay: "fixed version"},
		"which another could judge":   {record: newer, verdict: new(verdict("")), want: Applied, replay: "nothing to replay"},
		"none that says whose it was": {record: &recordpb.Record{}, want: Unreadable, replay: "fixed version"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.now += tc.after.Milliseconds()
			if tc.verdict != nil {
				r.judged(3, *tc.verdict)
			}
			if tc.record == nil {
				tc.record = rec()
			}
			l := r.look(r.letter(tc.record))
			if l.State != tc.want {
				t.Fatalf("it is %s, want %s", l.State, tc.want)
			}
			var p producer
			offset, err := r.Replay(t.Context(), &p, l)
			if tc.replay == "" {
				if err != nil || offset != 9 || len(p.records) != 1 || p.records[0].GetReplayOf() != start {
					t.Errorf("replayed at %d: %v, %v", offset, p.records, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tc.replay) || len(p.records) > 0 {
				t.Errorf("replayed: %v, %v", p.records, err)
			}
		})
	}
	r := newRig(t)
	d := r.letter(rec())
	d.Partition = 5
	if _, err := r.Look(t.Context(), d); err == nil || !strings.Contains(err.Error(), "mysql.shards") {
		t.Errorf("a partition of no shard: %v", err)
	}
	r.judged(3)
	ledger, err := r.SetAside(t.Context())
	if err != nil || len(ledger) != 1 || ledger[r.at] != 1 {
		t.Errorf("the ledger says %v, %v", ledger, err)
	}
}

// A letter of a replay that was set aside again counts from its first place.
func TestAgesFromTheFirstPlace(t *testing.T) {
	r := newRig(t)
	again := rec()
	again.ReplayOf = start
	d := r.letter(again)
	d.TS += 6 * store.DayMS
	r.now += 7 * store.DayMS
	if l := r.look(d); l.State != Late {
		t.Errorf("it is %s", l.State)
	}
}

// A repeat that was set aside has no verdict of its own: what stood then counts,
// however old it was when the replay was set aside again.
func TestARepeatStaysTaken(t *testing.T) {
	r := newRig(t)
	other := verdict("")
	other.ID = 8
	r.judged(3, other)
	again := rec()
	again.ReplayOf = start + 6*store.DayMS
	d := r.letter(again)
	d.TS, r.now = start+8*store.DayMS, start+8*store.DayMS
	if l := r.look(d); l.State != Taken {
		t.Errorf("it is %s", l.State)
	}
}

// producer is a log that answers at once, or refuses, or never answers.
type producer struct {
	records     []*recordpb.Record
	refuse, err error
	silent      bool
}

func (p *producer) Produce(_ record.PartitionID, _ int64, value []byte, done func(mq.Delivery)) error {
	if p.refuse != nil {
		return p.refuse
	}
	r, err := record.Decode(value)
	if err != nil {
		return err
	}
	p.records = append(p.records, r)
	if !p.silent {
		done(mq.Delivery{Offset: 9, Err: p.err})
	}
	return nil
}

func TestReplayFails(t *testing.T) {
	r := newRig(t)
	l := r.look(r.letter(rec()))
	for _, p := range []*producer{{refuse: mq.ErrUnavailable}, {err: mq.ErrUnavailable}} {
		if _, err := r.Replay(t.Context(), p, l); !errors.Is(err, mq.ErrUnavailable) || !strings.Contains(err.Error(), l.ID()) {
			t.Errorf("got %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Replay(ctx, &producer{silent: true}, l); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "once more") {
		t.Errorf("got %v", err)
	}
}

func TestAwait(t *testing.T) {
	r := newRig(t)
	r.judged(3, verdict(wire.CodeInternal))
	l := r.look(r.letter(rec()))
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Await(soon, l, 9); !errors.Is(err, ErrNotJudged) {
		t.Errorf("nobody comes: %v", err)
	}
	r.judged(9)
	if _, err := r.Await(t.Context(), l, 9); !errors.Is(err, ErrAgain) {
		t.Errorf("as before: %v", err)
	}
	ok := verdict("")
	ok.Offset, ok.Seq, ok.N = 10, 4, 1
	r.judged(10, ok)
	now, err := r.Await(t.Context(), l, 10)
	if err != nil || now.State != Applied || now.Verdict.Seq != 4 {
		t.Errorf("got %+v, %v", now, err)
	}
}
