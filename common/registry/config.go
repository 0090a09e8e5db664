package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/starling-im/starling/common/config"
)

// Config is the settings of the Redis client.
type Config struct {
	Addrs    config.Strings // one: standalone; several: Cluster; with Master: Sentinels
	Cluster  bool           // also with one address
	Master   string         // name of the master that Sentinels watch
	Username string
	Password config.Secret

	SentinelUsername string        // of the Sentinels themselves
	SentinelPassword config.Secret // none is sent where it is empty

	TLS    bool   // to Redis and to Sentinels
	CAFile string // PEM; empty: the system's authorities

	DB         int
	Timeout    time.Duration // of each call
	PoolSize   int           // connections to each node
	BreakAfter int           // failures in a row that open the breaker
	BreakFor   time.Duration // then calls fail at once for so long
	Prefix     string        // of all keys; for tests and shared servers

	ReserveTTL   time.Duration // of reserved client ids
	CacheTTL     time.Duration // of message bodies
	MembersTTL   time.Duration // of groups' members
	OfflineTTL   time.Duration // of a user's offline list, since its last entry
	OfflineLimit int           // entries of an offline list; the oldest go first
}

// leasesFor is how long read leases are good for; a new lease is seen at once
// all the same (see index.go).
const leasesFor = 200 * time.Millisecond

// RegisterFlags registers the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet, prefix string) {
	fs.Var(&c.Addrs, prefix+"addrs", "Redis servers, host:port separated by commas; several are a Cluster, or Sentinels if master is set")
	fs.StringVar(&c.Master, prefix+"master", "", "name of the master watched by the Sentinels in addrs")
	fs.BoolVar(&c.Cluster, prefix+"cluster", false, "addrs is a Cluster, though it names one server (a hosted one's configuration endpoint)")
	fs.StringVar(&c.SentinelUsername, prefix+"sentinel-username", "", "user name at the Sentinels, where they have ACLs")
	fs.Var(&c.SentinelPassword, prefix+"sentinel-password", "password of the Sentinels; it is not that of Redis. @FILE reads it from a file")
	fs.BoolVar(&c.TLS, prefix+"tls", false, "speak TLS to Redis and to the Sentinels")
	fs.StringVar(&c.CAFile, prefix+"ca-file", "", "file of the authorities that sign the servers' certificates; empty: the system's")
	fs.StringVar(&c.Username, prefix+"username", "", "user name, where Redis has ACLs")
	fs.Var(&c.Password, prefix+"password", "password. @FILE reads it from a file")
	fs.IntVar(&c.DB, prefix+"db", 0, "database number; 0 on a Cluster")
	fs.DurationVar(&c.Timeout, prefix+"timeout", 100*time.Millisecond, "end of every call; there are no retries")
	fs.IntVar(&c.PoolSize, prefix+"pool-size", 64, "connections to each Redis node, at most")
	fs.IntVar(&c.BreakAfter, prefix+"break-after", 5, "failures in a row after which calls fail at once")
	fs.DurationVar(&c.BreakFor, prefix+"break-for", time.Second, "how long calls fail at once before one tries again")
	fs.StringVar(&c.Prefix, prefix+"prefix", "", "put before all keys, where the server is shared")
	fs.DurationVar(&c.ReserveTTL, prefix+"reserve-ttl", time.Hour, "how long reserved client ids are kept; repeats after that are found in the store; embedded: 10m at most")
	fs.DurationVar(&c.CacheTTL, prefix+"cache-ttl", time.Hour, "how long message bodies are cached; embedded: 10m at most")
	fs.DurationVar(&c.MembersTTL, prefix+"members-ttl", time.Hour, "how long members of groups are cached")
	fs.DurationVar(&c.OfflineTTL, prefix+"offline-ttl", 7*24*time.Hour, "how long an offline list is kept after its last entry")
	fs.IntVar(&c.OfflineLimit, prefix+"offline-limit", 1000, "entries of a user's offline list; older messages are read from the store")
}

// Validate returns all that is wrong, each error naming its key.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("redis."+format, args...))
		}
	}
	check(len(c.Addrs) > 0, "addrs: none given; name at least one host:port")
	for _, a := range c.Addrs {
		check(strings.LastIndexByte(a, ':') > 0, "addrs: %q has no port; write host:port", a)
	}
	check(!c.Cluster || c.Master == "", "cluster: master is set, too; Sentinels watch no Cluster, leave one of them out")
	check(c.Master != "" || c.SentinelUsername == "" && c.SentinelPassword.Reveal() == "", "master: not set, but there is a user or password of Sentinels; name the master that they watch")
	check(c.TLS || c.CAFile == "", "ca-file: %q without TLS; set redis.tls", c.CAFile)
	check(c.DB >= 0 && (c.DB == 0 || !c.Cluster && len(c.Addrs) == 1 || c.Master != ""), "db: %d; a Cluster has database 0 alone", c.DB)
	check(c.Timeout >= time.Millisecond && c.Timeout <= 10*time.Second, "timeout: %v; give 1ms to 10s", c.Timeout)
	check(c.PoolSize >= 1, "pool-size: %d; give at least 1", c.PoolSize)
	check(c.BreakAfter >= 1, "break-after: %d; give at least 1", c.BreakAfter)
	check(c.BreakFor > 0, "break-for: %v; give more than 0", c.BreakFor)
	check(!strings.ContainsAny(c.Prefix, "{} "), "prefix: %q; leave out braces and blanks", c.Prefix)
	for _, d := range []struct {
		name string
		ttl  time.Duration
	}{{"reserve-ttl", c.ReserveTTL}, {"cache-ttl", c.CacheTTL}, {"members-ttl", c.MembersTTL}, {"offline-ttl", c.OfflineTTL}} {
		check(d.ttl >= time.Second, "%s: %v; give at least 1s", d.name, d.ttl)
	}
	check(c.OfflineLimit >= 1 && c.OfflineLimit <= 100_000, "offline-limit: %d; give 1 to 100000", c.OfflineLimit)
	return errors.Join(errs...)
}

// tlsConfig returns nil where TLS is off.
func (c *Config) tlsConfig() (*tls.Config, error) {
	if !c.TLS {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12} // the server's name is the dialed one
	if c.CAFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("redis.ca-file: %w; give a file of certificates in PEM", err)
	}
	t.RootCAs = x509.NewCertPool()
	if !t.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("redis.ca-file: no certificate in %s; give a file of certificates in PEM", c.CAFile)
	}
	return t, nil
}
