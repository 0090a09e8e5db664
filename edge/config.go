package edge

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/wire"
)

// Prefix of the tier's settings.
const Prefix = "edge."

// Config is the tier's settings.
type Config struct {
	ListenAddr   string
	TCPAddr      string
	GRPCAddr     string
	AdminAddr    string
	AdvertiseURL string
	AdvertiseRPC string
	ID           string
	Region       string
	Zone         string
	Weight       int
	LogicAddrs   config.Strings
	Origins      config.Strings

	Pollers        int
	MaxConnections int
	QueueBytes     config.Bytes
	AuthBytes      config.Bytes
	AuthTimeout    time.Duration
	Heartbeat      time.Duration
	WriteTimeout   time.Duration
	LoginWait      time.Duration
	MaxLogins      int
	UplinkQueue    int
	LeaseTTL       time.Duration
	AnnounceRound  time.Duration
	DrainTime      time.Duration

	// OnListen is told the addresses once they are bound, before anything is
	// accepted. It is no setting.
	OnListen func(Addrs)

	// closeGrace is how long a close frame may take to leave, cutTime how long a
	// connection that was cut may take to end. They are no settings.
	closeGrace time.Duration
	cutTime    time.Duration
}

// Addrs is where an edge listens.
type Addrs struct {
	WS    string // host:port
	TCP   string // "": not listened on
	GRPC  string
	Admin string
	URL   string // what clients are told
}

// RegisterFlags sets defaults and names.
func (c *Config) RegisterFlags(fs *flag.FlagSet, prefix string) {
	fs.StringVar(&c.ListenAddr, prefix+"listen-addr", "127.0.0.1:3102", "address of the WebSocket endpoint /ws; port 0 takes a free one")
	fs.StringVar(&c.TCPAddr, prefix+"tcp-addr", "127.0.0.1:3101", "address of the binary framing on plain TCP; port 0 takes a free one; empty: none")
	fs.StringVar(&c.GRPCAddr, prefix+"grpc-addr", "127.0.0.1:3109", "address that jobs push to; port 0 takes a free one")
	fs.StringVar(&c.AdminAddr, prefix+"admin-addr", "127.0.0.1:3190", "address of /metrics, /healthz, /readyz and profiles; keep it inside")
	fs.StringVar(&c.AdvertiseURL, prefix+"advertise-url", "", "URL that clients are told, such as wss://edge-1.example.org/ws; empty: ws:// with listen-addr")
	fs.StringVar(&c.AdvertiseRPC, prefix+"advertise-rpc", "", "host:port under which jobs reach grpc-addr; empty: grpc-addr itself")
	fs.StringVar(&c.ID, prefix+"id", "", "name of this instance, shared with no other; empty: one is made at each start")
	fs.StringVar(&c.Region, prefix+"region", "", "region told to clients that choose an edge")
	fs.StringVar(&c.Zone, prefix+"zone", "", "zone of this instance")
	fs.IntVar(&c.Weight, prefix+"weight", 100, "share of new connections against other edges")
	fs.Var(&c.LogicAddrs, prefix+"logic-addrs", "host:port of logics, with commas; empty: found by their leases")
	fs.Var(&c.Origins, prefix+"origins", "values of Origin that may connect, with commas; empty: any")
	fs.IntVar(&c.Pollers, prefix+"pollers", 0, "event loops; 0: one for each 20 processors")
	fs.IntVar(&c.MaxConnections, prefix+"max-connections", 0, "connections in all; 0: no limit but the process's descriptors")
	c.QueueBytes, c.AuthBytes = 256<<10, 32<<10
	c.closeGrace, c.cutTime = 3*time.Second, time.Second
	fs.Var(&c.QueueBytes, prefix+"queue-bytes", "what may wait for one connection; pushes beyond it are told by lagged")
	fs.Var(&c.AuthBytes, prefix+"auth-bytes", "what a connection may send before it is authenticated")
	fs.DurationVar(&c.AuthTimeout, prefix+"auth-timeout", 5*time.Second, "time from accept to auth")
	fs.DurationVar(&c.Heartbeat, prefix+"heartbeat", time.Minute, "clients send something at least this often; closed after twice that")
	fs.DurationVar(&c.WriteTimeout, prefix+"write-timeout", 10*time.Second, "a connection that takes nothing for this long is closed as too slow")
	fs.DurationVar(&c.LoginWait, prefix+"login-wait", 5*time.Second, "how long a log-in waits for a logic")
	fs.IntVar(&c.MaxLogins, prefix+"max-logins", 8192, "log-ins under way at once; more are told to try later")
	fs.IntVar(&c.UplinkQueue, prefix+"uplink-queue", 16384, "frames that may wait for one logic; more are answered overloaded")
	fs.DurationVar(&c.LeaseTTL, prefix+"lease-ttl", 6*time.Second, "how long the lease in the registry stands without renewal")
	fs.DurationVar(&c.AnnounceRound, prefix+"announce-round", 10*time.Minute, "time in which all sessions are announced anew, slowly")
	fs.DurationVar(&c.DrainTime, prefix+"drain-time", 10*time.Second, "time over which clients are spread when this edge leaves; 1 s where there is no other edge")
}

