package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// Run is Load and all that main does around it: help, validation,
// -config.verify and -print-config. done says that the process has nothing
// else to do. A bad value and a failed validate come back together.
func Run(fs *flag.FlagSet, args, environ []string, out io.Writer, validate func() error) (done bool, err error) {
	err = Load(fs, args, environ)
	if errors.Is(err, flag.ErrHelp) {
		return true, usage(fs, out)
	}
	if err = Invalid(err, validate()); err != nil {
		return true, err
	}
	switch {
	case isSet(fs, flagVerify):
		_, err = fmt.Fprintln(out, "configuration ok, digest "+Digest(fs))
	case isSet(fs, flagPrint):
		err = PrintChanged(out, fs)
	default:
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("write the answer: %w", err)
	}
	return true, nil
}

func isSet(fs *flag.FlagSet, name string) bool {
	f := fs.Lookup(name)
	return f != nil && f.Value.String() == "true"
}

func usage(fs *flag.FlagSet, out io.Writer) error {
	if _, err := fmt.Fprintf(out, "Usage of %s (settings also as STARLING_… variables and in the -config file):\n", fs.Name()); err != nil {
		return fmt.Errorf("write the help: %w", err)
	}
	fs.SetOutput(out)
	fs.PrintDefaults()
	return nil
}

// PrintChanged writes the settings that differ from their defaults, as a file
// that Load reads (but for secrets, which stay hidden).
func PrintChanged(w io.Writer, fs *flag.FlagSet) error {
	var b strings.Builder
	eachSetting(fs, func(f *flag.Flag) {
		if f.Value.String() != f.DefValue {
			b.WriteString(f.Name + ": " + yamlScalar(f.Value.String()) + "\n")
		}
	})
	if b.Len() == 0 {
		b.WriteString("# all settings are at their defaults\n")
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("print the settings: %w", err)
	}
	return nil
}

// Digest is a short fingerprint of all settings: equal digests mean equal
// settings, secrets aside.
func Digest(fs *flag.FlagSet) string {
	h := sha256.New()
	eachSetting(fs, func(f *flag.Flag) {
		_, _ = fmt.Fprintf(h, "%s=%q\n", f.Name, f.Value.String())
	})
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// eachSetting visits by name, those without a section first.
func eachSetting(fs *flag.FlagSet, do func(*flag.Flag)) {
	for _, sectioned := range []bool{false, true} {
		fs.VisitAll(func(f *flag.Flag) {
			if isSetting(f.Name) && strings.Contains(f.Name, ".") == sectioned {
				do(f)
			}
		})
	}
}
