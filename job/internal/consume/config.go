package consume

import (
	"errors"
	"flag"
	"fmt"
	"time"
)

// Config says how the log is worked through.
type Config struct {
	CommitInterval time.Duration
	TurnRecords    int
	EffectsTurns   int
}

// RegisterFlags defines the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet, prefix string) {
	fs.DurationVar(&c.CommitInterval, prefix+"commit-interval", 500*time.Millisecond,
		"how often the offsets that every edge has confirmed are committed")
	fs.IntVar(&c.TurnRecords, prefix+"turn-records", 2000,
		"most records in one transaction")
	fs.IntVar(&c.EffectsTurns, prefix+"effects-turns", 4,
		"committed turns whose effects may wait; then the next turn waits")
}

// Validate names every setting that cannot work.
func (c *Config) Validate() error {
	var errs []error
	if c.CommitInterval <= 0 {
		errs = append(errs, fmt.Errorf("job.commit-interval: %v is not positive; use for example 500ms", c.CommitInterval))
	}
	if c.TurnRecords < 1 {
		errs = append(errs, fmt.Errorf("job.turn-records: %d is below 1; use for example 2000", c.TurnRecords))
	}
	if c.EffectsTurns < 1 {
		errs = append(errs, fmt.Errorf("job.effects-turns: %d is below 1; use for example 4", c.EffectsTurns))
	}
	return errors.Join(errs...)
}
