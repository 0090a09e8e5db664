package sqlstore

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// A disk that is full fails turns, with an error that may pass by itself; what
// was committed stands, and once there is room the next turn goes through.
func TestDiskFull(t *testing.T) {
	cfg := Config{Driver: DriverSQLite, DSN: config.NewSecret(filepath.Join(t.TempDir(), "db"))}
	if err := Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	p, err := s.Claim(t.Context(), record.PartitionID{Topic: "t"}, "id", 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &store.Conversation{ID: 1, New: true, Conv: "p:a:b"}
	turn := func() error {
		c.MaxSeq++
		_, err := s.Commit(t.Context(), &store.Turn{
			Partitions:    []store.PartitionMove{{PartitionID: p.PartitionID, Epoch: p.Epoch, From: p.Applied, To: p.Applied + 1}},
			Conversations: []*store.Conversation{c},
			Rows: []store.ConvRow{{Conv: c, Row: store.Row{
				Seq: c.MaxSeq, Kind: store.KindMessage, ID: wire.MsgID(c.MaxSeq), Content: strings.Repeat("x", 100_000),
			}}},
		})
		if err != nil {
			c.MaxSeq--
			return err
		}
		p.Applied++
		return nil
	}
	if err := turn(); err != nil {
		t.Fatal(err)
	}
	limit := func(pages string) {
		t.Helper()
		if _, err := s.writer.conn.ExecContext(t.Context(), "PRAGMA max_page_count("+pages+")"); err != nil {
			t.Fatal(err)
		}
	}
	limit("100")
	for err == nil && c.MaxSeq < 100 {
		err = turn()
	}
	if _, ok := errors.AsType[*store.DeterministicError](err); err == nil || ok {
		t.Fatalf("on a full disk: %v", err)
	}
	for range 3 {
		if err := turn(); err == nil {
			t.Fatal("a turn went through on a full disk")
		}
	}
	st, err := s.State(t.Context(), p.PartitionID)
	if err != nil || st.Applied != p.Applied {
		t.Fatalf("applied %d, want %d: %v", st.Applied, p.Applied, err)
	}
	limit("1000000")
	if err := turn(); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	rows, err := s.Rows(t.Context(), c.ID, 1, 1000)
	if err != nil || int64(len(rows)) != c.MaxSeq {
		t.Errorf("%d rows, want %d: %v", len(rows), c.MaxSeq, err)
	}
}
