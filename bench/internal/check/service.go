package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/starling-im/starling/bench/internal/trace"
)

// SlowDevice begins the name of devices that read slowly on purpose: how long
// deliveries to them take says nothing of the system.
const SlowDevice = "slow"

// took is one thing that somebody waited for, µs.
type took struct{ due, until int64 }

// fault is one that was made, µs. It is at work from its beginning until all was
// in sync again.
type fault struct {
	no           int
	kind, target string
	begin, end   int64
	healed       int64 // forever: it never did
}

type faults struct{ all []*fault }

func (c *Checker) fault(e *trace.Event) {
	f := e.Fault
	if f == nil {
		return
	}
	i := slices.IndexFunc(c.faults.all, func(x *fault) bool { return x.no == f.No })
	if i < 0 {
		c.faults.all = append(c.faults.all, &fault{no: f.No, kind: f.Kind, target: f.Target, begin: e.T, healed: forever})
		i = len(c.faults.all) - 1
		c.counts.Faults++
	}
	x := c.faults.all[i]
	switch f.Step {
	case trace.StepEnd:
		x.end = e.T
	case trace.StepHealed:
		x.healed = e.T
	case trace.StepNotHealed:
		c.bad(Violation{Rule: Unhealed, Text: fmt.Sprintf("after fault %d, %s of %s: %s", f.No, f.Kind, f.Target, f.Text), Event: e.N})
	}
}

// at returns the fault that was at work at some time of a span; nil: none.
func (f *faults) at(from, to int64) *fault {
	for _, x := range slices.Backward(f.all) {
		if x.begin <= to && x.healed >= from {
			return x
		}
	}
	return nil
}

// delivered notes how long a message took to a device that was connected before
// it was due, or meant to be: what comes by the sync after a connection was lost
// counts too.
func (c *Checker) delivered(cn *conn, t *timeline, seq int64, e *trace.Event) {
	x := t.entries[seq]
	s := c.sends[sendKey{t.conv, x.from, x.cid}]
	d := cn.dev
	if s == nil || x.target > 0 || c.atRead || d.here == 0 || s.due < d.here || strings.HasPrefix(string(d.key.device), SlowDevice) {
		return
	}
	d.took = append(d.took, took{s.due, e.T})
	if late := c.cfg.Late.Microseconds(); late > 0 && s.due >= cn.opened && s.acked > 0 && e.T-s.acked > late && c.faults.at(s.due, e.T) == nil {
		c.bad(Violation{
			Rule: Late, Text: fmt.Sprintf("%s of %s was with %s %.1f s after its acknowledgement", x.cid, x.from, cn, float64(e.T-s.acked)/1e6),
			Conv: t.conv, Seq: seq, From: x.from, ClientID: x.cid, Conns: one(cn.no), Event: e.N,
		})
	}
}

// Service is what a kind of fault cost.
type Service struct {
	Kind   string // "" where no fault was at work
	Faults int
	// Sends are of users, Deliveries of devices.
	Sends, Deliveries Outages
}

// Outages are the longest and the middle of the times that one was without service
// by one fault, seconds, over all who were; and how many those were.
type Outages struct {
	Longest, Middle float64
	Who             int
}

// outage is a time without service, µs: something was due all the while that
// took too long.
type outage struct{ from, to int64 }

// outagesIn are the outages in ts, which it sorts. What never came counts until
// end.
func outagesIn(ts []took, slow, end int64) (out []outage) {
	slices.SortFunc(ts, func(a, b took) int { return cmp.Compare(a.due, b.due) })
	for _, t := range ts {
		until := t.until
		if until == 0 {
			until = end
		}
		if until-t.due <= slow {
			continue
		}
		if n := len(out); n > 0 && t.due <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, until)
		} else {
			out = append(out, outage{t.due, until})
		}
	}
	return out
}

// cost is how long somebody was without service for each fault, seconds: the one
// that was at work when it began. That of nil is what no fault explains.
func (c *Checker) cost(ts []took, by map[*fault][]float64) (seconds float64) {
	sums := make(map[*fault]float64)
	slow := c.cfg.Slow.Microseconds()
	for _, o := range outagesIn(ts, slow, c.to) {
		sums[c.faults.at(o.from, o.from+slow)] += float64(o.to-o.from) / 1e6
		seconds += float64(max(0, min(o.to, c.lastDue)-o.from)) / 1e6
	}
	for f, sum := range sums {
		by[f] = append(by[f], sum)
	}
	return seconds
}

// service adds up what every fault cost, and says for which share of the work
// users had service.
func (c *Checker) service() (list []Service, availability float64) {
	sends, deliveries := make(map[*fault][]float64), make(map[*fault][]float64)
	without := 0.0
	for _, u := range c.users {
		var ts []took
		for _, s := range u.sends {
			ts = append(ts, took{s.due, s.answered})
		}
		without += c.cost(ts, sends)
	}
	for _, d := range c.devices {
		c.cost(d.took, deliveries)
	}
	if whole := float64(c.lastDue-c.from) / 1e6 * float64(len(c.users)); whole > 0 {
		availability = max(0, 1-without/whole)
	}
	return c.byKind(sends, deliveries), availability
}

func (c *Checker) byKind(sends, deliveries map[*fault][]float64) []Service {
	kinds := make(map[string]*Service)
	s, d := make(map[string][]float64), make(map[string][]float64)
	add := func(f *fault, count int) {
		kind := ""
		if f != nil {
			kind = f.kind + " " + strings.TrimRight(f.target, "-0123456789")
		}
		if kinds[kind] == nil {
			kinds[kind] = &Service{Kind: kind}
		}
		kinds[kind].Faults += count
		s[kind], d[kind] = append(s[kind], sends[f]...), append(d[kind], deliveries[f]...)
	}
	for _, f := range c.faults.all {
		add(f, 1)
	}
	add(nil, 0)
	var out []Service
	for kind, x := range kinds {
		x.Sends, x.Deliveries = outages(s[kind]), outages(d[kind])
		if kind != "" || x.Sends.Who+x.Deliveries.Who > 0 {
			out = append(out, *x)
		}
	}
	slices.SortFunc(out, func(a, b Service) int { return cmp.Compare(a.Kind, b.Kind) })
	return out
}

func outages(xs []float64) Outages {
	if len(xs) == 0 {
		return Outages{}
	}
	slices.Sort(xs)
	return Outages{Longest: xs[len(xs)-1], Middle: xs[len(xs)/2], Who: len(xs)}
}

// judgeFaults is the last of what faults left behind: one that was not waited
// for has not healed.
func (c *Checker) judgeFaults() {
	for _, f := range c.faults.all {
		if f.healed == forever && c.broken[Unhealed] == 0 {
			c.bad(Violation{Rule: Unhealed, Text: fmt.Sprintf("fault %d, %s of %s: the record does not say that it healed", f.no, f.kind, f.target)})
		}
	}
}
