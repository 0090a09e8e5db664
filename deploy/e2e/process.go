package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startTimeout bounds how long a process may take until it is ready.
const startTimeout = 60 * time.Second

// stopTimeout bounds how long one may take to end after SIGTERM.
const stopTimeout = 40 * time.Second

// Process is one program of a System. One goroutine at a time uses it.
type Process struct {
	Name  string   // all, or the tier and a number: edge-1
	Ready []string // URLs that answer 200 once it is ready

	binary string
	args   []string
	env    []string // all of its environment
	logs   string   // file that its output is added to

	cmd   *exec.Cmd  // nil: not running
	ended chan error // gets the process' end, once
	log   *os.File
}

// Start begins the process; it need not be ready yet.
func (p *Process) Start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(p.logs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p.log = log
	p.cmd = exec.Command(p.binary, p.args...)
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = p.env, log, log
	// It must not outlive the test binary, however that ends.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.ended = make(chan error, 1)
	go func(cmd *exec.Cmd, ended chan<- error) { ended <- cmd.Wait() }(p.cmd, p.ended) // end receives it
}

// AwaitReady waits until every URL of Ready answers 200.
func (p *Process) AwaitReady(t testing.TB) {
	t.Helper()
	Eventually(t, startTimeout, p.Name+" is ready", func() error {
		select {
		case err := <-p.ended:
			p.end()
			p.DumpLog(t)
			t.Fatalf("%s has ended by itself: %v", p.Name, err)
		default:
		}
		for _, url := range p.Ready {
			if slices.Contains(p.env, unready) {
				url = strings.Replace(url, "/readyz", "/healthz", 1)
			}
			if err := answers(url); err != nil {
				return err
			}
		}
		return nil
	})
}

// unready is a setting of the test's alone: the process cannot become ready, and
// need only be alive.
const unready = "UNREADY=yes"

// answers says what a URL answers, if it is not 200.
func answers(url string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s %s", url, resp.Status, b)
	}
	return nil
}

// Pid of the process, which runs.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process, which runs.
func (p *Process) Signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("signal %v to %s: %v", sig, p.Name, err)
	}
}

// Kill ends the process with SIGKILL, as a power cut would.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	p.Signal(t, syscall.SIGKILL)
	<-p.ended
	p.end()
}

// Stop ends the process in order; it must exit 0 within its budget.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	if p.cmd == nil {
		return
	}
	p.Signal(t, syscall.SIGTERM)
	select {
	case err := <-p.ended:
		if err != nil {
			t.Errorf("%s ended by SIGTERM: %v", p.Name, err)
		}
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT)
		t.Errorf("%s did not end within %v of SIGTERM; its goroutines are in the log", p.Name, stopTimeout)
		<-p.ended
	}
	p.end()
}

func (p *Process) end() {
	p.cmd = nil
	_ = p.log.Close()
}

// DumpLog shows the end of the output.
func (p *Process) DumpLog(t testing.TB) {
	b, err := os.ReadFile(p.logs)
	if err != nil {
		t.Log(err)
		return
	}
	if len(b) > 16<<10 {
		b = b[len(b)-16<<10:]
	}
	t.Logf("log of %s:\n%s", p.Name, b)
}

// setting returns a setting of the environment, such as EDGE_ADMIN_ADDR.
func (p *Process) setting(key string) string {
	last := ""
	for _, e := range p.env {
		if v, ok := strings.CutPrefix(e, "STARLING_"+key+"="); ok {
			last = v
		}
	}
	return last
}

// rss is what the process holds, in bytes.
func (p *Process) rss(t testing.TB) int64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.Pid()), "statm"))
	if err != nil {
		t.Fatal(err)
	}
	pages, _ := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// metrics calls f with every sample of the process's tiers: its name with labels,
// as /metrics writes it, and its value.
func (p *Process) metrics(t testing.TB, f func(name string, value float64)) {
	t.Helper()
	for _, ready := range p.Ready {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(ready, "/readyz")+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("metrics of %s: %v", p.Name, err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatalf("metrics of %s: %v", p.Name, err)
		}
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if v, err := strconv.ParseFloat(value, 64); err == nil && name != "#" {
				f(name, v)
			}
		}
	}
}

// controlVersions returns the versions of the newest decision that the process's
// edge and logic know; none of a job.
func (p *Process) controlVersions(t testing.TB) (versions []float64) {
	t.Helper()
	p.metrics(t, func(name string, v float64) {
		if strings.HasPrefix(name, "starling_") && strings.HasSuffix(name, "_control_version") {
			versions = append(versions, v)
		}
	})
	return versions
}

// Total adds a counter up over all processes and labels.
func (s *System) Total(t testing.TB, name string, labels ...string) (total float64) {
	t.Helper()
	for _, p := range s.Processes {
		p.metrics(t, func(sample string, v float64) {
			base, with, _ := strings.Cut(sample, "{")
			for _, l := range labels {
				if !strings.Contains(with, l) {
					return
				}
			}
			if base == name {
				total += v
			}
		})
	}
	return total
}
