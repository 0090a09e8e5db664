package token

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
)

func TestLoadOrCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "data")
	first, err := LoadOrCreate(dir)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := first.Mint(Claims{User: "alice"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	second, err := LoadOrCreate(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Verifier().Verify(raw, time.Now()); err != nil {
		t.Errorf("the second start does not know the first one's key: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, FileName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v, want mode 0600", info.Mode(), err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("new directory: %v, %v, want mode 0700", info.Mode(), err)
	}
	onlyKeyFile(t, dir)
}

// onlyKeyFile checks that no temporary file was left.
func onlyKeyFile(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%s holds %v, %v, want %s alone", dir, entries, err, FileName)
	}
}

// TestLoadOrCreateAtOnce: of many starting at once all end with one key.
func TestLoadOrCreateAtOnce(t *testing.T) {
	for range 10 {
		dir := filepath.Join(t.TempDir(), "data")
		rings := make([]*Keyring, 16)
		var wg sync.WaitGroup
		for i := range rings {
			wg.Go(func() {
				k, err := LoadOrCreate(dir)
				if err != nil {
					t.Error(err)
					return
				}
				rings[i] = k
			})
		}
		wg.Wait()
		for _, k := range rings {
			if k == nil || k.signer.kid != rings[0].signer.kid {
				t.Fatal("not all have the same key")
			}
		}
		onlyKeyFile(t, dir)
	}
}

func TestLoadOrCreateKeepsBrokenFile(t *testing.T) {
	path := writeFile(t, []byte("{"))
	if _, err := LoadOrCreate(filepath.Dir(path)); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("broken key file: %v, want an error naming %s", err, path)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "{" {
		t.Errorf("broken key file became %q, %v", b, err)
	}
}

func TestLoadOrCreateNowhere(t *testing.T) {
	file := writeFile(t, nil)
	if _, err := LoadOrCreate(filepath.Join(file, "sub")); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("directory under a file: %v, want an error naming %s", err, file)
	}
}

func TestLoadPassesOver(t *testing.T) {
	key := rsaKey(t, 2048)
	enc, oaep, p384 := jwk(t, "enc", key, false), jwk(t, "oaep", key, false), jwk(t, "p384", ecKey(t, elliptic.P384()), false)
	enc.USE, oaep.ALG = jwkset.UseEnc, jwkset.AlgRSAOAEP
	hs512 := jwk(t, "hs512", secret("s"), true)
	hs512.ALG = jwkset.AlgHS512
	okp := jwkset.JWKMarshal{KTY: jwkset.KtyOKP, CRV: jwkset.CrvX25519, KID: "x", X: "AA"}
	future := jwkset.JWKMarshal{KTY: "AKP", KID: "pq"}
	k := load(t, enc, oaep, p384, hs512, okp, future, jwk(t, "rsa", key, false))
	if len(k.verifier.keys) != 1 || k.verifier.keys["rsa"] == nil {
		t.Errorf("%d keys taken, want rsa alone", len(k.verifier.keys))
	}
	if _, err := Load(writeSet(t, enc, oaep)); err == nil || !strings.Contains(err.Error(), "no key for HS256") {
		t.Errorf("a set without a usable key: %v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	edKey := jwk(t, "ed", ed, true)
	edKey.ALG = jwkset.AlgES256
	wrongAlg, noKID := jwk(t, "hs", secret("s"), true), jwk(t, "", secret("s"), true)
	wrongAlg.ALG = jwkset.AlgRS256
	broken := jwk(t, "ec", ecKey(t, elliptic.P256()), false)
	broken.X = broken.Y
	hs := jwk(t, "hs", secret("s"), true)
	encode := func(keys ...jwkset.JWKMarshal) []byte {
		b, err := json.Marshal(jwkset.JWKSMarshal{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for want, file := range map[string][]byte{
		"is too short for HS256":       encode(jwk(t, "hs", []byte("short"), true)),
		"kid \"hs\" stands twice":      encode(hs, hs),
		"has no kid":                   encode(noKID),
		"broken; copy it again":        encode(broken),
		"alg RS256 does not belong":    encode(wrongAlg),
		"alg ES256 does not belong":    encode(edKey),
		"RSA modulus of 1024 bits":     []byte(`{"keys":[{"kty":"RSA","kid":"r","e":"AQAB","n":"` + strings.Repeat("_", 170) + `8"}]}`),
		"not a JSON Web Key Set":       []byte(`[]`),
		"no key for HS256":             []byte(`{}`),
		"is over 1 MiB":                []byte(`{"keys":[]}` + strings.Repeat(" ", maxFile)),
		"unexpected end of JSON input": nil,
	} {
		path := writeFile(t, file)
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("Load = %v, want %q and the path", err, want)
		}
	}
	missing := filepath.Join(t.TempDir(), "none.json")
	if _, err := Load(missing); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "starling token") {
		t.Errorf("missing file: %v, want its name and the remedy", err)
	}
}

// TestRotation: a token signed with an older key of the file still passes.
func TestRotation(t *testing.T) {
	older := jwk(t, "2025", secret("a"), true)
	raw, err := load(t, older).Mint(Claims{User: "alice"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	rotated := load(t, jwk(t, "2026", secret("b"), true), older)
	if _, err := rotated.Verifier().Verify(raw, time.Now()); err != nil {
		t.Errorf("token of the older key: %v", err)
	}
	if rotated.signer.kid != "2026" {
		t.Errorf("signs with %s, want the first key", rotated.signer.kid)
	}
}

func FuzzParse(f *testing.F) {
	b, err := newSet()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA","kid":"a"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","e":"AQAB","n":"AA","d":"AA","kid":"a"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := parse(b)
		if (err == nil) != (k != nil && len(k.verifier.keys) > 0) {
			t.Fatalf("%q: %+v, %v", b, k, err)
		}
	})
}
