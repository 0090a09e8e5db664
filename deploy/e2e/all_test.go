package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/starling-im/starling/common/testkit"
)

// TestMain builds the binary under test once, race-checked when the test is.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "starling-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "starling")
	args := []string{"build", "-o", dir + "/"}
	if raceEnabled {
		args = append(args, "-race")
	}
	args = append(args, "../..")
	if os.Getenv(localEnv) != "" {
		args = append(args, "../../edge/cmd/edge", "../../logic/cmd/logic", "../../job/cmd/job")
	}
	build := exec.Command("go", args...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build starling:", err)
		os.Exit(1)
	}
	code := testkit.Run(m,
		// The default HTTP client keeps connections to systems that have ended.
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

var binary string

func TestAllInOne(t *testing.T) { runScenarios(t, Start(t, binary)) }

func runScenarios(t *testing.T, s *System) {
	t.Helper()
	s.AwaitCalm(t)
	t.Run("scenarios", func(t *testing.T) {
		for _, sc := range Scenarios() {
			t.Run(sc.Name, func(t *testing.T) {
				t.Parallel()
				sc.Run(t, s)
			})
		}
	})
}
