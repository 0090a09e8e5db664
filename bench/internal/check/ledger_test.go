package check

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/starling-im/starling/bench/internal/trace"
)

func totals(stored, updates, lag int64) json.RawMessage {
	return fmt.Appendf(nil, `{"balanced":true,"differences":[],"totals":{"end":100,"lag":%d,"stored":%d,"updates":%d}}`, lag, stored, updates)
}

// What the log counts of a run is what was shown of it: 8 messages and an edit.
func TestLedgerOfTheRun(t *testing.T) {
	for name, c := range map[string]struct {
		from, to json.RawMessage
		shared   bool
		want     []string // nil: clean
	}{
		"as many":                             {totals(10, 2, 0), totals(18, 3, 0), false, nil},
		"fewer messages":                      {totals(10, 2, 0), totals(17, 3, 0), false, []string{"counts 7 messages stored in the run, and 8 were shown"}},
		"fewer updates":                       {totals(10, 2, 0), totals(18, 2, 0), false, []string{"counts 0 updates stored in the run, and 1 were shown"}},
		"fewer, of a shared system":           {totals(10, 2, 0), totals(17, 3, 0), true, []string{"counts 7 messages"}},
		"more messages":                       {totals(10, 2, 0), totals(19, 3, 0), false, []string{"9 messages stored in the run, and only 8"}},
		"more of both":                        {totals(0, 0, 0), totals(9, 2, 0), false, []string{"9 messages", "2 updates"}},
		"more, of a shared system":            {totals(0, 0, 0), totals(9, 2, 0), true, nil},
		"more, that waited before":            {totals(0, 0, 1), totals(9, 1, 0), false, nil},
		"not all is applied":                  {totals(10, 2, 0), totals(18, 3, 4), false, []string{"4 records of the log are not applied at the end"}},
		"no start":                            {nil, totals(1000, 3, 0), false, nil},
		"no start, and not all is applied":    {nil, totals(1000, 3, 2), false, []string{"2 records"}},
		"only a start":                        {totals(10, 2, 7), nil, false, nil},
		"a start that does not balance":       {json.RawMessage(`{"balanced":false,"differences":["im_messages/0: +1: x"],"totals":{}}`), nil, false, []string{"im_messages/0: +1: x"}},
		"an end that nobody could be read of": {totals(10, 2, 0), json.RawMessage(`{"balanced":false,"differences":["http://x: does not answer"],"totals":{"stored":18,"updates":3}}`), false, []string{"http://x: does not answer"}},
	} {
		p := story()
		i := slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Kind == trace.Ledger })
		if p.drop(i); c.to != nil {
			p.insert(i, trace.Event{Kind: trace.Ledger, Ledger: c.to})
		}
		if c.from != nil {
			p.insert(1, trace.Event{Kind: trace.Ledger, Ledger: c.from})
		}
		v := p.check(t, Config{Exclusive: !c.shared})
		if len(v.Broken) > 1 || v.Broken[Ledger] != len(c.want) {
			t.Errorf("%s: %+v", name, v.Violations)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(v.Violations[i].Text, want) {
				t.Errorf("%s: %q does not say %q", name, v.Violations[i].Text, want)
			}
		}
		if c.from != nil && c.to != nil && !strings.Contains(v.Ledger, "8 shown") {
			t.Errorf("%s: the verdict says %q", name, v.Ledger)
		}
	}
}
