package shards_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/store/shards"
	"github.com/starling-im/starling/common/store/storetest"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const partitions = 4

func counts() map[string]int32 {
	return map[string]int32{record.TopicMessages: partitions, record.TopicGroups: partitions}
}

func holds(numbers ...int32) shards.Partitions {
	return shards.Partitions{record.TopicMessages: numbers, record.TopicGroups: numbers}
}

// two is a set of two shards over memory.
func two(tb testing.TB) (shards.Store, [2]*memstore.Store) {
	tb.Helper()
	ms := [2]*memstore.Store{memstore.New(), memstore.New()}
	set, err := shards.New([]shards.Shard{
		{Name: "main", Store: ms[0], Holds: holds(0, 1)}, {Name: "b", Store: ms[1], Holds: holds(2, 3)},
	}, counts())
	if err != nil {
		tb.Fatal(err)
	}
	return set, ms
}

// TestContract runs the stores' own suite: whoever reads the set can't tell it
// from one store.
func TestContract(t *testing.T) {
	storetest.Run(t, func(tb testing.TB) store.Store {
		tb.Helper()
		set, ms := two(tb)
		return &whole{Store: set, parts: ms[:]}
	})
}

// TestAnswersAsOne gives the same operations, made at random, to a set and to
// one store, and compares all answers.
func TestAnswersAsOne(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 0))
		set, ms := two(t)
		w := &world{t: t, rng: rng, one: memstore.New(), many: &whole{Store: set, parts: ms[:]}}
		w.fill()
		for i, m := range ms {
			if list, err := m.UserConversations(t.Context(), "u0", "d0", "", 1000, false); err != nil || len(list) == 0 {
				t.Fatalf("seed %d: shard %d holds nothing: %v", seed, i, err)
			}
		}
		w.compare()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// world plays the machine of everything, on both.
type world struct {
	t         *testing.T
	rng       *rand.Rand
	one, many store.Store
	convs     []wire.ConvID
}

const users = 5

func (w *world) user() wire.UserID     { return wire.UserID(fmt.Sprint("u", w.rng.IntN(users))) }
func (w *world) device() wire.DeviceID { return wire.DeviceID(fmt.Sprint("d", w.rng.IntN(2))) }

