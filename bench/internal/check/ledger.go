package check

import (
	"encoding/json"
	"fmt"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/ledger"
	"github.com/starling-im/starling/common/wire"
)

// ledgers are those of a run: from is the last before its work, to the last after
// its last phase but one.
type ledgers struct {
	balanced int
	from, to *ledger.Totals
	at       int64 // event of to
	text     string
}

// ledger takes what `starling ledger -json` printed.
func (c *Checker) ledger(e *trace.Event) {
	var l struct {
		Balanced    *bool          `json:"balanced"`
		Differences []string       `json:"differences"`
		Totals      *ledger.Totals `json:"totals"`
	}
	if err := json.Unmarshal(e.Ledger, &l); err != nil || l.Balanced == nil {
		c.bad(Violation{Rule: Ledger, Text: fmt.Sprintf("the ledger cannot be read: %.200s", e.Ledger), Event: e.N})
		return
	}
	switch {
	case c.phase == "":
		c.ledgers.from = l.Totals
	case c.atRead:
		c.ledgers.to, c.ledgers.at = l.Totals, e.N
	}
	if *l.Balanced {
		c.ledgers.balanced++
		return
	}
	for _, d := range l.Differences {
		c.bad(Violation{Rule: Ledger, Text: d, Event: e.N})
	}
	if len(l.Differences) == 0 {
		c.bad(Violation{Rule: Ledger, Text: "the ledger does not balance", Event: e.N})
	}
}

// judgeLedgers compares what was counted in the run with what was shown of it.
func (c *Checker) judgeLedgers() {
	from, to := c.ledgers.from, c.ledgers.to
	if to == nil {
		return
	}
	bad := func(format string, args ...any) {
		c.bad(Violation{Rule: Ledger, Text: fmt.Sprintf(format, args...), Event: c.ledgers.at})
	}
	if to.Lag > 0 {
		bad("%d records of the log are not applied at the end", to.Lag)
	}
	if from == nil {
		return
	}
	messages, updates := c.shown()
	// What was still to be applied at the start is none of the run's.
	exactly := c.cfg.Exclusive && from.Lag == 0 && to.Lag == 0
	for _, n := range []struct {
		what           string
		counted, shown int64
	}{
		{"messages", to.Stored - from.Stored, messages},
		{"updates", to.Updates - from.Updates, updates},
	} {
		switch {
		case n.counted < n.shown:
			bad("the ledger counts %d %s stored in the run, and %d were shown", n.counted, n.what, n.shown)
		case exactly && n.counted > n.shown:
			bad("the ledger counts %d %s stored in the run, and only %d were shown to anybody (-exclusive=false if others use the system)", n.counted, n.what, n.shown)
		}
	}
	c.ledgers.text = fmt.Sprintf("; in the run they count %d messages (%d shown) and %d updates (%d shown), lag %d at the end",
		to.Stored-from.Stored, messages, to.Updates-from.Updates, updates, to.Lag)
}

// shown is how many messages and changes of messages anybody was shown.
func (c *Checker) shown() (messages, updates int64) {
	for _, t := range c.convs {
		for _, e := range t.entries {
			switch {
			case e.target > 0:
				updates++
			case e.typ != wire.TypeSystem:
				messages++
			}
		}
	}
	return messages, updates
}
