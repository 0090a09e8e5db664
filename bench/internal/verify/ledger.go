package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/ledger"
)

// Account records the ledger of the processes at -ledger, if there are any. It
// waits, for as long as -settle at most, until everything in the log is applied
// and all of them answer; what is not so by then stands in the record.
func Account(ctx context.Context, cfg Config, w *trace.Writer) error {
	if cfg.Ledger == "" {
		return nil
	}
	urls, err := ledger.ParseURLs(cfg.Ledger)
	if err != nil {
		return fmt.Errorf("-ledger: %w", err)
	}
	deadline := time.Now().Add(cfg.Settle)
	for {
		l := ledger.Ask(ctx, urls)
		waits := l.Totals.Lag > 0 || len(l.Unread) > 0
		if waits && time.Now().Before(deadline) && ctx.Err() == nil {
			pause(ctx, retryPause)
			continue
		}
		b, err := json.Marshal(l)
		if err != nil {
			return fmt.Errorf("encode the ledger: %w", err)
		}
		w.Add(&trace.Event{Kind: trace.Ledger, Ledger: b})
		if len(l.Unread) > 0 {
			return fmt.Errorf("-ledger: %s", strings.Join(l.Unread, "; "))
		}
		return nil
	}
}
