package check

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/starling-im/starling/bench/internal/trace"
)

// Verdict is the outcome of a check.
type Verdict struct {
	Counts       Counts
	Broken       map[Rule]int // how often each rule was broken
	Violations   []Violation  // the first of each
	Stories      []string     // of Violations, by index
	Service      []Service
	Availability float64 // share of the users' time with service
	Ledgers      int     // that balanced
	Ledger       string  // what they count of the run
	Run          *trace.Run
}

// Clean says that nothing was broken.
func (v *Verdict) Clean() bool { return len(v.Broken) == 0 }

// Text prints the verdict, every kept violation with its story.
func (v *Verdict) Text(w io.Writer) error {
	var b strings.Builder
	n := &v.Counts
	if v.Run != nil {
		fmt.Fprintf(&b, "seed %d, build %s, %.0f s of load\n", v.Run.Seed, v.Run.Build, n.Seconds)
	}
	fmt.Fprintf(&b, "%d users on %d devices, %d connections, %d conversations with %d seqs\n", n.Users, n.Devices, n.Connections, n.Conversations, n.Seqs)
	fmt.Fprintf(&b, "%d messages begun, %d acknowledged, %d refused later, %d of unknown outcome, %d attempts more\n", n.Due, n.Acked, n.Refused, n.Unknown, n.Resent)
	fmt.Fprintf(&b, "%d pushes, %d pages of sync, %d times lagged, %d recalls and edits, %d changes of groups, %d histories\n",
		n.Pushed, n.Synced, n.Lagged, n.Changes, n.Commands, n.Histories)
	v.service(&b)
	if v.Clean() {
		fmt.Fprintf(&b, "%d lost, %d repeated, %d out of order, %d holes, %d leaks; every other rule holds too: CLEAN\n",
			v.Broken[Lost], v.Broken[Repeated], v.Broken[Order]+v.Broken[FIFO], v.Broken[Hole]+v.Broken[Gap], v.Broken[Leak])
	}
	meaning := Meaning()
	for _, r := range slices.Sorted(maps.Keys(v.Broken)) {
		fmt.Fprintf(&b, "BROKEN %s: %d times (%s)\n", r, v.Broken[r], meaning[r])
		for i := range v.Violations {
			if v.Violations[i].Rule == r {
				fmt.Fprintf(&b, "  %s\n", v.Violations[i].Text)
				if i < len(v.Stories) {
					b.WriteString(v.Stories[i])
				}
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err //nolint:wrapcheck // the writer's own
}

func (v *Verdict) service(b *strings.Builder) {
	if v.Counts.Faults > 0 {
		fmt.Fprintf(b, "%d faults; without service (seconds: longest, middle, how many users or devices), and how many such faults a month %.1f %% bears\n",
			v.Counts.Faults, aim*100)
		fmt.Fprintf(b, "  %-24s %6s  %-22s %-22s %s\n", "", "faults", "sends", "deliveries", "a month")
	}
	for _, s := range v.Service {
		kind := s.Kind
		if kind == "" {
			kind = "(no fault at work)"
		}
		fmt.Fprintf(b, "  %-24s %6d  %-22s %-22s %s\n", kind, s.Faults, s.Sends, s.Deliveries, s.bearable())
	}
	fmt.Fprintf(b, "available to users %.3f %% of their time; %d ledgers balanced%s\n", v.Availability*100, v.Ledgers, v.Ledger)
}

// aim is the share of time with service that is asked for.
const aim = 0.999

// bearable is how many faults of a kind, each as long as the longest, leave the
// aim to those they hit in 30 days.
func (s *Service) bearable() string {
	longest := max(s.Sends.Longest, s.Deliveries.Longest)
	if s.Kind == "" || longest == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f", math.Floor((1-aim)*30*24*3600/longest))
}

// String is longest, middle and how many.
func (o Outages) String() string {
	if o.Who == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f %.2f %d", o.Longest, o.Middle, o.Who)
}

// JSON prints the verdict as one object.
func (v *Verdict) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v) //nolint:wrapcheck // the writer's own
}

// sortViolations orders what maps gave in any order.
func sortViolations(vs []Violation) {
	slices.SortStableFunc(vs, func(a, b Violation) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Event, b.Event), cmp.Compare(a.Conv, b.Conv), cmp.Compare(a.Seq, b.Seq))
	})
}
