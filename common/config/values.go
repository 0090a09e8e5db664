package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// masked is how a secret prints.
const masked = "********"

// Secret is a setting that never shows itself: not in logs, not in
// -print-config, not through fmt.
type Secret struct{ value string }

// NewSecret wraps a value, for defaults and tests.
func NewSecret(v string) Secret { return Secret{value: v} }

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return s.value }

// String hides the value and says whether there is one.
func (s Secret) String() string {
	if s.value == "" {
		return ""
	}
	return masked
}

// GoString hides the value from %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText hides the value from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Set takes the value, or reads it from a file if it is "@/path"; "@@" begins
// a value that itself begins with "@".
func (s *Secret) Set(v string) error {
	switch {
	case strings.HasPrefix(v, "@@"):
		s.value = v[1:]
	case strings.HasPrefix(v, "@"):
		b, err := os.ReadFile(v[1:])
		if err != nil {
			return fmt.Errorf("read the secret: %w", err)
		}
		if s.value = strings.TrimRight(string(b), "\r\n"); s.value == "" {
			return fmt.Errorf("file %s is empty", v[1:])
		}
	default:
		s.value = v
	}
	return nil
}

// Bytes is a size with a unit: 64KiB, 1MB, 512 (bytes).
type Bytes int64

// units from the largest; the first that divides evenly is printed.
var units = []struct { //nolint:gochecknoglobals // a constant table
	name string
	n    int64
}{
	{"TiB", 1 << 40},
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"KB", 1e3},
	{"B", 1},
}

// String prints the size with the largest unit that loses nothing.
func (b Bytes) String() string {
	for _, u := range units {
		if n := int64(b); n != 0 && n%u.n == 0 {
			return strconv.FormatInt(n/u.n, 10) + u.name
		}
	}
	return "0B"
}

// Set parses a size; units are KiB, MiB, GiB, TiB (1024) and KB, MB, GB, TB
// (1000), in any case.
func (b *Bytes) Set(v string) error {
	num, mult := strings.TrimSpace(v), int64(1)
	for _, u := range units {
		if len(num) > len(u.name) && strings.EqualFold(num[len(num)-len(u.name):], u.name) {
			num, mult = strings.TrimSpace(num[:len(num)-len(u.name)]), u.n
			break
		}
	}
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil || n < 0 {
		return errors.New("not a size; write a whole number with a unit, for example 64KiB or 1MB")
	}
	if n > (1<<63-1)/mult {
		return errors.New("larger than any size")
	}
	*b = Bytes(n * mult)
	return nil
}

// Strings is a list: commas between the elements, or a YAML list.
type Strings []string

// String joins with commas.
func (s Strings) String() string { return strings.Join(s, ",") }

// Set replaces the list; empty elements are left out.
func (s *Strings) Set(v string) error {
	*s = nil
	for e := range strings.SplitSeq(v, ",") {
		if e = strings.TrimSpace(e); e != "" {
			*s = append(*s, e)
		}
	}
	return nil
}

var (
	_ flag.Value = (*Secret)(nil)
	_ flag.Value = (*Bytes)(nil)
	_ flag.Value = (*Strings)(nil)
)
