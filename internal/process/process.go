// Package process is what every binary of Starling does around its tiers: take
// the settings, say what is wrong with them, make the logger and the metrics,
// run the modules until a signal, and turn the end into an exit code.
//
// Main is called once, by main. A binary describes itself as a Program; the
// resources that its tiers share become modules of Env.Manager, so that they
// start before the tiers and stop after them. Nothing here needs cgo.
package process

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/app"
	"github.com/starling-im/starling/common/buildinfo"
	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/obs"
	"github.com/starling-im/starling/common/planted"
)

// ModuleClocks names the module that compares clocks: tiers start after it.
const ModuleClocks = "clocks"

// Program is a binary: its settings and what it builds of them.
type Program interface {
	RegisterFlags(fs *flag.FlagSet)
	Validate() error
	// Build makes the modules. ctx ends when the process is asked to stop. An
	// error may be an *config.Error; what was registered before it is released.
	Build(ctx context.Context, env *Env) error
}

// Lister is a Program that knows -list-targets.
type Lister interface {
	// ListTargets returns what to print when the flag was given, else "".
	ListTargets() string
}

// Env is what a Program builds with.
type Env struct {
	Manager *app.Manager
	Log     *zap.Logger
	Metrics *prometheus.Registry
	Stdout  io.Writer

	targets []string
	clocks  []obs.Clock
	procs   procs
}

// Blocks makes room for a client that keeps a thread waiting in C (procs.go).
// Any goroutine may call it.
func (e *Env) Blocks() {
	if n := e.procs.more(); n > 0 && e.Log != nil {
		e.Log.Info("room for a client that waits in C", zap.Int("gomaxprocs", n))
	}
}

// Clock adds a clock to those that are compared with this process's.
func (e *Env) Clock(c obs.Clock) { e.clocks = append(e.clocks, c) }

// watchClocks registers the module that refuses clocks which differ by more
// than a second at the start, and alarms of them later.
func (e *Env) watchClocks() {
	w := obs.NewClockWatch(e.clocks, e.Metrics, e.Log)
	e.Manager.Register(ModuleClocks, app.Module{Start: w.Check, Run: w.Run})
	e.Target(ModuleClocks)
}

// Target adds a module to those that the process runs.
func (e *Env) Target(names ...string) { e.targets = append(e.targets, names...) }

// IO is how a process talks to the world.
type IO struct {
	Args    []string // without the name of the binary
	Environ []string
	Stdout  io.Writer
	Stderr  io.Writer
}

// OS is the IO of a real process.
func OS() IO {
	return IO{Args: os.Args[1:], Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr}
}

// Settings are those that every binary has.
type Settings struct {
	App    app.Config
	Log    obs.Config
	Memory Memory
}

// Flags returns a flag set with the settings of p and those of every binary.
func Flags(name string, p Program) (*flag.FlagSet, *Settings) {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	s := &Settings{}
	s.App.RegisterFlags(fs, "app.")
	s.Log.RegisterFlags(fs, "log.")
	s.Memory.RegisterFlags(fs, "memory.")
	p.RegisterFlags(fs)
	return fs, s
}

// Main runs the program until ctx ends, a signal comes or a module ends, and
// returns the exit code: 0 after an orderly end, 2 for bad settings, else 1.
func Main(ctx context.Context, name string, p Program, std IO) int {
	return Report(name, run(ctx, name, p, std), std.Stderr)
}

// Report writes an error for people, every line with the program's name, and
// returns the exit code.
func Report(name string, err error, w io.Writer) int {
	if err == nil {
		return 0
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		_, _ = fmt.Fprintf(w, "%s: %s\n", name, strings.TrimSpace(line))
	}
	return ExitCode(err)
}

// ExitCode is 0, 2 for an *config.Error, else 1.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	if _, bad := errors.AsType[*config.Error](err); bad {
		return config.ExitCode
	}
	return 1
}

func run(ctx context.Context, name string, p Program, std IO) error {
	environ, bug, err := planted.Plant(std.Environ)
	if err != nil {
		return config.Invalid(err)
	}
	fs, set := Flags(name, p)
	done, err := config.Run(fs, std.Args, environ, std.Stdout, func() error {
		return errors.Join(set.App.Validate(), set.Log.Validate(), set.Memory.Validate(), p.Validate())
	})
	if err != nil || done {
		return err
	}
	if l, ok := p.(Lister); ok && l.ListTargets() != "" {
		if _, err := io.WriteString(std.Stdout, l.ListTargets()); err != nil {
			return fmt.Errorf("list the targets: %w", err)
		}
		return nil
	}
	log, err := obs.NewLogger(set.Log)
	if err != nil {
		return fmt.Errorf("make the logger: %w", err)
	}
	defer func() { _ = log.Sync() }()
	log.Info("starting", zap.String("program", name), zap.Stringer("build", buildinfo.Read()),
		zap.String("config_digest", config.Digest(fs)), zap.Int("gomaxprocs", runtime.GOMAXPROCS(0)))
	if planted.Built {
		log.Error("THIS BUILD MISBEHAVES ON PURPOSE: it is for tests alone", zap.String("planted", string(bug)))
	}

	ballast := set.Memory.ballast()
	defer runtime.KeepAlive(ballast)
	ctx, stop := app.Signals(ctx)
	defer stop()
	env := &Env{Manager: app.New(set.App, log), Log: log, Metrics: newMetrics(), Stdout: std.Stdout}
	env.procs.chosen = chosen(std.Environ)
	buildErr := p.Build(ctx, env)
	env.watchClocks()
	if buildErr != nil {
		// Release what was opened: resources are targets, tiers are not yet.
		env.Manager.Register("aborted", app.Module{Start: func(context.Context) error { return buildErr }})
		env.Target("aborted")
	}
	err = env.Manager.Run(ctx, env.targets...)
	if buildErr != nil {
		return buildErr
	}
	if err != nil {
		return fmt.Errorf("stopped: %w", err)
	}
	log.Info("stopped")
	return nil
}

func newMetrics() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	info := buildinfo.Read()
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "starling_build_info", Help: "1, labelled with the build that runs.",
		ConstLabels: prometheus.Labels{"version": info.Version, "revision": info.Revision, "go": info.Go},
	})
	g.Set(1)
	reg.MustRegister(g)
	return reg
}
