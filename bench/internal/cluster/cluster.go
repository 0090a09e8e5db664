package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/starling-im/starling/bench/internal/proxy"
)

// Tiers, and kinds of servers.
const (
	tierAll   = "all"
	tierEdge  = "edge"
	tierLogic = "logic"
	tierJob   = "job"
	tierRedis = "redis"
	tierMySQL = "mysql"
	tierKafka = "kafka"
)

// restoreTime bounds how long a cluster may take to be whole again.
const restoreTime = 3 * time.Minute

// Link is the way to a process or a server, for one of those who go it or for all.
type Link struct {
	To string // edge-1, logic-2, redis, mysql
	Of string // whose way it is: edge-2; empty: everybody's
	*proxy.Proxy
}

// Cluster is a running system. Make it with Start.
type Cluster struct {
	cfg     Config
	scripts string // deploy/local
	redis   string // its address
	brokers string // their addresses, with commas
	dir     string // logs, key file, data of the embedded services
	say     io.Writer
	ports   ports

	Processes []*Process // in the order in which they are ended
	Servers   []*Server
	Links     []*Link
	APIs      []string // base URLs of the logics

	mu       sync.Mutex
	failures []string
}

// Start starts everything and waits until it is ready. What it does is said to
// say, a line each. A cluster that could not be started is ended.
func Start(ctx context.Context, cfg Config, say io.Writer) (*Cluster, error) {
	dir, err := os.MkdirTemp("", "starling-cluster-*")
	if err != nil {
		return nil, fmt.Errorf("start the cluster: %w", err)
	}
	c := &Cluster{cfg: cfg, dir: dir, say: say}
	begin := c.startAll
	if cfg.Kind == KindSplit {
		begin = c.startSplit
	}
	if err = begin(ctx); err == nil {
		err = c.Restore(ctx)
	}
	if err != nil {
		c.Close(ctx)
		return nil, fmt.Errorf("start the cluster (logs are in %s): %w", dir, err)
	}
	return c, nil
}

// Ledgers are the base URLs of the admin ports that have a ledger: of edges and
// jobs.
func (c *Cluster) Ledgers() (urls []string) {
	for _, p := range c.Processes {
		urls = append(urls, p.Ledger...)
	}
	return urls
}

// Failures are what went wrong by itself; they are complete after Close.
func (c *Cluster) Failures() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.failures)
}

func (c *Cluster) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures = append(c.failures, fmt.Sprintf(format, args...))
	c.tell(format, args...)
}

func (c *Cluster) tell(format string, args ...any) {
	_, _ = fmt.Fprintf(c.say, "cluster: "+format+"\n", args...) // who reads it may have gone
}

// Restore makes everything whole: what stands still goes on, what is parted is
// joined, what has ended is started, and all of it is ready.
func (c *Cluster) Restore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, restoreTime)
	defer cancel()
	errs := []error{c.loosen()}
	if slices.ContainsFunc(c.Servers, func(s *Server) bool { return s.pid() == 0 }) {
		errs = append(errs, c.local(ctx, "up"))
	}
	for _, p := range c.Processes {
		errs = append(errs, p.Start(ctx))
	}
	for _, p := range c.Processes {
		errs = append(errs, p.awaitReady(ctx))
	}
	return errors.Join(errs...)
}

// loosen undoes what holds somebody up.
func (c *Cluster) loosen() error {
	var errs []error
	for _, s := range c.Servers {
		errs = append(errs, s.Signal(syscall.SIGCONT), s.Free())
	}
	for _, p := range c.Processes {
		errs = append(errs, p.Signal(syscall.SIGCONT))
	}
	for _, l := range c.Links {
		l.Set(proxy.Open, 0)
	}
	return errors.Join(errs...)
}

// Close ends the processes in order, leaves the servers as they were found, and
// reads the logs, which stay; see Discard.
func (c *Cluster) Close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreTime)
	defer cancel()
	if err := c.loosen(); err != nil {
		c.fail("put right: %v", err)
	}
	for _, p := range c.Processes {
		p.Stop()
		p.life.Wait()
		p.readLog()
	}
	for _, l := range c.Links {
		_ = l.Close() // nobody is left to use it
	}
	// However long that took: the data go back.
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), restoreTime)
	defer cancel()
	for _, s := range c.Servers {
		if err := s.widen(ctx); err != nil {
			c.fail("%v", err)
		}
	}
	if slices.ContainsFunc(c.Servers, func(s *Server) bool { return s.pid() == 0 }) {
		if err := c.local(ctx, "up"); err != nil {
			c.fail("%v", err)
		}
	}
	c.ports.release()
	c.Processes, c.Links = nil, nil
}

// Process returns one by its name; nil: there is none.
func (c *Cluster) Process(name string) *Process {
	i := slices.IndexFunc(c.Processes, func(p *Process) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return c.Processes[i]
}

// Server returns one by its name; nil: there is none.
func (c *Cluster) Server(name string) *Server {
	i := slices.IndexFunc(c.Servers, func(s *Server) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return c.Servers[i]
}

// Dir is where the logs are.
func (c *Cluster) Dir() string { return c.dir }

// Discard removes the logs.
func (c *Cluster) Discard() { _ = os.RemoveAll(c.dir) }

// add adds a process with settings of its own, by key without the prefix
// STARLING_.
func (c *Cluster) add(p *Process, settings map[string]string) {
	p.fail, p.logs, p.env = c.fail, filepath.Join(c.dir, p.Name+".log"), environ()
	for k, v := range settings {
		p.env = append(p.env, "STARLING_"+k+"="+v)
	}
	p.binary = filepath.Join(c.cfg.Bin, p.Tier)
	if p.Tier == tierAll {
		p.binary = filepath.Join(c.cfg.Bin, "starling")
	}
	c.Processes = append(c.Processes, p)
}
