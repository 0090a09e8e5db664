package sqlstore

import (
	"database/sql"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/storetest"
)

// Every statement that the contract's tests made must find its rows by an
// index: SQLite's plan of none may walk through a table that grows.
func TestNoStatementScansATable(t *testing.T) {
	texts := map[string]bool{}
	var s *Store
	storetest.Run(t, func(tb testing.TB) store.Store {
		tb.Helper()
		cfg := Config{Driver: DriverSQLite, DSN: config.NewSecret(filepath.Join(tb.TempDir(), "db"))}
		if err := Migrate(tb.Context(), cfg); err != nil {
			tb.Fatal(err)
		}
		var err error
		if s, err = Open(tb.Context(), cfg); err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			for text := range s.read.stmts {
				texts[text] = true
			}
			for text := range s.writer.stmts {
				texts[text] = true
			}
			if err := s.Close(); err != nil {
				tb.Error(err)
			}
		})
		return s
	})
	cfg := Config{Driver: DriverSQLite, DSN: config.NewSecret(filepath.Join(t.TempDir(), "db"))}
	if err := Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	// These have as many rows as there are partitions, workers and topics.
	small := []string{"log_partitions", "workers", "meta", "CONSTANT"}
	// Each is kept prepared on each connection, so they must stay few.
	if len(texts) < 40 || len(texts) > 200 {
		t.Errorf("%d statements were seen", len(texts))
	}
	for text := range texts {
		for _, step := range plan(t, s, text) {
			table, found := strings.CutPrefix(step, "SCAN ")
			found = found && !strings.HasSuffix(table, "VALUES CLAUSE")
			if found && !slices.Contains(small, strings.Fields(table)[0]) {
				t.Errorf("%s\n\t%s", text, step)
			}
			// One's own conversations are sorted, and the few days of one id.
			if strings.Contains(step, "TEMP B-TREE") && strings.Contains(text, "LIMIT") &&
				!strings.Contains(text, "FROM members WHERE user = ?") && !strings.Contains(text, "FROM outcomes WHERE id = ?") {
				t.Errorf("sorts before its limit: %s\n\t%s", text, step)
			}
		}
	}
}

// plan returns the steps of a statement's plan; those that have none return
// nothing.
func plan(t *testing.T, s *Store, text string) []string {
	t.Helper()
	for _, word := range []string{"BEGIN", "COMMIT", "ROLLBACK"} {
		if strings.HasPrefix(text, word) {
			return nil
		}
	}
	args := make([]any, strings.Count(text, "?"))
	rows, err := s.read.db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, args...)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer func() { _ = rows.Close() }()
	var steps []string
	for rows.Next() {
		var id, parent, unused sql.NullInt64
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, step)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return steps
}
