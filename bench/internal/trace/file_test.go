package trace

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// What many write at once is read back in one order, plain and gzipped.
func TestWriteAndRead(t *testing.T) {
	for _, name := range []string{"a.jsonl", "a.jsonl.gz"} {
		path := filepath.Join(t.TempDir(), name)
		w, err := Create(path, &Run{Seed: 7})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for c := range 4 {
			wg.Go(func() {
				for seq := range 100 {
					w.Add(&Event{Kind: Msg, Conn: int64(c + 1), Msg: &wire.Msg{Seq: int64(seq), Content: "<ä>"}})
				}
			})
		}
		wg.Wait()
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		next := map[int64]int64{}
		var at int64
		for e, err := range Read(path) {
			if err != nil {
				t.Fatal(err)
			}
			if e.T < at {
				t.Errorf("event %d is earlier than the one before", e.N)
			}
			if at = e.T; e.Kind != Msg {
				continue
			}
			if e.Msg.Seq != next[e.Conn] || e.Msg.Content != "<ä>" {
				t.Errorf("connection %d: %+v, want seq %d", e.Conn, e.Msg, next[e.Conn])
			}
			next[e.Conn]++
		}
		if len(next) != 4 || next[1] != 100 {
			t.Errorf("%s: read %v", name, next)
		}
		w.Add(&Event{Kind: Note})
		if w.Close() == nil {
			t.Error("closed twice without an error")
		}
	}
}

func TestDamagedFiles(t *testing.T) {
	good := `{"n":1,"t":0,"k":"begin","text":"` + Version + `","run":{"seed":1}}` + "\n"
	for name, c := range map[string]struct{ content, want string }{
		"empty":        {"", "empty"},
		"no JSON":      {"hello\n", "line 1"},
		"other":        {`{"n":1,"k":"begin","text":"x","run":{}}`, "no record of this version"},
		"no beginning": {`{"n":1,"k":"msg"}`, "no record of this version"},
		"gap":          {good + `{"n":3,"k":"note"}`, "event 3 follows 1"},
		"cut":          {good + `{"n":2,"k":"no`, "line 2"},
	} {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		var last error
		for _, err := range Read(path) {
			last = err
		}
		if last == nil || !strings.Contains(last.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, last, c.want)
		}
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "none"), "file_test.go.gz"} {
		for _, err := range Read(path) {
			if err == nil {
				t.Errorf("%s is read", path)
			}
		}
	}
	if _, err := Create(filepath.Join(t.TempDir(), "no", "such"), nil); err == nil {
		t.Error("a file in a folder that does not exist")
	}
}
