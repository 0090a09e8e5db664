// Package processtest checks the generated files of a program's settings, and
// writes them anew when STARLING_TEST_UPDATE is set (make gen). It is for
// tests alone and keeps no state.
package processtest

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/internal/process"
)

// File compares a file with what it should hold.
func File(t *testing.T, path string, want []byte) {
	t.Helper()
	if os.Getenv("STARLING_TEST_UPDATE") != "" {
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o644); err != nil { //nolint:gosec // a file of the repository
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path) //nolint:gosec // a path of the test's own
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is stale: run make gen", path)
	}
}

// Example checks the example file of a program: it is fresh, it loads, and
// what it sets is the defaults but for the keys in show.
func Example(t *testing.T, folder, name, intro string, program func() process.Program, show map[string]string) {
	t.Helper()
	defaults, _ := process.Flags(name, program())
	var want bytes.Buffer
	if err := config.Example(&want, defaults, intro, show); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, name+".example.yaml")
	File(t, path, want.Bytes())

	loaded, _ := process.Flags(name, program())
	if err := config.Load(loaded, []string{"-config", path}, nil); err != nil {
		t.Fatal(err)
	}
	defaults.VisitAll(func(f *flag.Flag) {
		got, want := loaded.Lookup(f.Name).Value.String(), f.DefValue
		if shown, ok := show[f.Name]; ok {
			if want = shown; strings.HasPrefix(got, "***") {
				want = got // a secret does not show
			}
		}
		if got != want {
			t.Errorf("%s: %s is %q, want %q", path, f.Name, got, want)
		}
	})
}
