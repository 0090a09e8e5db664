package storetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

func testClaim(f *fixture) {
	t := f.t
	p := record.PartitionID{Topic: record.TopicMessages, Number: 1}
	first := got[store.PartitionState](t)(f.s.Claim(t.Context(), p, "", 42))
	equal(t, "first claim", first, store.PartitionState{PartitionID: p, Epoch: 1, Applied: -1, Counts: store.Counts{First: 42}})
	second := got[store.PartitionState](t)(f.s.Claim(t.Context(), p, "topic-a", 50))
	equal(t, "an empty topic id is filled", second, store.PartitionState{PartitionID: p, Epoch: 2, Applied: -1, TopicID: "topic-a", Counts: store.Counts{First: 42}})
	third := got[store.PartitionState](t)(f.s.Claim(t.Context(), p, "topic-b", 50))
	equal(t, "another topic id is for the caller to see", third.TopicID, "topic-a")
	equal(t, "epoch", third.Epoch, int64(3))
	equal(t, "state", got[store.PartitionState](t)(f.s.State(t.Context(), p)), third)
}

func testNoState(f *fixture) {
	t := f.t
	_, err := f.s.State(t.Context(), record.PartitionID{Topic: "never", Number: 0})
	notFound(t, "state", err)
}

func testGuard(f *fixture) {
	t := f.t
	add := store.Counts{Stored: 1, Updates: 2, Commands: 3, Repeats: 4, Refused: 5, SetAside: 6}
	move := store.PartitionMove{PartitionID: f.p.PartitionID, Epoch: 1, From: -1, To: 20, Add: add}
	fenced := got[[]record.PartitionID](t)(f.s.Commit(t.Context(), &store.Turn{Partitions: []store.PartitionMove{move}}))
	equal(t, "fenced", len(fenced), 0)
	move.From, move.To = 20, 41
	fenced = got[[]record.PartitionID](t)(f.s.Commit(t.Context(), &store.Turn{Partitions: []store.PartitionMove{move}}))
	equal(t, "fenced", len(fenced), 0)
	want := f.p
	want.Applied = 41
	want.Counts = store.Counts{Stored: 2, Updates: 4, Commands: 6, Repeats: 8, Refused: 10, SetAside: 12, First: 7}
	equal(t, "state", f.state(t), want)
}

func testZombie(f *fixture) {
	t := f.t
	zombie := *f
	f.claim(t, f.p.PartitionID)
	c := f.fresh("g:zombie")
	c.MaxSeq = 1
	fenced, err := f.s.Commit(t.Context(), &store.Turn{
		Partitions:    []store.PartitionMove{{PartitionID: zombie.p.PartitionID, Epoch: zombie.p.Epoch, From: -1, To: 0}},
		Conversations: []*store.Conversation{c},
		Rows:          []store.ConvRow{{Conv: c, Row: f.row(1, "a", wire.TypeText, "late")}},
		Outcomes:      []store.Outcome{{OutcomeKey: store.OutcomeKey{Conv: c.Conv, From: "a", ClientID: "1"}, TS: base}},
	})
	must(t, err)
	equal(t, "fenced", fenced, []record.PartitionID{f.p.PartitionID})
	equal(t, "new, as it was not made", c.New, true)
	_, err = f.s.Conversation(t.Context(), c.Conv)
	notFound(t, "conversation", err)
	_, err = f.s.Outcome(t.Context(), store.OutcomeKey{Conv: c.Conv, From: "a", ClientID: "1"})
	notFound(t, "outcome", err)
	equal(t, "applied", f.state(t).Applied, int64(-1))
}

func testFencedOne(f *fixture) {
	t := f.t
	other := f.claim(t, record.PartitionID{Topic: record.TopicMessages, Number: 9})
	never := record.PartitionID{Topic: record.TopicMessages, Number: 10}
	moves := []store.PartitionMove{
		{PartitionID: never, Epoch: 1, From: -1, To: 5},
		{PartitionID: other.PartitionID, Epoch: other.Epoch, From: -1, To: 5},
		{PartitionID: f.p.PartitionID, Epoch: f.p.Epoch, From: 0, To: 5}, // applied is -1
	}
	fenced := got[[]record.PartitionID](t)(f.s.Commit(t.Context(), &store.Turn{Partitions: moves}))
	equal(t, "fenced", fenced, []record.PartitionID{never, f.p.PartitionID})
	equal(t, "the other did not move", got[store.PartitionState](t)(f.s.State(t.Context(), other.PartitionID)).Applied, int64(-1))
	fenced = got[[]record.PartitionID](t)(f.s.Commit(t.Context(), &store.Turn{Partitions: moves[1:2]}))
	equal(t, "fenced without them", len(fenced), 0)
	equal(t, "it moved", got[store.PartitionState](t)(f.s.State(t.Context(), other.PartitionID)).Applied, int64(5))
}

