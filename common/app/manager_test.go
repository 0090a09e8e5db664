package app

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap/zaptest"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// journal keeps what modules did, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, ", ")
}

// module writes every phase but run to the journal; fail names phases that fail.
func (j *journal) module(name string, fail ...string) Module {
	step := func(phase string) func(context.Context) error {
		return func(context.Context) error {
			j.add("%s %s", phase, name)
			for _, f := range fail {
				switch f {
				case phase:
					return errors.New("boom " + phase)
				case "panic " + phase:
					panic("boom " + phase)
				}
			}
			return nil
		}
	}
	run := func(ctx context.Context) error {
		for _, f := range fail {
			switch f {
			case "run":
				return errors.New("boom run")
			case "panic run":
				panic("boom run")
			case "end run":
				return nil
			}
		}
		<-ctx.Done()
		return ctx.Err()
	}
	return Module{Start: step("start"), Run: run, Drain: step("drain"), Stop: step("stop")}
}

func newTest(t *testing.T) *Manager {
	t.Helper()
	m := New(Config{StopBudget: time.Minute}, zaptest.NewLogger(t))
	m.dump = new(bytes.Buffer)
	return m
}

// runFor runs targets until a second has passed.
func runFor(t *testing.T, m *Manager, targets ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	return m.Run(ctx, targets...)
}

func TestOrder(t *testing.T) {
	for _, tc := range []struct {
		name    string
		targets []string
		want    string
	}{
		{"a dependency comes first", []string{"edge"}, "redis edge"},
		{"shared dependencies start once", []string{"job", "logic"}, "mysql redis logic job"},
		{"equals start as registered, whatever was asked", []string{"redis", "mysql"}, "mysql redis"},
		{"a group starts its members in its own order", []string{"all"}, "mysql redis logic job edge all"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, j := newTest(t), &journal{}
				m.Register("mysql", j.module("mysql"))
				m.Register("redis", j.module("redis"))
				m.Register("edge", j.module("edge"), "redis")
				m.Register("logic", j.module("logic"), "mysql", "redis")
				m.Register("job", j.module("job"), "mysql", "redis")
				m.Register("all", j.module("all"), "logic", "job", "edge")
				if err := runFor(t, m, tc.targets...); err != nil {
					t.Fatal(err)
				}
				names := strings.Fields(tc.want)
				var want []string
				for _, n := range names {
					want = append(want, "start "+n)
				}
				for _, phase := range []string{"drain", "stop"} {
					for _, n := range slices.Backward(names) {
						want = append(want, phase+" "+n)
					}
				}
				if diff := cmp.Diff(strings.Join(want, ", "), j.String()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestUnknownAndCircularDependencies(t *testing.T) {
	m := newTest(t)
	m.Register("a", Module{}, "b")
	m.Register("b", Module{}, "a")
	m.Register("c", Module{}, "nowhere")
	for target, want := range map[string]string{
		"a":  "a -> b -> a",
		"c":  "c -> nowhere is not registered; known: a, b, c",
		"zz": "zz is not registered",
	} {
		if err := runFor(t, m, target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Run(%s) = %v, want %q", target, err, want)
		}
	}
	defer func() {
		if p := fmt.Sprint(recover()); !strings.HasPrefix(p, "BUG:") {
			t.Errorf("registered twice: panic %q", p)
		}
	}()
	m.Register("a", Module{})
}

func TestFailures(t *testing.T) {
	for _, tc := range []struct {
		fail []string
		errs []string
		want string
	}{
		{[]string{"start"}, []string{"start b: boom"}, "start a, start b, drain a, stop a"},
		{[]string{"panic start"}, []string{"start b: panic: boom"}, "start a, start b, drain a, stop a"},
		{[]string{"run"}, []string{"run b: boom"}, ""},
		{[]string{"panic run"}, []string{"run b: panic: boom"}, ""},
		{[]string{"drain"}, []string{"drain b: boom"}, "start a, start b, start c, drain c, drain b, drain a, stop c, stop b, stop a"},
		{[]string{"panic drain", "stop"}, []string{"drain b: panic", "stop b: boom"}, "start a, start b, start c, drain c, drain b, drain a, stop c, stop b, stop a"},
		{[]string{"run", "drain", "panic stop"}, []string{"run b", "drain b", "stop b: panic"}, ""},
		{[]string{"end run"}, nil, ""},
	} {
		t.Run(strings.Join(tc.fail, "+"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, j := newTest(t), &journal{}
				m.Register("a", j.module("a"))
				m.Register("b", j.module("b", tc.fail...), "a")
				m.Register("c", j.module("c"), "b")
				began := time.Now()
				err := runFor(t, m, "c")
				if tc.want == "" { // a Run that ended: at once, and what started is stopped
					if time.Since(began) != 0 {
						t.Errorf("stopped after %v", time.Since(began))
					}
					if !strings.Contains(j.String(), "drain b, drain a") || !strings.HasSuffix(j.String(), "stop b, stop a") {
						t.Errorf("did %s", j)
					}
				} else if diff := cmp.Diff(tc.want, j.String()); diff != "" {
					t.Error(diff)
				}
				for _, want := range tc.errs {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("error %q is missing in: %v", want, err)
					}
				}
				if len(tc.errs) == 0 && err != nil {
					t.Error(err)
				}
				for _, s := range m.States() {
					if s.Name == "b" && (s.Error != "") != (len(tc.errs) > 0) {
						t.Errorf("state of b: %+v", s)
					}
				}
			})
		})
	}
}

func TestRunOutlivesDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, j := newTest(t), &journal{}
		m.Register("server", Module{
			Run: func(ctx context.Context) error {
				<-ctx.Done()
				j.add("run ended")
				return nil
			},
			Drain: func(ctx context.Context) error {
				time.Sleep(3 * time.Second)
				j.add("drained, ctx %v", ctx.Err())
				return nil
			},
			Stop: func(context.Context) error { j.add("stopped"); return nil },
		})
		if err := runFor(t, m, "server"); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff("drained, ctx <nil>, run ended, stopped", j.String()); diff != "" {
			t.Error(diff)
		}
	})
}

