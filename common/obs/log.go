// Package obs is how a process is seen from outside: the logger, the admin port
// with metrics, health, modules and profiles, and the watch of clocks.
//
// Loggers are handed in, never global. A message text is a place in the code:
// each is written at most Config.PerSecond times a second, so a hot path may
// log its errors without drowning the disk (what is left out is not counted:
// rates are the metrics' business). Everything here is safe for concurrent use.
package obs

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Formats of log lines.
const (
	FormatJSON    = "json"
	FormatConsole = "console"
)

// Config is what a logger needs to know.
type Config struct {
	Level  string // debug, info, warn, error
	Format string // json, console
	// PerSecond is how many lines one message text may write in a second; 0
	// means no limit.
	PerSecond int
}

// RegisterFlags defines the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet, prefix string) {
	fs.StringVar(&c.Level, prefix+"level", "info", "lowest level that is written: debug, info, warn or error")
	fs.StringVar(&c.Format, prefix+"format", FormatJSON, "json, or console for people")
	fs.IntVar(&c.PerSecond, prefix+"per-second", 50, "lines a second that one message text may write, 0 for no limit")
}

// Validate names every setting that cannot work.
func (c *Config) Validate() error {
	var errs []error
	if _, err := zapcore.ParseLevel(c.Level); err != nil {
		errs = append(errs, fmt.Errorf("log.level: %q is no level; use debug, info, warn or error", c.Level))
	}
	if c.Format != FormatJSON && c.Format != FormatConsole {
		errs = append(errs, fmt.Errorf("log.format: %q is no format; use json or console", c.Format))
	}
	if c.PerSecond < 0 {
		errs = append(errs, fmt.Errorf("log.per-second: %d is negative; use 0 for no limit", c.PerSecond))
	}
	return errors.Join(errs...)
}

// NewLogger writes to standard error.
func NewLogger(cfg Config) (*zap.Logger, error) { return newLogger(cfg, os.Stderr) }

func newLogger(cfg Config, w io.Writer) (*zap.Logger, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	level, err := zapcore.ParseLevel(cfg.Level)
	if err != nil {
		return nil, fmt.Errorf("parse log level: %w", err)
	}
	ec := zap.NewProductionEncoderConfig()
	ec.TimeKey = "time"
	ec.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	ec.EncodeDuration = zapcore.StringDurationEncoder
	enc := zapcore.NewJSONEncoder(ec)
	if cfg.Format == FormatConsole {
		ec.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		ec.EncodeLevel = zapcore.CapitalLevelEncoder
		enc = zapcore.NewConsoleEncoder(ec)
	}
	core := zapcore.NewCore(enc, zapcore.Lock(zapcore.AddSync(w)), level)
	if cfg.PerSecond > 0 {
		core = zapcore.NewSamplerWithOptions(core, time.Second, cfg.PerSecond, 0)
	}
	return zap.New(core, zap.ErrorOutput(zapcore.Lock(os.Stderr))), nil
}