func testAmbiguous(f *fixture) {
	t := f.t
	c := f.group(t, "g", "a")
	turn := &store.Turn{Conversations: []*store.Conversation{c}}
	f.say(c, turn, "a", 1)
	f.commit(t, turn)
	// The answer was lost: what the machine does is read State; a blind repeat
	// meets the guard.
	fenced := got[[]record.PartitionID](t)(f.s.Commit(t.Context(), turn))
	equal(t, "fenced", fenced, []record.PartitionID{f.p.PartitionID})
	equal(t, "rows", seqs(got[[]store.Row](t)(f.s.Rows(t.Context(), c.ID, 1, 10))), []int64{1, 2})
	equal(t, "state tells", f.state(t).Applied, f.p.Applied)
}

func testIDs(f *fixture) {
	t := f.t
	var list []*store.Conversation
	for i := range 70 {
		c := f.fresh(wire.GroupConv(wire.GroupID(fmt.Sprint("g", i))))
		c.MaxSeq = int64(i)
		list = append(list, c)
	}
	f.commit(t, &store.Turn{Conversations: list})
	for _, c := range list {
		if c.New {
			t.Fatalf("conversation %s is stored and still new", c.Conv)
		}
		c.MaxSeq += 100
	}
	f.commit(t, &store.Turn{Conversations: list})
	convs := []wire.ConvID{"g:none"}
	for _, c := range list {
		convs = append(convs, c.Conv)
	}
	heads := got[store.Found](t)(f.s.Lookup(t.Context(), nil, convs)).Conversations
	equal(t, "heads", len(heads), len(list))
	for _, c := range list {
		equal(t, "head", heads[c.Conv], c)
	}
	again := f.fresh("g:g5")
	deterministic(t, "a conversation that exists", f.try(t.Context(), &store.Turn{Conversations: []*store.Conversation{again}}))
	equal(t, "new after a failure", again.New, true)
	again = f.fresh("g:another")
	again.ID = list[3].ID
	deterministic(t, "an id that is taken", f.try(t.Context(), &store.Turn{Conversations: []*store.Conversation{again}}))
	equal(t, "whose it is", got[*store.Conversation](t)(f.s.Conversation(t.Context(), list[3].Conv)), list[3])

	outcome := store.Outcome{OutcomeKey: store.OutcomeKey{Conv: "g:g5", From: "a", ClientID: "1"}, Partition: f.p.PartitionID, ID: 5, TS: base}
	f.commit(t, &store.Turn{Outcomes: []store.Outcome{outcome}})
	both := got[store.Found](t)(f.s.Lookup(t.Context(), []store.OutcomeKey{{Conv: "g:g5", From: "b"}, outcome.OutcomeKey}, convs[:3]))
	equal(t, "verdicts and heads at once", both, store.Found{
		Outcomes:      map[store.OutcomeKey]store.Outcome{outcome.OutcomeKey: outcome},
		Conversations: map[wire.ConvID]*store.Conversation{list[0].Conv: list[0], list[1].Conv: list[1]},
	})
}

