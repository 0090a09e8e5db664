package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/ledger"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/internal/process"
)

// ledger runs the command as whoever runs the server would.
func (x *installation) ledger(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Main(t.Context(), "test", process.IO{Args: slices.Concat([]string{"ledger"}, x.args, args), Stdout: &out, Stderr: &errs})
	return code, out.String(), errs.String()
}

// balances waits until all is applied, and wants every reading to balance.
func (x *installation) balances(t *testing.T, stored int64) {
	t.Helper()
	eventually(t, "all is applied", func() error {
		code, out, errs := x.ledger(t, "-json")
		var l ledger.Ledger
		if err := json.Unmarshal([]byte(out), &l); err != nil || code != 0 || !l.Balanced || len(l.Log) != 8 || len(l.Pushes) == 0 {
			t.Fatalf("%d %v %s%s", code, err, out, errs)
		}
		if l.Totals.Lag != 0 || l.Totals.Stored != stored {
			return fmt.Errorf("%+v, want %d stored", l.Totals, stored)
		}
		return nil
	})
}

// The embedded default: a balance while it runs, its table, who does not answer,
// and a column that somebody changed.
func TestLedger(t *testing.T) {
	x := &installation{dir: t.TempDir()}
	addrs := testkit.Reserve(t, 8)
	x.api, x.ws, x.admins = addrs[0], addrs[1], addrs[5:8]
	for i, key := range []string{"logic.http", "edge.listen", "logic.grpc", "edge.grpc", "edge.tcp", "logic.admin", "edge.admin", "job.admin"} {
		x.args = append(x.args, "-"+key+"-addr="+addrs[i])
	}
	x.args = append(x.args, "-log.level=error", "-app.ready-delay=0s")
	data := "-data=" + x.dir
	x.start(t, data)
	x.ready(t)
	alice, bob := x.join(t, "alice"), x.join(t, "bob")
	for _, text := range []string{"one", "two", "three"} {
		alice.say(t, "bob", text)
	}
	bob.gets(t, "one", "two", "three")
	x.balances(t, 3)
	for flag, want := range map[string]string{"-partitions=false": " im_messages  ", "-partitions": " im_messages/3  "} {
		code, out, _ := x.ledger(t, flag)
		if code != 0 || !strings.Contains(out, want) || !strings.HasSuffix(out, "\nbalanced\n") || !strings.Contains(out, "pushes to sessions") {
			t.Errorf("%s: %d\n%s", flag, code, out)
		}
	}
	// A logic has none; nobody is at the port of the former edge.
	code, out, errs := x.ledger(t, "-admin="+x.admins[0]+","+x.admins[2]+",127.0.0.1:1")
	for _, want := range []string{"http://" + x.admins[0] + ": has no ledger", "http://127.0.0.1:1: does not answer", "is the process up"} {
		if code != 1 || !strings.Contains(out, want) || !strings.Contains(errs, "does not balance: 2 differences") {
			t.Errorf("%d, no %q in\n%s%s", code, want, out, errs)
		}
	}
	if code, _, errs := x.ledger(t, "-admin=ftp://x"); code != 2 || !strings.Contains(errs, "admin: ") {
		t.Errorf("a bad address: %d %s", code, errs)
	}
	if code, out, _ := x.ledger(t, "-h"); code != 0 || !strings.Contains(out, "-partitions") {
		t.Errorf("-h: %d %s", code, out)
	}

	if code := x.end(); code != 0 {
		t.Fatalf("exit code %d: %s", code, x.errors.String())
	}
	db := openDB(t, "sqlite", filepath.Join(x.dir, "starling.db"))
	if _, err := db.ExecContext(t.Context(), "UPDATE log_partitions SET refused = refused + 2 WHERE topic = 'im_group_chat' AND number = 1"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	x.start(t, data)
	x.ready(t)
	code, out, _ = x.ledger(t)
	if code != 1 || !strings.Contains(out, "DIFFERENCE im_group_chat/1: -2: 0 records were applied from offset 0 on, and the columns count 2") {
		t.Errorf("%d\n%s", code, out)
	}
}
