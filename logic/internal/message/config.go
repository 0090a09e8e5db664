package message

import (
	"errors"
	"flag"
	"fmt"
	"time"
)

// Config holds the limits of groups and the times of a send.
type Config struct {
	LargeGroup   int
	MaxMembers   int
	RecallWindow time.Duration
	LookBudget   time.Duration
	WaitBudget   time.Duration
}

// RegisterFlags sets defaults and names.
func (c *Config) RegisterFlags(fs *flag.FlagSet, prefix string) {
	fs.IntVar(&c.LargeGroup, prefix+"large-group", 500, "members above which a group is large: no receipts, no offline entries, joins take no seq")
	fs.IntVar(&c.MaxMembers, prefix+"max-members", 100_000, "members a group may have")
	fs.DurationVar(&c.RecallWindow, prefix+"recall-window", 2*time.Minute, "how long a sender may recall or edit a message")
	fs.DurationVar(&c.LookBudget, prefix+"look-budget", 50*time.Millisecond, "time for the first look at repeats and membership of a send; without an answer the message is written and judged later")
	fs.DurationVar(&c.WaitBudget, prefix+"wait-budget", 5*time.Second, "how long a recall, an edit or a group command waits for its outcome")
}

// Validate returns all that is wrong, by key.
func (c *Config) Validate() error {
	return errors.Join(
		within("large-group", c.LargeGroup, 1, 1_000_000),
		within("max-members", c.MaxMembers, 1, 10_000_000),
		positive("recall-window", c.RecallWindow),
		positive("look-budget", c.LookBudget),
		positive("wait-budget", c.WaitBudget),
	)
}

func within(key string, v, lo, hi int) error {
	if v < lo || v > hi {
		return fmt.Errorf("logic.%s: %d is out of range; set %d to %d", key, v, lo, hi)
	}
	return nil
}

func positive(key string, v time.Duration) error {
	if v <= 0 {
		return fmt.Errorf("logic.%s: %s is not a time; set one above 0, such as 50ms", key, v)
	}
	return nil
}
