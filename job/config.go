package job

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"time"

	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/consume"
	"github.com/starling-im/starling/job/internal/deliver"
	"github.com/starling-im/starling/job/internal/machine"
)

// minRetention is what the protocol promises of a client_id, and a day of
// clock trouble.
const minRetention = 8 * 24 * time.Hour

// minHistory is the least that history may be kept for: whole months are
// removed, and a device away for weeks still finds what it missed.
const minHistory = 31 * 24 * time.Hour

// Config is the settings of the tier.
type Config struct {
	ID               string
	AdminAddr        string
	OutcomeRetention time.Duration
	HistoryRetention time.Duration // 0: for ever

	Consume consume.Config
	Deliver deliver.Config
	Machine machine.Config
}

// RegisterFlags defines the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet, prefix string) {
	fs.StringVar(&c.ID, prefix+"id", "",
		"name of this process in leases, unique and [A-Za-z0-9._@-]; empty: made of the host's name and a random part")
	fs.StringVar(&c.AdminAddr, prefix+"admin-addr", "127.0.0.1:3192",
		"where /metrics, /healthz, /readyz and /debug/pprof are served")
	fs.DurationVar(&c.OutcomeRetention, prefix+"outcome-retention", minRetention,
		"how long verdicts are kept, by which a repeated client_id is known; at least 192h")
	fs.DurationVar(&c.HistoryRetention, prefix+"history-retention", 0,
		"how long messages are kept; whole months that are older are removed; at least 744h, 0 keeps them for ever")
	c.Consume.RegisterFlags(fs, prefix)
	c.Deliver.RegisterFlags(fs, prefix)
	c.Machine.RegisterFlags(fs, prefix)
}

// Validate names every setting that cannot work.
func (c *Config) Validate() error {
	var errs []error
	if c.ID != "" && !wire.ValidID(c.ID) {
		errs = append(errs, fmt.Errorf("job.id: %q is not 1-64 of [A-Za-z0-9._@-]; leave it empty for a made one", c.ID))
	}
	if _, _, err := net.SplitHostPort(c.AdminAddr); err != nil {
		errs = append(errs, fmt.Errorf("job.admin-addr: %w; use host:port, for example 127.0.0.1:3192", err))
	}
	if c.OutcomeRetention < minRetention {
		errs = append(errs, fmt.Errorf("job.outcome-retention: %v is below %v, so repeats would be taken for new; use 192h or more", c.OutcomeRetention, minRetention))
	}
	if c.HistoryRetention != 0 && c.HistoryRetention < minHistory {
		errs = append(errs, fmt.Errorf("job.history-retention: %v is below %v; use 744h or more, or 0 to keep messages for ever", c.HistoryRetention, minHistory))
	}
	if c.Machine.RepeatWindow > c.OutcomeRetention {
		errs = append(errs, fmt.Errorf("job.repeat-window: %v is more than job.outcome-retention, %v, after which nobody knows a repeat; raise that too", c.Machine.RepeatWindow, c.OutcomeRetention))
	}
	return errors.Join(append(errs, c.Consume.Validate(), c.Deliver.Validate(), c.Machine.Validate())...)
}
