package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starling-im/starling/common/testkit"
)

// binary is the real thing, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "starling-main-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "starling")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := testkit.Run(m)
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// clean is the environment without settings of ours.
func clean(extra ...string) []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "STARLING_") {
			env = append(env, kv)
		}
	}
	return append(env, extra...)
}

// starling runs the binary to its end.
func starling(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = clean(env...)
	cmd.Dir = t.TempDir()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	} else if ok {
		code = exit.ExitCode()
	}
	return code, out.String(), errs.String()
}

func TestBadInput(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(file, []byte("edge:\n  listen_adr: x\nlog:\n  level: loud\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		env, args, want []string
	}{
		"all of them at once": {
			env:  []string{"STARLING_NO_SUCH=1", "STARLING_APP_STOP_BUDGET=never"},
			args: []string{"-config", file, "-job.no-such=1"},
			want: []string{
				"starling: edge.listen-adr: ", "starling: log.level: ", "starling: STARLING_NO_SUCH: ",
				"starling: app.stop-budget: ", "starling: job.no-such: ",
			},
		},
		"a missing file":            {args: []string{"-config", "/no/such.yaml"}, want: []string{"starling: config: ", "/no/such.yaml"}},
		"a tier without services":   {args: []string{"-target=job"}, want: []string{"kafka.brokers: ", "redis.addrs: ", "mysql.dsn: "}},
		"half an installation":      {args: []string{"-redis.addrs=127.0.0.1:1"}, want: []string{"kafka.brokers: ", "mysql.dsn: "}},
		"a missing key file":        {args: []string{"-target=edge", "-redis.addrs=127.0.0.1:1", "-auth.jwks=/no/keys.json"}, want: []string{"auth.jwks: ", "/no/keys.json"}},
		"a target that is none":     {args: []string{"-target=most"}, want: []string{"target: "}},
		"a command that is none":    {args: []string{"frobnicate"}, want: []string{"frobnicate"}},
		"a token for nobody":        {args: []string{"token", "-role=king"}, want: []string{"user: ", "role: "}},
		"a stray argument":          {args: []string{"-target=all", "stray"}, want: []string{"stray"}},
		"verify says it, too":       {args: []string{"-config.verify", "-log.format=xml"}, want: []string{"log.format: "}},
		"migrate with a broken dsn": {args: []string{"migrate", "-mysql.dsn=nonsense"}, want: []string{"mysql.dsn: "}},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := starling(t, tc.env, tc.args...)
			if code != 2 || stdout != "" {
				t.Errorf("exit code %d, want 2; stdout %q", code, stdout)
			}
			for _, want := range tc.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("%q is missing in:\n%s", want, stderr)
				}
			}
		})
	}
}

func TestQuestions(t *testing.T) {
	for want, args := range map[string][]string{
		"go1.":              {"version"},
		"configuration ok":  {"-config.verify"},
		"log.level: debug":  {"-print-config", "-log.level=debug"},
		"edge ":             {"-list-targets"},
		"-edge.listen-addr": {"-h"},
		"up to date":        {"migrate", "-data", "d"},
	} {
		code, stdout, stderr := starling(t, nil, args...)
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("starling %v: exit code %d, %q, %s", args, code, stdout, stderr)
		}
	}
	code, stdout, _ := starling(t, nil, "token", "-data=d", "-user=alice", "-device=web-1")
	if code != 0 || strings.Count(stdout, "\n") != 1 || strings.Count(stdout, ".") != 2 {
		t.Errorf("token: exit code %d, %q", code, stdout)
	}
}

// listeners are the settings of everything that listens.
func listeners() []string {
	return []string{
		"edge.listen-addr", "edge.tcp-addr", "edge.grpc-addr", "edge.admin-addr",
		"logic.http-addr", "logic.grpc-addr", "logic.admin-addr", "job.admin-addr",
	}
}

// ports are settings that take free ports.
func ports() []string {
	var args []string
	for _, key := range listeners() {
		args = append(args, "-"+key+"=127.0.0.1:0")
	}
	return args
}

func TestPortInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, key := range listeners() {
		t.Run(key, func(t *testing.T) {
			code, _, stderr := starling(t, nil, append(ports(), "-log.level=error", "-"+key+"="+ln.Addr().String())...)
			var mine []string
			for line := range strings.Lines(stderr) {
				if strings.HasPrefix(line, "starling: ") {
					mine = append(mine, line)
				}
			}
			if code != 1 || len(mine) != 1 || !strings.Contains(mine[0], key) || !strings.Contains(mine[0], "in use") {
				t.Errorf("exit code %d, want 1 and one line that names %s:\n%s", code, key, stderr)
			}
		})
	}
}

func TestLife(t *testing.T) {
	data := t.TempDir()
	cmd := exec.CommandContext(t.Context(), binary, append(ports(), "-data", data)...)
	cmd.Env = clean()
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for ready := false; !ready; {
		if !lines.Scan() {
			t.Fatalf("ended before it was ready: %v\n%s", cmd.Wait(), errs.String())
		}
		ready = strings.Contains(lines.Text(), "is ready")
	}
	// A second one on the same folder is refused and does no harm.
	if code, _, stderr := starling(t, nil, append(ports(), "-data", data)...); code != 1 || !strings.Contains(stderr, "used by process") {
		t.Errorf("a second process on the folder: exit code %d\n%s", code, stderr)
	}
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil { // ignored
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // to the end of its output
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, errs.String())
	}
}
