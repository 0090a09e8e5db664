package buildinfo

import (
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func TestFrom(t *testing.T) {
	bi := &debug.BuildInfo{
		GoVersion: "go1.26.0", Main: debug.Module{Version: "v0.9.0"},
		Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "0123456789abcdef"},
			{Key: "vcs.time", Value: "2026-01-02T03:04:05Z"},
			{Key: "vcs.modified", Value: "true"},
		},
	}
	want := Info{Version: "v1.2.3", Revision: "0123456789abcdef", Modified: true, Time: "2026-01-02T03:04:05Z", Go: "go1.26.0"}
	if diff := cmp.Diff(want, from("v1.2.3", bi)); diff != "" {
		t.Error(diff)
	}
	if got := from("", bi).Version; got != "v0.9.0" {
		t.Errorf("version of the module: %s", got)
	}
	if got := from("", &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}).String(); got != "devel" {
		t.Errorf("of a bare build: %q", got)
	}
	if got := want.String(); got != "v1.2.3 0123456789ab modified go1.26.0" {
		t.Errorf("String() = %q", got)
	}
	bi.Settings = append(bi.Settings, debug.BuildSetting{Key: "-tags", Value: "x,planted"})
	if got := from("v1.2.3", bi).String(); got != "v1.2.3 0123456789ab modified go1.26.0 WITH PLANTED BUGS" {
		t.Errorf("String() = %q", got)
	}
	if !strings.Contains(Read().String(), "go1.") {
		t.Errorf("Read() = %s", Read())
	}
}
