package process

import (
	"errors"
	"flag"
	"fmt"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/token"
)

// Auth says whose tokens count.
type Auth struct {
	// JWKS is the file with the keys; edges need the public ones alone.
	JWKS string
}

// RegisterFlags defines the settings with their defaults.
func (a *Auth) RegisterFlags(fs *flag.FlagSet, prefix string) {
	fs.StringVar(&a.JWKS, prefix+"jwks", "", "JWKS `file` with the keys that tokens are checked with (starling token -data DIR makes one, DIR/keys.json); the embedded default makes its own in the data folder, and lets anybody log in, unless this is set")
}

// Validate names every setting that cannot work.
func (a *Auth) Validate() error {
	if a.JWKS == "" {
		return errors.New("auth.jwks: not set; name the JWKS file with the keys that tokens are checked with")
	}
	if _, err := token.Load(a.JWKS); err != nil {
		return fmt.Errorf("auth.jwks: %w; name a readable JWKS file", err)
	}
	return nil
}

// Keyring reads the keys.
func (a *Auth) Keyring() (*token.Keyring, error) {
	k, err := token.Load(a.JWKS)
	if err != nil {
		return nil, config.Invalid(fmt.Errorf("auth.jwks: %w; name a readable JWKS file", err))
	}
	return k, nil
}
