package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A server's data are the same on the small disk and afterwards; filled, it takes
// not a byte more.
func TestSmallDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	s := &Server{Name: "mysql", Tier: tierMySQL, dir: dir, file: "mariadb", marker: "none such", data: filepath.Join(dir, "data")}
	if err := os.MkdirAll(filepath.Join(s.data, "im"), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) error { return os.WriteFile(filepath.Join(s.data, name), []byte(text), 0o600) }
	if err := write("im/before", "1"); err != nil {
		t.Fatal(err)
	}
	if err := s.shrink(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(s.data, syscall.MNT_DETACH) })
	if !onTmpfs(s.data) {
		t.Fatal("nothing is mounted")
	}
	if err := write("im/meanwhile", "2"); err != nil {
		t.Fatal(err)
	}
	if err := s.Fill(); err != nil {
		t.Fatal(err)
	}
	if err := write("im/full", strings.Repeat("x", 8192)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("on a full disk: %v", err)
	}
	// A run that was broken off here is taken over by the next one.
	again := *s
	again.small = nil
	if err := again.takeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	s = &again
	if err := write("im/freed", strings.Repeat("x", 8192)); err != nil {
		t.Errorf("on a freed disk: %v", err)
	}
	if err := s.widen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if onTmpfs(s.data) {
		t.Error("it is still mounted")
	}
	for name, want := range map[string]string{"before": "1", "meanwhile": "2"} {
		if b, err := os.ReadFile(filepath.Join(s.data, "im", name)); err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v", name, b, err)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := s.Fill(); err == nil || s.Free() != nil || s.widen(t.Context()) != nil {
		t.Error("without a small disk one is filled, or freeing it is an error")
	}
}

// Whatever moment a run is broken off at, the next one finds the data.
func TestTakeOver(t *testing.T) {
	for name, c := range map[string]struct{ data, fresh, back, aside, want string }{
		"nothing was begun":       {data: "1", want: "1"},
		"moved aside":             {aside: "1", want: "1"},
		"half of it copied":       {data: "half", aside: "1", want: "1"},
		"half of it copied back":  {data: "half", fresh: "half", aside: "1", want: "1"},
		"copied back as a whole":  {data: "", back: "2", aside: "1", want: "2"},
		"the old is not yet gone": {data: "2", fresh: "half", want: "2"},
	} {
		dir := t.TempDir()
		s := &Server{Name: "mysql", Tier: "mysql", dir: dir, file: "mariadb", marker: "none such", data: filepath.Join(dir, "data")}
		for at, text := range map[string]string{s.data: c.data, s.fresh(): c.fresh, s.back(): c.back, s.aside(): c.aside} {
			if text == "" {
				continue
			}
			if err := errors.Join(os.Mkdir(at, 0o700), os.WriteFile(filepath.Join(at, "row"), []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.takeOver(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := os.ReadFile(filepath.Join(s.data, "row")); err != nil || string(b) != c.want {
			t.Errorf("%s: it has %q, %v", name, b, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("%s: left behind: %v, %v", name, left, err)
		}
	}
}
