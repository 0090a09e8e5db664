// Package clockstep steps the wall clock of one process, as if its node's clock
// had been set.
//
// Programs read the clock in the vDSO, code that the kernel maps into each
// process. Step has that code, in one process alone, ask the kernel and add an
// offset to the answer: a jump at the beginning of clock_gettime leads to a few
// bytes in the empty end of the page. CLOCK_REALTIME alone is stepped, so
// monotonic time goes on as it was; of C libraries' other ways to the clock
// (gettimeofday, time) nothing is changed.
//
// It works on Linux for amd64, for processes that the caller may trace. Calls for
// one process must not overlap.
package clockstep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrUnsupported is returned where a clock cannot be stepped.
var ErrUnsupported = errors.New("the clock of another process can be stepped on Linux for amd64 alone")

// Possible says why the clock of a process cannot be stepped.
func Possible(pid int) error {
	p, err := findPatch(pid)
	if err == nil {
		_, err = p.busy()
	}
	if err != nil {
		return fmt.Errorf("the clock of process %d cannot be stepped: %w", pid, err)
	}
	return nil
}

// Step makes the clock of a process differ from the machine's by whole seconds; 0
// puts it right. The process stands still for some milliseconds.
func Step(ctx context.Context, pid int, by time.Duration) error {
	p, err := findPatch(pid)
	if err != nil {
		return fmt.Errorf("step the clock of process %d: %w", pid, err)
	}
	for { // a thread may stand where the code is to be changed
		done, err := stopped(ctx, pid, func() (bool, error) {
			if busy, err := p.busy(); busy || err != nil {
				return false, err
			}
			return true, p.write(int32(by / time.Second))
		})
		if err != nil {
			return fmt.Errorf("step the clock of process %d: %w", pid, err)
		}
		if done {
			return nil
		}
	}
}

// stopped calls f while every thread of a process stands still.
func stopped(ctx context.Context, pid int, f func() (bool, error)) (done bool, err error) {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return false, fmt.Errorf("stop it: %w", err)
	}
	defer func() { err = errors.Join(err, syscall.Kill(pid, syscall.SIGCONT)) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		switch all, err := allStopped(pid); {
		case err != nil:
			return false, err
		case all:
			return f()
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("wait until it stands still: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

func allStopped(pid int) (bool, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false, fmt.Errorf("list its threads: %w", err)
	}
	if len(tasks) == 0 {
		return false, fmt.Errorf("it has ended: %w", os.ErrProcessDone)
	}
	for _, t := range tasks {
		b, err := os.ReadFile(t) //nolint:gosec // of /proc
		if err == nil && !strings.Contains(string(b), ") T ") && !strings.Contains(string(b), ") t ") {
			return false, nil
		}
	}
	return true, nil
}
