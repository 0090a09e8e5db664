package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	judge "github.com/starling-im/starling/bench/internal/check"
	"github.com/starling-im/starling/bench/internal/cluster"
	"github.com/starling-im/starling/bench/internal/fault"
	"github.com/starling-im/starling/bench/internal/trace"
	work "github.com/starling-im/starling/bench/internal/verify"
	"github.com/starling-im/starling/common/buildinfo"
)

// judging are the flags of how a record is judged.
type judging struct {
	cfg    judge.Config
	asJSON bool
}

func (j *judging) registerFlags(fs *flag.FlagSet) {
	fs.DurationVar(&j.cfg.Late, "late", 0, "how long a message may take to who is there while no fault is at work; 0: any time")
	fs.DurationVar(&j.cfg.Slow, "slow", time.Second, "what takes longer is no service")
	fs.BoolVar(&j.cfg.Exclusive, "exclusive", true, "nobody else uses the system: its ledger must count exactly what was shown in the run (with -ledger)")
	fs.BoolVar(&j.asJSON, "json", false, "print the verdict as JSON")
}

// say prints a verdict and returns the exit code.
func (j *judging) say(v *judge.Verdict) int {
	write := v.Text
	if j.asJSON {
		write = v.JSON
	}
	if err := write(os.Stdout); err != nil || !v.Clean() {
		return exitFaults
	}
	return exitOK
}

// verifying is what `bench verify` was asked for.
type verifying struct {
	work    work.Config
	cluster cluster.Config
	fault   fault.Config
	judging judging
	record  string
	flags   *flag.FlagSet
}

// parse returns every bad flag at once.
func (v *verifying) parse(args []string) error {
	fs := flag.NewFlagSet("bench verify", flag.ContinueOnError)
	v.flags = fs
	v.work.RegisterFlags(fs)
	v.cluster.RegisterFlags(fs)
	v.fault.RegisterFlags(fs)
	v.judging.registerFlags(fs)
	fs.StringVar(&v.record, "record", "", "keep the record in this `file` (.gz: gzipped), for bench check")
	if err := fs.Parse(args); err != nil {
		return err //nolint:wrapcheck // has been printed
	}
	errs := []error{v.work.Validate(), v.cluster.Validate(), v.fault.Validate(v.cluster.Kind)}
	fs.Visit(func(f *flag.Flag) {
		if v.cluster.Kind != "" && (f.Name == "api" || f.Name == "admin-token" || f.Name == "ledger") {
			errs = append(errs, fmt.Errorf("-%s: the cluster that bench starts needs none", f.Name))
		}
	})
	v.fault.Seed, v.work.Faults = v.work.Seed, v.fault.Faults != ""
	v.cluster.Small = v.fault.Small(v.cluster.Kind)
	err := errors.Join(errs...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return err
}

func verify(ctx context.Context, args []string) int {
	var v verifying
	if v.parse(args) != nil {
		return exitUsage
	}
	if v.record != "" {
		return v.run(ctx, v.record)
	}
	dir, err := os.MkdirTemp("", "starling-verify-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench verify:", err)
		return exitFaults
	}
	path := filepath.Join(dir, "record.jsonl")
	code := v.run(ctx, path)
	if code != exitOK {
		fmt.Fprintln(os.Stderr, "bench verify: the record is", path)
		return code
	}
	_ = os.RemoveAll(dir)
	return code
}

// run makes a run, judges its record, and returns the exit code.
func (v *verifying) run(ctx context.Context, path string) int {
	if v.cluster.Kind == "" {
		return v.judge(path, v.recorded(ctx, path, nil))
	}
	c, err := cluster.Start(ctx, v.cluster, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench verify:", err)
		return exitFaults
	}
	v.work.APIs, v.work.Ledger = strings.Join(c.APIs, ","), strings.Join(c.Ledgers(), ",")
	err = v.onCluster(ctx, path, c)
	code := v.judge(path, err)
	for _, text := range c.Failures() {
		fmt.Fprintln(os.Stderr, "bench verify:", text)
		code = exitFaults
	}
	if code == exitOK {
		c.Discard()
	} else {
		fmt.Fprintln(os.Stderr, "bench verify: the logs of the processes are in", c.Dir())
	}
	return code
}

// onCluster runs the workload and the faults, and ends the cluster.
func (v *verifying) onCluster(ctx context.Context, path string, c *cluster.Cluster) error {
	defer c.Close(ctx)
	if v.fault.Faults == "" {
		return v.recorded(ctx, path, nil)
	}
	d, err := fault.New(v.fault, v.cluster.Kind, c, os.Stderr)
	if err != nil {
		return err
	}
	return errors.Join(v.recorded(ctx, path, d), d.Err())
}

// judge says what a run has shown, and returns the exit code.
func (v *verifying) judge(path string, err error) int {
	if err == nil {
		return judged(path, &v.judging)
	}
	fmt.Fprintln(os.Stderr, "bench verify:", err)
	if errors.Is(err, work.ErrBroken) {
		judged(path, &v.judging)
	}
	return exitFaults
}

// recorded runs the workload and writes its record.
func (v *verifying) recorded(ctx context.Context, path string, faults work.Faults) error {
	run := &trace.Run{Seed: v.work.Seed, Started: time.Now().UnixMilli(), Flags: map[string]string{}, Build: buildinfo.Read().String()}
	v.flags.Visit(func(f *flag.Flag) {
		if f.Name != "admin-token" {
			run.Flags[f.Name] = f.Value.String()
		}
	})
	w, err := trace.Create(path, run)
	if err != nil {
		return err
	}
	if err = work.Account(ctx, v.work, w); err == nil {
		err = work.Run(ctx, v.work, w, faults)
	}
	if err == nil {
		_ = work.Account(ctx, v.work, w) // what cannot be read then is judged: it stands in the record
		w.Add(&trace.Event{Kind: trace.Phase, Text: trace.PhaseFinish})
	}
	return errors.Join(err, w.Close())
}

func judged(path string, j *judging) int {
	debug.SetGCPercent(100) // no load is under way any more: memory counts
	v, err := judge.File(path, j.cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench check:", err)
		return exitFaults
	}
	return j.say(v)
}

func check(_ context.Context, args []string) int {
	fs := flag.NewFlagSet("bench check", flag.ContinueOnError)
	var j judging
	j.registerFlags(fs)
	if err := fs.Parse(args); err != nil {
		return exitUsage
	}
	if fs.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: bench check [flags] FILE   (FILE: what bench verify -record kept)")
		return exitUsage
	}
	return judged(fs.Arg(0), &j)
}
