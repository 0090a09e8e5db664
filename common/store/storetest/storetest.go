// Package storetest is the contract of package store as tests: whatever gives
// a store.Store runs Run on it. Seed and Verify are for what outlives its
// process: fill a store, open it again, look.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// Run runs the whole contract. open returns an empty store; it closes and
// removes it in a cleanup.
func Run(t *testing.T, open func(t testing.TB) store.Store) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(f *fixture)
	}{
		{"claim raises the epoch and keeps the rest", testClaim},
		{"state before the first claim is not found", testNoState},
		{"commit moves the guard and adds the counts", testGuard},
		{"a zombie is fenced out and nothing is applied", testZombie},
		{"one fenced partition of two stops the turn", testFencedOne},
		{"a commit repeated after its success is fenced", testAmbiguous},
		{"ids of conversations are given once", testIDs},
		{"a failed turn leaves nothing behind", testAtomic},
		{"what no shard can hold is a deterministic error", testLimits},
		{"a cancelled context is no deterministic error", testCancelled},
		{"rows and row by id", testRows},
		{"all columns of a row come back", testRowColumns},
		{"heads and groups come back", testHeads},
		{"members and intervals", testMembers},
		{"outcomes by key, by id, newest day first", testOutcomes},
		{"a verdict takes another's place", testVoided},
		{"ids are compared byte by byte", testBytes},
		{"content keeps every byte", testContent},
		{"timeline pages through what the user may see", testTimeline},
		{"leaving and joining again leaves a gap", testIntervals},
		{"touching intervals show a row once", testTouching},
		{"history in both directions", testHistory},
		{"a recalled message shows its state", testRecall},
		{"contents by seq", testContents},
		{"groups of a user", testGroupsOf},
		{"members in pages", testMemberPages},
		{"cursors only grow", testCursorsGrow},
		{"cursors are clamped and strangers ignored", testCursorsClamp},
		{"moves of one call add up", testCursorsAddUp},
		{"receipts of all members", testReceipts},
		{"a user's conversations in pages", testUserConversations},
		{"unread counts what others said", testUnread},
		{"the last message of who has left", testLast},
		{"blocks of a user, and in the head", testBlocks},
		{"decisions by version, one a subject", testControl},
		{"decisions that are over are purged", testControlPurge},
		{"refusals, newest within the limit", testRefusals},
		{"purge deletes what is older, verdicts by the day", testPurge},
		{"months are retired, and min_seq with them", testRetire},
		{"worker ids are leased to one owner", testWorkers},
		{"worker ids run out, and are free once released", testWorkersOut},
		{"layout and history epoch", testLayout},
		{"the ledger lists all partitions", testLedger},
		{"the ledger balances while turns commit", testBalance},
		{"two writers at once", testConcurrent},
		{"large turns", testLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.test(newFixture(t, open(t)))
		})
	}
}

// base is a time (ms) in the middle of a day and a month.
const base = int64(1_794_000_000_000)

// fixture is a store with the owner of one partition.
type fixture struct {
	t   *testing.T
	s   store.Store
	p   store.PartitionState
	ids wire.MsgID
}

func newFixture(t *testing.T, s store.Store) *fixture {
	t.Helper()
	f := &fixture{t: t, s: s, ids: 1000}
	f.p = f.claim(t, record.PartitionID{Topic: record.TopicGroups, Number: 3})
	return f
}

func (f *fixture) claim(t *testing.T, p record.PartitionID) store.PartitionState {
	t.Helper()
	st, err := f.s.Claim(t.Context(), p, "topic-1", 7)
	must(t, err)
	return st
}

// commit applies a turn that moves the fixture's partition by one record.
func (f *fixture) commit(t *testing.T, turn *store.Turn) {
	t.Helper()
	must(t, f.try(t.Context(), turn))
}

func (f *fixture) try(ctx context.Context, turn *store.Turn) error {
	turn.Partitions = []store.PartitionMove{{PartitionID: f.p.PartitionID, Epoch: f.p.Epoch, From: f.p.Applied, To: f.p.Applied + 1}}
	fenced, err := f.s.Commit(ctx, turn)
	if err == nil && len(fenced) > 0 {
		err = fmt.Errorf("fenced: %v", fenced)
	}
	if err == nil {
		f.p.Applied++
	}
	return err //nolint:wrapcheck // the store's own
}