func testAtomic(f *fixture) {
	t := f.t
	c := f.group(t, "g", "a")
	before := f.state(t)
	head := *c
	head.MaxSeq = 50
	fresh := f.fresh("g:fresh")
	fresh.MaxSeq = 1
	turn := &store.Turn{
		Conversations: []*store.Conversation{&head, fresh},
		Members:       []store.MemberChange{{Conv: c, Member: store.Member{User: "b", Role: store.RoleMember, JoinedSeq: 2}}},
		Rows: []store.ConvRow{
			{Conv: fresh, Row: f.row(1, "a", wire.TypeText, "x")},
			{Conv: c, Row: f.row(2, "a", wire.TypeText, "x")},
			{Conv: c, Row: f.row(1, "a", wire.TypeText, "this seq is taken")},
		},
		Updates:  []store.RowUpdate{{Conv: c, TargetSeq: 1, Status: wire.StatusRecalled}},
		Outcomes: []store.Outcome{{OutcomeKey: store.OutcomeKey{Conv: c.Conv, From: "a", ClientID: "1"}, TS: base}},
		Refusals: []store.Refusal{{User: "a", Refused: wire.Refused{ID: 5}, TS: base}},
	}
	deterministic(t, "a seq twice", f.try(t.Context(), turn))
	equal(t, "new", fresh.New, true)
	equal(t, "state", f.state(t), before)
	equal(t, "head", got[*store.Conversation](t)(f.s.Conversation(t.Context(), c.Conv)), c)
	equal(t, "members", len(got[[]store.Member](t)(f.s.ActiveMembers(t.Context(), c.ID))), 1)
	rows := got[[]store.Row](t)(f.s.Rows(t.Context(), c.ID, 1, 10))
	equal(t, "rows", seqs(rows), []int64{1})
	equal(t, "status", rows[0].Status, "")
	equal(t, "refusals", len(got[[]wire.Refused](t)(f.s.Refusals(t.Context(), "a", 0, 10))), 0)
	turn.Rows = turn.Rows[:2]
	f.commit(t, turn)
	equal(t, "rows without it", seqs(got[[]store.Row](t)(f.s.Rows(t.Context(), c.ID, 1, 10))), []int64{1, 2})

	deterministic(t, "an outcome twice on one day", f.try(t.Context(), &store.Turn{Outcomes: turn.Outcomes}))
	same := f.row(3, "a", wire.TypeText, "x")
	deterministic(t, "a seq twice in one turn", f.try(t.Context(), &store.Turn{Rows: []store.ConvRow{{Conv: c, Row: same}, {Conv: c, Row: same}}}))
}

func testLimits(f *fixture) {
	t := f.t
	c := f.group(t, "g", "a")
	long := strings.Repeat("x", 65)
	row := func(change func(r *store.Row)) *store.Turn {
		r := f.row(2, "a", wire.TypeText, "x")
		change(&r)
		return &store.Turn{Rows: []store.ConvRow{{Conv: c, Row: r}}}
	}
	for name, turn := range map[string]*store.Turn{
		"a long user":        row(func(r *store.Row) { r.From = wire.UserID(long) }),
		"a long client id":   row(func(r *store.Row) { r.ClientID = long }),
		"a long mention":     row(func(r *store.Row) { r.Mention = []wire.UserID{wire.UserID(long)} }),
		"no mention":         row(func(r *store.Row) { r.Mention = []wire.UserID{""} }),
		"seq 0":              row(func(r *store.Row) { r.Seq = 0 }),
		"an unknown kind":    row(func(r *store.Row) { r.Kind = 3 }),
		"a time before time": row(func(r *store.Row) { r.TS = -1 }),
		"a long conv":        {Conversations: []*store.Conversation{{ID: 1, New: true, Conv: wire.ConvID("g:" + strings.Repeat("x", 130))}}},
		"no id":              {Conversations: []*store.Conversation{{New: true, Conv: "g:x"}}},
		"an unknown conversation": {
			Rows: []store.ConvRow{{Conv: &store.Conversation{ID: 1, New: true, Conv: "g:x"}, Row: f.row(1, "a", wire.TypeText, "")}},
		},
	} {
		deterministic(t, name, f.try(t.Context(), turn))
	}
	equal(t, "rows", seqs(got[[]store.Row](t)(f.s.Rows(t.Context(), c.ID, 0, 10))), []int64{1})
	f.commit(t, row(func(r *store.Row) {
		r.From, r.ClientID, r.Content = wire.UserID(long[:64]), long[:64], strings.Repeat("ü", 64<<10)
	}))
}

func testCancelled(f *fixture) {
	t := f.t
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := f.try(ctx, &store.Turn{})
	if err == nil {
		t.Fatal("committed under a cancelled context")
	}
	if isDeterministic(err) {
		t.Errorf("got %v, which would set records aside", err)
	}
	equal(t, "state", f.state(t).Applied, int64(-1))
	f.commit(t, &store.Turn{})
}

