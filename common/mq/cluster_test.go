package mq_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/testkit"
)

// cluster is Apache Kafka of a test's own, whose brokers it may kill. Node i
// of nodes is at addrs[i].
type cluster struct {
	home, dir string
	addrs     []string
	nodes     []*exec.Cmd
}

// clusterID is any; one folder has one cluster.
const clusterID = "c3RhcmxpbmctdGVzdC1pZA"

// startCluster starts n brokers from the jars in STARLING_TEST_KAFKA_HOME and
// java on the PATH. extra are more lines of their properties, where {port}
// stands for the client port; a listener named there replaces the plain one.
func startCluster(t *testing.T, n int, extra ...string) *cluster {
	t.Helper()
	ports := testkit.Reserve(t, 2*n)
	c := &cluster{home: realEnv(t, "STARLING_TEST_KAFKA_HOME"), dir: t.TempDir(), addrs: ports[:n], nodes: make([]*exec.Cmd, n)}
	controllers := ports[n:]
	var voters []string
	for i, a := range controllers {
		voters = append(voters, fmt.Sprintf("%d@%s", i+1, a))
	}
	replicas, inSync := "1", "1"
	if n >= 3 {
		replicas, inSync = "3", "2"
	}
	for i := range n {
		lines := append([]string{
			"process.roles=broker,controller", "node.id=" + strconv.Itoa(i+1),
			"controller.quorum.voters=" + strings.Join(voters, ","),
			"listeners=PLAINTEXT://" + c.addrs[i] + ",CONTROLLER://" + controllers[i],
			"advertised.listeners=PLAINTEXT://" + c.addrs[i],
			"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
			"controller.listener.names=CONTROLLER", "inter.broker.listener.name=PLAINTEXT",
			"log.dirs=" + c.path(i, "data"), "num.network.threads=2", "num.io.threads=2",
			"default.replication.factor=" + replicas, "min.insync.replicas=" + inSync,
			"offsets.topic.replication.factor=" + replicas, "offsets.topic.num.partitions=3",
			"transaction.state.log.replication.factor=" + replicas, "transaction.state.log.min.isr=" + inSync,
			"group.initial.rebalance.delay.ms=0", "group.min.session.timeout.ms=6000",
			// A group's coordinator must be back before its members' sessions of 6 s end.
			"broker.session.timeout.ms=3000", "broker.heartbeat.interval.ms=500",
			"controller.quorum.election.timeout.ms=500", "controller.quorum.fetch.timeout.ms=1000",
			"controller.quorum.election.backoff.max.ms=500",
			"log.cleaner.dedupe.buffer.size=16777216", "log.retention.check.interval.ms=1000",
		}, extra...)
		text := strings.ReplaceAll(strings.Join(lines, "\n"), "{addr}", c.addrs[i])
		text = strings.ReplaceAll(text, "{controller}", controllers[i])
		if err := os.WriteFile(c.path(i, "properties"), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		format := c.java("kafka.tools.StorageTool", "format", "-t", clusterID, "-c", c.path(i, "properties"))
		if out, err := format.CombinedOutput(); err != nil {
			t.Fatalf("format: %v: %s", err, out)
		}
	}
	t.Cleanup(func() {
		for i := range c.nodes {
			c.kill(i)
		}
	})
	for i := range n {
		c.start(t, i)
	}
	c.await(t)
	return c
}

func (c *cluster) path(i int, what string) string {
	return filepath.Join(c.dir, fmt.Sprintf("n%d.%s", i, what))
}

func (c *cluster) java(args ...string) *exec.Cmd {
	return exec.Command("java", append([]string{"-Xmx384m", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", filepath.Join(c.home, "libs", "*")}, args...)...)
}

// start starts a node; await waits for it.
func (c *cluster) start(t *testing.T, i int) {
	t.Helper()
	f, err := os.Create(c.path(i, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := c.java("kafka.Kafka", c.path(i, "properties"))
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.nodes[i] = cmd
}

func (c *cluster) await(t *testing.T) {
	t.Helper()
	for i, cmd := range c.nodes {
		if cmd == nil {
			continue
		}
		for end := time.Now().Add(90 * time.Second); ; <-time.After(20 * time.Millisecond) {
			b, err := os.ReadFile(c.path(i, "log"))
			if err == nil && strings.Contains(string(b), "Kafka Server started") {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("node %d: %v: %s", i, err, b[max(0, len(b)-2000):])
			}
		}
	}
}

// kill ends a node as kill -9 does.
func (c *cluster) kill(i int) {
	if cmd := c.nodes[i]; cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		c.nodes[i] = nil
	}
}

// broker is a topic and a group of its own on the cluster.
func (c *cluster) broker(t *testing.T) *broker {
	t.Helper()
	unique := "test-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	return &broker{t: t, addr: c.addrs[0], addrs: c.addrs, topic: unique, group: unique}
}

func (c *cluster) config(t *testing.T) mq.Config {
	t.Helper()
	x := c.broker(t).config()
	x.Brokers = config.Strings(c.addrs)
	x.SingleBroker = len(c.addrs) < 3
	return x
}