// group makes a group whose creation took seq 1.
func (f *fixture) group(t *testing.T, id wire.GroupID, members ...wire.UserID) *store.Conversation {
	t.Helper()
	c := f.fresh(wire.GroupConv(id))
	c.MaxSeq, c.LastTS, c.LastMsg = 1, base, 1
	c.Group = &store.Group{Name: "name of " + string(id), Owner: members[0], Members: len(members)}
	turn := &store.Turn{Conversations: []*store.Conversation{c}}
	for i, u := range members {
		role := store.RoleMember
		if i == 0 {
			role = store.RoleOwner
		}
		turn.Members = append(turn.Members, store.MemberChange{Conv: c, Member: store.Member{User: u, Role: role, JoinedSeq: 1}})
	}
	turn.Rows = []store.ConvRow{{Conv: c, Row: f.row(1, members[0], wire.TypeSystem, "created")}}
	f.commit(t, turn)
	return c
}

// fresh is a conversation that is not stored.
func (f *fixture) fresh(conv wire.ConvID) *store.Conversation {
	f.ids++
	return &store.Conversation{ID: int64(f.ids), New: true, Conv: conv, MinSeq: 1}
}

// private makes a private conversation with n messages from a.
func (f *fixture) private(t *testing.T, a, b wire.UserID, n int) *store.Conversation {
	t.Helper()
	c := f.fresh(wire.PrivateConv(a, b))
	turn := &store.Turn{Conversations: []*store.Conversation{c}}
	turn.Members = append(turn.Members, store.MemberChange{Conv: c, Member: store.Member{User: a, Role: store.RoleMember, JoinedSeq: 1}})
	if a != b {
		turn.Members = append(turn.Members, store.MemberChange{Conv: c, Member: store.Member{User: b, Role: store.RoleMember, JoinedSeq: 1}})
	}
	f.say(c, turn, a, n)
	f.commit(t, turn)
	return c
}

// say adds n messages of u to a turn.
func (f *fixture) say(c *store.Conversation, turn *store.Turn, u wire.UserID, n int) {
	for range n {
		c.MaxSeq++
		c.LastMsg = c.MaxSeq
		c.LastTS = base + c.MaxSeq
		turn.Rows = append(turn.Rows, store.ConvRow{Conv: c, Row: f.row(c.MaxSeq, u, wire.TypeText, fmt.Sprint("message ", c.MaxSeq))})
	}
}

// saying commits n messages of u.
func (f *fixture) saying(t *testing.T, c *store.Conversation, u wire.UserID, n int) {
	t.Helper()
	turn := &store.Turn{Conversations: []*store.Conversation{c}}
	f.say(c, turn, u, n)
	f.commit(t, turn)
}

func (f *fixture) row(seq int64, u wire.UserID, typ wire.MsgType, content string) store.Row {
	f.ids++
	return store.Row{
		Seq: seq, Kind: store.KindMessage, ID: f.ids, From: u, Type: typ, Content: content, TS: base + seq,
		ClientID: fmt.Sprint("c-", f.ids), Version: seq,
	}
}

// member commits the state of one interval.
func (f *fixture) member(t *testing.T, c *store.Conversation, m store.Member) {
	t.Helper()
	if m.Role == "" {
		m.Role = store.RoleMember
	}
	f.commit(t, &store.Turn{Members: []store.MemberChange{{Conv: c, Member: m}}})
}

func (f *fixture) state(t *testing.T) store.PartitionState {
	t.Helper()
	st, err := f.s.State(t.Context(), f.p.PartitionID)
	must(t, err)
	return st
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// got fails the test on an error and returns the value.
func got[T any](t *testing.T) func(v T, err error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		must(t, err)
		return v
	}
}

func notFound(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%s: got %v, want ErrNotFound", what, err)
	}
}

func deterministic(t *testing.T, what string, err error) {
	t.Helper()
	if !isDeterministic(err) {
		t.Errorf("%s: got %v, want a DeterministicError", what, err)
	}
}

func isDeterministic(err error) bool {
	_, ok := errors.AsType[*store.DeterministicError](err)
	return ok
}

func seqs(rows []store.Row) []int64 {
	out := []int64{}
	for _, r := range rows {
		out = append(out, r.Seq)
	}
	return out
}
