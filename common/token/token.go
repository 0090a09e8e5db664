// Package token makes and checks the JWTs that users and services log in with.
//
// Keys stand in a JWKS file. A token names its key by kid; the key's own
// algorithm (HS256, EdDSA, ES256 or RS256) is the only one accepted for it,
// whatever the token's header says. exp is required; iat and nbf may lie up to
// a minute ahead. A refresh token bears use "refresh" and opens nothing but
// VerifyRefresh.
//
// Keyring and Verifier do not change after they are made and are safe for
// concurrent use. Limits: a token of 8 KiB, a file of 1 MiB. Revocation is not
// judged here.
package token

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/starling-im/starling/common/wire"
)

// Roles of docs/protocol.md section 4.
const (
	RoleUser     = "user"
	RoleOperator = "operator"
	RoleAdmin    = "admin"
	RoleService  = "service"
)

// Uses of a token.
const (
	UseAccess  = ""
	UseRefresh = "refresh"
)

// ClockSkew is how far another issuer's clock may be ahead.
const ClockSkew = time.Minute

// MaxAge is how long after its iat a token is good at most, whatever its exp: a
// revocation need not be remembered for longer.
const MaxAge = 90 * 24 * time.Hour

// maxRoles bounds the roles of a token.
const maxRoles = 32

// Errors of Verify. All but ErrExpired are ErrBadToken too.
var (
	ErrBadToken   = errors.New("bad token")
	ErrExpired    = errors.New("token has expired")
	ErrUnknownKey = fmt.Errorf("%w: signed with a key that is not in the JWKS", ErrBadToken)
	ErrWrongUse   = fmt.Errorf("%w: made for another use", ErrBadToken)
)

// ErrNoSigningKey is returned by Mint when the file holds public keys alone.
var ErrNoSigningKey = errors.New("no key in the JWKS can sign (it holds public keys only); mint with the issuer's own key")

// Claims is what a token says.
type Claims struct {
	User     wire.UserID
	Device   wire.DeviceID // "" where the token binds no device
	Roles    []string      // RoleUser alone where the token names none
	ID       string        // jti; "" where another issuer sets none
	Use      string        // UseAccess or UseRefresh
	IssuedAt time.Time
	AuthTime time.Time // when the user logged in, which a refresh keeps; IssuedAt where the token does not say
	Expires  time.Time
}

// Has says whether the token bears a role.
func (c Claims) Has(role string) bool { return slices.Contains(c.Roles, role) }

// ValidRole says whether a role is one of docs/protocol.md.
func ValidRole(role string) bool {
	switch role {
	case RoleUser, RoleOperator, RoleAdmin, RoleService:
		return true
	}
	return false
}

// payload is the claims' form in a JWT.
type payload struct {
	Device string   `json:"device,omitempty"`
	Roles  []string `json:"roles,omitempty"`
	Use    string   `json:"use,omitempty"`
	// IssuedMS is iat in ms: a revocation tells tokens of one second apart.
	IssuedMS int64 `json:"iat_ms,omitempty"`
	// AuthMS is auth_time (OpenID Connect Core 1.0, 2) in ms.
	AuthMS int64 `json:"auth_ms,omitempty"`
	jwt.RegisteredClaims
}

// Mint signs a token with the ring's first private key. It sets ID when that is
// empty, IssuedAt when that is zero, Roles to RoleUser when there are none, and
// Expires to ttl after IssuedAt, rounded up to a second.
func (k *Keyring) Mint(c Claims, ttl time.Duration) (string, error) {
	if k.signer == nil {
		return "", ErrNoSigningKey
	}
	if err := c.check(ttl); err != nil {
		return "", fmt.Errorf("mint a token: %w", err)
	}
	if c.IssuedAt.IsZero() {
		c.IssuedAt = time.Now()
	}
	if c.ID == "" {
		c.ID = rand.Text()
	}
	if len(c.Roles) == 0 {
		c.Roles = []string{RoleUser}
	}
	var authMS int64
	if !c.AuthTime.IsZero() && c.AuthTime.Before(c.IssuedAt) {
		authMS = c.AuthTime.UnixMilli()
	}
	t := jwt.NewWithClaims(k.signer.method, payload{
		Device: string(c.Device), Roles: c.Roles, Use: c.Use, IssuedMS: c.IssuedAt.UnixMilli(), AuthMS: authMS,
		RegisteredClaims: jwt.RegisteredClaims{
			Subject: string(c.User), ID: c.ID,
			IssuedAt:  jwt.NewNumericDate(c.IssuedAt),
			ExpiresAt: jwt.NewNumericDate(c.IssuedAt.Add(ttl + time.Second - time.Nanosecond)),
		},
	})
	t.Header["kid"] = k.signer.kid
	raw, err := t.SignedString(k.signer.private)
	if err != nil {
		return "", fmt.Errorf("sign a token with key %q: %w", k.signer.kid, err)
	}
	return raw, nil
}

func (c Claims) check(ttl time.Duration) error {
	switch {
	case !wire.ValidID(string(c.User)):
		return fmt.Errorf("user %.70q is not an id: 1–64 of A–Z a–z 0–9 . _ @ -", string(c.User))
	case c.Device != "" && !wire.ValidID(string(c.Device)):
		return fmt.Errorf("device %.70q is not an id: 1–64 of A–Z a–z 0–9 . _ @ -", string(c.Device))
	case c.Use != UseAccess && c.Use != UseRefresh:
		return fmt.Errorf("use %.70q is neither empty nor %q", c.Use, UseRefresh)
	case ttl <= 0:
		return fmt.Errorf("lifetime %v is not positive", ttl)
	case len(c.Roles) > maxRoles:
		return fmt.Errorf("more than %d roles", maxRoles)
	}
	for _, r := range c.Roles {
		if !ValidRole(r) {
			return fmt.Errorf("role %.70q is none of user, operator, admin, service", r)
		}
	}
	return nil
}
