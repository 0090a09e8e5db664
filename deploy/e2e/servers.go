package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starling-im/starling/common/token"
)

// localEnv names the folder of the servers that deploy/local/up has started
// (its STARLING_LOCAL), for the tests on real servers.
const localEnv = "STARLING_TEST_LOCAL"

// Servers are real ones, of deploy/local: Redis, MariaDB and Kafka.
type Servers struct {
	binary   string // starling; the binaries of the tiers are beside it
	dir      string
	settings []string // that lead Starling to them
}

// RealServers returns the servers that the environment names. Without, the test
// is skipped, or with STARLING_TEST_REAL=1 it fails.
func RealServers(t testing.TB, binary string) *Servers {
	t.Helper()
	dir := os.Getenv(localEnv)
	if dir == "" {
		if os.Getenv("STARLING_TEST_REAL") == "1" {
			t.Fatal(localEnv + " is not set: run this by make test-real")
		}
		t.Skip("needs real servers: make test-real")
	}
	s := &Servers{dir: dir, binary: binary}
	s.Up(t)
	b, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if kv, ok := strings.CutPrefix(strings.TrimSpace(line), "export "); ok {
			s.settings = append(s.settings, strings.ReplaceAll(kv, "'", ""))
		}
	}
	return s
}

// Up starts what does not run.
func (s *Servers) Up(t testing.TB) {
	t.Helper()
	cmd := exec.Command("../local/up")
	cmd.Env = append(os.Environ(), "STARLING_LOCAL="+s.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("deploy/local/up: %v\n%s", err, out)
	}
}

// pid of a server: redis, mariadb, kafka-1 and so on.
func (s *Servers) pid(t testing.TB, name string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, name+".pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// endsIn is how long a server may take to end before it is killed, as a service
// manager would: of brokers that all end at once, the last waits up to 5 min for
// a controller to let it go, and there is none any more.
const endsIn = 10 * time.Second

// End ends servers by a signal and waits until they are gone. They are up again
// at the end of the test, whatever becomes of it.
func (s *Servers) End(t testing.TB, sig syscall.Signal, names ...string) {
	t.Helper()
	t.Cleanup(func() { s.Up(t) })
	for _, name := range names {
		if err := syscall.Kill(s.pid(t, name), sig); err != nil {
			t.Fatalf("signal %v to %s: %v", sig, name, err)
		}
	}
	for _, name := range names {
		pid := s.pid(t, name)
		asked := time.Now()
		Eventually(t, time.Minute, name+" has ended", func() error {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil || strings.Contains(string(stat), ") Z ") {
				return nil //nolint:nilerr // gone
			}
			if time.Since(asked) > endsIn {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return fmt.Errorf("pid %d is there", pid)
		})
	}
}

// Kafka names the brokers.
func (s *Servers) Kafka(t testing.TB) (names []string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(s.dir, "kafka-*.pid"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".pid"))
	}
	return names
}

// setting returns one of the settings that lead to the servers.
func (s *Servers) setting(key string) string {
	for _, kv := range s.settings {
		if v, ok := strings.CutPrefix(kv, "STARLING_"+key+"="); ok {
			return v
		}
	}
	return ""
}

// prepare returns a System without processes on the servers, which have been
// migrated, and the settings that its processes share.
func (s *Servers) prepare(t testing.TB, settings []string) (*System, []string) {
	t.Helper()
	sys := &System{Dir: t.TempDir(), names: strings.ToLower(rand.Text()[:6]) + "-"}
	if _, err := token.LoadOrCreate(sys.Dir); err != nil {
		t.Fatal(err)
	}
	shared := append([]string{"STARLING_AUTH_JWKS=" + filepath.Join(sys.Dir, token.FileName), "STARLING_LOGIC_OPEN_LOGIN=true"}, s.settings...)
	migrate := exec.Command(s.binary, "migrate")
	migrate.Env = append(os.Environ(), s.settings...)
	if out, err := migrate.CombinedOutput(); err != nil {
		t.Fatalf("starling migrate: %v\n%s", err, out)
	}
	return sys, append(shared, settings...)
}

// All starts everything in one process on the servers.
func (s *Servers) All(t testing.TB, settings ...string) *System {
	t.Helper()
	sys, shared := s.prepare(t, settings)
	sys.all(t, s.binary, shared)
	sys.run(t)
	return sys
}

// Split starts every tier twice, each in a process of its own, on the servers.
func (s *Servers) Split(t testing.TB, settings ...string) *System {
	t.Helper()
	sys := s.split(t, settings)
	sys.run(t)
	return sys
}

func (s *Servers) split(t testing.TB, settings []string) *System {
	t.Helper()
	sys, shared := s.prepare(t, settings)
	tier := func(name string, only []string, ready string, keys ...string) {
		env, addr := addresses(t, keys...)
		tier, _, _ := strings.Cut(name, "-")
		env = append(env, "STARLING_"+strings.ToUpper(tier)+"_ID="+sys.names+name)
		p := sys.add(name, filepath.Join(filepath.Dir(s.binary), tier), append(env, only...))
		p.Ready = []string{"http://" + addr[ready] + "/readyz"}
		sys.faces(addr)
	}
	edges := without(shared, "STARLING_MYSQL_", "STARLING_KAFKA_", "STARLING_LOGIC_", "STARLING_JOB_")
	for _, n := range []string{"1", "2"} {
		tier("edge-"+n, edges, "EDGE_ADMIN", "EDGE_LISTEN", "EDGE_TCP", "EDGE_GRPC", "EDGE_ADMIN")
	}
	logics := without(shared, "STARLING_EDGE_", "STARLING_JOB_")
	for _, n := range []string{"1", "2"} {
		tier("logic-"+n, logics, "LOGIC_ADMIN", "LOGIC_HTTP", "LOGIC_GRPC", "LOGIC_ADMIN")
	}
	jobs := without(shared, "STARLING_EDGE_", "STARLING_LOGIC_", "STARLING_AUTH_", "STARLING_LIMITS_")
	for _, n := range []string{"1", "2"} {
		tier("job-"+n, jobs, "JOB_ADMIN", "JOB_ADMIN")
	}
	return sys
}

// without leaves settings out that a tier does not know.
func without(settings []string, prefixes ...string) (out []string) {
	for _, s := range settings {
		known := true
		for _, p := range prefixes {
			known = known && !strings.HasPrefix(s, p)
		}
		if known {
			out = append(out, s)
		}
	}
	return out
}
