package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startTime = time.Minute      // until a process is ready
	stopTime  = 40 * time.Second // until it has ended after SIGTERM; its own budget is 30 s
	tick      = 20 * time.Millisecond
)

// Process is one program of a cluster.
type Process struct {
	Name   string   // all, or the tier and a number: edge-1
	Tier   string   // all, edge, logic, job
	Admins []string // base URLs of its admin ports
	Ledger []string // those of them that have a ledger

	binary string
	args   []string
	env    []string // all of its environment
	logs   string   // file that its output is added to
	fail   func(format string, args ...any)
	life   sync.WaitGroup

	mu    sync.Mutex
	cmd   *exec.Cmd     // nil: not running
	asked bool          // it was told to end
	ended chan struct{} // closed when it has
	err   error         // of its end
}

// Start begins the process unless it runs; it need not be ready yet.
func (p *Process) Start(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return nil
	}
	log, err := os.OpenFile(p.logs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer func() { _ = log.Close() }()
	// It is ended in order, also after a run that was broken off.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), p.binary, p.args...) //nolint:gosec // binaries of ours
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, log, log
	// It must not outlive this process, however that ends, nor get its Ctrl-C.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	ended := make(chan struct{})
	p.cmd, p.asked, p.ended, p.err = cmd, false, ended, nil
	p.life.Go(func() {
		err := cmd.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.asked {
			p.fail("%s ended by itself: %v; its log is %s", p.Name, cmd.ProcessState, p.logs)
		}
		p.cmd, p.err = nil, err
		close(ended)
	})
	return nil
}

// Pid is 0 while it does not run.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Signal sends a signal that does not end the process, if it runs.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %v to %s: %w", sig, p.Name, err)
	}
	return nil
}

// Kill ends the process by SIGKILL, as a power cut would.
func (p *Process) Kill() {
	if ended := p.ask(syscall.SIGKILL); ended != nil {
		<-ended
	}
}

// Stop ends the process in order; that it does not exit with 0 in time is a
// failure of the run.
func (p *Process) Stop() {
	ended := p.ask(syscall.SIGTERM)
	if ended == nil {
		return
	}
	t := time.NewTimer(stopTime)
	defer t.Stop()
	select {
	case <-ended:
	case <-t.C:
		p.fail("%s did not end within %v of SIGTERM; its goroutines are in %s", p.Name, stopTime, p.logs)
		p.ask(syscall.SIGQUIT)
		t.Reset(stopTime)
		select {
		case <-ended:
		case <-t.C:
			p.Kill()
		}
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		p.fail("%s ended by SIGTERM: %v; its log is %s", p.Name, p.err, p.logs)
	}
}

// ask sends a signal that ends the process; nil: it does not run.
func (p *Process) ask(sig syscall.Signal) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	p.asked = true
	_ = p.cmd.Process.Signal(sig) // fails where it has just ended
	return p.ended
}

// awaitReady waits until it says so at every admin port.
func (p *Process) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for _, base := range p.Admins {
		err := await(ctx, func() error {
			if p.Pid() == 0 {
				cancel() // no use to try again
				return fmt.Errorf("it has ended; its log is %s", p.logs)
			}
			return answers(ctx, base+"/readyz")
		})
		if err != nil {
			return fmt.Errorf("%s is not ready: %w", p.Name, err)
		}
	}
	return nil
}

// await tries until check returns nil; its last error where ctx ends before.
func await(ctx context.Context, check func() error) error {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-t.C:
		}
	}
}

// answers says what a URL answers, if it is not 200.
func answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // the status says enough
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s %s", url, resp.Status, bytes.TrimSpace(b))
	}
	return nil
}

// readLog looks for what must not be in a log.
func (p *Process) readLog() {
	b, err := os.ReadFile(p.logs)
	if err != nil {
		p.fail("log of %s: %v", p.Name, err)
		return
	}
	for _, bad := range []string{"DATA RACE", "panic: ", "fatal error: "} {
		if n := strings.Count(string(b), bad); n > 0 {
			p.fail("%d times %q in the log of %s: %s", n, bad, p.Name, p.logs)
		}
	}
}
