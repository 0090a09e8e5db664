package config

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// sample is a schema with a flag of every kind.
type sample struct {
	Data     string
	Addr     string
	Wait     time.Duration
	Limit    Bytes
	Peers    Strings
	Debug    bool
	Conns    int
	Password Secret
	Target   string
}

func newSample() (*sample, *flag.FlagSet) {
	s := &sample{Limit: 128 << 10}
	fs := flag.NewFlagSet("starling", flag.ContinueOnError)
	fs.StringVar(&s.Data, "data", "./data", "data `folder`")
	fs.StringVar(&s.Addr, "edge.listen-addr", "127.0.0.1:3102", "where clients connect")
	fs.DurationVar(&s.Wait, "edge.write-timeout", 5*time.Second, "how long a write may take")
	fs.Var(&s.Limit, "edge.max-frame", "largest frame")
	fs.Var(&s.Peers, "kafka.brokers", "brokers")
	fs.BoolVar(&s.Debug, "log.debug", false, "more lines | many")
	fs.IntVar(&s.Conns, "mysql.conns", 16, "connections")
	fs.Var(&s.Password, "redis.password", "password")
	fs.StringVar(&s.Target, "target", "all", "what to run")
	return s, fs
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	path := write(t, "target: edge\nedge:\n  listen_addr: file:1\n  write-timeout: 7s\n  max_frame: 1MiB\nkafka: {brokers: [a:1, 'b:2']}\nmysql.conns: 3\nlog: {debug: true}\nredis:\n")
	for _, tc := range []struct {
		name     string
		args     []string
		env      []string
		want     sample
		changeTo func(*sample)
	}{
		{name: "defaults", changeTo: func(*sample) {}},
		{name: "file", args: []string{"-config", path}, changeTo: func(s *sample) {
			*s = sample{"./data", "file:1", 7 * time.Second, 1 << 20, Strings{"a:1", "b:2"}, true, 3, Secret{}, "edge"}
		}},
		{name: "file named by the environment, env over file", env: []string{"STARLING_CONFIG=" + path, "STARLING_EDGE_LISTEN_ADDR=env:1", "STARLING_KAFKA_BROKERS=c:3, d:4", "HOME=/x", "STARLING_REQUIRE_CHROMIUM=1"}, changeTo: func(s *sample) {
			*s = sample{"./data", "env:1", 7 * time.Second, 1 << 20, Strings{"c:3", "d:4"}, true, 3, Secret{}, "edge"}
		}},
		{name: "flags over all", args: []string{"--config=" + path, "-edge.listen-addr=flag:1", "-log.debug=false", "-mysql.conns", "9"}, env: []string{"STARLING_EDGE_LISTEN_ADDR=env:1"}, changeTo: func(s *sample) {
			*s = sample{"./data", "flag:1", 7 * time.Second, 1 << 20, Strings{"a:1", "b:2"}, false, 9, Secret{}, "edge"}
		}},
		{name: "a broken value that is overridden does no harm", args: []string{"-mysql.conns=9"}, env: []string{"STARLING_MYSQL_CONNS=many"}, changeTo: func(s *sample) { s.Conns = 9 }},
		{name: "bare bool", args: []string{"-log.debug", "-data", "/d"}, changeTo: func(s *sample) { s.Debug, s.Data = true, "/d" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want, _ := newSample()
			tc.changeTo(want)
			got, fs := newSample()
			if err := Load(fs, tc.args, tc.env); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(Secret{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAllErrorsAtOnce(t *testing.T) {
	path := write(t, "edge:\n  listenaddr: x\n  write_timeout: soon\nnothing: {like: this}\nkafka:\n  brokers: [{host: a}]\nmysql:\n  conns:\nlog:\n  debug: {}\nconfig: other.yaml\n")
	_, fs := newSample()
	err := Load(fs, []string{"-config=" + path, "-edge.max-frame=big", "-mysql.con=3", "-target=edge", "stray"},
		[]string{"STARLING_EDGE_LISTEN_ADR=x", "STARLING_LOG_DEBUG=maybe"})
	bad, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("Load() = %v, want an *Error", err)
	}
	for _, want := range []string{
		"mysql.con: unknown flag -mysql.con; did you mean mysql.conns?",
		"STARLING_EDGE_LISTEN_ADR: no setting has this environment variable; unset it, or did you mean edge.listen-addr?",
		"config: unknown key in " + path,
		"edge.listenaddr: unknown key in " + path + "; did you mean edge.listen-addr?",
		"kafka.brokers: is neither a value nor a list of values in " + path,
		"log.debug: is neither a value",
		"mysql.conns: has no value in " + path,
		"nothing.like: unknown key in " + path + "; see configs/reference.md",
		`edge.max-frame: "big" (from flag -edge.max-frame): not a size;`,
		`edge.write-timeout: "soon" (from file ` + path + `): `,
		`log.debug: "maybe" (from environment STARLING_LOG_DEBUG): `,
		`argument "stray": not expected`,
	} {
		if n := strings.Count(strings.Join(bad.Problems, "\n"), want); n != 1 {
			t.Errorf("%d times %q in:\n%v", n, want, err)
		}
	}
	if len(bad.Problems) != 12 {
		t.Errorf("%d problems, want 12:\n%v", len(bad.Problems), err)
	}
}

func TestFileProblems(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"syntax":       {"edge: [", "config: yaml:"},
		"given twice":  {"edge: {listen_addr: a, listen-addr: b}", "edge.listen-addr: given twice"},
		"a bare list":  {"[a, b]", "config: "},
		"same mapping": {"data: a\ndata: b\n", "config: yaml:"},
	} {
		_, fs := newSample()
		err := Load(fs, []string{"-config", write(t, tc.text)}, nil)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, fs := newSample()
	err := Load(fs, []string{"-config", "/no/such/file.yaml"}, nil)
	if err == nil || !strings.Contains(err.Error(), "/no/such/file.yaml") || !strings.Contains(err.Error(), "flag -config") {
		t.Errorf("missing file: %v", err)
	}
}

func TestSecrets(t *testing.T) {
	path := write(t, "hunter2\n")
	for name, tc := range map[string]struct {
		args, env []string
		want      string
	}{
		"plain":       {args: []string{"-redis.password=hunter2"}, want: "hunter2"},
		"at":          {env: []string{"STARLING_REDIS_PASSWORD=@" + path}, want: "hunter2"},
		"file twin":   {env: []string{"STARLING_REDIS_PASSWORD_FILE=" + path}, want: "hunter2"},
		"twin flag":   {args: []string{"-redis.password-file", path}, env: []string{"STARLING_REDIS_PASSWORD=x"}, want: "hunter2"},
		"escaped at":  {args: []string{"-redis.password=@@home"}, want: "@home"},
		"yaml twin":   {args: []string{"-config", write(t, "redis: {password_file: "+path+"}")}, want: "hunter2"},
		"none at all": {},
	} {
		s, fs := newSample()
		if err := Load(fs, tc.args, tc.env); err != nil || s.Password.Reveal() != tc.want {
			t.Errorf("%s: %q, %v", name, s.Password.Reveal(), err)
		}
	}

	s, fs := newSample()
	if err := Load(fs, []string{"-redis.password=hunter2"}, nil); err != nil {
		t.Fatal(err)
	}
	text, _ := s.Password.MarshalText()
	var out bytes.Buffer
	if err := PrintChanged(&out, fs); err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{fmt.Sprint(s.Password), fmt.Sprintf("%v %+v %#v %s", s, s, s, s.Password), string(text), out.String()} {
		if strings.Contains(shown, "hunter2") {
			t.Errorf("the secret shows: %s", shown)
		}
	}
	if out.String() != "redis.password: \"********\"\n" {
		t.Errorf("-print-config: %q", out.String())
	}
	for _, args := range [][]string{
		{"-redis.password=@/no/such/file"},
		{"-redis.password=@" + write(t, "\n")},
		{"-redis.password=a", "-redis.password-file=" + path},
	} {
		_, fs := newSample()
		if err := Load(fs, args, nil); err == nil || !strings.Contains(err.Error(), "redis.password: ") {
			t.Errorf("Load(%v) = %v", args, err)
		}
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "512": 512, "512B": 512, "64KiB": 64 << 10, "64kib": 64 << 10, "1MB": 1e6, "2 GiB": 2 << 30, "3TB": 3e12, "1536B": 1536,
	} {
		var b Bytes
		if err := b.Set(text); err != nil || b != want {
			t.Errorf("Set(%q) = %d, %v", text, b, err)
		}
		var again Bytes
		if err := again.Set(b.String()); err != nil || again != b {
			t.Errorf("%d prints as %s, which reads as %d, %v", b, b, again, err)
		}
	}
	for _, text := range []string{"", "KiB", "-1", "1.5MB", "9999999999TiB", "1 parsec"} {
		var b Bytes
		if b.Set(text) == nil {
			t.Errorf("Set(%q) = %d", text, b)
		}
	}
}

func TestRun(t *testing.T) {
	fine := func() error { return nil }
	for name, tc := range map[string]struct {
		args     []string
		validate func() error
		done     bool
		out      string
		problems []string
	}{
		"nothing asked":  {validate: fine},
		"verify":         {args: []string{"-config.verify"}, validate: fine, done: true, out: "configuration ok, digest "},
		"print":          {args: []string{"-print-config", "-data=/x y"}, validate: fine, done: true, out: "data: \"/x y\"\n"},
		"print defaults": {args: []string{"-print-config"}, validate: fine, done: true, out: "# all settings are at their defaults\n"},
		"help":           {args: []string{"-h"}, validate: fine, done: true, out: "-edge.listen-addr"},
		"both kinds of errors": {
			args: []string{"-mysql.conns=x", "-config.verify"}, done: true, problems: []string{"mysql.conns", "a: one", "b: two", "c: three"},
			validate: func() error {
				return errors.Join(errors.Join(errors.New("a: one"), nil, errors.New("b: two")), errors.New("c: three"))
			},
		},
	} {
		var out bytes.Buffer
		_, fs := newSample()
		done, err := Run(fs, tc.args, nil, &out, tc.validate)
		if done != tc.done || !strings.Contains(out.String(), tc.out) {
			t.Errorf("%s: done %v, %q", name, done, out.String())
		}
		var got []string
		if bad, ok := errors.AsType[*Error](err); ok {
			got = bad.Problems
		} else if err != nil {
			t.Errorf("%s: %v is no *Error", name, err)
		}
		if len(got) != len(tc.problems) {
			t.Errorf("%s: %v, want %v", name, got, tc.problems)
		}
		for i := range min(len(got), len(tc.problems)) {
			if !strings.HasPrefix(got[i], tc.problems[i]) {
				t.Errorf("%s: %q, want %q", name, got[i], tc.problems[i])
			}
		}
	}
}

func TestPrintedConfigLoads(t *testing.T) {
	a, fa := newSample()
	if err := Load(fa, []string{"-data=/x: #y", "-kafka.brokers=a:1,b:2", "-edge.max-frame=3MiB", "-log.debug"}, nil); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := PrintChanged(&out, fa); err != nil {
		t.Fatal(err)
	}
	b, fb := newSample()
	if err := Load(fb, []string{"-config", write(t, out.String())}, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, b, cmp.AllowUnexported(Secret{})); diff != "" {
		t.Error(diff)
	}
	if Digest(fa) != Digest(fb) {
		t.Error("equal settings have different digests")
	}
	if _, fc := newSample(); Digest(fa) == Digest(fc) {
		t.Error("other settings have the same digest")
	}
}

func TestReference(t *testing.T) {
	_, fs := newSample()
	addCommands(fs)
	var out bytes.Buffer
	if err := Reference(&out, fs); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"## General\n",
		"| `data` | folder | `./data` | `STARLING_DATA` | data folder |",
		"## edge\n",
		"| `edge.max-frame` | value | `128KiB` | `STARLING_EDGE_MAX_FRAME` | largest frame |",
		"| `log.debug` | bool | `false` | `STARLING_LOG_DEBUG` | more lines \\| many |",
		"| `redis.password` | secret |  | `STARLING_REDIS_PASSWORD` | password |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "print-config") || strings.Count(out.String(), "## General") != 1 {
		t.Errorf("reference:\n%s", out.String())
	}
}

func TestExample(t *testing.T) {
	_, fs := newSample()
	var out bytes.Buffer
	if err := Example(&out, fs, "An edge.\nTwo lines.", map[string]string{"kafka.brokers": "a:1,b:2", "target": "edge"}); err != nil {
		t.Fatal(err)
	}
	want, _ := newSample()
	want.Peers, want.Target = Strings{"a:1", "b:2"}, "edge"
	got, fs2 := newSample()
	if err := Load(fs2, []string{"-config", write(t, out.String())}, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Secret{})); diff != "" {
		t.Errorf("%s\n%s", diff, out.String())
	}

	// With every key uncommented it still loads, and is the defaults.
	var all strings.Builder
	for line := range strings.Lines(out.String()) {
		if rest, ok := strings.CutPrefix(line, "# "); ok && strings.Contains(rest, ": ") && !strings.HasPrefix(strings.TrimSpace(rest), "#") || strings.HasSuffix(line, ":\n") {
			line = strings.TrimPrefix(line, "# ")
		}
		all.WriteString(line)
	}
	if _, fs3 := newSample(); Load(fs3, []string{"-config", write(t, all.String())}, nil) != nil || Digest(fs3) != Digest(fs2) {
		t.Errorf("uncommented:\n%s", all.String())
	}
	if err := Example(&out, fs, "", map[string]string{"no.such": "x"}); err == nil {
		t.Error("an example of a setting that is not there")
	}
}

func FuzzFile(f *testing.F) {
	f.Add("edge:\n  listen_addr: x\n")
	f.Add("kafka: {brokers: [a, b]}\nmysql: {conns: 1e3}")
	f.Add("a: &a {b: *a}")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, "f.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, fs := newSample()
		if err := Load(fs, []string{"-config", path}, nil); err != nil {
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Fatalf("%v is no *Error", err)
			}
		}
	})
}
