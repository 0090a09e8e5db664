// Package ledger is the account of what became of every record of the log and
// of every push: what the admin ports of edges and jobs answer to GET /ledger,
// and the adding up of several answers.
//
// The log is durable and exact: what stands below the first record that was
// counted, the columns and the lag are its end, at any moment. Pushes are
// counted by each process for as long as it lives. A difference means that
// something went away without a reason.
//
// All types are plain values. Nothing here knows a store or a log: who answers
// fills in what it has read, the rows of a partition before its log's end.
package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Path is where an admin port answers with a Process as JSON.
const Path = "/ledger"

// Columns are the records of a partition by what became of them.
type Columns struct {
	Stored   int64 `json:"stored"`
	Updates  int64 `json:"updates"`
	Commands int64 `json:"commands"`
	Repeats  int64 `json:"repeats"`
	Refused  int64 `json:"refused"`
	SetAside int64 `json:"set_aside"`
}

// Sum is how many records are in a column.
func (c *Columns) Sum() int64 {
	return c.Stored + c.Updates + c.Commands + c.Repeats + c.Refused + c.SetAside
}

func (c *Columns) add(o *Columns) {
	c.Stored += o.Stored
	c.Updates += o.Updates
	c.Commands += o.Commands
	c.Repeats += o.Repeats
	c.Refused += o.Refused
	c.SetAside += o.SetAside
}

// Partition is the account of one partition of the log. First is the offset of
// the first record that was counted, Applied that of the last one (below First:
// none yet), End the next to be written, -1 if nobody could say.
type Partition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	First     int64  `json:"first"`
	End       int64  `json:"end"`
	Applied   int64  `json:"applied"`
	Lag       int64  `json:"lag"`
	Columns
	// Difference is how many records from First to Applied are in no column; below
	// 0: some are in two. Where all are in one, it is how far the end is below what
	// was applied (below 0).
	Difference int64 `json:"difference"`
}

// Settle fills in Lag and Difference. An unknown end counts as no lag.
func (p *Partition) Settle() {
	uncounted, beyond := p.away()
	p.Lag = max(beyond, 0)
	p.Difference = cmp.Or(uncounted, min(beyond, 0))
}

// Add adds another partition's numbers, for a sum over several. The end of the
// sum is not known where one of theirs is not.
func (p *Partition) Add(o *Partition) {
	if p.End < 0 || o.End < 0 {
		p.End = -1
	} else {
		p.End += o.End
	}
	p.First += o.First
	p.Lag += o.Lag
	p.Difference += o.Difference
	p.add(&o.Columns)
}

// away is how many records are in no column, and how far the end is beyond what
// was applied.
func (p *Partition) away() (uncounted, beyond int64) {
	next := max(p.Applied+1, p.First)
	if p.End >= 0 {
		beyond = p.End - next
	}
	return next - p.First - p.Sum(), beyond
}

// Differences says in what a partition does not balance.
func (p *Partition) Differences() (out []string) {
	uncounted, beyond := p.away()
	if uncounted != 0 {
		out = append(out, fmt.Sprintf("%s/%d: %+d: %d records were applied from offset %d on, and the columns count %d",
			p.Topic, p.Partition, uncounted, uncounted+p.Sum(), p.First, p.Sum()))
	}
	if beyond < 0 {
		out = append(out, fmt.Sprintf("%s/%d: %+d: applied up to offset %d, but the log ends at %d",
			p.Topic, p.Partition, beyond, p.End-beyond-1, p.End))
	}
	return out
}

// Push is the account of one kind of thing that a process has taken in since it
// began: Columns say what became of each.
type Push struct {
	Process    string           `json:"process"` // such as "job job-1"
	What       string           `json:"what"`
	Taken      int64            `json:"taken"`
	Columns    map[string]int64 `json:"columns"`
	Difference int64            `json:"difference"` // taken, less all columns
}

// NewPush is the account of n things in columns.
func NewPush(process, what string, n int64, columns map[string]int64) Push {
	p := Push{Process: process, What: what, Taken: n, Columns: columns, Difference: n}
	for _, c := range columns {
		p.Difference -= c
	}
	return p
}

// Process is the answer of one process. Problems are what it could not read.
type Process struct {
	Process    string      `json:"process"`
	Partitions []Partition `json:"log,omitempty"`
	Pushes     []Push      `json:"pushes,omitempty"`
	Problems   []string    `json:"problems,omitempty"`
}

// Totals are the sums over all partitions.
type Totals struct {
	End int64 `json:"end"`
	Lag int64 `json:"lag"`
	Columns
}

// Ledger is several answers together. Differences name everything that does not
// balance, and everything that could not be read, which Unread names by itself.
type Ledger struct {
	Balanced    bool        `json:"balanced"`
	Differences []string    `json:"differences"`
	Unread      []string    `json:"unread,omitempty"`
	Log         []Partition `json:"log"`
	Pushes      []Push      `json:"pushes"`
	Totals      Totals      `json:"totals"`
}

// Sum adds answers up. Jobs of one store all tell of the same partitions: the
// newest reading counts, and one that does not balance before all others.
// Problems beside those of the answers are given as well.
func Sum(answers []Process, problems []string) *Ledger {
	l := &Ledger{Differences: []string{}, Unread: slices.Clone(problems), Log: []Partition{}, Pushes: []Push{}}
	type id struct {
		topic  string
		number int32
	}
	log := make(map[id]Partition)
	for i := range answers {
		a := &answers[i]
		for _, text := range a.Problems {
			l.Unread = append(l.Unread, a.Process+": "+text)
		}
		for _, p := range a.Partitions {
			p.Settle()
			k := id{p.Topic, p.Partition}
			if old, ok := log[k]; !ok || newer(&p, &old) {
				log[k] = p
			}
		}
		for _, p := range a.Pushes {
			p = NewPush(p.Process, p.What, p.Taken, p.Columns)
			l.Pushes = append(l.Pushes, p)
			if p.Difference != 0 {
				l.Differences = append(l.Differences, fmt.Sprintf("%s: %s: %+d of %d", p.Process, p.What, p.Difference, p.Taken))
			}
		}
	}
	l.Log = slices.SortedFunc(maps.Values(log), func(a, b Partition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	for i := range l.Log {
		p := &l.Log[i]
		l.Differences = append(l.Differences, p.Differences()...)
		l.Totals.add(p)
	}
	l.Differences = append(l.Differences, l.Unread...)
	l.Balanced = len(l.Differences) == 0
	return l
}

// newer says whether a reading replaces an older one of the same partition.
func newer(p, old *Partition) bool {
	if a, b := len(p.Differences()) > 0, len(old.Differences()) > 0; a != b {
		return a
	}
	return cmp.Or(cmp.Compare(p.Applied, old.Applied), cmp.Compare(p.End, old.End)) > 0
}

func (t *Totals) add(p *Partition) {
	t.End += max(p.End, 0)
	t.Lag += p.Lag
	t.Columns.add(&p.Columns)
}