func testMembers(f *fixture) {
	t := f.t
	c := f.group(t, "g", "b", "a", "c")
	f.member(t, c, store.Member{User: "c", JoinedSeq: 1, LeftSeq: 4})
	f.member(t, c, store.Member{User: "c", JoinedSeq: 7, Role: store.RoleAdmin, MutedUntil: 99})
	f.member(t, c, store.Member{User: "a", JoinedSeq: 1, LeftSeq: 5})
	active := []store.Member{
		{User: "b", Role: store.RoleOwner, JoinedSeq: 1},
		{User: "c", Role: store.RoleAdmin, JoinedSeq: 7, MutedUntil: 99},
	}
	equal(t, "active", got[[]store.Member](t)(f.s.ActiveMembers(t.Context(), c.ID)), active)
	equal(t, "intervals", got[[]store.Member](t)(f.s.Intervals(t.Context(), c.ID, []wire.UserID{"c", "x", "a", "c"})), []store.Member{
		{User: "a", Role: store.RoleMember, JoinedSeq: 1, LeftSeq: 5},
		{User: "c", Role: store.RoleMember, JoinedSeq: 1, LeftSeq: 4},
		active[1],
	})
	equal(t, "newest", got[store.Member](t)(f.s.MemberOf(t.Context(), c.Conv, "c")), active[1])
	equal(t, "closed", got[store.Member](t)(f.s.MemberOf(t.Context(), c.Conv, "a")).LeftSeq, int64(5))
	_, err := f.s.MemberOf(t.Context(), c.Conv, "x")
	notFound(t, "a stranger", err)
	_, err = f.s.MemberOf(t.Context(), "g:none", "a")
	notFound(t, "no group", err)
}

func testOutcomes(f *fixture) {
	t := f.t
	key := func(id string) store.OutcomeKey { return store.OutcomeKey{Conv: "g:g", From: "a", ClientID: id} }
	outcome := func(id string, ts int64) store.Outcome {
		f.ids++
		return store.Outcome{
			OutcomeKey: key(id), Partition: f.p.PartitionID, ID: f.ids, Hash: 1<<63 + 5, Code: wire.CodeMuted, Seq: 3, N: 2, TS: ts, Offset: 77,
		}
	}
	one, two := outcome("1", base), outcome("2", base)
	f.commit(t, &store.Turn{Outcomes: []store.Outcome{one, two}})
	keys := []store.OutcomeKey{key("1"), key("2"), key("3")}
	for i := range 100 {
		keys = append(keys, key(fmt.Sprint("none-", i)))
	}
	found := got[store.Found](t)(f.s.Lookup(t.Context(), keys, nil)).Outcomes
	equal(t, "outcomes", found, map[store.OutcomeKey]store.Outcome{key("1"): one, key("2"): two})
	equal(t, "by key", got[store.Outcome](t)(f.s.Outcome(t.Context(), key("2"))), two)
	equal(t, "by id", got[store.Outcome](t)(f.s.OutcomeByID(t.Context(), "a", one.ID)), one)
	_, err := f.s.OutcomeByID(t.Context(), "b", one.ID)
	notFound(t, "of another user", err)
	_, err = f.s.Outcome(t.Context(), key("3"))
	notFound(t, "never", err)

	later := outcome("1", base+8*store.DayMS)
	f.commit(t, &store.Turn{Outcomes: []store.Outcome{later}})
	equal(t, "the newest stands", got[store.Outcome](t)(f.s.Outcome(t.Context(), key("1"))), later)
	found = got[store.Found](t)(f.s.Lookup(t.Context(), keys, nil)).Outcomes
	equal(t, "newest of outcomes", found[key("1")], later)
}

