package server

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/internal/process"
	"github.com/starling-im/starling/internal/process/processtest"
)

// The pollers and the clock of the libraries are the process', for good.
func TestMain(m *testing.M) {
	testkit.VerifyMain(m,
		goleak.IgnoreAnyFunction("github.com/cloudwego/netpoll.(*defaultPoll).Wait"),
		goleak.IgnoreAnyFunction("github.com/cloudwego/hertz/pkg/protocol.UpdateServerDate.func1"))
}

func TestConfigFiles(t *testing.T) {
	processtest.Example(t, "../../configs", "starling",
		"Settings of the composed binary (bin/starling -config FILE). Nothing has to be set to run\neverything on one machine with embedded services.",
		func() process.Program { return &Program{} }, nil)
	fs, _ := process.Flags("starling", &Program{})
	var want bytes.Buffer
	if err := config.Reference(&want, fs); err != nil {
		t.Fatal(err)
	}
	processtest.File(t, "../../configs/reference.md", want.Bytes())
}

func TestDecide(t *testing.T) {
	all := backends{kafka: true, redis: true, mysql: true}
	for _, tc := range []struct {
		target   string
		given    backends
		embedded bool
		tiers    string
		missing  []string
	}{
		{"all", backends{}, true, "logic job edge", nil},
		{"all", all, false, "logic job edge", nil},
		{"all", backends{redis: true}, false, "", []string{"kafka.brokers", "mysql.dsn"}},
		{"all", backends{kafka: true, mysql: true}, false, "", []string{"redis.addrs"}},
		{"edge", backends{redis: true}, false, "edge", nil},
		{"edge", backends{}, false, "", []string{"redis.addrs"}},
		{"logic", all, false, "logic", nil},
		{"logic", backends{redis: true}, false, "", []string{"kafka.brokers", "mysql.dsn"}},
		{"job", backends{}, false, "", []string{"kafka.brokers", "redis.addrs", "mysql.dsn"}},
		{"everything", all, false, "", []string{"target"}},
	} {
		p, err := decide(tc.target, tc.given)
		if tc.missing == nil {
			if err != nil || p.embedded != tc.embedded || strings.Join(p.tiers, " ") != tc.tiers {
				t.Errorf("decide(%s, %+v) = %+v, %v", tc.target, tc.given, p, err)
			}
			continue
		}
		bad, _ := errors.AsType[*config.Error](config.Invalid(err))
		if bad == nil || len(bad.Problems) != len(tc.missing) {
			t.Errorf("decide(%s, %+v): %v, want %v", tc.target, tc.given, err, tc.missing)
			continue
		}
		for i, key := range tc.missing {
			if !strings.HasPrefix(bad.Problems[i], key+": ") || !strings.Contains(bad.Problems[i], "; ") {
				t.Errorf("decide(%s): %q names no %s and remedy", tc.target, bad.Problems[i], key)
			}
		}
	}
}

// Whoever sets keys of his own means them: the embedded default checks them, too.
func TestEmbeddedWithKeysOfOnesOwn(t *testing.T) {
	p := &Program{}
	fs, _ := process.Flags("starling", p)
	if err := fs.Parse([]string{"-auth.jwks=" + filepath.Join(t.TempDir(), "none.json"), "-data=" + t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	if err := p.Validate(); err == nil || !strings.Contains(err.Error(), "auth.jwks") {
		t.Errorf("a missing file: %v", err)
	}
	dir := t.TempDir()
	if _, err := token.LoadOrCreate(dir); err != nil {
		t.Fatal(err)
	}
	p.auth.JWKS = filepath.Join(dir, token.FileName)
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	// A token is signed with them, wherever the data are.
	var out bytes.Buffer
	if err := Token(process.IO{Args: []string{"-data", t.TempDir(), "-auth.jwks", p.auth.JWKS, "-user=alice"}, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	keys, err := token.Load(p.auth.JWKS)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Verifier().Verify(strings.TrimSpace(out.String()), time.Now()); err != nil {
		t.Errorf("the token is signed with another key: %v", err)
	}
	// So it is by the variables of the environment.
	out.Reset()
	if err := Token(process.IO{Args: []string{"-user=alice"}, Environ: []string{"STARLING_DATA=" + dir}, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Verifier().Verify(strings.TrimSpace(out.String()), time.Now()); err != nil {
		t.Errorf("STARLING_DATA is not minded: %v", err)
	}
}

// The embedded Redis lives in this process: what only saves work goes soon.
func TestEmbeddedRedisForgetsSoon(t *testing.T) {
	p := &Program{}
	fs, _ := process.Flags("starling", p)
	if err := fs.Parse([]string{"-redis.cache-ttl=1m"}); err != nil {
		t.Fatal(err)
	}
	r := p.withEmbedded([]string{"127.0.0.1:1"}, "127.0.0.1:2", "db").Redis
	if r.ReserveTTL > 10*time.Minute || r.CacheTTL != time.Minute {
		t.Errorf("client ids are kept for %v, bodies for %v", r.ReserveTTL, r.CacheTTL)
	}
}

func TestToken(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var out bytes.Buffer
	err := Token(process.IO{
		Args:   []string{"-data", dir, "-user", "alice", "-device=web-1", "-role", "user,admin,user", "-ttl", "1h"},
		Stdout: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(out.String(), "\n") != 1 {
		t.Errorf("printed %q, want one line", out.String())
	}
	keys, err := token.LoadOrCreate(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := keys.Verifier().Verify(strings.TrimSpace(out.String()), time.Now())
	if err != nil || c.User != "alice" || c.Device != "web-1" || !slices.Equal(c.Roles, []string{"admin", "user"}) {
		t.Errorf("claims %+v, %v", c, err)
	}
	if left := time.Until(c.Expires); left < 59*time.Minute || left > 61*time.Minute {
		t.Errorf("expires in %v", left)
	}
}

func TestTokenRefusesAllAtOnce(t *testing.T) {
	err := Token(process.IO{Args: []string{"-user=no blanks", "-device=:", "-role=king", "-ttl=-1s", "stray"}})
	bad, ok := errors.AsType[*config.Error](err)
	if !ok || len(bad.Problems) != 5 {
		t.Fatalf("Token() = %v, want five problems", err)
	}
	if _, ok := errors.AsType[*config.Error](Token(process.IO{Args: []string{"-nope"}})); !ok {
		t.Error("an unknown flag is no configuration error")
	}
	var out bytes.Buffer
	if err := Token(process.IO{Args: []string{"-h"}, Stdout: &out}); err != nil || !strings.Contains(out.String(), "-ttl") {
		t.Errorf("-h: %q, %v", out.String(), err)
	}
}
