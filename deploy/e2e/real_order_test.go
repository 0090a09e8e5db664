package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRealAnyOrder: tiers start before what they need, say what is missing, end
// in order while they wait, and work once it is there.
func TestRealAnyOrder(t *testing.T) {
	servers := RealServers(t, binary)
	s := servers.split(t, nil)
	servers.End(t, syscall.SIGTERM, append(servers.Kafka(t), "mariadb", "redis")...)
	for _, p := range s.Processes {
		p.Start(t)
	}
	t.Cleanup(func() { s.Stop(t) })
	for name, missing := range map[string][]string{
		"logic-1": {"mysql.check: ", "connect"}, "job-1": {"mysql.check: ", "connect"}, "edge-1": {"uplink: "},
	} {
		p := s.Process(name)
		Eventually(t, startTimeout, name+" says what is missing", func() error {
			code, text := get(p.Ready[0])
			if code != http.StatusServiceUnavailable {
				return fmt.Errorf("HTTP %d %s", code, text)
			}
			for _, m := range missing {
				if !strings.Contains(text, m) {
					return fmt.Errorf("%q says nothing of %q", text, m)
				}
			}
			return nil
		})
	}
	waiting := s.Process("job-2")
	Eventually(t, startTimeout, "job-2 waits", func() error {
		if code, text := get(waiting.Ready[0]); code != http.StatusServiceUnavailable {
			return fmt.Errorf("HTTP %d %s", code, text)
		}
		return nil
	})
	waiting.Stop(t)
	waiting.Start(t)
	servers.Up(t)
	for _, p := range s.Processes {
		p.AwaitReady(t)
	}
	Private(t, s)
}

func get(url string) (int, string) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// TestRealRefuses: what no waiting cures ends a tier at its start, with exit
// code 1, the key or thing that is wrong and the remedy.
func TestRealRefuses(t *testing.T) {
	servers := RealServers(t, binary)
	_, shared := servers.prepare(t, nil)
	dsn := servers.setting("MYSQL_DSN")
	for name, tc := range map[string]struct {
		set  string
		want []string
	}{
		"wrong password":                  {"MYSQL_DSN=" + strings.Replace(dsn, "im:im@", "im:guess@", 1), []string{"mysql.dsn"}},
		"no such database":                {"MYSQL_DSN=" + dsn + "_none", []string{"mysql.dsn"}},
		"a user that Redis does not know": {"REDIS_PASSWORD=guess STARLING_REDIS_USERNAME=nobody", []string{"redis.password", "refused"}},
		"another partition count":         {"KAFKA_PARTITIONS=7", []string{"kafka.partitions", "7"}},
	} {
		t.Run(name, func(t *testing.T) {
			env, _ := addresses(t, "JOB_ADMIN")
			cmd := exec.Command(filepath.Join(filepath.Dir(binary), "job"))
			cmd.Env = append(without(shared, "STARLING_EDGE_", "STARLING_LOGIC_", "STARLING_AUTH_"), append(env, append(strings.Fields("STARLING_"+tc.set), "STARLING_LOG_LEVEL=error")...)...)
			timer := time.AfterFunc(startTimeout, func() { _ = cmd.Process.Kill() })
			out, err := cmd.CombinedOutput()
			timer.Stop()
			if code := cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("exit %d, %v, want 1", code, err)
			}
			for _, w := range tc.want {
				if !strings.Contains(string(out), w) {
					t.Errorf("%s\ndoes not say %q", out, w)
				}
			}
			if strings.Contains(string(out), "guess") {
				t.Errorf("%s\nshows the password", out)
			}
		})
	}
}
