package verify

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/starling-im/starling/common/ledger"
	"github.com/starling-im/starling/common/wire"
)

// Config is one run.
type Config struct {
	APIs       string // comma list of base URLs of logics
	AdminToken string // mints tokens by POST /v1/tokens; empty: POST /v1/login
	Seed       uint64
	Users      int
	Groups     int
	Rate       float64
	Duration   time.Duration
	Settle     time.Duration // how long everything may take to be with everybody
	Size       int           // bytes of the longest content
	Prefix     string        // of all names
	Ledger     string        // comma list of admin URLs; empty: none is asked
	Faults     bool          // set by the caller: something breaks the system meanwhile
}

// RegisterFlags declares the flags of `bench verify` that are the workload's.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.APIs, "api", "http://127.0.0.1:3111", "comma list of base `URLs` of logics' HTTP API")
	fs.StringVar(&c.AdminToken, "admin-token", "", "mint tokens with this admin or service `token` instead of POST /v1/login")
	fs.Uint64Var(&c.Seed, "seed", 1, "seed of the people, of what they do, and of the faults")
	fs.IntVar(&c.Users, "users", 24, "users (4 or more), half of them with two devices, an eighth with a slow one more, an eighth with one that comes late")
	fs.IntVar(&c.Groups, "groups", 4, "groups, of up to 12 members that change")
	fs.Float64Var(&c.Rate, "rate", 300, "messages a second, on a schedule that waits for nobody")
	fs.DurationVar(&c.Duration, "duration", 30*time.Second, "how long they talk")
	fs.DurationVar(&c.Settle, "settle", time.Minute, "how long everything may take afterwards to be with everybody")
	fs.IntVar(&c.Size, "size", 256, "bytes of the longest content (64–16384)")
	fs.StringVar(&c.Ledger, "ledger", "", "comma list of admin `URLs` of all edges and jobs, whose ledger is taken at the start and at the end")
	fs.StringVar(&c.Prefix, "prefix", "", "begins all names; empty: another one each time")
}

// Validate returns every bad flag at once, and fills in what was left open.
func (c *Config) Validate() error {
	var errs []error
	if c.Users < 4 || c.Users > 1000 {
		errs = append(errs, errors.New("-users: must be 4 to 1000"))
	}
	if c.Groups < 0 || c.Groups > 100 {
		errs = append(errs, errors.New("-groups: must be 0 to 100"))
	}
	if c.Rate <= 0 || c.Rate > 1e4 {
		errs = append(errs, errors.New("-rate: must be over 0 and at most 10000"))
	}
	if c.Duration <= 0 || c.Settle <= 0 {
		errs = append(errs, errors.New("-duration, -settle: must be over 0"))
	}
	if c.Size < 64 || c.Size > 16<<10 {
		errs = append(errs, errors.New("-size: must be 64 to 16384 bytes"))
	}
	if c.Prefix == "" {
		c.Prefix = fmt.Sprintf("v%x-", time.Now().UnixMilli())
	}
	if !wire.ValidID(c.Prefix + "device-0000") {
		errs = append(errs, errors.New("-prefix: at most 50 letters, digits and . _ @ -"))
	}
	return errors.Join(append(errs, c.validateURLs())...)
}

func (c *Config) validateURLs() (err error) {
	if len(c.apis()) == 0 {
		err = errors.New("-api: name at least one logic, such as http://127.0.0.1:3111")
	}
	if _, lerr := ledger.ParseURLs(c.Ledger); c.Ledger != "" && lerr != nil {
		err = errors.Join(err, fmt.Errorf("-ledger: %w", lerr))
	}
	return err
}

func (c *Config) apis() (list []string) {
	for a := range strings.SplitSeq(c.APIs, ",") {
		if a = strings.TrimRight(strings.TrimSpace(a), "/"); a != "" {
			list = append(list, a)
		}
	}
	return list
}
