// Package buildinfo says which build this is: the version that the linker was
// told, else what the Go toolchain recorded of the checkout. Safe for
// concurrent use; it only reads.
package buildinfo

import (
	"runtime/debug"
	"slices"
	"strings"
)

// version is set by the Makefile: -ldflags "-X …/common/buildinfo.version=v1.2.3".
var version string

// Info is what a build knows of itself.
type Info struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Modified bool   `json:"modified"` // the checkout had changes
	Time     string `json:"time"`     // of the revision
	Go       string `json:"go"`
	Planted  bool   `json:"planted,omitempty"` // with common/planted's bugs: for tests alone
}

// Read returns the facts of the running binary.
func Read() Info {
	bi, ok := debug.ReadBuildInfo()
	if !ok {
		bi = &debug.BuildInfo{}
	}
	return from(version, bi)
}

func from(linked string, bi *debug.BuildInfo) Info {
	in := Info{Version: linked, Go: bi.GoVersion}
	for _, s := range bi.Settings {
		switch s.Key {
		case "vcs.revision":
			in.Revision = s.Value
		case "vcs.time":
			in.Time = s.Value
		case "vcs.modified":
			in.Modified = s.Value == "true"
		case "-tags":
			in.Planted = slices.Contains(strings.Split(s.Value, ","), "planted")
		}
	}
	if in.Version == "" && bi.Main.Version != "(devel)" {
		in.Version = bi.Main.Version
	}
	if in.Version == "" {
		in.Version = "devel"
	}
	return in
}

// String is one line: version, revision, toolchain, and what it must not be used for.
func (in Info) String() string {
	s := in.Version
	if in.Revision != "" {
		s += " " + in.Revision[:min(12, len(in.Revision))]
	}
	if in.Modified {
		s += " modified"
	}
	if in.Go != "" {
		s += " " + in.Go
	}
	if in.Planted {
		s += " WITH PLANTED BUGS"
	}
	return s
}
