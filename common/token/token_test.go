package token

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// at is the clock of these tests.
var at = time.Unix(1_800_000_000, 0)

// jwk returns the JSON form of key material.
func jwk(tb testing.TB, kid string, material any, private bool) jwkset.JWKMarshal {
	tb.Helper()
	j, err := jwkset.NewJWKFromKey(material, jwkset.JWKOptions{
		Marshal:  jwkset.JWKMarshalOptions{Private: private},
		Metadata: jwkset.JWKMetadataOptions{KID: kid},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return j.Marshal()
}

// writeSet writes a JWKS file and returns its path.
func writeSet(tb testing.TB, keys ...jwkset.JWKMarshal) string {
	tb.Helper()
	b, err := json.Marshal(jwkset.JWKSMarshal{Keys: keys})
	if err != nil {
		tb.Fatal(err)
	}
	return writeFile(tb, b)
}

func writeFile(tb testing.TB, b []byte) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), FileName)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func load(tb testing.TB, keys ...jwkset.JWKMarshal) *Keyring {
	tb.Helper()
	k, err := Load(writeSet(tb, keys...))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func secret(fill string) []byte { return []byte(strings.Repeat(fill, minSecret)) }

func rsaKey(tb testing.TB, bits int) *rsa.PrivateKey {
	tb.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func ecKey(tb testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	tb.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func TestMintVerify(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	want := Claims{
		User: "alice", Device: "web-1", Roles: []string{RoleAdmin, RoleUser}, ID: "j1",
		IssuedAt: at, AuthTime: at.Add(-time.Minute), Expires: at.Add(time.Hour),
	}
	for alg, material := range map[string]any{
		"HS256": secret("s"), "EdDSA": ed, "ES256": ecKey(t, elliptic.P256()), "RS256": rsaKey(t, 2048),
	} {
		t.Run(alg, func(t *testing.T) {
			k := load(t, jwk(t, "k1", material, true))
			raw, err := k.Mint(want, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			parsed, _, err := jwt.NewParser().ParseUnverified(raw, jwt.MapClaims{})
			if err != nil || parsed.Header["alg"] != alg || parsed.Header["kid"] != "k1" {
				t.Errorf("header %v, %v, want alg %s", parsed.Header, err, alg)
			}
			got, err := k.Verifier().Verify(raw, at.Add(time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
			if alg == "HS256" {
				return
			}
			public := load(t, jwk(t, "k1", material, false))
			if _, err := public.Verifier().Verify(raw, at); err != nil {
				t.Errorf("by the public key: %v", err)
			}
			if _, err := public.Mint(want, time.Hour); !errors.Is(err, ErrNoSigningKey) {
				t.Errorf("minting with a public key: %v", err)
			}
		})
	}
}

func TestMintDefaults(t *testing.T) {
	k := load(t, jwk(t, "k1", secret("s"), true))
	before := time.Now()
	raw, err := k.Mint(Claims{User: "alice"}, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	c, err := k.Verifier().Verify(raw, before)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Has(RoleUser) || c.Has(RoleAdmin) || c.ID == "" || c.IssuedAt.IsZero() || c.Device != "" {
		t.Errorf("claims %+v", c)
	}
	if c.Expires.Before(before.Add(time.Millisecond)) {
		t.Errorf("expires %v, before the lifetime asked for is over", c.Expires)
	}
	again, err := k.Mint(Claims{User: "alice"}, time.Hour)
	if err != nil || again == raw {
		t.Errorf("two tokens are the same, %v", err)
	}
}

func TestMintRefuses(t *testing.T) {
	k := load(t, jwk(t, "k1", secret("s"), true))
	for name, c := range map[string]Claims{
		"no user": {}, "bad user": {User: "a:b"}, "bad device": {User: "a", Device: "x y"},
		"unknown role": {User: "a", Roles: []string{"root"}}, "unknown use": {User: "a", Use: "x"},
		"roles": {User: "a", Roles: make([]string, maxRoles+1)},
	} {
		if raw, err := k.Mint(c, time.Hour); err == nil {
			t.Errorf("%s: minted %s", name, raw)
		}
	}
	if _, err := k.Mint(Claims{User: "a"}, 0); err == nil {
		t.Error("minted a token without a lifetime")
	}
}

// sign makes a token by hand, so that it may say anything.
func sign(tb testing.TB, m jwt.SigningMethod, material any, header map[string]any, claims jwt.MapClaims) string {
	tb.Helper()
	tok := jwt.NewWithClaims(m, claims)
	maps.Copy(tok.Header, header)
	raw, err := tok.SignedString(material)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

func TestVerifyClaims(t *testing.T) {
	v := load(t, jwk(t, "k1", secret("s"), true)).Verifier()
	kid := map[string]any{"kid": "k1"}
	iat, exp := at.Unix()-10, at.Add(time.Hour).Unix()
	tests := []struct {
		name   string
		claims jwt.MapClaims
		want   error
	}{
		{"least", jwt.MapClaims{"sub": "alice", "exp": exp, "iat": iat}, nil},
		{"unknown role stays", jwt.MapClaims{"sub": "alice", "exp": exp, "roles": []string{"x"}, "iat": iat}, nil},
		{"no iat", jwt.MapClaims{"sub": "alice", "exp": exp}, ErrBadToken},
		{"iat long ago", jwt.MapClaims{"sub": "alice", "exp": exp, "iat": at.Add(-MaxAge).Unix() - 1}, ErrExpired},
		{"iat a minute ahead", jwt.MapClaims{"sub": "alice", "exp": exp, "iat": at.Unix() + 60}, nil},
		{"iat further ahead", jwt.MapClaims{"sub": "alice", "exp": exp, "iat": at.Unix() + 61}, ErrBadToken},
		{"nbf ahead", jwt.MapClaims{"sub": "alice", "exp": exp, "nbf": at.Unix() + 61, "iat": iat}, ErrBadToken},
		{"last second", jwt.MapClaims{"sub": "alice", "exp": at.Unix() + 1, "iat": iat}, nil},
		{"expired now", jwt.MapClaims{"sub": "alice", "exp": at.Unix(), "iat": iat}, ErrExpired},
		{"expired long ago", jwt.MapClaims{"sub": "alice", "exp": 1, "iat": iat}, ErrExpired},
		{"no exp", jwt.MapClaims{"sub": "alice", "iat": iat}, ErrBadToken},
		{"exp of wrong type", jwt.MapClaims{"sub": "alice", "exp": "x", "iat": iat}, ErrBadToken},
		{"no sub", jwt.MapClaims{"exp": exp, "iat": iat}, ErrBadToken},
		{"bad sub", jwt.MapClaims{"sub": "a:b", "exp": exp, "iat": iat}, ErrBadToken},
		{"bad device", jwt.MapClaims{"sub": "a", "exp": exp, "device": "a b", "iat": iat}, ErrBadToken},
		{"roles of wrong type", jwt.MapClaims{"sub": "a", "exp": exp, "roles": "admin", "iat": iat}, ErrBadToken},
		{"many roles", jwt.MapClaims{"sub": "a", "exp": exp, "roles": make([]string, maxRoles+1), "iat": iat}, ErrBadToken},
		{"refresh", jwt.MapClaims{"sub": "a", "exp": exp, "use": UseRefresh, "iat": iat}, ErrWrongUse},
		{"unknown use", jwt.MapClaims{"sub": "a", "exp": exp, "use": "x", "iat": iat}, ErrWrongUse},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := v.Verify(sign(t, jwt.SigningMethodHS256, secret("s"), kid, tt.claims), at)
			if !errors.Is(err, tt.want) || (tt.want == nil && err != nil) {
				t.Fatalf("Verify = %+v, %v, want %v", c, err, tt.want)
			}
			if err != nil && !errors.Is(err, ErrExpired) && !errors.Is(err, ErrBadToken) {
				t.Errorf("%v is neither ErrExpired nor ErrBadToken", err)
			}
			if errors.Is(err, ErrExpired) && errors.Is(err, ErrBadToken) {
				t.Error("an expired token is a bad one too")
			}
		})
	}
}

func TestRefreshTokens(t *testing.T) {
	k := load(t, jwk(t, "k1", secret("s"), true))
	refresh, err := k.Mint(Claims{User: "alice", Use: UseRefresh, IssuedAt: at}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	access, err := k.Mint(Claims{User: "alice", IssuedAt: at}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	v := k.Verifier()
	if c, err := v.VerifyRefresh(refresh, at); err != nil || c.User != "alice" || c.Use != UseRefresh {
		t.Errorf("VerifyRefresh = %+v, %v", c, err)
	}
	if _, err := v.Verify(refresh, at); !errors.Is(err, ErrWrongUse) {
		t.Errorf("a refresh token for access: %v", err)
	}
	if _, err := v.VerifyRefresh(access, at); !errors.Is(err, ErrWrongUse) {
		t.Errorf("an access token for refresh: %v", err)
	}
}

// TestKeyAlone: nothing in a token's header may choose how it is checked, but
// the kid, and that only among the keys of the file.
func TestKeyAlone(t *testing.T) {
	key := rsaKey(t, 2048)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	v := load(t, jwk(t, "rsa", key, false), jwk(t, "hs", secret("s"), true), jwk(t, "hs2", secret("z"), true)).Verifier()
	claims := jwt.MapClaims{"sub": "alice", "exp": at.Add(time.Hour).Unix(), "iat": at.Unix()}
	kid := func(s any) map[string]any { return map[string]any{"kid": s} }
	hs, rs := jwt.SigningMethodHS256, jwt.SigningMethodRS256
	good := sign(t, hs, secret("s"), kid("hs"), claims)
	if _, err := v.Verify(good, at); err != nil {
		t.Fatal(err)
	}
	dots := strings.Split(good, ".")
	for name, raw := range map[string]string{
		"public key as secret":     sign(t, hs, der, kid("rsa"), claims),
		"modulus as secret":        sign(t, hs, key.N.Bytes(), kid("rsa"), claims),
		"none":                     sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, kid("hs"), claims),
		"HS512":                    sign(t, jwt.SigningMethodHS512, secret("s"), kid("hs"), claims),
		"crit":                     sign(t, hs, secret("s"), map[string]any{"kid": "hs", "crit": []string{"exp"}}, claims),
		"RS512":                    sign(t, jwt.SigningMethodRS512, key, kid("rsa"), claims),
		"PS256":                    sign(t, jwt.SigningMethodPS256, key, kid("rsa"), claims),
		"RS256 for an HS256 key":   sign(t, rs, key, kid("hs"), claims),
		"another key's secret":     sign(t, hs, secret("z"), kid("hs"), claims),
		"no kid":                   sign(t, hs, secret("s"), nil, claims),
		"empty kid":                sign(t, hs, secret("s"), kid(""), claims),
		"kid of wrong type":        sign(t, hs, secret("s"), kid(7), claims),
		"alg changed in header":    sign(t, hs, secret("s"), map[string]any{"kid": "hs", "alg": "none"}, claims),
		"signature cut":            dots[0] + "." + dots[1] + ".",
		"signature changed":        good[:len(good)-6] + "AAAAAA",
		"payload of another token": dots[0] + "." + strings.Split(sign(t, hs, secret("z"), kid("hs"), jwt.MapClaims{"sub": "bob"}), ".")[1] + "." + dots[2],
		"empty":                    "", "dots": "..", "text": "hello", "four parts": good + ".x",
		"too long": good + strings.Repeat("A", wire.MaxTokenLen),
	} {
		if c, err := v.Verify(raw, at); !errors.Is(err, ErrBadToken) {
			t.Errorf("%s: %+v, %v, want ErrBadToken", name, c, err)
		}
	}
	// The library would refuse the mix of types by itself; ours comes first.
	mixed := &jwt.Token{Method: hs, Header: map[string]any{"kid": "rsa"}}
	if key, err := v.keyOf(mixed); !errors.Is(err, ErrBadToken) {
		t.Errorf("an HS256 token is checked with %T, %v", key, err)
	}
	if _, err := v.Verify(sign(t, hs, secret("s"), kid("other"), claims), at); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("unknown kid: %v, want ErrUnknownKey", err)
	}
}

func FuzzVerify(f *testing.F) {
	k := load(f, jwk(f, "k1", secret("s"), true))
	raw, err := k.Mint(Claims{User: "alice", Device: "d", ID: "j1", IssuedAt: at}, time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add("a.b.c")
	f.Add("")
	v := k.Verifier()
	f.Fuzz(func(t *testing.T, s string) {
		c, err := v.Verify(s, at)
		if err != nil {
			if !errors.Is(err, ErrBadToken) && !errors.Is(err, ErrExpired) {
				t.Fatalf("%v is not one of the package's errors", err)
			}
			return
		}
		// Nobody guesses a signature: what passes bears the seed's payload.
		if c.User != "alice" || strings.Split(s, ".")[1] != strings.Split(raw, ".")[1] {
			t.Fatalf("%q passed as %+v", s, c)
		}
	})
}

// FuzzPayload signs whatever the fuzzer finds, so that the claims are reached.
func FuzzPayload(f *testing.F) {
	v := load(f, jwk(f, "k1", secret("s"), true)).Verifier()
	f.Add(`{"sub":"alice","exp":1800000001,"iat":1e3,"roles":["admin"],"device":"d"}`)
	f.Add(`{"sub":"alice","exp":1e300}`)
	f.Fuzz(func(t *testing.T, body string) {
		tok := jwt.NewWithClaims(jwt.SigningMethodHS256, rawClaims{body: body})
		tok.Header["kid"] = "k1"
		raw, err := tok.SignedString(secret("s"))
		if err != nil {
			return // not JSON at all
		}
		if c, err := v.Verify(raw, at); err == nil && (!wire.ValidID(string(c.User)) || !c.Expires.After(at) || len(c.Roles) == 0) {
			t.Fatalf("%q passed as %+v", body, c)
		}
	})
}

type rawClaims struct {
	body string
	jwt.MapClaims
}

func (r rawClaims) MarshalJSON() ([]byte, error) { return []byte(r.body), nil }

func BenchmarkVerifyHS256(b *testing.B) {
	k := load(b, jwk(b, "k1", secret("s"), true))
	raw, err := k.Mint(Claims{User: "alice", Device: "web-1", IssuedAt: at}, time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	v := k.Verifier()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(raw, at); err != nil {
			b.Fatal(err)
		}
	}
}
