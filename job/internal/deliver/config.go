package deliver

import (
	"errors"
	"flag"
	"fmt"
	"time"
)

// Config bounds what is held for each edge and says how edges are watched.
type Config struct {
	OutboxFrames int
	OutboxBytes  int
	EdgePoll     time.Duration
	EdgeGrace    time.Duration
}

// RegisterFlags defines the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet, prefix string) {
	fs.IntVar(&c.OutboxFrames, prefix+"outbox-frames", 1<<16,
		"frames held for one edge until it has confirmed them; beyond, the edge is told lost")
	fs.IntVar(&c.OutboxBytes, prefix+"outbox-bytes", 64<<20,
		"bytes held for one edge until it has confirmed them; beyond, the edge is told lost")
	fs.DurationVar(&c.EdgePoll, prefix+"edge-poll", 500*time.Millisecond,
		"how often the leases of edges are read")
	fs.DurationVar(&c.EdgeGrace, prefix+"edge-grace", 10*time.Second,
		"how long an edge whose stream stands is kept when its lease is not found (an emptied index)")
}

// Validate names every setting that cannot work.
func (c *Config) Validate() error {
	var errs []error
	if c.OutboxFrames < 1 {
		errs = append(errs, fmt.Errorf("job.outbox-frames: %d is below 1; use for example 65536", c.OutboxFrames))
	}
	if c.OutboxBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("job.outbox-bytes: %d is below 1048576; use for example 67108864", c.OutboxBytes))
	}
	if c.EdgePoll <= 0 {
		errs = append(errs, fmt.Errorf("job.edge-poll: %v is not positive; use for example 500ms", c.EdgePoll))
	}
	if c.EdgeGrace < 0 {
		errs = append(errs, fmt.Errorf("job.edge-grace: %v is negative; use for example 10s", c.EdgeGrace))
	}
	return errors.Join(errs...)
}
