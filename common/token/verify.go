package token

import (
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/starling-im/starling/common/wire"
)

// Verifier checks tokens against the keys of one JWKS.
type Verifier struct {
	keys   map[string]*key
	parser *jwt.Parser
}

func newVerifier(keys map[string]*key) *Verifier {
	return &Verifier{
		keys: keys,
		// Claims are judged by claims below, against the caller's clock.
		parser: jwt.NewParser(jwt.WithoutClaimsValidation(), jwt.WithValidMethods([]string{
			jwt.SigningMethodHS256.Alg(), jwt.SigningMethodRS256.Alg(),
			jwt.SigningMethodES256.Alg(), jwt.SigningMethodEdDSA.Alg(),
		})),
	}
}

// Verify checks signature and times of an access token and returns its claims.
// The error is ErrExpired for a good token whose time is over, else it is
// ErrBadToken. Its text is fit for a client: it holds nothing secret.
func (v *Verifier) Verify(raw string, now time.Time) (Claims, error) {
	return v.verify(raw, now, UseAccess)
}

// VerifyRefresh is Verify for refresh tokens, and refuses access tokens.
func (v *Verifier) VerifyRefresh(raw string, now time.Time) (Claims, error) {
	return v.verify(raw, now, UseRefresh)
}

func (v *Verifier) verify(raw string, now time.Time, use string) (Claims, error) {
	if len(raw) > wire.MaxTokenLen {
		return Claims{}, fmt.Errorf("%w: longer than %d bytes", ErrBadToken, wire.MaxTokenLen)
	}
	var p payload
	if _, err := v.parser.ParseWithClaims(raw, &p, v.keyOf); err != nil {
		if errors.Is(err, ErrBadToken) {
			return Claims{}, err //nolint:wrapcheck // it is ours, from keyOf
		}
		return Claims{}, fmt.Errorf("%w: %w", ErrBadToken, err)
	}
	return p.claims(now, use)
}

// keyOf returns the key that a token names, if the token's algorithm is the
// key's. Without that a public RSA key would serve as an HS256 secret.
func (v *Verifier) keyOf(t *jwt.Token) (any, error) {
	if _, ok := t.Header["crit"]; ok { // RFC 7515, 4.1.11: extensions that must be understood, and are not
		return nil, fmt.Errorf("%w: header has crit", ErrBadToken)
	}
	kid, _ := t.Header["kid"].(string)
	if kid == "" {
		return nil, fmt.Errorf("%w: header has no kid", ErrBadToken)
	}
	k, ok := v.keys[kid]
	if !ok {
		return nil, ErrUnknownKey
	}
	if t.Method.Alg() != k.method.Alg() {
		return nil, fmt.Errorf("%w: alg is not the key's, %s", ErrBadToken, k.method.Alg())
	}
	return k.public, nil
}

// issued is when the token was made, to the millisecond where that was one of
// ours; zero if it does not say.
func (p *payload) issued() time.Time {
	if ms := time.UnixMilli(p.IssuedMS); ms.Truncate(time.Second).Equal(p.IssuedAt.Truncate(time.Second)) {
		return ms
	}
	return p.IssuedAt.Time
}

// claims judges what a signed payload says.
func (p *payload) claims(now time.Time, use string) (Claims, error) {
	c := Claims{
		User: wire.UserID(p.Subject), Device: wire.DeviceID(p.Device),
		Roles: p.Roles, ID: p.ID, Use: p.Use,
	}
	switch {
	case !wire.ValidID(p.Subject):
		return Claims{}, fmt.Errorf("%w: sub is not a user id", ErrBadToken)
	case p.Device != "" && !wire.ValidID(p.Device):
		return Claims{}, fmt.Errorf("%w: device is not an id", ErrBadToken)
	case len(p.Roles) > maxRoles:
		return Claims{}, fmt.Errorf("%w: more than %d roles", ErrBadToken, maxRoles)
	case p.Use != use:
		return Claims{}, ErrWrongUse
	}
	if err := p.checkTimes(now); err != nil {
		return Claims{}, err
	}
	if len(c.Roles) == 0 {
		c.Roles = []string{RoleUser}
	}
	c.IssuedAt, c.Expires = p.issued(), p.ExpiresAt.Time
	if c.AuthTime = c.IssuedAt; p.AuthMS > 0 && p.AuthMS < c.IssuedAt.UnixMilli() {
		c.AuthTime = time.UnixMilli(p.AuthMS)
	}
	return c, nil
}

func (p *payload) checkTimes(now time.Time) error {
	ahead := now.Add(ClockSkew)
	switch {
	case p.ExpiresAt == nil:
		return fmt.Errorf("%w: exp is missing", ErrBadToken)
	case p.IssuedAt == nil: // a revocation tells by it which tokens it voids
		return fmt.Errorf("%w: iat is missing", ErrBadToken)
	case p.IssuedAt.After(ahead):
		return fmt.Errorf("%w: iat is in the future", ErrBadToken)
	case p.NotBefore != nil && p.NotBefore.After(ahead):
		return fmt.Errorf("%w: nbf is in the future", ErrBadToken)
	case !now.Before(p.ExpiresAt.Time), now.Sub(p.issued()) > MaxAge:
		return ErrExpired
	}
	return nil
}
