package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

func count(t *testing.T, v *prometheus.CounterVec, label string) int {
	t.Helper()
	var m dto.Metric
	if err := v.WithLabelValues(label).Write(&m); err != nil {
		t.Fatal(err)
	}
	return int(m.GetCounter().GetValue())
}

// Two transactions that take two rows in opposite order: one loses and is tried
// again, neither caller hears of it.
func testDeadlock(on serverTest) {
	t, s := on.t, on.server
	s.start(t)
	_, st := s.migrated(t)
	if err := st.write(t.Context(), []statement{{sql: "INSERT INTO workers (id, owner, until_ms) VALUES (1, '', 0), (2, '', 0)"}}); err != nil {
		t.Fatal(err)
	}
	add := func(id int) statement {
		return statement{sql: "UPDATE workers SET until_ms = until_ms + 1 WHERE id = ?", args: []any{id}}
	}
	var met sync.WaitGroup // both have their first row
	met.Add(2)
	var errs [2]error
	var both sync.WaitGroup
	for i := range 2 {
		both.Go(func() {
			var once sync.Once
			errs[i] = st.retry(t.Context(), func() error {
				return st.transact(t.Context(), []statement{add(1 + i)}, nil, func(txn) ([]statement, error) {
					once.Do(met.Done)
					met.Wait()
					return []statement{add(2 - i)}, nil
				})
			})
		})
	}
	both.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	var sum int
	if err := st.read.db.QueryRowContext(t.Context(), "SELECT SUM(until_ms) FROM workers").Scan(&sum); err != nil || sum != 4 {
		t.Errorf("sum %d, want 4: %v", sum, err)
	}
	if n := count(t, st.metrics.retries, "deadlock"); n == 0 {
		t.Error("no deadlock was counted")
	}
}

// link forwards to a server, until it is cut off without a word.
type link struct {
	ln     net.Listener
	frozen atomic.Bool
	all    sync.WaitGroup
	mu     sync.Mutex
	conns  []net.Conn
}

func newLink(t *testing.T, addr string) *link {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{ln: ln}
	l.all.Go(func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", addr)
			if err != nil {
				_ = a.Close()
				continue
			}
			l.mu.Lock()
			l.conns = append(l.conns, a, b)
			l.mu.Unlock()
			l.all.Go(func() { l.copy(a, b) })
			l.all.Go(func() { l.copy(b, a) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		l.mu.Lock()
		for _, c := range l.conns {
			_ = c.Close()
		}
		l.mu.Unlock()
		l.all.Wait()
	})
	return l
}

// copy swallows everything, also the end, while it is frozen.
func (l *link) copy(dst, src net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if l.frozen.Load() {
			if err != nil {
				return
			}
			continue
		}
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				_ = dst.Close()
			}
			return
		}
	}
}

// An owner whose host is cut off in the middle of a turn holds the lock of its
// partition. The next owner has it in less than 10 s.
func testFrozen(on serverTest) {
	t, s := on.t, on.server
	s.start(t)
	cfg, next := s.migrated(t)
	p := record.PartitionID{Topic: "t"}
	l := newLink(t, s.addr)
	cfg.DSN = configAt(l.ln.Addr().String(), "im:geheim", cfg.DSN.Reveal()[strings.LastIndex(cfg.DSN.Reveal(), "/")+1:]).DSN
	old := opened(t, cfg)
	if _, err := old.Claim(t.Context(), p, "id", 0); err != nil {
		t.Fatal(err)
	}
	frozen, done := make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		lock := statement{sql: "SELECT epoch FROM log_partitions WHERE topic = 't' AND number = 0 FOR UPDATE"}
		done <- old.transact(ctx, []statement{lock}, nil, func(txn) ([]statement, error) {
			l.frozen.Store(true)
			close(frozen)
			<-ctx.Done()
			return nil, ctx.Err()
		})
	}()
	<-frozen
	from := time.Now()
	st, err := next.Claim(t.Context(), p, "id", 0)
	took := time.Since(from)
	cancel()
	<-done
	if err != nil || st.Epoch != 2 {
		t.Fatalf("epoch %d, %v", st.Epoch, err)
	}
	t.Logf("the partition was claimed after %v, with %d waits for the lock", took, count(t, next.metrics.retries, "lock_wait"))
	if took < lockWait || took > 10*time.Second {
		t.Errorf("the partition was claimed after %v", took)
	}
}

