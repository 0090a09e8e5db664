package redistest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/testkit"
)

// slots is how many a Cluster has.
const slots = 16384

// Cluster is several masters and their replicas.
type Cluster struct {
	Masters  []*Server
	Replicas []*Server // one of each master's, in their order, or none
}

// StartCluster makes a Cluster of masters that share the slots evenly.
func StartCluster(tb testing.TB, masters int, replicas bool) *Cluster {
	tb.Helper()
	Need(tb)
	c := new(Cluster)
	node := func() *Server {
		addrs := testkit.Reserve(tb, 2)
		s := start(tb, addrs[0], "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(port(addrs[1])), "--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0",
			"--repl-diskless-sync-delay", "0")
		s.bus = addrs[1]
		return s
	}
	for i := range masters {
		s := node()
		s.Do("cluster", "addslotsrange", strconv.Itoa(slots*i/masters), strconv.Itoa(slots*(i+1)/masters-1))
		s.Do("cluster", "set-config-epoch", strconv.Itoa(i+1))
		c.Masters = append(c.Masters, s)
	}
	if replicas {
		for range masters {
			c.Replicas = append(c.Replicas, node())
		}
	}
	first, all := c.Masters[0], append(c.Masters[:masters:masters], c.Replicas...)
	for _, s := range all[1:] {
		s.Do("cluster", "meet", "127.0.0.1", strconv.Itoa(port(first.Addr)), strconv.Itoa(port(first.bus)))
	}
	for _, s := range all {
		Eventually(tb, "the Cluster is whole", func() bool {
			info, err := s.Try("cluster", "info")
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", len(all)))
		})
	}
	for i, s := range c.Replicas {
		s.Do("cluster", "replicate", c.Masters[i].Do("cluster", "myid"))
		Eventually(tb, "the replica follows", func() bool {
			info, err := s.Try("info", "replication")
			return err == nil && strings.Contains(info, "master_link_status:up")
		})
	}
	return c
}

// Addrs are those of the masters.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, len(c.Masters))
	for i, s := range c.Masters {
		addrs[i] = s.Addr
	}
	return addrs
}

// Flush empties all masters.
func (c *Cluster) Flush() {
	for _, s := range c.Masters {
		s.Do("flushall")
	}
}

// Sentinels watch a master, called "starling", and its replica.
type Sentinels struct {
	Master, Replica *Server
	Sentinels       []*Server
}

// MasterName is what the Sentinels call the master.
const MasterName = "starling"

// StartSentinels starts three Sentinels over a master and its replica.
// password is that of Redis, sentinelPassword that of the Sentinels; empty: none.
func StartSentinels(tb testing.TB, password, sentinelPassword string) *Sentinels {
	tb.Helper()
	Need(tb)
	auth, cli := []string{}, []string(nil)
	if password != "" {
		auth, cli = []string{"--requirepass", password, "--masterauth", password}, []string{"--no-auth-warning", "-a", password}
	}
	node := func(args ...string) *Server {
		s := start(tb, testkit.Reserve(tb, 1)[0], append(append([]string{"--repl-diskless-sync-delay", "0"}, auth...), args...)...)
		s.Secure(cli...)
		return s
	}
	c := &Sentinels{Master: node()}
	c.Replica = node("--replicaof", "127.0.0.1", strconv.Itoa(port(c.Master.Addr)))
	Eventually(tb, "the replica follows", func() bool {
		info, err := c.Replica.Try("info", "replication")
		return err == nil && strings.Contains(info, "master_link_status:up")
	})
	for range 3 {
		c.Sentinels = append(c.Sentinels, startSentinel(tb, c.Master, password, sentinelPassword))
	}
	for _, s := range c.Sentinels {
		Eventually(tb, "the Sentinels know each other", func() bool {
			out, err := s.Try("info", "sentinel")
			return err == nil && strings.Contains(out, "slaves=1,sentinels=3")
		})
	}
	return c
}

func startSentinel(tb testing.TB, master *Server, password, own string) *Server {
	tb.Helper()
	lines := []string{
		fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 2", MasterName, port(master.Addr)),
		"sentinel down-after-milliseconds " + MasterName + " 500",
		"sentinel failover-timeout " + MasterName + " 3000",
	}
	if password != "" {
		lines = append(lines, "sentinel auth-pass "+MasterName+" "+password)
	}
	if own != "" {
		lines = append(lines, "requirepass "+own, "sentinel sentinel-pass "+own)
	}
	file := filepath.Join(tb.TempDir(), "sentinel.conf")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	s := &Server{tb: tb, dir: tb.TempDir(), Addr: testkit.Reserve(tb, 1)[0]}
	s.args = []string{file, "--sentinel", "--port", strconv.Itoa(port(s.Addr)), "--bind", "127.0.0.1", "--dir", s.dir}
	if own != "" {
		s.Secure("--no-auth-warning", "-a", own)
	}
	tb.Cleanup(s.Kill)
	s.Restart()
	return s
}

// Addrs are those of the Sentinels.
func (c *Sentinels) Addrs() []string {
	addrs := make([]string, len(c.Sentinels))
	for i, s := range c.Sentinels {
		addrs[i] = s.Addr
	}
	return addrs
}

// Failover kills the master and waits until the replica has its place.
func (c *Sentinels) Failover(tb testing.TB) {
	tb.Helper()
	c.Master.Kill()
	Eventually(tb, "the replica is promoted", func() bool {
		info, err := c.Replica.Try("info", "replication")
		return err == nil && strings.Contains(info, "role:master")
	})
}
