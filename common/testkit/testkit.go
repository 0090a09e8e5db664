// Package testkit is for tests alone: VerifyMain, the leak check of every
// package, and Reserve, addresses that stay a test's own while nobody listens
// on them. It imports nothing of ours, so the tests of any package may use it.
//
// Reserve is safe for concurrent use; VerifyMain and Run are called once, by
// TestMain. That nobody else gets a reserved address is known of Linux alone.
package testkit

import (
	"fmt"
	"os"
	"time"

	"go.uber.org/goleak"
)

// patience is how long goroutines may take to end after the last test.
// goleak's own 0.43 s are less than a loaded machine may take to run them.
const patience = 30 * time.Second

// VerifyMain runs the tests of a package and ends the process: with 1 if they
// passed and left goroutines behind.
func VerifyMain(m goleak.TestingM, options ...goleak.Option) {
	os.Exit(Run(m, options...))
}

// Run is VerifyMain for a TestMain that has something to do before it exits
// with the code returned.
func Run(m goleak.TestingM, options ...goleak.Option) (code int) {
	return run(m, patience, options...)
}

func run(m goleak.TestingM, within time.Duration, options ...goleak.Option) int {
	if code := m.Run(); code != 0 {
		return code
	}
	deadline := time.Now().Add(within)
	for {
		err := goleak.Find(options...) // which tries for a while, so this loop needs no pause
		if err == nil {
			return 0
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "goleak: the tests have passed and left goroutines: %v\n", err)
			return 1
		}
	}
}