// Nobody hears of connections that the server has closed before anything was sent.
func testClosed(on serverTest) {
	t, s := on.t, on.server
	s.start(t)
	_, st := s.migrated(t)
	p := record.PartitionID{Topic: "t"}
	for i := range 5 {
		if _, err := st.Claim(t.Context(), p, "id", 0); err != nil {
			t.Fatalf("claim %d: %v", i, err)
		}
		if _, err := st.State(t.Context(), p); err != nil {
			t.Fatalf("state %d: %v", i, err)
		}
		turn := &store.Turn{Partitions: []store.PartitionMove{{PartitionID: p, Epoch: int64(i + 1), From: int64(i - 1), To: int64(i)}}}
		if fenced, err := st.Commit(t.Context(), turn); err != nil || len(fenced) > 0 {
			t.Fatalf("commit %d: fenced %v, %v", i, fenced, err)
		}
		rows, err := s.root(t).QueryContext(t.Context(), "SELECT id FROM information_schema.processlist WHERE user = 'im'")
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		if err := each(rows, func(r *sql.Rows) error {
			var id string
			ids = append(ids, "")
			err := r.Scan(&id)
			ids[len(ids)-1] = "KILL " + id
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if len(ids) == 0 {
			t.Fatal("no connections to close")
		}
		s.exec(t, strings.Join(ids, ";"))
	}
}

// A turn of 2,000 rows with 16 KB each goes through a server that takes 1 MB
// at once. A row that is larger than that is the turn's fault.
func testPackets(on serverTest) {
	t, s := on.t, on.server
	s.start(t, "--max-allowed-packet=1M")
	_, st := s.migrated(t)
	p, err := st.Claim(t.Context(), record.PartitionID{Topic: "t"}, "id", 0)
	if err != nil {
		t.Fatal(err)
	}
	var ids int64
	fresh := func(c store.Conversation) *store.Conversation {
		ids++
		c.ID, c.New = ids, true
		return &c
	}
	commit := func(size, n int) (*store.Conversation, error) {
		c := fresh(store.Conversation{Conv: wire.PrivateConv("a", wire.UserID("b"+strings.Repeat("b", int(p.Applied)+1))), MaxSeq: int64(n), MinSeq: 1})
		turn := &store.Turn{
			Partitions:    []store.PartitionMove{{PartitionID: p.PartitionID, Epoch: p.Epoch, From: p.Applied, To: p.Applied + 1}},
			Conversations: []*store.Conversation{c},
		}
		for i := range n {
			turn.Rows = append(turn.Rows, store.ConvRow{Conv: c, Row: store.Row{
				Seq: int64(i + 1), Kind: store.KindMessage, ID: wire.MsgID(i + 1), Content: strings.Repeat("\x00'x\\", size/4), TS: 1,
			}})
		}
		for i := range 40 { // more than one packet of new heads
			g := fresh(store.Conversation{Conv: wire.GroupConv(wire.GroupID(strings.Repeat("g", i+1) + string(c.Conv[4:]))), Group: &store.Group{
				Description: strings.Repeat("d", store.MaxDescription),
			}})
			turn.Conversations = append(turn.Conversations, g)
		}
		_, err := st.Commit(t.Context(), turn)
		if err == nil {
			p.Applied++
		}
		return c, err
	}
	c, err := commit(16<<10, 2000)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := st.Rows(t.Context(), c.ID, 1999, 2000)
	if err != nil || len(rows) != 2 || rows[1].Content != strings.Repeat("\x00'x\\", 4<<10) {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	_, err = commit(700<<10, 1) // 1.2 MB with what has to be escaped
	if _, ok := errors.AsType[*store.DeterministicError](err); !ok || !strings.Contains(err.Error(), "max_allowed_packet") {
		t.Errorf("a row of more than the server takes: %.300v", err)
	}
	if _, err = commit(500<<10, 2); err != nil {
		t.Errorf("rows of nearly as much: %v", err)
	}
}
