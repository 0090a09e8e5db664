package sqlstore

import (
	"database/sql"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

func partsOf(t *testing.T, st *Store, table string) []part {
	t.Helper()
	conn, err := st.read.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	list, err := parts(t.Context(), conn, table)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Several processes prepare while turns are committed: each partition is made
// once, no turn fails, and none waits long.
func testPartitions(on serverTest) {
	t, s := on.t, on.server
	s.start(t)
	cfg, st := s.migrated(t)
	p, err := st.Claim(t.Context(), record.PartitionID{Topic: "t"}, "id", 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &store.Conversation{ID: 1, New: true, Conv: "p:a:b", MinSeq: 1}
	now := time.Now()
	turn := func(ts int64) {
		c.MaxSeq++
		_, err := st.Commit(t.Context(), &store.Turn{
			Partitions:    []store.PartitionMove{{PartitionID: p.PartitionID, Epoch: p.Epoch, From: p.Applied, To: p.Applied + 1}},
			Conversations: []*store.Conversation{c},
			Rows:          []store.ConvRow{{Conv: c, Row: store.Row{Seq: c.MaxSeq, Kind: store.KindMessage, ID: wire.MsgID(c.MaxSeq), TS: ts}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		p.Applied++
	}
	later := now.AddDate(2, 0, 0)
	var others sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		other := opened(t, cfg)
		others.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := other.Prepare(t.Context(), now.AddDate(0, i%24, 0).UnixMilli()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var longest time.Duration
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		from := time.Now()
		turn(now.UnixMilli())
		longest = max(longest, time.Since(from))
	}
	close(stop)
	others.Wait()
	t.Logf("%d turns, the longest %v", c.MaxSeq, longest)
	if longest > 2*time.Second {
		t.Errorf("a turn took %v", longest)
	}
	if err := st.Prepare(t.Context(), later.UnixMilli()); err != nil {
		t.Fatal(err)
	}
	for table, ahead := range map[string]int64{
		"messages": month(time.Date(later.Year(), later.Month()+monthsAhead+1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()),
		"outcomes": later.UnixMilli()/store.DayMS + daysAhead + 1,
	} {
		list := partsOf(t, st, table)
		for i := 1; i < len(list)-1; i++ {
			if list[i-1].below >= list[i].below {
				t.Errorf("%s: %v", table, list)
			}
		}
		if n := len(list); list[n-1].below != 0 || list[n-2].below != ahead {
			t.Errorf("%s ends with %v, want %d before", table, list[n-2:], ahead)
		}
	}
	testOverrun(t, cfg, st, turn, later.AddDate(3, 0, 0))
}

// Rows beyond all partitions are kept in the last one. A running job does not
// move them; migrate does.
func testOverrun(t *testing.T, cfg Config, st *Store, turn func(ts int64), beyond time.Time) {
	t.Helper()
	turn(beyond.UnixMilli())
	if err := st.Prepare(t.Context(), beyond.UnixMilli()); err == nil || !strings.Contains(err.Error(), "starling migrate") {
		t.Errorf("with rows in the last partition: %v", err)
	}
	if err := st.prepare(t.Context(), beyond.UnixMilli(), true); err != nil {
		t.Fatal(err)
	}
	if err := st.Prepare(t.Context(), beyond.UnixMilli()); err != nil {
		t.Error(err)
	}
	// Another process is at it: nothing to do, and nothing to wait for.
	err := st.alone(t.Context(), true, func(*sql.Conn) error {
		other := opened(t, cfg)
		far := beyond.AddDate(5, 0, 0).UnixMilli()
		return errors.Join(other.Prepare(t.Context(), far), other.Purge(t.Context(), far), other.Retire(t.Context(), far))
	})
	if err != nil {
		t.Error(err)
	}
	if list := partsOf(t, st, "messages"); len(list) < 3 {
		t.Errorf("retired while another had the lock: %v", list)
	}
}

// testReplica has another database in the replica's place, whose rows differ in
// their content, to tell who answered.
func testReplica(on serverTest) {
	t, s := on.t, on.server
	s.start(t)
	_, copied := s.migrated(t)
	replicaDSN := copied.cfg.DSN.Reveal()
	cfg, _ := s.migrated(t)
	cfg.ReplicaDSN = config.NewSecret(replicaDSN)
	st := opened(t, cfg)
	fill := func(st *Store, who string, n int) {
		t.Helper()
		p, err := st.Claim(t.Context(), record.PartitionID{Topic: "t"}, "id", 0)
		if err != nil {
			t.Fatal(err)
		}
		c := &store.Conversation{ID: 1, New: true, Conv: "p:a:b", MinSeq: 1, MaxSeq: int64(n)}
		turn := &store.Turn{
			Partitions:    []store.PartitionMove{{PartitionID: p.PartitionID, Epoch: p.Epoch, From: p.Applied, To: p.Applied + 1}},
			Conversations: []*store.Conversation{c}, Members: []store.MemberChange{{Conv: c, Member: store.Member{User: "a", JoinedSeq: 1}}},
		}
		for i := range n {
			kind := store.KindMessage
			if i+1 == n && n > 3 {
				kind = store.KindUpdate // the newest row is a recall
			}
			turn.Rows = append(turn.Rows, store.ConvRow{Conv: c, Row: store.Row{Seq: int64(i + 1), Kind: kind, ID: wire.MsgID(i + 1), Content: who}})
		}
		if _, err := st.Commit(t.Context(), turn); err != nil {
			t.Fatal(err)
		}
	}
	fill(st, "primary", 4)
	fill(copied, "replica", 3)
	read := func(what, who, result string, total int) {
		t.Helper()
		st.replica.until.Store(0)
		from := time.Now()
		for _, after := range []int64{0, -1} {
			rows, err := st.History(t.Context(), "a", "p:a:b", after, 3, 2)
			if err != nil || len(rows) != 2 || rows[0].Seq != 1 || rows[0].Content != who {
				t.Errorf("%s: %v, %v", what, rows, err)
			}
		}
		if took := time.Since(from); took > 2*time.Second {
			t.Errorf("%s: took %v", what, took)
		}
		if n := count(t, st.metrics.replica, result); n != total {
			t.Errorf("%s: %s was counted %d times", what, result, n)
		}
	}
	read("a recall is missing there", "primary", "behind", 2)
	if _, err := copied.read.db.ExecContext(t.Context(), "INSERT INTO messages SELECT conv_id, 4, month, 2, 4, sender, type, content, ts,"+
		" client_id, mention, reply_to, status, target_seq, version FROM messages WHERE seq = 3"); err != nil {
		t.Fatal(err)
	}
	read("all there", "replica", "ok", 2)
	conn, err := s.root(t).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	name := replicaDSN[strings.LastIndex(replicaDSN, "/")+1:]
	if _, err := conn.ExecContext(t.Context(), "LOCK TABLES "+name+".messages WRITE"); err != nil {
		t.Fatal(err)
	}
	read("stuck", "primary", "slow", 1) // and then it rests
	if n := count(t, st.metrics.replica, "resting"); n != 1 {
		t.Errorf("rested %d times", n)
	}
	if _, err := conn.ExecContext(t.Context(), "UNLOCK TABLES"); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	read("well again", "replica", "ok", 4)
	s.exec(t, "DROP DATABASE "+name)
	read("gone", "primary", "failed", 1)
	rows, err := st.Timeline(t.Context(), "a", "p:a:b", 0, 4, 10, true)
	if err != nil || len(rows) != 4 || rows[0].Content != "primary" {
		t.Errorf("a timeline is the primary's: %v, %v", rows, err)
	}
}
