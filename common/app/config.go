package app

import (
	"errors"
	"flag"
	"fmt"
	"time"
)

// Config bounds the end of a process.
type Config struct {
	// ReadyDelay passes between "not ready" and Drain, so that load balancers
	// see it first.
	ReadyDelay time.Duration
	// StopBudget is the time that draining and stopping may take together.
	StopBudget time.Duration
}

// RegisterFlags defines the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet, prefix string) {
	fs.DurationVar(&c.ReadyDelay, prefix+"ready-delay", 0,
		"time between answering not ready and draining, for load balancers to notice")
	fs.DurationVar(&c.StopBudget, prefix+"stop-budget", 30*time.Second,
		"time that draining and stopping may take; over it, goroutines are dumped and the exit code is 1")
}

// Validate names every setting that cannot work.
func (c *Config) Validate() error {
	var errs []error
	if c.ReadyDelay < 0 {
		errs = append(errs, fmt.Errorf("app.ready-delay: %v is negative; use 0 or more", c.ReadyDelay))
	}
	if c.StopBudget <= 0 {
		errs = append(errs, fmt.Errorf("app.stop-budget: %v is not positive; use for example 30s", c.StopBudget))
	}
	return errors.Join(errs...)
}
