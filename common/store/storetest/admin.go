package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// ahead is a time (ms) that no test's partitions of now reach, at the beginning
// of a month and so of a day.
func ahead() int64 {
	now := time.Now().UTC()
	return time.Date(now.Year()+1, now.Month(), 1, 0, 0, 0, 0, time.UTC).UnixMilli()
}

func testPurge(f *fixture) {
	t := f.t
	const hour = store.DayMS / 24
	day := ahead()
	must(t, f.s.Prepare(t.Context(), day))
	turn := &store.Turn{}
	for i := range int64(72) {
		key := store.OutcomeKey{Conv: "g:g", From: "a", ClientID: fmt.Sprint(i)}
		turn.Outcomes = append(turn.Outcomes, store.Outcome{
			OutcomeKey: key, Partition: f.p.PartitionID, ID: wire.MsgID(i + 1), TS: day + i*hour,
		})
		for n := range int64(20) {
			turn.Refusals = append(turn.Refusals, store.Refusal{User: "a", Refused: wire.Refused{ID: wire.MsgID(1 + i*20 + n)}, TS: day + i*hour})
		}
	}
	f.commit(t, turn)
	equal(t, "the newest verdict's time", f.state(t).AppliedTS, day+71*hour)
	for range 2 { // two days and a half: what the third day has stays
		must(t, f.s.Purge(t.Context(), day+60*hour))
		_, err := f.s.Outcome(t.Context(), turn.Outcomes[47].OutcomeKey)
		notFound(t, "purged", err)
		_, err = f.s.OutcomeByID(t.Context(), "a", turn.Outcomes[0].ID)
		notFound(t, "purged, by id", err)
		equal(t, "kept", got[store.Outcome](t)(f.s.Outcome(t.Context(), turn.Outcomes[48].OutcomeKey)), turn.Outcomes[48])
		equal(t, "refusals kept", len(got[[]wire.Refused](t)(f.s.Refusals(t.Context(), "a", 0, 5000))), 240)
	}
	f.commit(t, turn1(store.Outcome{OutcomeKey: turn.Outcomes[0].OutcomeKey, Partition: f.p.PartitionID, ID: 500, TS: day}))
	equal(t, "a time does not go back", f.state(t).AppliedTS, day+71*hour)
	equal(t, "of a day that was retired", got[store.Outcome](t)(f.s.Outcome(t.Context(), turn.Outcomes[0].OutcomeKey)).ID, wire.MsgID(500))
}

func turn1(o store.Outcome) *store.Turn { return &store.Turn{Outcomes: []store.Outcome{o}} }

// testRetire has one conversation over three months, one in the first alone,
// and one that begins in the third.
func testRetire(f *fixture) {
	t := f.t
	first := time.UnixMilli(ahead()).UTC()
	at := func(months int) int64 { return first.AddDate(0, months, 0).UnixMilli() }
	must(t, f.s.Prepare(t.Context(), at(0)))
	long := f.private(t, "a", "b", 0)
	short, late := f.private(t, "a", "c", 0), f.private(t, "a", "d", 0)
	add := func(c *store.Conversation, months, n int) {
		turn := &store.Turn{Conversations: []*store.Conversation{c}}
		for range n {
			c.MaxSeq++
			c.LastMsg, c.LastTS = c.MaxSeq, at(months)+c.MaxSeq
			row := f.row(c.MaxSeq, "a", wire.TypeText, "text")
			row.TS = c.LastTS
			turn.Rows = append(turn.Rows, store.ConvRow{Conv: c, Row: row})
		}
		f.commit(t, turn)
	}
	add(long, 0, 1200)
	add(long, 1, 3)
	add(long, 2, 4)
	add(short, 0, 2)
	add(late, 2, 1)
	check := func(what string, c *store.Conversation, minSeq int64, want ...int64) {
		t.Helper()
		equal(t, what+": min_seq", got[*store.Conversation](t)(f.s.Conversation(t.Context(), c.Conv)).MinSeq, minSeq)
		rows := got[[]store.Row](t)(f.s.Timeline(t.Context(), "a", c.Conv, 0, c.MaxSeq, 2000, true))
		equal(t, what+": rows", seqs(rows), append([]int64{}, want...))
	}
	must(t, f.s.Retire(t.Context(), at(0)+5))
	equal(t, "a month that is not over", got[*store.Conversation](t)(f.s.Conversation(t.Context(), long.Conv)).MinSeq, int64(1))
	for range 2 {
		must(t, f.s.Retire(t.Context(), at(2)-1))
		check("one month retired", long, 1201, 1201, 1202, 1203, 1204, 1205, 1206, 1207)
		check("all retired", short, 3)
		check("none retired", late, 1, 1)
	}
	add(long, 2, 1) // the machine's memory still says 1
	check("a head written from memory", long, 1201, 1201, 1202, 1203, 1204, 1205, 1206, 1207, 1208)
	must(t, f.s.Retire(t.Context(), at(2)+1000))
	check("two months retired", long, 1204, 1204, 1205, 1206, 1207, 1208)
	list := got[[]store.UserConv](t)(f.s.UserConversations(t.Context(), "c", "d", "", 10, true))
	equal(t, "nothing left to show", [2]any{list[0].Last == nil, list[0].Unread}, [2]any{true, int64(0)})
	equal(t, "history", seqs(got[[]store.Row](t)(f.s.History(t.Context(), "b", long.Conv, -1, 0, 2))), []int64{1204, 1205})
	add(short, 2, 1) // and on it goes
	check("after all was retired", short, 3, 3)
}

