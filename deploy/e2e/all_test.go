package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestMain builds the binary under test once, race-checked when the test is.
func TestMain(m *testing.M) {
	code := func() int {
		dir, err := os.MkdirTemp("", "starling-e2e")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		binary = filepath.Join(dir, "starling")
		args := []string{"build", "-o", binary}
		if raceEnabled {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, "../..")...)
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build starling:", err)
			return 1
		}
		return m.Run()
	}()
	os.Exit(code)
}

var binary string

func TestAllInOne(t *testing.T) {
	s := Start(t, binary)
	t.Run("scenarios", func(t *testing.T) {
		for _, sc := range Scenarios() {
			t.Run(sc.Name, func(t *testing.T) {
				t.Parallel()
				sc.Run(t, s)
			})
		}
	})
}
