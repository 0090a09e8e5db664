package logic

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"net"
	"strings"

	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/message"
)

// Prefix of the tier's settings.
const Prefix = "logic."

// Config is the tier's settings.
type Config struct {
	HTTPAddr     string
	GRPCAddr     string
	AdminAddr    string
	AdvertiseRPC string
	ID           string
	Workers      int
	OpenLogin    bool
	Limits       message.Config
}

// RegisterFlags sets defaults and names.
func (c *Config) RegisterFlags(fs *flag.FlagSet, prefix string) {
	fs.StringVar(&c.HTTPAddr, prefix+"http-addr", "127.0.0.1:3111", "address of the HTTP API and the page; port 0 takes a free one")
	fs.StringVar(&c.GRPCAddr, prefix+"grpc-addr", "127.0.0.1:3119", "address that edges call; port 0 takes a free one")
	fs.StringVar(&c.AdminAddr, prefix+"admin-addr", "127.0.0.1:3191", "address of /metrics, /healthz, /readyz and profiles; keep it inside")
	fs.StringVar(&c.AdvertiseRPC, prefix+"advertise-rpc", "", "host:port under which edges reach grpc-addr; empty: grpc-addr itself")
	fs.StringVar(&c.ID, prefix+"id", "", "name of this instance, shared with no other; empty: one is made at each start")
	fs.IntVar(&c.Workers, prefix+"workers", 64, "syncs, recalls and edits worked on at once for each edge")
	fs.BoolVar(&c.OpenLogin, prefix+"open-login", false, "let anybody log in under any name by POST /v1/login: for a trial and tests, never where others can reach it")
	c.Limits.RegisterFlags(fs, prefix)
}

// Validate returns all that is wrong, by key.
func (c *Config) Validate() error {
	errs := []error{
		checkAddr("http-addr", c.HTTPAddr), checkAddr("grpc-addr", c.GRPCAddr), checkAddr("admin-addr", c.AdminAddr),
		c.Limits.Validate(),
	}
	if c.AdvertiseRPC != "" {
		errs = append(errs, checkAddr("advertise-rpc", c.AdvertiseRPC))
	} else if host, _, err := net.SplitHostPort(c.GRPCAddr); err == nil {
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			errs = append(errs, errors.New("logic.advertise-rpc: is needed where logic.grpc-addr names no single host; set the host:port that edges reach"))
		}
	}
	if c.ID != "" && !wire.ValidID(c.ID) {
		errs = append(errs, fmt.Errorf("logic.id: %.70q is not an id; use 1–64 of A–Z a–z 0–9 . _ @ -", c.ID))
	}
	if c.Workers < 1 || c.Workers > 4096 {
		errs = append(errs, fmt.Errorf("logic.workers: %d is out of range; set 1 to 4096", c.Workers))
	}
	return errors.Join(errs...)
}

func checkAddr(key, addr string) error {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return fmt.Errorf("logic.%s: %w; use host:port, such as 127.0.0.1:3111", key, err)
	}
	return nil
}

// id is the configured name or a new one.
func (c *Config) id() wire.ServerID {
	if c.ID != "" {
		return wire.ServerID(c.ID)
	}
	return wire.ServerID("logic-" + strings.ToLower(rand.Text()[:12]))
}
