package registry_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/testkit/redistest"
	"github.com/starling-im/starling/common/wire"
)

// TestNoScriptsOnHotPaths: what is done for each log-in, send, push and sync is
// plain commands.
func TestNoScriptsOnHotPaths(t *testing.T) {
	s := redistest.Start(t)
	e := newTier(t, testConfig(s.Addr), "a")
	e.untilKnown("at first") // an index that begins and becomes known: scripts
	r, ctx := e.r, t.Context()
	s.Do("config", "resetstat")
	e.renew()
	q := []registry.Reservation{{Conv: "g:g", From: "u", ClientID: "c", ID: 1}}
	_, err1 := r.PutRoutes(ctx, map[wire.UserID][]registry.Route{"u": {{Conn: 1, Server: "a", Epoch: 1, Device: "d"}}})
	_, err2 := r.AddGroupEdge(ctx, "a", []wire.GroupID{"g"})
	_, err3 := r.Reserve(ctx, q)
	_, err4 := r.AreMembers(ctx, []registry.Membership{{Group: "g", User: "u"}})
	_, err5 := r.Lookup(ctx, []wire.UserID{"u"}, []wire.GroupID{"g"})
	_, err6 := r.GetMessages(ctx, []wire.MsgID{1})
	_, err7 := r.Offline(ctx, "u")
	_, err8 := r.LastSeen(ctx, []wire.UserID{"u"})
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, r.MarkAcked(ctx, q, []int64{1}),
		r.PutMessages(ctx, []registry.CachedMsg{{ID: 1}}), r.FileOffline(ctx, []registry.OfflineEntry{{User: "u", Conv: "g:g", Seq: 1, ID: 1}}),
		r.ClearOffline(ctx, "u", "g:g", 1), r.PutMembers(ctx, "g", []wire.UserID{"u"}), r.ChangeMembers(ctx, "g", []wire.UserID{"v"}, nil),
		r.SetLastSeen(ctx, "u", 1)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range regexp.MustCompile(`cmdstat_([a-z|]+):`).FindAllStringSubmatch(s.Do("info", "commandstats"), -1) {
		got = append(got, m[1])
	}
	for _, want := range []string{"hset", "hgetall", "hincrby", "set", "get"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s was not called: this shows nothing", want)
		}
	}
	for _, c := range got {
		if strings.HasPrefix(c, "eval") || strings.HasPrefix(c, "script") || c == "keys" || c == "scan" {
			t.Errorf("%s was called", c)
		}
	}
}

// TestTLS: a server that speaks TLS alone, with a certificate of an authority
// that only the file names.
func TestTLS(t *testing.T) {
	redistest.Need(t)
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	addr := testkit.Reserve(t, 1)[0]
	_, port, _ := net.SplitHostPort(addr)
	s := redistest.StartOn(t, addr, "--port", "0", "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key,
		"--tls-ca-cert-file", cert, "--tls-auth-clients", "no")
	c := testConfig(s.Addr)
	c.Timeout = time.Second
	ping := func(c registry.Config) error { return newRedis(t, c).Ping(t.Context()) }
	if err := ping(c); err == nil {
		t.Fatal("answered without TLS: this shows nothing")
	}
	c.TLS = true
	if err := ping(c); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with a certificate of nobody we know: %v", err)
	}
	c.CAFile = cert
	if err := ping(c); err != nil {
		t.Error(err)
	}
	for _, file := range []string{key, filepath.Join(dir, "none")} {
		c.CAFile = file
		if _, err := registry.New(c, zaptest.NewLogger(t), prometheus.NewRegistry()); err == nil || !strings.Contains(err.Error(), "redis.ca-file") {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// certificate writes one for 127.0.0.1 that is its own authority.
func certificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err1 := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	kder, err2 := x509.MarshalPKCS8PrivateKey(k)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	err3 := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	err4 := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder}), 0o600)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// TestSweep: what dead edges left goes, what lives stays, on each master.
func TestSweep(t *testing.T) {
	t.Parallel()
	s := redistest.StartCluster(t, 3, false)
	e := newTier(t, clusterConfig(s), "a", "b")
	r, ctx := e.r, t.Context()
	e.untilKnown("at first")
	const n = 30
	for i := range n {
		u, g := wire.UserID("u"+strconv.Itoa(i)), wire.GroupID("g"+strconv.Itoa(i))
		for j, l := range []registry.Lease{e.leases[0], e.leases[1], {Server: "a", Epoch: 0}} {
			_, err := r.PutRoutes(ctx, map[wire.UserID][]registry.Route{u: {{Conn: wire.ConnID(j + 1), Server: l.Server, Epoch: l.Epoch, Device: wire.DeviceID("d" + strconv.Itoa(j))}}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.AddGroupEdge(ctx, l.Server, []wire.GroupID{g}); err != nil {
				t.Fatal(err)
			}
		}
	}
	swept := func() (int, error) { e.renew(); return r.SweepOnce(ctx) }
	if got, err := swept(); err != nil || got != n { // those of a's older epoch
		t.Errorf("swept %d, %v, while both live", got, err)
	}
	e.leases = e.leases[:1]
	redistest.Eventually(t, "b is dead", func() bool {
		e.renew()
		ls, err := r.Live(ctx, registry.TierEdge)
		return err == nil && len(ls) == 1
	})
	if got, err := swept(); err != nil || got != 2*n {
		t.Errorf("swept %d, %v, once one is dead", got, err)
	}
	if got, err := swept(); err != nil || got != 0 {
		t.Errorf("swept %d, %v, again", got, err)
	}
	rs, err := r.Lookup(ctx, []wire.UserID{"u0", "u29"}, []wire.GroupID{"g0", "g29"})
	if err != nil || len(rs.Users["u0"]) != 1 || len(rs.Users["u29"]) != 1 || len(rs.Groups["g0"]) != 1 || len(rs.Groups["g29"]) != 1 {
		t.Errorf("left: %+v, %v", rs, err)
	}
	// With the leases lost all seem dead: nothing may go until it is known again.
	for _, m := range s.Masters { // it is on one of them
		if out, err := m.Try("del", "leases:{edge}"); err != nil {
			t.Fatal(out, err)
		}
	}
	s.Masters[0].Do("flushall")
	if got, err := r.SweepOnce(ctx); err != nil || got != 0 {
		t.Errorf("swept %d, %v, of an index that is not known", got, err)
	}
}
