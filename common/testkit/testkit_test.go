package testkit

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { VerifyMain(m) }

// tests stand for those of a package.
type tests func() int

func (f tests) Run() int { return f() }

// TestLate: a goroutine that ends later than goleak waits is no leak.
func TestLate(t *testing.T) {
	before := goleak.IgnoreCurrent()
	code := Run(tests(func() int {
		go func() { time.Sleep(600 * time.Millisecond) }()
		return 0
	}), before)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestLeak(t *testing.T) {
	before := goleak.IgnoreCurrent()
	free, ended := make(chan struct{}), make(chan struct{})
	code := run(tests(func() int {
		go func() { defer close(ended); <-free }()
		return 0
	}), 0, before)
	close(free)
	<-ended
	if code != 1 {
		t.Errorf("exit code %d with a goroutine left", code)
	}
}

// TestFailed: what failed tests leave behind is not waited for.
func TestFailed(t *testing.T) {
	free := make(chan struct{})
	defer close(free)
	code := Run(tests(func() int {
		go func() { <-free }()
		return 3
	}))
	if code != 3 {
		t.Errorf("exit code %d of tests that ended with 3", code)
	}
}
