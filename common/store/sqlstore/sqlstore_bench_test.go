package sqlstore_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/sqlstore"
	"github.com/starling-im/starling/common/wire"
)

// talk commits turns of messages, each with its verdict, spread over
// conversations as the machine makes them.
type talk struct {
	s     store.Store
	move  store.PartitionMove
	convs []*store.Conversation
	n     int
}

func newTalk(b *testing.B, s store.Store, convs int) *talk {
	b.Helper()
	p := record.PartitionID{Topic: record.TopicMessages, Number: 1}
	st, err := s.Claim(b.Context(), p, "t", 0)
	if err != nil {
		b.Fatal(err)
	}
	k := &talk{s: s, move: store.PartitionMove{PartitionID: p, Epoch: st.Epoch, From: -1}}
	turn := &store.Turn{}
	for i := range convs {
		c := &store.Conversation{ID: int64(i + 1), New: true, Conv: wire.PrivateConv("alice", wire.UserID(fmt.Sprintf("bob-%05d", i))), MinSeq: 1}
		k.convs = append(k.convs, c)
		turn.Members = append(turn.Members,
			store.MemberChange{Conv: c, Member: store.Member{User: "alice", JoinedSeq: 1}},
			store.MemberChange{Conv: c, Member: store.Member{User: wire.UserID(fmt.Sprintf("bob-%05d", i)), JoinedSeq: 1}})
	}
	turn.Conversations = k.convs
	k.commit(b, turn)
	return k
}

func (k *talk) commit(b *testing.B, turn *store.Turn) {
	b.Helper()
	k.move.To = k.move.From + 1
	turn.Partitions = []store.PartitionMove{k.move}
	if fenced, err := k.s.Commit(b.Context(), turn); err != nil || len(fenced) > 0 {
		b.Fatal(fenced, err)
	}
	k.move.From = k.move.To
}

func (k *talk) turn(size int) *store.Turn {
	turn := &store.Turn{}
	body := strings.Repeat("a message of 100 bytes ", 5)[:100]
	seen := make(map[*store.Conversation]bool)
	for range size {
		k.n++
		c := k.convs[k.n*7919%len(k.convs)]
		if !seen[c] {
			seen[c] = true
			turn.Conversations = append(turn.Conversations, c)
		}
		c.MaxSeq++
		c.LastMsg, c.LastTS = c.MaxSeq, 1_794_000_000_000+int64(k.n)
		id := fmt.Sprintf("client-%d", k.n)
		turn.Rows = append(turn.Rows, store.ConvRow{Conv: c, Row: store.Row{
			Seq: c.MaxSeq, Kind: store.KindMessage, ID: wire.MsgID(k.n), From: "alice", Type: wire.TypeText, Content: body, TS: c.LastTS, ClientID: id,
		}})
		turn.Outcomes = append(turn.Outcomes, store.Outcome{
			OutcomeKey: store.OutcomeKey{Conv: c.Conv, From: "alice", ClientID: id}, Partition: k.move.PartitionID,
			ID: wire.MsgID(k.n), Seq: c.MaxSeq, N: 1, TS: c.LastTS,
		})
	}
	return turn
}

func benchCommit(b *testing.B, s store.Store) {
	b.Helper()
	k := newTalk(b, s, 1000)
	for _, size := range []int{1, 5, 50, 500} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.ReportAllocs()
			var took []time.Duration
			for b.Loop() {
				turn, from := k.turn(size), time.Now()
				k.commit(b, turn)
				took = append(took, time.Since(from))
			}
			slices.Sort(took)
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "msg/s")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

func BenchmarkCommit(b *testing.B) { benchCommit(b, openSQLite(b)) }

func BenchmarkCommitMySQL(b *testing.B) { benchCommit(b, openMySQL(b)) }

// openMySQL opens an empty store on the server of the environment.
func openMySQL(b *testing.B) store.Store {
	b.Helper()
	cfg := mysqlConfig(b)
	dropAll(b, cfg)
	if err := sqlstore.Migrate(b.Context(), cfg); err != nil {
		b.Fatal(err)
	}
	s := open(b, cfg)
	b.Cleanup(func() { closed(b, s) })
	return s
}

// benchOutcomes looks up client ids that nobody has used, as each turn does for
// its messages, beside a million that were, and then commits them: what the
// look-up adds to a turn.
func benchOutcomes(b *testing.B, s store.Store) {
	b.Helper()
	k := newTalk(b, s, 10_000)
	for range 500 {
		k.commit(b, k.turn(2000))
	}
	for _, size := range []int{1, 5, 50, 500} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			var look time.Duration
			for b.Loop() {
				turn := k.turn(size)
				keys := make([]store.OutcomeKey, size)
				for i := range keys {
					keys[i] = turn.Outcomes[i].OutcomeKey
				}
				from := time.Now()
				if found, err := s.Lookup(b.Context(), keys, nil); err != nil || len(found.Outcomes) > 0 {
					b.Fatal(found, err)
				}
				look += time.Since(from)
				k.commit(b, turn)
			}
			b.ReportMetric(float64(look.Microseconds())/float64(b.N), "look-up-µs/op")
		})
	}
}

func BenchmarkOutcomes(b *testing.B) { benchOutcomes(b, openSQLite(b)) }

func BenchmarkOutcomesMySQL(b *testing.B) { benchOutcomes(b, openMySQL(b)) }

func BenchmarkTimeline(b *testing.B) {
	s := openSQLite(b)
	k := newTalk(b, s, 10)
	for range 20 {
		k.commit(b, k.turn(500))
	}
	c := k.convs[0]
	b.ReportAllocs()
	for b.Loop() {
		rows, err := s.Timeline(b.Context(), "alice", c.Conv, 300, 800, 500, true)
		if err != nil || len(rows) != 500 {
			b.Fatal(len(rows), err)
		}
	}
}

// BenchmarkUserConversations reads 50 conversations with 10,000 messages, all
// unread.
func BenchmarkUserConversations(b *testing.B) {
	s := openSQLite(b)
	k := newTalk(b, s, 50)
	for range 20 {
		k.commit(b, k.turn(500))
	}
	// Another user of all of them, who wrote nothing.
	turn := &store.Turn{}
	for _, c := range k.convs {
		turn.Members = append(turn.Members, store.MemberChange{Conv: c, Member: store.Member{User: "reader", JoinedSeq: 1}})
	}
	k.commit(b, turn)
	b.ReportAllocs()
	for b.Loop() {
		list, err := s.UserConversations(b.Context(), "reader", "d", "", 50, true)
		if err != nil || len(list) != 50 || list[0].Unread != 200 {
			b.Fatal(len(list), err)
		}
	}
}

func BenchmarkMoveCursors(b *testing.B) {
	s := openSQLite(b)
	k := newTalk(b, s, 50)
	for range 200 {
		k.commit(b, k.turn(500))
	}
	var seq int64
	b.ReportAllocs()
	for b.Loop() {
		seq++
		var moves []store.CursorMove
		for _, c := range k.convs {
			moves = append(moves, store.CursorMove{User: "alice", Device: "d", Conv: c.Conv, Delivered: seq % 2000})
		}
		if states, err := s.MoveCursors(b.Context(), moves); err != nil || len(states) != 50 && seq%2000 != 0 {
			b.Fatal(len(states), err)
		}
	}
}