func testWorkers(f *fixture) {
	t := f.t
	lease := func(owner string, now, until int64) (int, int64) {
		t.Helper()
		id, last, err := f.s.LeaseWorker(t.Context(), owner, now, until)
		must(t, err)
		return id, last
	}
	a, last := lease("a", 1000, 2000)
	equal(t, "never used", last, int64(0))
	b, _ := lease("b", 1000, 2000)
	if a == b {
		t.Fatalf("both have worker id %d", a)
	}
	must(t, f.s.RenewWorker(t.Context(), a, "a", 5000))
	if err := f.s.RenewWorker(t.Context(), a, "b", 5000); !errors.Is(err, store.ErrFenced) {
		t.Errorf("renewing another's lease: %v", err)
	}
	if err := f.s.RenewWorker(t.Context(), 1023, "b", 5000); !errors.Is(err, store.ErrFenced) {
		t.Errorf("renewing what was never leased: %v", err)
	}
	again, last := lease("a", 3000, 6000)
	equal(t, "the own one again, after its last use", [2]int64{int64(again), last}, [2]int64{int64(a), 5000})
	must(t, f.s.RenewWorker(t.Context(), a, "a", 5500)) // no step back
	_, last = lease("a", 3000, 6000)
	equal(t, "a lease is not shortened", last, int64(6000))
}

func testWorkersOut(f *fixture) {
	t := f.t
	seen := make(map[int]bool)
	for i := range store.WorkerIDs {
		id, _, err := f.s.LeaseWorker(t.Context(), fmt.Sprint("owner-", i), 1000, int64(10_000+i))
		must(t, err)
		if seen[id] || id < 0 || id >= store.WorkerIDs {
			t.Fatalf("worker id %d", id)
		}
		seen[id] = true
	}
	const grace = store.WorkerGraceMS
	if _, _, err := f.s.LeaseWorker(t.Context(), "late", 10_000+grace, 50_000); err == nil {
		t.Error("leased within the grace")
	}
	id, last, err := f.s.LeaseWorker(t.Context(), "late", 10_002+grace, 50_000)
	must(t, err)
	equal(t, "the longest unused", last, int64(10_000))
	if err := f.s.RenewWorker(t.Context(), id, "owner-0", 60_000); !errors.Is(err, store.ErrFenced) {
		t.Errorf("the former owner: %v", err)
	}
	f.releases()
}

// releases ends leases where none is free: the released one is, at once.
func (f *fixture) releases() {
	t := f.t
	t.Helper()
	id, _, err := f.s.LeaseWorker(t.Context(), "owner-700", 1000, 10_700)
	must(t, err)
	if err := f.s.ReleaseWorker(t.Context(), id, "owner-8", 5000); !errors.Is(err, store.ErrFenced) {
		t.Errorf("releasing another's lease: %v", err)
	}
	must(t, f.s.ReleaseWorker(t.Context(), id, "owner-700", 5000))
	if err := f.s.RenewWorker(t.Context(), id, "owner-700", 2_000_000); !errors.Is(err, store.ErrFenced) {
		t.Errorf("a renewal after the release: %v", err)
	}
	if err := f.s.ReleaseWorker(t.Context(), id, "owner-700", 6000); !errors.Is(err, store.ErrFenced) {
		t.Errorf("a second release: %v", err)
	}
	next, last, err := f.s.LeaseWorker(t.Context(), "next", 5001+store.WorkerGraceMS, 90_000)
	must(t, err)
	equal(t, "the released one, and when it was used", [2]int64{int64(next), last}, [2]int64{int64(id), 5000})
}