// Validate returns all that is wrong, by key.
func (c *Config) Validate() error {
	errs := []error{
		checkAddr("listen-addr", c.ListenAddr), checkAddr("grpc-addr", c.GRPCAddr), checkAddr("admin-addr", c.AdminAddr),
		c.checkAdvertised(), c.checkLimits(),
	}
	if c.TCPAddr != "" {
		errs = append(errs, checkAddr("tcp-addr", c.TCPAddr))
	}
	if c.ID != "" && !wire.ValidID(c.ID) {
		errs = append(errs, fmt.Errorf("edge.id: %.70q is not an id; use 1–64 of A–Z a–z 0–9 . _ @ -", c.ID))
	}
	for _, a := range c.LogicAddrs {
		errs = append(errs, checkAddr("logic-addrs", a))
	}
	return errors.Join(errs...)
}

func (c *Config) checkAdvertised() error {
	var errs []error
	if c.AdvertiseURL != "" {
		u, err := url.Parse(c.AdvertiseURL)
		if err != nil || (u.Scheme != "ws" && u.Scheme != "wss") || u.Host == "" {
			errs = append(errs, fmt.Errorf("edge.advertise-url: %q is no ws:// or wss:// URL; set it such as wss://edge-1.example.org/ws", c.AdvertiseURL))
		}
	} else if anyHost(c.ListenAddr) {
		errs = append(errs, errors.New("edge.advertise-url: is needed where edge.listen-addr names no single host; set the URL that clients reach"))
	}
	if c.AdvertiseRPC != "" {
		errs = append(errs, checkAddr("advertise-rpc", c.AdvertiseRPC))
	} else if anyHost(c.GRPCAddr) {
		errs = append(errs, errors.New("edge.advertise-rpc: is needed where edge.grpc-addr names no single host; set the host:port that jobs reach"))
	}
	return errors.Join(errs...)
}

func (c *Config) checkLimits() error {
	var errs []error
	for _, n := range []struct {
		key      string
		v, least int64
	}{
		{"weight", int64(c.Weight), 0},
		{"pollers", int64(c.Pollers), 0},
		{"max-connections", int64(c.MaxConnections), 0},
		{"queue-bytes", int64(c.QueueBytes), 4096},
		{"auth-bytes", int64(c.AuthBytes), 4096},
		{"max-logins", int64(c.MaxLogins), 1},
		{"uplink-queue", int64(c.UplinkQueue), 64},
	} {
		if n.v < n.least {
			errs = append(errs, fmt.Errorf("edge.%s: %d is too small; set at least %d", n.key, n.v, n.least))
		}
	}
	for _, d := range []struct {
		key      string
		v, least time.Duration
	}{
		{"auth-timeout", c.AuthTimeout, 100 * time.Millisecond},
		{"heartbeat", c.Heartbeat, 500 * time.Millisecond},
		{"write-timeout", c.WriteTimeout, 100 * time.Millisecond},
		{"login-wait", c.LoginWait, 100 * time.Millisecond},
		{"lease-ttl", c.LeaseTTL, 300 * time.Millisecond},
		{"announce-round", c.AnnounceRound, time.Second},
		{"drain-time", c.DrainTime, 0},
	} {
		if d.v < d.least {
			errs = append(errs, fmt.Errorf("edge.%s: %v is too short; set at least %v", d.key, d.v, d.least))
		}
	}
	return errors.Join(errs...)
}

func checkAddr(key, addr string) error {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return fmt.Errorf("edge.%s: %w; use host:port, such as 127.0.0.1:3102", key, err)
	}
	return nil
}

// anyHost says whether an address names no single host.
func anyHost(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// id is the configured name or a new one.
func (c *Config) id() wire.ServerID {
	if c.ID != "" {
		return wire.ServerID(c.ID)
	}
	return wire.ServerID("edge-" + strings.ToLower(rand.Text()[:12]))
}
