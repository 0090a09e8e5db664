// Package limits is what one user, connection or address may take: how much in a
// second, how many at once, how large. Every limit has a configured value and may
// be changed while the system runs (package control); Live is the two together.
//
// Rates are token buckets: a burst at once, then so many a second. Each process
// counts what it sees itself: a user with devices at several edges may reach a
// limit in each of them. A Config is a value; Live and Buckets are safe for
// concurrent use.
package limits

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
)

// Prefix of the settings' names.
const Prefix = "limits."

// What the connections of one user may be.
const (
	DevicesAll      = "all"      // each device one connection
	DevicesPlatform = "platform" // each platform one connection
	DevicesOne      = "one"      // one connection in all
)

// Config is the limits. Zero is none for rates and connections.
type Config struct {
	MessagesPerSecond  float64
	MessageBurst       int
	FramesPerSecond    float64
	FrameBurst         int
	ConnectionsPerUser int
	ConnectionsPerIP   int
	MaxContent         int
	Devices            string
}

// Default returns the limits where none are configured.
func Default() Config {
	return Config{
		MessagesPerSecond: 100, MessageBurst: 1000, FramesPerSecond: 500, FrameBurst: 5000,
		ConnectionsPerUser: 100, MaxContent: 16 << 10, Devices: DevicesAll,
	}
}

// RegisterFlags defines the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet, prefix string) { c.bind(fs, prefix, Default()) }

func (c *Config) bind(fs *flag.FlagSet, prefix string, d Config) {
	fs.Float64Var(&c.MessagesPerSecond, prefix+"messages-per-second", d.MessagesPerSecond,
		"messages, recalls, edits, room messages and changes of groups, blocks and sessions by one user, at each logic; 0: no limit. Services are not counted")
	fs.IntVar(&c.MessageBurst, prefix+"message-burst", d.MessageBurst, "messages of one user at once")
	fs.Float64Var(&c.FramesPerSecond, prefix+"frames-per-second", d.FramesPerSecond, "frames of one connection, of any operation but ping; 0: no limit")
	fs.IntVar(&c.FrameBurst, prefix+"frame-burst", d.FrameBurst, "frames of one connection at once")
	fs.IntVar(&c.ConnectionsPerUser, prefix+"connections-per-user", d.ConnectionsPerUser, "connections of one user, at all edges; 0: no limit")
	fs.IntVar(&c.ConnectionsPerIP, prefix+"connections-per-ip", d.ConnectionsPerIP, "connections from one address (an IPv6 /64) at one edge; 0: no limit (needed behind a proxy)")
	fs.IntVar(&c.MaxContent, prefix+"max-content", d.MaxContent, "largest content of a message, in bytes")
	fs.StringVar(&c.Devices, prefix+"devices", d.Devices, "which connections of a user stand beside each other: all (one a device), platform (one a platform) or one; the newest stays")
}

// Validate returns all that is wrong, by key.
func (c *Config) Validate() error {
	var errs []error
	for _, r := range []struct {
		key   string
		rate  float64
		burst int
	}{
		{"message", c.MessagesPerSecond, c.MessageBurst}, {"frame", c.FramesPerSecond, c.FrameBurst},
	} {
		if !(r.rate >= 0 && r.rate <= 1e9) {
			errs = append(errs, fmt.Errorf("%s%ss-per-second: %v is no rate; set 0 (no limit) to 1000000000", Prefix, r.key, r.rate))
		}
		if r.burst < 1 || r.burst > 1e9 {
			errs = append(errs, fmt.Errorf("%s%s-burst: %d is out of range; set 1 to 1000000000", Prefix, r.key, r.burst))
		}
	}
	if c.ConnectionsPerUser < 0 {
		errs = append(errs, fmt.Errorf("%sconnections-per-user: %d is negative; set 0 (no limit) or more", Prefix, c.ConnectionsPerUser))
	}
	if c.ConnectionsPerIP < 0 {
		errs = append(errs, fmt.Errorf("%sconnections-per-ip: %d is negative; set 0 (no limit) or more", Prefix, c.ConnectionsPerIP))
	}
	if c.MaxContent < 1 || c.MaxContent > 64<<10 {
		errs = append(errs, fmt.Errorf("%smax-content: %d is out of range; set 1 to 65536", Prefix, c.MaxContent))
	}
	switch c.Devices {
	case DevicesAll, DevicesPlatform, DevicesOne:
	default:
		errs = append(errs, fmt.Errorf("%sdevices: %.70q is none of all, platform, one", Prefix, c.Devices))
	}
	return errors.Join(errs...)
}

// Values returns all limits by name, as texts.
func (c *Config) Values() map[string]string {
	out := make(map[string]string)
	var bound Config
	fs := flag.NewFlagSet("limits", flag.ContinueOnError)
	bound.bind(fs, Prefix, *c)
	fs.VisitAll(func(f *flag.Flag) { out[f.Name] = f.DefValue })
	return out
}

// With returns the limits with others in the place of those that it names. The
// error names what is no limit, or no value for one.
func (c *Config) With(values map[string]string) (Config, error) {
	var out Config
	fs := flag.NewFlagSet("limits", flag.ContinueOnError)
	out.bind(fs, Prefix, *c)
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if fs.Lookup(name) == nil {
			errs = append(errs, fmt.Errorf("%.70q is no setting that can be changed while the system runs", name))
		} else if err := fs.Set(name, values[name]); err != nil {
			errs = append(errs, fmt.Errorf("%s: %.70q is no value for it", name, values[name]))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return *c, err
	}
	return out, out.Validate()
}

// Live is limits that change while the process runs.
type Live struct {
	base Config
	cur  atomic.Pointer[Config]
}

// NewLive returns limits that stand at their configured values.
func NewLive(base Config) *Live {
	l := &Live{base: base}
	l.cur.Store(&base)
	return l
}

// Get returns the limits as they are now; not to be changed.
func (l *Live) Get() *Config { return l.cur.Load() }

// Base returns the configured limits.
func (l *Live) Base() Config { return l.base }

// Change sets what was changed (control.State.Settings): all else goes back to
// the configured values. What is not known here, or is no value, is left out and
// named in the error.
func (l *Live) Change(values map[string]string) error {
	next := l.base
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		with, err := next.With(map[string]string{name: values[name]})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		next = with
	}
	l.cur.Store(&next)
	return errors.Join(errs...)
}
