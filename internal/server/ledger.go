package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/starling-im/starling/common/app"
	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/ledger"
	"github.com/starling-im/starling/internal/process"
)

// errDifference ends `starling ledger` with exit code 1.
var errDifference = errors.New("the ledger does not balance")

// inquiry is what a ledger is asked for with.
type inquiry struct {
	admin      string
	partitions bool
	json       bool
}

func (q *inquiry) RegisterFlags(fs *flag.FlagSet) {
	fs.StringVar(&q.admin, "admin", "", "comma list of admin addresses of the edges and jobs to ask (default: edge.admin-addr and job.admin-addr)")
	fs.BoolVar(&q.partitions, "partitions", false, "a line for each partition, not for each topic")
	fs.BoolVar(&q.json, "json", false, "print JSON")
}

// Ledger is `starling ledger`: it asks the edges and jobs what became of every
// record and push, adds up and prints the balance. A difference is an error.
func Ledger(ctx context.Context, std process.IO) error {
	ctx, stop := app.Signals(ctx)
	defer stop()
	p, q := &Program{}, &inquiry{}
	fs, _ := process.Flags("starling ledger", p)
	q.RegisterFlags(fs)
	err := config.Load(fs, std.Args, std.Environ)
	if errors.Is(err, flag.ErrHelp) {
		return ledgerHelp(std.Stdout)
	}
	if err := config.Invalid(err); err != nil {
		return err
	}
	urls, err := ledger.ParseURLs(cmp.Or(q.admin, ledger.Reachable(p.edge.AdminAddr)+","+ledger.Reachable(p.job.AdminAddr)))
	if err != nil {
		return config.Invalid(fmt.Errorf("admin: %w", err))
	}
	l := ledger.Ask(ctx, urls)
	print := q.table
	if q.json {
		print = asJSON
	}
	if err := print(std.Stdout, l); err != nil {
		return fmt.Errorf("print the ledger: %w", err)
	}
	if !l.Balanced {
		return fmt.Errorf("%w: %d differences; docs/runbook.md tells what to do", errDifference, len(l.Differences))
	}
	return nil
}

func asJSON(w io.Writer, l *ledger.Ledger) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(l) //nolint:wrapcheck // wrapped by Ledger
}

// table prints a ledger for people.
func (q *inquiry) table(out io.Writer, l *ledger.Ledger) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // to a string
	row("log\tend\tbefore\tstored\tupdates\tcommands\trepeats\trefused\tset aside\tlag\tdifference\t\n")
	for _, p := range q.lines(l.Log) {
		end := fmt.Sprint(p.End)
		if p.End < 0 {
			end = "?"
		}
		row("%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n",
			p.Topic, end, p.First, p.Stored, p.Updates, p.Commands, p.Repeats, p.Refused, p.SetAside, p.Lag, p.Difference)
	}
	_ = w.Flush()
	last := ""
	for i := range l.Pushes {
		p := &l.Pushes[i]
		if p.Process != last {
			fmt.Fprintf(&b, "\n%s, since it began\n", p.Process)
			last = p.Process
		}
		fmt.Fprintf(&b, "  %-40s %10d =%s; difference %d\n", p.What, p.Taken, columns(p.Columns), p.Difference)
	}
	if l.Balanced {
		b.WriteString("\nbalanced\n")
	}
	for _, d := range l.Differences {
		fmt.Fprintf(&b, "\nDIFFERENCE %s", d)
	}
	if !l.Balanced {
		b.WriteString("\n")
	}
	_, err := io.WriteString(out, b.String())
	return err //nolint:wrapcheck // wrapped by Ledger
}

// lines are the partitions, or their sums by topic.
func (q *inquiry) lines(log []ledger.Partition) []ledger.Partition {
	var out []ledger.Partition
	for _, p := range log {
		if q.partitions {
			p.Topic = fmt.Sprintf("%s/%d", p.Topic, p.Partition)
		} else if n := len(out); n > 0 && out[n-1].Topic == p.Topic {
			out[n-1].Add(&p)
			continue
		}
		out = append(out, p)
	}
	return out
}

// columns are those that are not 0, or the first.
func columns(cs map[string]int64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(cs)) {
		if cs[name] != 0 {
			parts = append(parts, fmt.Sprintf(" %d %s", cs[name], name))
		}
	}
	if len(parts) == 0 {
		return " 0"
	}
	return strings.Join(parts, " +")
}

// ledgerHelp names the few settings that matter here.
func ledgerHelp(out io.Writer) error {
	fs := flag.NewFlagSet("starling ledger", flag.ContinueOnError)
	fs.SetOutput(out)
	(&inquiry{}).RegisterFlags(fs)
	if _, err := fmt.Fprintln(out, "Usage of starling ledger (-config, -edge.admin-addr and -job.admin-addr as for the server say whom to ask):"); err != nil {
		return fmt.Errorf("write the help: %w", err)
	}
	fs.PrintDefaults()
	return nil
}
