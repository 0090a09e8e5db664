package main

import (
	"testing"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// What cannot go together is bad flags, before anything is started.
func TestVerifyFlags(t *testing.T) {
	for _, args := range [][]string{
		{"-faults", "kill"},
		{"-cluster", "split"},
		{"-cluster", "split", "-local", t.TempDir()},
		{"-cluster", "all", "-local", t.TempDir()},
		{"-cluster", "all", "-bin", t.TempDir()},
		{"-cluster", "none"},
		{"-bin", t.TempDir()},
		{"-cluster", "all", "-api", "http://127.0.0.1:1"},
		{"-cluster", "all", "-faults", "flush"},
		{"-nothing"},
	} {
		if code := verify(t.Context(), args); code != exitUsage {
			t.Errorf("%q: exit code %d", args, code)
		}
	}
}
