package token

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// FileName is the name of the JWKS file in a data directory.
const FileName = "keys.json"

const (
	maxFile     = 1 << 20
	minSecret   = 32   // bytes of an HS256 secret, RFC 7518 section 3.2
	minRSA      = 2048 // bits of an RSA modulus, RFC 7518 section 3.3
	secretBytes = 32   // of a secret made here
)

// key is one key of a JWKS.
type key struct {
	kid     string
	method  jwt.SigningMethod
	public  any // what checks a signature: for HS256 the secret
	private any // what signs; nil in a public key
}

// Keyring holds the keys of one JWKS file.
type Keyring struct {
	signer   *key
	verifier *Verifier
}

// Verifier returns the verifier of the ring's keys.
func (k *Keyring) Verifier() *Verifier { return k.verifier }

// Load reads a JWKS file. Keys for encryption and for algorithms that Starling
// does not take are passed over; a key that is weak, broken or without a kid is
// an error, and so is a file without any usable key.
func Load(path string) (*Keyring, error) {
	f, err := os.Open(path) //nolint:gosec // the path is the operator's
	if err != nil {
		return nil, fmt.Errorf("open the JWKS file (it is made by `starling token -data DIR`, or by the issuer of the tokens): %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read the JWKS file %s: %w", path, err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("JWKS file %s is over 1 MiB; keep only the keys in use", path)
	}
	k, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("JWKS file %s: %w", path, err)
	}
	return k, nil
}

// LoadOrCreate reads dir/keys.json, or makes it (and dir) with one new HS256
// key. Of several processes doing so at once one makes the file and all end
// with its key.
func LoadOrCreate(dir string) (*Keyring, error) {
	path := filepath.Join(dir, FileName)
	k, err := Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := create(dir, path); err != nil {
		return nil, fmt.Errorf("make the key file %s: %w", path, err)
	}
	return Load(path)
}

// create writes a new file beside path and links it into place: linking fails
// when path stands already, and shows nobody half a file.
func create(dir, path string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	b, err := newSet()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".keys-*.tmp") // with mode 0600
	if err != nil {
		return fmt.Errorf("make a temporary file: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, werr := f.Write(b)
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write the temporary file: %w", err)
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("put it in place: %w", err)
	}
	return syncDir(dir)
}

// syncDir makes a new name in dir durable: a key lost with the machine's power
// would make every token of the first minutes worthless.
func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the path is the operator's
	if err != nil {
		return fmt.Errorf("open the directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	return nil
}

// newSet returns the JSON of a JWKS with one new HS256 key.
func newSet() ([]byte, error) {
	secret := make([]byte, secretBytes)
	_, _ = rand.Read(secret) // never fails
	b, err := json.MarshalIndent(jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{{
		KTY: jwkset.KtyOct, ALG: jwkset.AlgHS256, USE: jwkset.UseSig,
		KID: rand.Text()[:16], K: base64.RawURLEncoding.EncodeToString(secret),
	}}}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the new key: %w", err)
	}
	return append(b, '\n'), nil
}

// parse reads the JSON of a JWKS.
func parse(b []byte) (*Keyring, error) {
	var set jwkset.JWKSMarshal
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, fmt.Errorf("not a JSON Web Key Set {\"keys\":[…]}: %w", err)
	}
	k := new(Keyring)
	keys := make(map[string]*key, len(set.Keys))
	for i, m := range set.Keys {
		parsed, err := parseKey(m)
		switch {
		case err != nil:
			return nil, fmt.Errorf("key %d (kid %q): %w", i, m.KID, err)
		case parsed == nil:
			continue
		case keys[parsed.kid] != nil:
			return nil, fmt.Errorf("key %d: kid %q stands twice; give every key its own", i, m.KID)
		}
		keys[parsed.kid] = parsed
		if k.signer == nil && parsed.private != nil {
			k.signer = parsed
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("no key for HS256, EdDSA, ES256 or RS256; add the issuer's signing key")
	}
	k.verifier = newVerifier(keys)
	return k, nil
}

// parseKey reads one key; nil without an error is one to pass over.
func parseKey(m jwkset.JWKMarshal) (*key, error) {
	if !usable(m) {
		return nil, nil //nolint:nilnil // documented above
	}
	if m.KID == "" {
		return nil, errors.New("has no kid, by which tokens name it; add one")
	}
	// Certificates beside a key are not judged: the file itself is trusted.
	m.X5C, m.X5U, m.X5T, m.X5TS256 = nil, "", "", ""
	j, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{Private: true}, jwkset.JWKValidateOptions{})
	if err != nil {
		return nil, fmt.Errorf("broken; copy it again from the issuer: %w", err)
	}
	k := &key{kid: m.KID}
	if err := k.set(j.Key()); err != nil {
		return nil, err
	}
	if m.ALG != "" && m.ALG.String() != k.method.Alg() {
		return nil, fmt.Errorf("alg %s does not belong to a key of type %s", m.ALG, m.KTY)
	}
	return k, nil
}

// usable says whether a key is meant for signatures that Starling takes.
func usable(m jwkset.JWKMarshal) bool {
	if m.USE != "" && m.USE != jwkset.UseSig {
		return false
	}
	switch m.ALG {
	case "", jwkset.AlgHS256, jwkset.AlgEdDSA, jwkset.AlgES256, jwkset.AlgRS256:
	default:
		return false
	}
	switch m.KTY {
	case jwkset.KtyOct, jwkset.KtyRSA:
		return true
	case jwkset.KtyEC:
		return m.CRV == jwkset.CrvP256
	case jwkset.KtyOKP:
		return m.CRV == jwkset.CrvEd25519
	}
	return false
}

// set takes key material and the algorithm that goes with it.
func (k *key) set(material any) error {
	switch v := material.(type) {
	case []byte:
		if len(v) < minSecret {
			return fmt.Errorf("secret of %d bytes is too short for HS256; make one of %d or more", len(v), minSecret)
		}
		k.method, k.public, k.private = jwt.SigningMethodHS256, v, v
	case ed25519.PrivateKey:
		k.method, k.public, k.private = jwt.SigningMethodEdDSA, v.Public(), v
	case ed25519.PublicKey:
		k.method, k.public = jwt.SigningMethodEdDSA, v
	case *ecdsa.PrivateKey:
		k.method, k.public, k.private = jwt.SigningMethodES256, &v.PublicKey, v
	case *ecdsa.PublicKey:
		k.method, k.public = jwt.SigningMethodES256, v
	case *rsa.PrivateKey:
		k.method, k.public, k.private = jwt.SigningMethodRS256, &v.PublicKey, v
	case *rsa.PublicKey:
		k.method, k.public = jwt.SigningMethodRS256, v
	default:
		return fmt.Errorf("material of type %T is not for signatures", material)
	}
	return k.strong()
}

// strong refuses keys that the algorithm's standard forbids.
func (k *key) strong() error {
	switch v := k.public.(type) {
	case *rsa.PublicKey:
		if v.N.BitLen() < minRSA {
			return fmt.Errorf("RSA modulus of %d bits is too short; make one of %d or more", v.N.BitLen(), minRSA)
		}
	case *ecdsa.PublicKey:
		if v.Curve != elliptic.P256() {
			return errors.New("curve is not P-256, which ES256 needs")
		}
	}
	return nil
}
