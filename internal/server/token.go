package server

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/internal/process"
)

// roles is a flag that may be repeated, each time with a comma list.
type roles []string

// String is asked by package flag.
func (r *roles) String() string { return strings.Join(*r, ",") }

// Set adds to the list.
func (r *roles) Set(v string) error {
	var more config.Strings
	if err := more.Set(v); err != nil {
		return err
	}
	*r = append(*r, more...)
	return nil
}

// Token is `starling token`: it prints one line, a token signed with the key
// of a data folder (made if there is none).
func Token(std process.IO) error {
	fs := flag.NewFlagSet("starling token", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	var rs roles
	dir := fs.String("data", "./data", "data `folder` with the key; made if it is missing")
	user := fs.String("user", "", "the user")
	device := fs.String("device", "", "the device that the token binds; empty binds none")
	ttl := fs.Duration("ttl", 24*time.Hour, "how long the token is good")
	fs.Var(&rs, "role", "user, operator, admin or service; repeatable or a comma list (default user)")
	if err := fs.Parse(std.Args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(std.Stdout)
			fs.PrintDefaults()
			return nil
		}
		return config.Invalid(fmt.Errorf("token: %w; see starling token -h", err))
	}
	var errs []error
	if fs.NArg() > 0 {
		errs = append(errs, fmt.Errorf("argument %q: not expected here; settings are written -name=value", fs.Arg(0)))
	}
	if !wire.ValidID(*user) {
		errs = append(errs, fmt.Errorf("user: %q is no user id; give -user with 1 to 64 of A-Z a-z 0-9 . _ @ -", *user))
	}
	if *device != "" && !wire.ValidID(*device) {
		errs = append(errs, fmt.Errorf("device: %q is no device id; give -device with 1 to 64 of A-Z a-z 0-9 . _ @ -", *device))
	}
	if *ttl <= 0 {
		errs = append(errs, fmt.Errorf("ttl: %v is not positive; give for example -ttl 24h", *ttl))
	}
	for _, r := range rs {
		if !token.ValidRole(r) {
			errs = append(errs, fmt.Errorf("role: %q is none; use user, operator, admin or service", r))
		}
	}
	if err := config.Invalid(errs...); err != nil {
		return err
	}
	keys, err := token.LoadOrCreate(*dir)
	if err != nil {
		return fmt.Errorf("data: %w", err)
	}
	slices.Sort(rs)
	raw, err := keys.Mint(token.Claims{User: wire.UserID(*user), Device: wire.DeviceID(*device), Roles: slices.Compact(rs)}, *ttl)
	if err != nil {
		return fmt.Errorf("make the token: %w", err)
	}
	if _, err := fmt.Fprintln(std.Stdout, raw); err != nil {
		return fmt.Errorf("print the token: %w", err)
	}
	return nil
}
