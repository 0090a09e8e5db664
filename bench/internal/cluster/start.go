package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/starling-im/starling/bench/internal/proxy"
)

// environ is this process's environment without settings of Starling.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "STARLING_") })
}

// noLimits are settings of edges and logics: the load is a few users', each of
// whom writes more than a person may.
func noLimits() map[string]string { return map[string]string{"LIMITS_MESSAGES_PER_SECOND": "0"} }

// listen gives listeners an address of their own, and returns the URL of each.
func (c *Cluster) listen(settings map[string]string, keys ...string) (urls map[string]string, err error) {
	urls = make(map[string]string, len(keys))
	for _, key := range keys {
		addr, err := c.ports.reserve()
		if err != nil {
			return nil, err
		}
		settings[key+"_ADDR"] = addr
		urls[key] = "http://" + addr
	}
	return urls, nil
}

// startAll makes the one process of KindAll.
func (c *Cluster) startAll(context.Context) error {
	settings := noLimits()
	urls, err := c.listen(settings, "LOGIC_HTTP", "EDGE_LISTEN", "EDGE_TCP", "LOGIC_GRPC", "EDGE_GRPC", "LOGIC_ADMIN", "EDGE_ADMIN", "JOB_ADMIN")
	if err != nil {
		return err
	}
	c.APIs = []string{urls["LOGIC_HTTP"]}
	c.add(&Process{
		Name: tierAll, Tier: tierAll, Admins: []string{urls["EDGE_ADMIN"], urls["LOGIC_ADMIN"], urls["JOB_ADMIN"]},
		Ledger: []string{urls["EDGE_ADMIN"], urls["JOB_ADMIN"]},
		args:   []string{"-data", filepath.Join(c.dir, "data")},
	}, settings)
	return nil
}

// startSplit makes the servers ready, and two processes of each tier.
func (c *Cluster) startSplit(ctx context.Context) error {
	var err error
	if c.cfg.Local, err = filepath.Abs(c.cfg.Local); err != nil {
		return fmt.Errorf("-local: %w", err)
	}
	if c.scripts, err = findScripts(c.cfg.Bin); err != nil {
		return err
	}
	env, err := readEnv(c.cfg.Local)
	if err != nil {
		return err
	}
	c.redis, c.brokers = env["STARLING_REDIS_ADDRS"], env["STARLING_KAFKA_BROKERS"]
	c.Servers = servers(c.cfg.Local, c.redis)
	if err := errors.Join(c.takeOver(ctx), c.loosen()); err != nil {
		return err
	}
	if err := c.shrinkAll(ctx); err != nil {
		return err
	}
	if err := c.local(ctx, "up"); err != nil {
		return err
	}
	if err := c.starling(ctx, env, "migrate"); err != nil {
		return err
	}
	if err := c.starling(ctx, nil, "token", "-data", c.dir, "-user", "bench", "-role", "admin"); err != nil {
		return err
	}
	run := strings.ToLower(rand.Text()[:6]) + "-" // ids of another run may still be leased
	for _, tier := range []string{tierEdge, tierLogic, tierJob} {
		for _, name := range []string{tier + "-1", tier + "-2"} {
			if err := c.addTier(ctx, tier, name, run+name, env); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Cluster) takeOver(ctx context.Context) error {
	var errs []error
	for _, s := range c.Servers {
		errs = append(errs, s.takeOver(ctx))
	}
	return errors.Join(errs...)
}

func (c *Cluster) shrinkAll(ctx context.Context) error {
	for _, s := range c.Servers {
		if !slices.Contains(c.cfg.Small, s.Name) {
			continue
		}
		c.tell("moving the data of %s to a small file system", s.Name)
		if err := s.shrink(ctx); err != nil {
			return err
		}
	}
	return nil
}

// starling runs a command of the binary.
func (c *Cluster) starling(ctx context.Context, env map[string]string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(c.cfg.Bin, "starling"), args...) //nolint:gosec // ours
	cmd.Env = environ()
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("starling %s: %w\n%s", args[0], err, out)
	}
	return nil
}

// addTier makes one process of a tier, which goes to others by links of its own.
func (c *Cluster) addTier(ctx context.Context, tier, name, id string, env map[string]string) error {
	upper := strings.ToUpper(tier)
	settings := map[string]string{upper + "_ID": id}
	keys := []string{upper + "_ADMIN"}
	if tier != tierJob {
		maps.Copy(settings, noLimits())
		settings["AUTH_JWKS"] = filepath.Join(c.dir, "keys.json")
		keys = append(keys, upper+"_GRPC")
	}
	switch tier {
	case tierEdge:
		keys = append(keys, "EDGE_LISTEN", "EDGE_TCP")
	case tierLogic:
		keys = append(keys, "LOGIC_HTTP")
		settings["LOGIC_OPEN_LOGIN"] = "true"
	}
	urls, err := c.listen(settings, keys...)
	if err != nil {
		return err
	}
	if tier == tierLogic {
		c.APIs = append(c.APIs, urls["LOGIC_HTTP"])
	}
	if rpc := settings[upper+"_GRPC_ADDR"]; rpc != "" {
		if settings[upper+"_ADVERTISE_RPC"], err = c.link(ctx, name, "", rpc); err != nil {
			return err
		}
	}
	if err := c.leadToServers(ctx, tier, name, env, settings); err != nil {
		return err
	}
	p := &Process{Name: name, Tier: tier, Admins: []string{urls[upper+"_ADMIN"]}}
	if tier != tierLogic {
		p.Ledger = p.Admins
	}
	c.add(p, settings)
	return nil
}

// leadToServers adds the settings of a tier's servers: by links to Redis and
// MySQL, straight to Kafka, whose brokers say themselves where they are.
func (c *Cluster) leadToServers(ctx context.Context, tier, name string, env, settings map[string]string) (err error) {
	if settings["REDIS_ADDRS"], err = c.link(ctx, tierRedis, name, env["STARLING_REDIS_ADDRS"]); err != nil || tier == tierEdge {
		return err
	}
	settings["KAFKA_BROKERS"] = env["STARLING_KAFKA_BROKERS"]
	settings["KAFKA_SINGLE_BROKER"] = env["STARLING_KAFKA_SINGLE_BROKER"]
	dsn := env["STARLING_MYSQL_DSN"]
	at := regexp.MustCompile(`tcp\(([^)]*)\)`).FindStringSubmatch(dsn)
	if at == nil {
		return errors.New("the servers' STARLING_MYSQL_DSN leads to no tcp(host:port)")
	}
	addr, err := c.link(ctx, tierMySQL, name, at[1])
	settings["MYSQL_DSN"] = strings.Replace(dsn, at[0], "tcp("+addr+")", 1)
	return err
}

// link makes a way to an address and returns where it begins.
func (c *Cluster) link(ctx context.Context, to, of, addr string) (string, error) {
	p, err := proxy.Listen(ctx, "127.0.0.1:0", addr)
	if err != nil {
		return "", err
	}
	c.Links = append(c.Links, &Link{To: to, Of: of, Proxy: p})
	return p.Addr(), nil
}
