package server

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/internal/process"
)

// request is what a token is asked for with.
type request struct {
	user, device string
	ttl          time.Duration
	roles        config.Strings
}

func (r *request) RegisterFlags(fs *flag.FlagSet) {
	fs.StringVar(&r.user, "user", "", "the user")
	fs.StringVar(&r.device, "device", "", "the device that the token binds; empty binds none")
	fs.DurationVar(&r.ttl, "ttl", 24*time.Hour, "how long the token is good")
	fs.Var(&r.roles, "role", "comma list of user, operator, admin, service (default user)")
}

func (r *request) validate() error {
	var errs []error
	if !wire.ValidID(r.user) {
		errs = append(errs, fmt.Errorf("user: %q is no user id; give -user with 1 to 64 of A-Z a-z 0-9 . _ @ -", r.user))
	}
	if r.device != "" && !wire.ValidID(r.device) {
		errs = append(errs, fmt.Errorf("device: %q is no device id; give -device with 1 to 64 of A-Z a-z 0-9 . _ @ -", r.device))
	}
	if r.ttl <= 0 {
		errs = append(errs, fmt.Errorf("ttl: %v is not positive; give for example -ttl 24h", r.ttl))
	}
	for _, role := range r.roles {
		if !token.ValidRole(role) {
			errs = append(errs, fmt.Errorf("role: %q is none; use user, operator, admin or service", role))
		}
	}
	return errors.Join(errs...)
}

// Token is `starling token`: it prints one line, a token signed with the key
// that the server of the same settings checks with.
func Token(std process.IO) error {
	p, r := &Program{}, &request{}
	fs, _ := process.Flags("starling token", p)
	r.RegisterFlags(fs)
	err := config.Load(fs, std.Args, std.Environ)
	if errors.Is(err, flag.ErrHelp) {
		return tokenHelp(std.Stdout)
	}
	if err := config.Invalid(err, r.validate()); err != nil {
		return err
	}
	keys, err := p.keyring()
	if err != nil {
		return err
	}
	slices.Sort(r.roles)
	raw, err := keys.Mint(token.Claims{
		User: wire.UserID(r.user), Device: wire.DeviceID(r.device), Roles: slices.Compact(r.roles),
	}, r.ttl)
	if err != nil {
		return fmt.Errorf("make the token: %w", err)
	}
	if _, err := fmt.Fprintln(std.Stdout, raw); err != nil {
		return fmt.Errorf("print the token: %w", err)
	}
	return nil
}

// tokenHelp names the few settings that matter here.
func tokenHelp(out io.Writer) error {
	fs := flag.NewFlagSet("starling token", flag.ContinueOnError)
	fs.SetOutput(out)
	(&request{}).RegisterFlags(fs)
	if _, err := fmt.Fprintln(out, "Usage of starling token (-config, -data and -auth.jwks as for the server say whose key signs):"); err != nil {
		return fmt.Errorf("write the help: %w", err)
	}
	fs.PrintDefaults()
	return nil
}