// Asked to stop while a module waits for what it needs: an orderly end.
func TestInterruptedStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, j := newTest(t), &journal{}
		m.Register("a", j.module("a"))
		m.Register("slow", Module{
			Start: func(ctx context.Context) error {
				if err := m.Ready("slow"); err == nil || err.Error() != "slow: the database is away" {
					t.Errorf("while it waits: %v", err)
				}
				<-ctx.Done()
				return ctx.Err()
			},
			Ready: func() error { return errors.New("the database is away") },
		})
		m.Register("b", j.module("b"))
		if err := runFor(t, m, "a", "slow", "b"); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff("start a, drain a, stop a", j.String()); diff != "" {
			t.Error(diff)
		}
	})
}

// A module that ends while another waits in its Start ends the process.
func TestEndsWhileAnotherStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, j := newTest(t), &journal{}
		gone := errors.New("gone")
		m.Register("a", Module{
			Run:  func(context.Context) error { time.Sleep(time.Second); return gone },
			Stop: func(context.Context) error { j.add("stop a"); return nil },
		})
		m.Register("slow", Module{Start: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
		if err := m.Run(t.Context(), "a", "slow"); !errors.Is(err, gone) || errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if diff := cmp.Diff("stop a", j.String()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestReadyAndStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTest(t)
		m.cfg.ReadyDelay = 5 * time.Second
		warm := errors.New("warming up")
		m.Register("redis", Module{})
		m.Register("edge", Module{Ready: func() error { return warm }}, "redis")
		m.Register("idle", Module{})
		if err := m.Ready("edge"); err == nil || !strings.Contains(err.Error(), "edge: new") {
			t.Errorf("before the start: %v", err)
		}
		if m.Ready() == nil {
			t.Error("ready before the start")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx, "edge") }()
		synctest.Wait()
		if err := m.Ready("edge"); !errors.Is(err, warm) {
			t.Errorf("running: %v", err)
		}
		warm = nil
		if err := errors.Join(m.Ready("edge"), m.Ready()); err != nil {
			t.Errorf("warm: %v", err)
		}
		if len(m.States()) != 2 || m.States()[1].State != PhaseRunning || m.States()[0].Name != "redis" {
			t.Errorf("states %+v", m.States())
		}
		cancel()
		synctest.Wait()
		if err := m.Ready("edge"); err == nil || err.Error() != "draining" {
			t.Errorf("after the signal: %v", err)
		}
		if m.States()[1].State != PhaseRunning {
			t.Error("drained before the ready delay was over")
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if m.States()[1].State != PhaseStopped {
			t.Errorf("states %+v", m.States())
		}
	})
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, j := newTest(t), &journal{}
		dump := new(bytes.Buffer)
		m.dump = dump
		release := make(chan struct{})
		m.Register("a", j.module("a"))
		m.Register("hangs", Module{Stop: func(context.Context) error { <-release; return nil }})
		began := time.Now()
		err := runFor(t, m, "a", "hangs")
		if !errors.Is(err, ErrBudget) {
			t.Errorf("err %v", err)
		}
		if took := time.Since(began); took != time.Second+time.Minute+time.Second {
			t.Errorf("took %v", took)
		}
		if !strings.Contains(dump.String(), "TestBudget") {
			t.Errorf("no goroutines in the dump: %.200q", dump)
		}
		close(release)
		synctest.Wait()
	})
}

func TestBudgetOfWhoMindsTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, j := newTest(t), &journal{}
		m.Register("a", j.module("a"))
		m.Register("slow", Module{Drain: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
		err := runFor(t, m, "a", "slow")
		if !errors.Is(err, ErrBudget) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err %v", err)
		}
		if diff := cmp.Diff("start a, drain a, stop a", j.String()); diff != "" {
			t.Error("the rest is still stopped: " + diff)
		}
	})
}

func TestReadyOfAndStatesOf(t *testing.T) {
	m := newTest(t)
	m.Register("edge", Module{})
	if ReadyOf(m, "edge")() == nil || StatesOf(m) == nil {
		t.Error("a Manager must answer for its modules")
	}
	var other struct{ Registrar }
	if ReadyOf(other, "edge")() != nil || StatesOf(other) != nil {
		t.Error("another Registrar knows of no states")
	}
}

func TestConfig(t *testing.T) {
	var c Config
	fs := flag.NewFlagSet("t", flag.ContinueOnError)
	c.RegisterFlags(fs, "app.")
	if err := c.Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	bad := Config{ReadyDelay: -1}
	for _, key := range []string{"app.ready-delay:", "app.stop-budget:"} {
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("Validate() = %v, want %s", err, key)
		}
	}
}
