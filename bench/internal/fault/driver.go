package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/starling-im/starling/bench/internal/clockstep"
	"github.com/starling-im/starling/bench/internal/cluster"
	"github.com/starling-im/starling/bench/internal/proxy"
	"github.com/starling-im/starling/bench/internal/trace"
)

// firstAfter is how long a load runs before the first fault, at most.
const firstAfter = 5 * time.Second

// Driver makes faults. Make it with New.
type Driver struct {
	c     *cluster.Cluster
	every time.Duration
	deck  *deck
	say   io.Writer
	err   error
}

// New returns the driver of a cluster of a kind, which runs. Each fault is said to
// say, a line a step. The error says what cannot be done here and how to leave it
// out.
func New(cfg Config, of string, c *cluster.Cluster, say io.Writer) (*Driver, error) {
	cards, err := cfg.cards(of)
	if err != nil {
		return nil, err
	}
	d := &Driver{c: c, every: cfg.Every, say: say}
	d.deck = newDeck(cards, d.targets, cfg.Seed)
	for _, x := range cards {
		if len(d.targets(x)) == 0 {
			return nil, fmt.Errorf("-faults: the cluster has no %s; leave %s:%s out", x.part, x.kind, x.part)
		}
		if x.kind == clock {
			if err := clockstep.Possible(c.Processes[0].Pid()); err != nil {
				return nil, fmt.Errorf("-faults: %w; leave it out by -faults …,-clock", err)
			}
		}
	}
	return d, nil
}

// Err is what ended the driver before its time.
func (d *Driver) Err() error { return d.err }

// targets are what a card can break.
func (d *Driver) targets(x card) (names []string) {
	switch x.kind {
	case diskFull:
		return []string{smallOf[x.part]}
	case cut, hang, slow, twice:
		for _, l := range d.c.Links {
			if l.To == x.part { // a server; all ways to it are as likely as one of them
				names = append(names, l.To, l.To+" of "+l.Of)
			}
			if p := d.c.Process(l.To); p != nil && p.Tier == x.part {
				names = append(names, l.To)
			}
		}
		return names
	}
	for _, p := range d.c.Processes {
		if p.Tier == x.part {
			names = append(names, p.Name)
		}
	}
	for _, s := range d.c.Servers {
		if s.Tier == x.part {
			names = append(names, s.Name)
		}
	}
	return names
}

// Run makes faults until ctx ends; see verify.Faults.
func (d *Driver) Run(ctx context.Context, note func(trace.FaultEvent), inSync func(ctx context.Context) bool) {
	defer func() {
		if r := recover(); r != nil {
			d.err = fmt.Errorf("BUG: %v\n%s", r, debug.Stack())
		}
		if err := d.c.Restore(context.WithoutCancel(ctx)); err != nil {
			d.err = errors.Join(d.err, err)
		}
	}()
	wait(ctx, min(d.every, firstAfter))
	for no := 1; ctx.Err() == nil; no++ {
		began := time.Now()
		d.one(ctx, no, note, inSync)
		wait(ctx, time.Until(began.Add(d.every)))
	}
}

// one makes a fault, puts it right, and waits until all is in sync. A fault that
// the end of the run meets is put right all the same.
func (d *Driver) one(ctx context.Context, no int, note func(trace.FaultEvent), inSync func(ctx context.Context) bool) {
	f := d.deck.next()
	step := func(name, format string, args ...any) {
		e := trace.FaultEvent{No: no, Kind: f.kind, Target: f.target, Step: name, Text: fmt.Sprintf(format, args...)}
		note(e)
		text := fmt.Sprintf("fault %d: %s", no, f)
		if name != trace.StepBegin {
			text += ": " + name + " " + e.Text
		}
		_, _ = fmt.Fprintln(d.say, text) // who reads it may have gone
	}
	step(trace.StepBegin, "%s", f)
	began := time.Now()
	whole := context.WithoutCancel(ctx) // the end of the run breaks nothing off
	err := d.begin(whole, f)
	if err == nil {
		wait(ctx, f.lasts)
	}
	err = errors.Join(err, d.end(whole, f))
	ended := time.Now()
	step(trace.StepEnd, "after %.1f s", ended.Sub(began).Seconds())
	switch {
	case err != nil:
		step(trace.StepNotHealed, "%v", err)
	case !inSync(whole):
		step(trace.StepNotHealed, "not in sync after %.1f s more", time.Since(ended).Seconds())
	default:
		step(trace.StepHealed, "after %.1f s more", time.Since(ended).Seconds())
	}
}

// begin breaks something.
func (d *Driver) begin(ctx context.Context, f *Fault) error {
	p, s := d.c.Process(f.target), d.c.Server(f.target)
	switch f.kind {
	case flush:
		return d.c.FlushRedis(ctx)
	case diskFull:
		return s.Fill()
	case clock:
		return clockstep.Step(ctx, p.Pid(), f.by)
	case cut:
		d.links(f, proxy.Cut)
	case hang:
		d.links(f, proxy.Hang)
	case slow:
		d.links(f, proxy.Slow)
	case twice:
		d.links(f, proxy.Twice)
	case stop:
		if s != nil {
			return s.Signal(syscall.SIGSTOP)
		}
		return p.Signal(syscall.SIGSTOP)
	case kill:
		if s != nil {
			return s.End(ctx, syscall.SIGKILL)
		}
		p.Kill()
	case restart:
		if s != nil {
			return s.End(ctx, syscall.SIGTERM)
		}
		p.Stop()
	}
	return nil
}

// links changes how the ways to a target are.
func (d *Driver) links(f *Fault, mode proxy.Mode) {
	for _, l := range d.c.Links {
		if f.target == l.To || f.target == l.To+" of "+l.Of {
			l.Set(mode, f.delay)
		}
	}
}

// end puts right what a fault broke.
func (d *Driver) end(ctx context.Context, f *Fault) error {
	var errs []error
	if f.kind == clock {
		if pid := d.c.Process(f.target).Pid(); pid != 0 {
			errs = append(errs, clockstep.Step(ctx, pid, 0))
		}
	}
	errs = append(errs, d.c.Restore(ctx))
	if f.part == "kafka" {
		errs = append(errs, d.c.InSync(ctx))
	}
	return errors.Join(errs...)
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
