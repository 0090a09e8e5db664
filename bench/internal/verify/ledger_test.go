package verify

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/ledger"
)

// account records a ledger and returns it as the record has it.
func account(t *testing.T, cfg Config) (*ledger.Ledger, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "record.jsonl")
	w, err := trace.Create(path, &trace.Run{})
	if err != nil {
		t.Fatal(err)
	}
	aerr := Account(t.Context(), cfg, w)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var l *ledger.Ledger
	for e, err := range trace.Read(path) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == trace.Ledger {
			if err := json.Unmarshal(e.Ledger, &l); err != nil {
				t.Fatal(err)
			}
		}
	}
	return l, aerr
}

// The ledger is taken once all is applied, or when time is up.
func TestAccount(t *testing.T) {
	var asked, lag atomic.Int64
	lag.Store(2)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		n := max(lag.Add(-1), 0)
		p := ledger.Partition{Topic: "im_messages", Applied: 4 - n, End: 5, Columns: ledger.Columns{Stored: 5 - n}}
		_ = json.NewEncoder(w).Encode(ledger.Process{Process: "job j", Partitions: []ledger.Partition{p}})
	}))
	defer srv.Close()
	l, err := account(t, Config{Ledger: srv.URL, Settle: time.Minute})
	if err != nil || !l.Balanced || l.Totals.Lag != 0 || l.Totals.Stored != 5 || asked.Load() != 2 {
		t.Errorf("%+v, %v, asked %d times", l, err, asked.Load())
	}
	lag.Store(5)
	if l, err := account(t, Config{Ledger: srv.URL}); err != nil || l.Totals.Lag != 4 {
		t.Errorf("time is up: %+v, %v", l, err)
	}
	l, err = account(t, Config{Ledger: srv.URL + ",127.0.0.1:1"})
	if err == nil || !strings.Contains(err.Error(), "-ledger: http://127.0.0.1:1: does not answer") || l == nil || l.Balanced {
		t.Errorf("one is away: %+v, %v", l, err)
	}
	if l, err := account(t, Config{}); l != nil || err != nil {
		t.Errorf("not asked for: %+v, %v", l, err)
	}
}