// fill commits conversations, refusals and cursors.
func (w *world) fill() {
	t := w.t
	p := record.PartitionID{Topic: record.TopicMessages}
	for _, s := range []store.Store{w.one, w.many} {
		if _, err := s.Claim(t.Context(), p, "id", 0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range users {
		for j := range i {
			w.convs = append(w.convs, wire.PrivateConv(wire.UserID(fmt.Sprint("u", i)), wire.UserID(fmt.Sprint("u", j))))
		}
	}
	for i := range 12 {
		w.convs = append(w.convs, wire.GroupConv(wire.GroupID(fmt.Sprint("g", i))))
	}
	for offset, conv := range w.convs {
		seed := w.rng.Uint64()
		for _, s := range []store.Store{w.one, w.many} {
			turn := w.turn(rand.New(rand.NewPCG(seed, 1)), conv, wire.MsgID(100*(offset+1)))
			turn.Partitions = []store.PartitionMove{{PartitionID: p, Epoch: 1, From: int64(offset) - 1, To: int64(offset)}}
			if fenced, err := s.Commit(t.Context(), turn); err != nil || len(fenced) > 0 {
				t.Fatal(fenced, err)
			}
		}
	}
	for range 20 {
		var moves []store.CursorMove
		for range 10 {
			moves = append(moves, store.CursorMove{
				User: w.user(), Device: w.device(), Conv: w.convs[w.rng.IntN(len(w.convs))],
				Delivered: w.rng.Int64N(9), Read: w.rng.Int64N(9),
			})
		}
		w.same("MoveCursors", func(s store.Store) (any, error) { return s.MoveCursors(t.Context(), moves) })
	}
}

// turn makes one conversation with its members, messages, verdicts and refusals.
func (w *world) turn(rng *rand.Rand, conv wire.ConvID, id wire.MsgID) *store.Turn {
	n := 1 + rng.Int64N(6)
	c := &store.Conversation{ID: int64(id), New: true, Conv: conv, MaxSeq: n, MinSeq: 1, LastTS: 1000, LastMsg: n}
	turn := &store.Turn{Conversations: []*store.Conversation{c}}
	var members []wire.UserID
	if p, err := conv.Parse(); err == nil && p.Group == "" {
		members = []wire.UserID{p.A, p.B}
	} else {
		for _, i := range rng.Perm(users)[:2+rng.IntN(users-2)] {
			members = append(members, wire.UserID(fmt.Sprint("u", i)))
		}
		c.Group = &store.Group{Name: string(conv), Owner: members[0], Members: len(members)}
	}
	for i, u := range members {
		m := store.Member{User: u, Role: store.RoleMember, JoinedSeq: 1}
		if i > 0 && c.Group != nil && rng.IntN(4) == 0 {
			m.LeftSeq = n
			c.Group.Members--
		}
		turn.Members = append(turn.Members, store.MemberChange{Conv: c, Member: m})
	}
	for seq := range n {
		from := members[rng.IntN(len(members))]
		client := fmt.Sprint("c", seq)
		turn.Rows = append(turn.Rows, store.ConvRow{Conv: c, Row: store.Row{
			Seq: seq + 1, Kind: store.KindMessage, ID: id + wire.MsgID(seq), From: from, Type: wire.TypeText,
			Content: client, TS: 1000 + seq, ClientID: client,
		}})
		key := store.OutcomeKey{Conv: conv, From: from, ClientID: client}
		turn.Outcomes = append(turn.Outcomes, store.Outcome{OutcomeKey: key, ID: id + wire.MsgID(seq), Seq: seq + 1, N: 1, TS: 1000})
	}
	for range rng.IntN(3) {
		turn.Refusals = append(turn.Refusals, store.Refusal{
			User: members[0], TS: rng.Int64N(100),
			Refused: wire.Refused{ClientID: "r", ID: id + wire.MsgID(50+len(turn.Refusals)), Conv: conv, Code: wire.CodeForbidden},
		})
	}
	return turn
}

// same compares one answer; ids of conversations are a shard's own.
func (w *world) same(what string, ask func(s store.Store) (any, error)) {
	w.t.Helper()
	want, werr := ask(w.one)
	got, gerr := ask(w.many)
	if errors.Is(werr, store.ErrNotFound) != errors.Is(gerr, store.ErrNotFound) || (werr == nil) != (gerr == nil) {
		w.t.Errorf("%s: %v, the one store says %v", what, gerr, werr)
		return
	}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		w.t.Errorf("%s (-one +set):\n%s", what, d)
	}
}

func (w *world) compare() {
	ctx := w.t.Context()
	for range 300 {
		u, d, conv, limit := w.user(), w.device(), w.convs[w.rng.IntN(len(w.convs))], w.rng.IntN(30)
		after := wire.ConvID("")
		if w.rng.IntN(2) == 0 {
			after = w.convs[w.rng.IntN(len(w.convs))]
		}
		id, lo, hi, unread := wire.MsgID(100*w.rng.IntN(len(w.convs))+w.rng.IntN(8)), w.rng.Int64N(6), w.rng.Int64N(8), w.rng.IntN(2) == 0
		w.same("GroupsOf", func(s store.Store) (any, error) { return s.GroupsOf(ctx, u) })
		w.same("Conversation", func(s store.Store) (any, error) { return s.Conversation(ctx, conv) })
		w.same("MemberOf", func(s store.Store) (any, error) { return s.MemberOf(ctx, conv, u) })
		w.same("Members", func(s store.Store) (any, error) { return s.Members(ctx, conv, u, limit) })
		w.same("UserConversations", func(s store.Store) (any, error) { return s.UserConversations(ctx, u, d, after, limit, unread) })
		w.same("Timeline", func(s store.Store) (any, error) { return s.Timeline(ctx, u, conv, lo, hi, limit, true) })
		w.same("History", func(s store.Store) (any, error) { return s.History(ctx, u, conv, lo-1, hi, limit) })
		w.same("Contents", func(s store.Store) (any, error) { return s.Contents(ctx, conv, []int64{lo, hi}) })
		w.same("Receipts", func(s store.Store) (any, error) { return s.Receipts(ctx, conv, u, limit) })
		w.same("OutcomeByID", func(s store.Store) (any, error) { return s.OutcomeByID(ctx, u, id) })
		w.same("Outcome", func(s store.Store) (any, error) {
			return s.Outcome(ctx, store.OutcomeKey{Conv: conv, From: u, ClientID: fmt.Sprint("c", lo)})
		})
		w.same("Refusals", func(s store.Store) (any, error) { return s.Refusals(ctx, u, lo*10, limit/5) })
	}
}

var errAway = errors.New("away")

// TestOneShardAway: what the other holds is answered; what needs both is not,
// and the error says whose fault it is.
func TestOneShardAway(t *testing.T) {
	set, ms := two(t)
	ctx := t.Context()
	for _, m := range ms {
		if _, err := m.Claim(ctx, record.PartitionID{Topic: record.TopicGroups}, "id", 0); err != nil {
			t.Fatal(err)
		}
	}
	var mine, theirs wire.ConvID // in the shard that answers, and in the one that does not
	for i := 0; mine == "" || theirs == ""; i++ {
		conv := wire.GroupConv(wire.GroupID(fmt.Sprint("g", i)))
		at := record.PartitionOf(string(conv), partitions) / 2
		if at == 0 {
			mine = conv
		} else {
			theirs = conv
		}
		c := &store.Conversation{ID: int64(i + 1), New: true, Conv: conv, MaxSeq: 9, MinSeq: 1, Group: &store.Group{Members: 1}}
		if _, err := ms[at].Commit(ctx, &store.Turn{
			Conversations: []*store.Conversation{c},
			Members:       []store.MemberChange{{Conv: c, Member: store.Member{User: "u", Role: store.RoleMember, JoinedSeq: 1}}},
			Outcomes:      []store.Outcome{{OutcomeKey: store.OutcomeKey{Conv: conv, From: "u", ClientID: "c"}, ID: wire.MsgID(i + 1)}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	ms[1].Hook = func(string, bool) error { return errAway }

	away := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, errAway) || !strings.Contains(err.Error(), "shard b: ") || strings.Contains(err.Error(), "main") {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := set.Conversation(ctx, theirs)
	away("Conversation", err)
	if c, err := set.Conversation(ctx, mine); err != nil || c.MaxSeq != 9 {
		t.Errorf("of the other shard: %+v, %v", c, err)
	}
	_, err = set.GroupsOf(ctx, "u")
	away("GroupsOf", err)
	_, err = set.UserConversations(ctx, "u", "d", "", 10, true)
	away("UserConversations", err)
	_, err = set.Refusals(ctx, "u", 0, 10)
	away("Refusals", err)
	_, err = set.HistoryEpoch(ctx)
	away("HistoryEpoch", err)
	away("Ping", set.Ping(ctx))
	_, err = set.OutcomeByID(ctx, "u", 1<<40) // may be there
	away("OutcomeByID", err)
	states, err := set.MoveCursors(ctx, []store.CursorMove{
		{User: "u", Device: "d", Conv: theirs, Delivered: 5}, {User: "u", Device: "d", Conv: mine, Delivered: 7},
	})
	away("MoveCursors", err)
	want := []store.CursorState{{User: "u", Conv: mine, Delivered: 7, Grew: true, Members: 1}}
	if d := cmp.Diff(want, states); d != "" {
		t.Errorf("what stands all the same (-want +got):\n%s", d)
	}
	if _, _, err := set.LeaseWorker(ctx, "w", 1000, 2000); err != nil {
		t.Errorf("worker ids are the first shard's: %v", err)
	}
	ms[1].Hook = nil
	if list, err := set.GroupsOf(ctx, "u"); err != nil || len(list) < 2 {
		t.Errorf("back again: %v, %v", list, err)
	}
}

// TestChecked: a shard is used only once it is what it has to be.
func TestChecked(t *testing.T) {
	ms := [2]*memstore.Store{memstore.New(), memstore.New()}
	used := 0
	ms[1].Hook = func(string, bool) error { used++; return nil }
	answer, asked := errAway, 0
	set, err := shards.New([]shards.Shard{
		{Name: "main", Store: ms[0], Holds: holds(0, 1)},
		{Name: "b", Store: ms[1], Holds: holds(2, 3), Check: shards.Once(func(context.Context) error { asked++; return answer })},
	}, counts())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := set.Ping(t.Context()); !errors.Is(err, errAway) || !strings.Contains(err.Error(), "shard b") || used > 0 {
			t.Errorf("not checked: %v, used %d times", err, used)
		}
	}
	answer = nil
	for range 2 {
		if err := set.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if asked != 3 || used == 0 {
		t.Errorf("checked %d times, used %d times", asked, used)
	}
}

func TestOneShardIsItsStore(t *testing.T) {
	m := memstore.New()
	st, err := shards.New([]shards.Shard{{Name: "main", Store: m}}, counts())
	if err != nil || st != shards.Store(m) {
		t.Errorf("got %T, %v", st, err)
	}
}

func TestCheckMap(t *testing.T) {
	list := func(ss ...shards.Shard) []shards.Shard { return ss }
	a, b := shards.Shard{Name: "a", Holds: holds(0, 1)}, shards.Shard{Name: "b", Holds: holds(2, 3)}
	for name, tc := range map[string]struct {
		list []shards.Shard
		want string // "": fits
	}{
		"fits":        {list(a, b), ""},
		"one for all": {list(shards.Shard{Name: "main"}), ""},
		"missing":     {list(a, shards.Shard{Name: "b", Holds: holds(3)}), "partitions 2 of im_messages are in no shard; add"},
		"none":        {nil, "partitions 0-3 of im_group_chat are in no shard"},
		"twice":       {list(a, b, shards.Shard{Name: "c", Holds: holds(3)}), "partition 3 of im_messages is in shards b and c; leave it in one"},
		"beyond":      {list(a, shards.Shard{Name: "b", Holds: holds(2, 3, 4)}), "partitions 4 of im_messages do not exist, there are 4; take"},
		"name twice":  {list(a, shards.Shard{Name: "a", Holds: holds(2, 3)}), "there are two of this name; give"},
		"name":        {list(a, shards.Shard{Name: "B!", Holds: holds(2, 3)}), `shard "B!": not a name; use`},
		"long name":   {list(a, shards.Shard{Name: "abcdefghijklmnopq", Holds: holds(2, 3)}), "not a name"},
		"topic":       {list(shards.Shard{Name: "a", Holds: shards.Partitions{"im_push": {0}}}, shards.Shard{Name: "b"}), `topic "im_push" is not divided`},
	} {
		t.Run(name, func(t *testing.T) {
			err := shards.CheckMap(tc.list, counts())
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if err := shards.CheckMap(tc.list, nil); err == nil {
				t.Error("topics without partitions were taken")
			}
			if _, nerr := shards.New(tc.list, counts()); (nerr == nil) != (err == nil) {
				t.Errorf("New: %v", nerr)
			}
		})
	}
}

func TestNumbers(t *testing.T) {
	for in, want := range map[string]string{"0": "0", "0-3": "0-3", "7, 0-2,3": "0-3,7", "5-5": "5", "9999": "9999"} {
		ns, err := shards.ParseNumbers(in)
		if err != nil || ns.String() != want || !slices.IsSorted(ns) {
			t.Errorf("%q: %v, %v; want %s", in, ns, err, want)
		}
	}
	for _, in := range []string{"", "a", "3-1", "-1", "0-", "1,1", "0-2,2", "10000", "0-4294967296"} {
		if ns, err := shards.ParseNumbers(in); err == nil {
			t.Errorf("%q was taken for %v", in, ns)
		}
	}
}

// TestCheckLayout: a shard is opened again only as what it was made for.
func TestCheckLayout(t *testing.T) {
	a, b := shards.Shard{Name: "a", Store: memstore.New(), Holds: holds(0, 1)}, shards.Shard{Name: "b", Store: memstore.New(), Holds: holds(2, 3)}
	check := func(counts map[string]int32, list ...shards.Shard) error {
		var errs []error
		for i := range list {
			errs = append(errs, shards.CheckLayout(context.WithoutCancel(t.Context()), list, i, counts))
		}
		return errors.Join(errs...)
	}
	for range 2 {
		if err := check(counts(), a, b); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(what, want string, err error) {
		t.Helper()
		if !errors.Is(err, store.ErrLayout) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	swapA, swapB := a, b
	swapA.Store, swapB.Store = b.Store, a.Store
	refused("databases swapped", "shard: a, but b is stored", check(counts(), swapA, swapB))
	refused("another order", "shard place: 1, but 2 is stored", check(counts(), b, a))
	moved := a
	moved.Holds = holds(0)
	refused("another map", ": 0, but 0-1 is stored", check(counts(), moved))
	more := counts()
	more[record.TopicGroups] = 5
	refused("another number", "im_group_chat: 5, but 4 is stored", check(more, a, b))

	// A store that held everything is no shard of several, and the other way.
	m := shards.Shard{Name: "main", Store: memstore.New()}
	if err := check(counts(), m); err != nil {
		t.Fatal(err)
	}
	m.Holds = holds(0, 1)
	refused("divided later", "but 0-3 is stored", check(counts(), m, b))
	m.Holds = holds(0, 1, 2, 3)
	if err := check(counts(), m); err != nil {
		t.Errorf("the same, spelled out: %v", err)
	}
}
