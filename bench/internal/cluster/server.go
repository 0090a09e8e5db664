package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// endTime is how long a server may take to end in order until it is killed, as a
// service manager would do.
const endTime = 15 * time.Second

// Server is one that deploy/local runs: Redis, MariaDB or a broker.
type Server struct {
	Name string // redis, mysql, kafka-1
	Tier string // redis, mysql, kafka

	dir    string // of deploy/local's files
	file   string // what deploy/local calls it
	marker string // is in its command line, and in no other
	data   string // folder of its data
	small  *disk  // nil: its data lie where they were
}

// servers are those of a folder; redis is the address of one.
func servers(dir, redis string) []*Server {
	mysql := filepath.Join(dir, "mariadb", "data")
	list := []*Server{
		{Name: tierRedis, Tier: tierRedis, file: "redis", marker: redis, data: filepath.Join(dir, "redis")},
		{Name: tierMySQL, Tier: tierMySQL, file: "mariadb", marker: mysql, data: mysql},
	}
	for i := 1; ; i++ {
		name := fmt.Sprintf("kafka-%d", i)
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			break
		}
		list = append(list, &Server{
			Name: name, Tier: tierKafka, file: name,
			marker: filepath.Join(dir, name, "server.properties"), data: filepath.Join(dir, name, "data"),
		})
	}
	for _, s := range list {
		s.dir = dir
	}
	return list
}

// pid is 0 while the server does not run.
func (s *Server) pid() int {
	b, err := os.ReadFile(filepath.Join(s.dir, s.file+".pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	// A number may have gone to another; and a zombie has no command line.
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(line), s.marker) {
		return 0
	}
	return pid
}

// Signal sends a signal that does not end the server, if it runs.
func (s *Server) Signal(sig syscall.Signal) error {
	pid := s.pid()
	if pid == 0 {
		return nil
	}
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %v to %s: %w", sig, s.Name, err)
	}
	return nil
}

// End ends the server by a signal and waits until it is gone.
func (s *Server) End(ctx context.Context, sig syscall.Signal) error {
	if err := s.Signal(sig); err != nil {
		return err
	}
	gone := func() error {
		if pid := s.pid(); pid != 0 {
			return fmt.Errorf("%s, process %d, does not end", s.Name, pid)
		}
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	if await(waiting, gone) == nil {
		return nil
	}
	if err := s.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	waiting, cancel = context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	return await(waiting, gone)
}

// FlushRedis empties Redis.
func (c *Cluster) FlushRedis(ctx context.Context) error {
	d := net.Dialer{Timeout: endTime}
	conn, err := d.DialContext(ctx, "tcp", c.redis)
	if err != nil {
		return fmt.Errorf("FLUSHALL: %w", err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(endTime)) // fails where the rest does
	if _, err := io.WriteString(conn, "FLUSHALL\r\n"); err != nil {
		return fmt.Errorf("FLUSHALL: %w", err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(answer, "+OK") {
		return fmt.Errorf("FLUSHALL: Redis answers %q: %w", answer, err)
	}
	return nil
}

// local runs a script of deploy/local on the cluster's servers.
func (c *Cluster) local(ctx context.Context, script string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(c.scripts, script)) //nolint:gosec // ours
	cmd.Env = append(os.Environ(), "STARLING_LOCAL="+c.cfg.Local)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is not for it
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("deploy/local/%s: %w\n%s", script, err, out)
	}
	return nil
}

// findScripts looks for deploy/local beside the binaries' folder, then here.
func findScripts(bin string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find deploy/local: %w", err)
	}
	for _, base := range []string{filepath.Dir(bin), filepath.Dir(filepath.Dir(exe)), "."} {
		dir, err := filepath.Abs(filepath.Join(base, "deploy", "local"))
		if err != nil {
			return "", fmt.Errorf("find deploy/local: %w", err)
		}
		if _, err := os.Stat(filepath.Join(dir, "up")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("-local: deploy/local/up is neither beside the binaries nor here; run bench in the checkout")
}

// readEnv returns the settings that lead to the servers.
func readEnv(dir string) (map[string]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "env")) //nolint:gosec // the user names it
	if err != nil {
		return nil, fmt.Errorf("read the servers' settings: %w", err)
	}
	env := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		if kv, ok := strings.CutPrefix(strings.TrimSpace(line), "export "); ok {
			k, v, _ := strings.Cut(kv, "=")
			env[k] = strings.Trim(v, "'")
		}
	}
	return env, nil
}
