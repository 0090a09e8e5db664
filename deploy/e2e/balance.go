package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/starling-im/starling/common/ledger"
)

// Balanced waits until everything in the log is applied, and wants the ledger of
// all processes to balance at every moment until then.
func (s *System) Balanced(t testing.TB) *ledger.Ledger {
	t.Helper()
	var urls []string
	for _, p := range s.Processes {
		for _, key := range []string{"EDGE_ADMIN_ADDR", "JOB_ADMIN_ADDR"} {
			if addr := p.setting(key); addr != "" {
				urls = append(urls, "http://"+addr)
			}
		}
	}
	var l *ledger.Ledger
	Eventually(t, time.Minute, "everything is applied", func() error {
		switch l = ledger.Ask(t.Context(), urls); {
		case len(l.Unread) > 0: // a busy machine
			return errors.New(strings.Join(l.Unread, "; "))
		case !l.Balanced:
			t.Fatalf("the ledger does not balance: %q", l.Differences)
		case l.Totals.Lag > 0:
			return fmt.Errorf("%+v", l.Totals)
		}
		return nil
	})
	return l
}