func testLayout(f *fixture) {
	t := f.t
	must(t, f.s.CheckLayout(t.Context(), map[string]string{"a": "4", "b": "8"}))
	must(t, f.s.CheckLayout(t.Context(), map[string]string{"b": "8", "a": "4"}))
	if err := f.s.CheckLayout(t.Context(), map[string]string{"a": "4", "b": "9", "c": "1"}); !errors.Is(err, store.ErrLayout) {
		t.Errorf("another number: %v", err)
	}
	must(t, f.s.CheckLayout(t.Context(), map[string]string{"c": "2"})) // the refused call stored nothing
	must(t, f.s.CheckLayout(t.Context(), nil))
	epoch := got[string](t)(f.s.HistoryEpoch(t.Context()))
	if epoch == "" {
		t.Error("no history epoch")
	}
	equal(t, "history epoch again", got[string](t)(f.s.HistoryEpoch(t.Context())), epoch)
	must(t, f.s.Ping(t.Context()))
}

func testLedger(f *fixture) {
	t := f.t
	b := f.claim(t, record.PartitionID{Topic: record.TopicMessages, Number: 1})
	a := f.claim(t, record.PartitionID{Topic: record.TopicMessages, Number: 0})
	equal(t, "partitions", got[[]store.PartitionState](t)(f.s.Partitions(t.Context())), []store.PartitionState{f.p, a, b})
}

// testBalance reads the rows while turns commit: at any moment the columns count
// all from the first record to the last one applied.
func testBalance(f *fixture) {
	t := f.t
	const turns = 40
	done := make(chan error, 1)
	work := func() error {
		for i := range int64(turns) {
			move := store.PartitionMove{
				PartitionID: f.p.PartitionID, Epoch: f.p.Epoch, From: f.p.Applied, To: max(f.p.Applied, f.p.First-1) + 4 + i%3,
				Add: store.Counts{Stored: 1, Updates: i % 3, Commands: 1, Repeats: 1, Refused: 1},
			}
			if _, err := f.s.Commit(t.Context(), &store.Turn{Partitions: []store.PartitionMove{move}}); err != nil {
				return err //nolint:wrapcheck // the store's own
			}
			f.p.Applied = move.To
		}
		return nil
	}
	go func() { done <- work() }()
	for last, ended := int64(-1), false; ; {
		list := got[[]store.PartitionState](t)(f.s.Partitions(t.Context()))
		c := &list[0].Counts
		sum := c.Stored + c.Updates + c.Commands + c.Repeats + c.Refused + c.SetAside
		if applied := max(list[0].Applied+1, c.First) - c.First; applied != sum || applied < last {
			t.Fatalf("%d records were applied, %d before, and the columns count %d: %+v", applied, last, sum, list[0])
		} else if last = applied; ended {
			equal(t, "all turns", list[0].Stored, int64(turns))
			return
		}
		select {
		case err := <-done:
			must(t, err)
			ended = true
		default:
		}
	}
}

// Seed fills an empty store for Verify.
func Seed(t *testing.T, s store.Store) {
	t.Helper()
	f := newFixture(t, s)
	c := f.private(t, "a", "b", 10)
	f.group(t, "g", "a", "b")
	f.move(t, store.CursorMove{User: "b", Device: "d", Conv: c.Conv, Delivered: 6, Read: 3})
	must(t, s.CheckLayout(t.Context(), map[string]string{"a": "4"}))
}

// Verify checks what Seed stored, in a store opened again.
func Verify(t *testing.T, s store.Store) {
	t.Helper()
	st := got[store.PartitionState](t)(s.State(t.Context(), record.PartitionID{Topic: record.TopicGroups, Number: 3}))
	equal(t, "guard", [2]int64{st.Epoch, st.Applied}, [2]int64{1, 1})
	list := got[[]store.UserConv](t)(s.UserConversations(t.Context(), "b", "d", "", 10, true))
	equal(t, "conversations", len(list), 2)
	equal(t, "cursors", [4]int64{list[1].DeviceDelivered, list[1].Delivered, list[1].Read, list[1].Unread}, [4]int64{6, 6, 3, 7})
	rows := got[[]store.Row](t)(s.Timeline(t.Context(), "b", "p:a:b", 0, 10, 100, true))
	equal(t, "rows", seqs(rows), []int64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
	if err := s.CheckLayout(t.Context(), map[string]string{"a": "5"}); !errors.Is(err, store.ErrLayout) {
		t.Errorf("another layout: %v", err)
	}
}
