package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starling-im/starling/common/planted"
)

// plantedEnv set to 1 runs the test of planted bugs, which takes minutes (make
// test-planted).
const plantedEnv = "STARLING_TEST_PLANTED"

// plantedLate is what `bench verify` is told to call late where a bug is one of
// time.
const plantedLate = "2s"

// TestPlanted builds starling with its planted bugs and asks of each whether
// `bench verify` finds it by ten or twenty seconds of work, and calls it by a name that is
// right. Without a bug the same build is clean. Several systems run at a time (-parallel).
func TestPlanted(t *testing.T) {
	if os.Getenv(plantedEnv) != "1" {
		t.Skip(plantedEnv + " is not 1: make test-planted runs this")
	}
	dir := t.TempDir()
	sick, bench := filepath.Join(dir, "starling"), filepath.Join(dir, "bench")
	goBuild(t, "-tags", "planted", "-o", sick, "../..")
	goBuild(t, "-o", bench, "../../bench/cmd/bench")
	if out, err := exec.Command(sick, "version").CombinedOutput(); err != nil || !strings.Contains(string(out), "PLANTED BUGS") {
		t.Errorf("the version does not tell: %v %s", err, out)
	}
	unknown := exec.Command(sick, "-data", dir)
	unknown.Env = append(os.Environ(), "STARLING_PLANTED=none-such")
	if out, err := unknown.CombinedOutput(); unknown.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), string(planted.LogicAcksEarly)) {
		t.Errorf("an unknown bug is taken: %v %s", err, out)
	}
	var seen sync.Map // rules that a bug broke which is to break them
	var ran atomic.Int64
	t.Run("bugs", func(t *testing.T) {
		t.Run("none", func(t *testing.T) {
			t.Parallel()
			if broken, _ := verifyPlanted(t, bench, Start(t, sick, plantedSettings()...), "-settle", "30s"); len(broken) > 0 {
				t.Errorf("found without a bug: %v", broken)
			}
		})
		for _, in := range planted.All() {
			t.Run(string(in.Bug), func(t *testing.T) { t.Parallel(); ran.Add(1); findPlanted(t, sick, bench, in, &seen) })
		}
	})
	if int(ran.Load()) < len(planted.All()) {
		return // -run chose some
	}
	for _, in := range planted.All() {
		for _, rule := range in.Rules {
			if _, ok := seen.Load(rule); !ok {
				t.Errorf("no bug broke %s, as %s should", rule, in.Bug)
			}
		}
	}
}

// plantedSettings make a slow client felt, and let the index be known soon: while
// it is not, everything goes to every edge, and no route matters.
func plantedSettings() []string {
	return []string{"STARLING_EDGE_QUEUE_BYTES=16KiB", "STARLING_EDGE_LEASE_TTL=4s"}
}

func findPlanted(t *testing.T, sick, bench string, in planted.Info, seen *sync.Map) {
	t.Helper()
	s := Start(t, sick, append(plantedSettings(), "STARLING_PLANTED="+string(in.Bug))...)
	var flags []string
	if slices.Contains(in.Rules, "late") {
		flags = []string{"-late", plantedLate}
	}
	if in.Bug == planted.EdgeKeepsQuiet { // clients must first be slow
		flags = append(flags, "-duration", "20s", "-size", "16384")
	}
	broken, took := verifyPlanted(t, bench, s, flags...)
	found := false
	for _, rule := range in.Rules {
		if broken[rule] > 0 {
			seen.Store(rule, true)
			found = true
		}
	}
	if found {
		t.Logf("%s: found in %v by %v", in.Bug, took.Round(100*time.Millisecond), broken)
		return
	}
	t.Errorf("%s (%s) is not found: want one of %v, broken are %v", in.Bug, in.What, in.Rules, broken)
}

// verifyPlanted runs `bench verify` on a system and returns how often which rule
// was broken.
func verifyPlanted(t *testing.T, bench string, s *System, flags ...string) (broken map[string]int, took time.Duration) {
	t.Helper()
	p := s.Process("all")
	args := append([]string{"verify", "-json", "-api", s.API, "-ledger", p.setting("EDGE_ADMIN_ADDR") + "," + p.setting("JOB_ADMIN_ADDR"), "-rate", "200", "-duration", "10s", "-settle", "8s"}, flags...)
	dir := cmp.Or(os.Getenv("STARLING_TEST_RECORDS"), t.TempDir())
	args = append(args, "-record", filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-")+".jsonl.gz"))
	cmd := exec.CommandContext(t.Context(), bench, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	err := cmd.Run()
	took = time.Since(began)
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) || errs.Len() > 0 {
		t.Fatalf("bench verify: %v %s", err, errs.String())
	}
	var verdict struct{ Broken map[string]int }
	if jerr := json.Unmarshal(out.Bytes(), &verdict); jerr != nil {
		t.Fatalf("the verdict: %v in %s", jerr, out.String())
	}
	if (err != nil) != (len(verdict.Broken) > 0) {
		t.Errorf("the exit code does not tell: %v, broken are %v", err, verdict.Broken)
	}
	if len(verdict.Broken) > 0 && testing.Verbose() {
		t.Logf("%.3000s", out.String())
	}
	return verdict.Broken, took
}

func goBuild(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"build"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %v: %v\n%s", args, err, out)
	}
}