func testVoided(f *fixture) {
	t := f.t
	key := store.OutcomeKey{Conv: "g:g", From: "a", ClientID: "1"}
	old := store.Outcome{OutcomeKey: key, Partition: f.p.PartitionID, ID: 5, Code: wire.CodeInternal, TS: base, Offset: 3}
	other := old
	other.ClientID, other.ID = "2", 6
	refusal := func(o store.Outcome) store.Refusal {
		return store.Refusal{User: "a", Refused: wire.Refused{ClientID: o.ClientID, ID: o.ID, Conv: o.Conv, Code: o.Code}, TS: o.TS}
	}
	f.commit(t, &store.Turn{Outcomes: []store.Outcome{old, other}, Refusals: []store.Refusal{refusal(old), refusal(other)}})

	// On the same day, and with a failure first that must undo it.
	took := old
	took.Code, took.Seq, took.N, took.TS, took.Offset = "", 1, 1, base+5, 9
	turn := &store.Turn{Voided: []store.Outcome{old}, Outcomes: []store.Outcome{took, other}}
	deterministic(t, "beside another that stands", f.try(t.Context(), turn))
	equal(t, "as before", got[store.Outcome](t)(f.s.Outcome(t.Context(), key)), old)
	turn.Outcomes = turn.Outcomes[:1]
	f.commit(t, turn)
	equal(t, "by key", got[store.Outcome](t)(f.s.Outcome(t.Context(), key)), took)
	equal(t, "by id", got[store.Outcome](t)(f.s.OutcomeByID(t.Context(), "a", 5)), took)
	equal(t, "looked up", got[store.Found](t)(f.s.Lookup(t.Context(), []store.OutcomeKey{key}, nil)).Outcomes, map[store.OutcomeKey]store.Outcome{key: took})
	equal(t, "the other's refusal stays", got[[]wire.Refused](t)(f.s.Refusals(t.Context(), "a", 0, 10)), []wire.Refused{refusal(other).Refused})

	// On a later day, refused again; one that never stood is passed over.
	later := took
	later.ClientID, later.ID, later.Code, later.TS = "2", 6, wire.CodeMuted, base+2*store.DayMS
	never := old
	never.ClientID = "3"
	f.commit(t, &store.Turn{Voided: []store.Outcome{other, never}, Outcomes: []store.Outcome{later}, Refusals: []store.Refusal{refusal(later)}})
	equal(t, "on a later day", got[store.Outcome](t)(f.s.OutcomeByID(t.Context(), "a", 6)), later)
	equal(t, "refused anew", got[[]wire.Refused](t)(f.s.Refusals(t.Context(), "a", 0, 10)), []wire.Refused{refusal(later).Refused})
	equal(t, "untouched", got[store.Outcome](t)(f.s.Outcome(t.Context(), key)), took)
}

func testConcurrent(f *fixture) {
	t := f.t
	const turns = 20
	other := *f
	other.ids = 500_000
	other.p = f.claim(t, record.PartitionID{Topic: record.TopicMessages, Number: 1})
	errs := make(chan error, 2)
	work := func(f *fixture, conv wire.ConvID) {
		c := f.fresh(conv)
		for range turns {
			turn := &store.Turn{Conversations: []*store.Conversation{c}}
			f.say(c, turn, "a", 3)
			if err := f.try(t.Context(), turn); err != nil {
				errs <- err
				return
			}
		}
		errs <- nil
	}
	mine := *f
	go work(&mine, "g:one")
	go work(&other, "g:two")
	for range 2 {
		must(t, <-errs)
	}
	heads := got[store.Found](t)(f.s.Lookup(t.Context(), nil, []wire.ConvID{"g:one", "g:two"})).Conversations
	for _, c := range slices.Sorted(maps.Keys(heads)) {
		rows := got[[]store.Row](t)(f.s.Rows(t.Context(), heads[c].ID, 1, 1000))
		equal(t, "rows of "+string(c), len(rows), turns*3)
	}
}

func testLarge(f *fixture) {
	t := f.t
	const n = 777
	c := f.group(t, "g", "a")
	turn := &store.Turn{Conversations: []*store.Conversation{c}}
	f.say(c, turn, "a", n)
	users := make([]wire.UserID, 0, n)
	for i := range n {
		u := wire.UserID(fmt.Sprintf("user-%04d", i))
		users = append(users, u)
		turn.Members = append(turn.Members, store.MemberChange{Conv: c, Member: store.Member{User: u, Role: store.RoleMember, JoinedSeq: 2}})
		turn.Outcomes = append(turn.Outcomes, store.Outcome{OutcomeKey: store.OutcomeKey{Conv: c.Conv, From: u, ClientID: "1"}, ID: wire.MsgID(i + 1), TS: base})
		turn.Refusals = append(turn.Refusals, store.Refusal{User: "a", Refused: wire.Refused{ID: wire.MsgID(i + 1)}, TS: base})
		turn.Updates = append(turn.Updates, store.RowUpdate{Conv: c, TargetSeq: int64(i + 2), Status: wire.StatusEdited, Content: "new"})
	}
	f.commit(t, turn)
	rows := got[[]store.Row](t)(f.s.Rows(t.Context(), c.ID, 2, n+1))
	equal(t, "rows", len(rows), n)
	for _, r := range rows {
		if r.Status != wire.StatusEdited || r.Content != "new" {
			t.Fatalf("row %d is %+v", r.Seq, r)
		}
	}
	equal(t, "members", len(got[[]store.Member](t)(f.s.ActiveMembers(t.Context(), c.ID))), n+1)
	equal(t, "intervals", len(got[[]store.Member](t)(f.s.Intervals(t.Context(), c.ID, users))), n)
	equal(t, "refusals", len(got[[]wire.Refused](t)(f.s.Refusals(t.Context(), "a", 0, n*2))), n)
}
