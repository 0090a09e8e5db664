package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/internal/deadletter"
	"github.com/starling-im/starling/internal/process"
)

// deadLetters runs the command and returns its exit code and what it prints.
func deadLetters(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Main(t.Context(), "test", process.IO{Args: append([]string{"deadletter"}, args...), Stdout: &o, Stderr: &e})
	return code, o.String(), e.String()
}

// want runs the command and looks for texts in what it prints.
func wantLetters(t *testing.T, code int, texts []string, args ...string) string {
	t.Helper()
	got, out, errs := deadLetters(t, args...)
	if got != code {
		t.Fatalf("deadletter %v: exit code %d, want %d\n%s%s", args, got, code, out, errs)
	}
	for _, text := range texts {
		if !strings.Contains(out+errs, text) {
			t.Fatalf("deadletter %v: %q is missing in\n%s%s", args, text, out, errs)
		}
	}
	return out
}

func listed(t *testing.T, data string) (list []letterJSON) {
	t.Helper()
	out := wantLetters(t, 0, nil, "list", "-json", "-data", data)
	for line := range strings.Lines(out) {
		var l letterJSON
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		list = append(list, l)
	}
	return list
}

// onEmbedded is a server of the embedded default.
func onEmbedded(t *testing.T) *installation {
	t.Helper()
	x := &installation{dir: t.TempDir()}
	addrs := testkit.Reserve(t, 8)
	x.api, x.ws, x.admins = addrs[0], addrs[1], addrs[5:8]
	for i, key := range []string{"logic.http", "edge.listen", "logic.grpc", "edge.grpc", "edge.tcp", "logic.admin", "edge.admin", "job.admin"} {
		x.args = append(x.args, "-"+key+"-addr="+addrs[i])
	}
	x.args = append(x.args, "-log.level=error", "-redis.timeout=10s", "-logic.look-budget=10s", "-app.ready-delay=0s")
	return x
}

func (x *installation) database() string { return filepath.Join(x.dir, "starling.db") }

func (x *installation) exec(t *testing.T, statement string) {
	t.Helper()
	db := openDB(t, "sqlite", "file:"+x.database()+"?_pragma=busy_timeout(5000)")
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
}

// TestDeadLetters: what the store does not take is set aside, shown, and once
// it does, delivered once; beside a server and without one.
func TestDeadLetters(t *testing.T) {
	x := onEmbedded(t)
	data := "-data=" + x.dir
	x.start(t, data)
	x.ready(t)
	wantLetters(t, 0, []string{"no letters"}, "list", data)
	wantLetters(t, 1, []string{"nothing to replay"}, "replay", "-all", data)
	alice, bob := x.join(t, "alice"), x.join(t, "bob")

	x.exec(t, "CREATE TRIGGER bug BEFORE INSERT ON messages WHEN NEW.content LIKE 'odd%' BEGIN SELECT RAISE(ABORT, 'a bug'); END")
	for _, text := range []string{"odd-one", "fine", "odd-two"} {
		alice.say(t, "bob", text)
	}
	bob.gets(t, "fine")
	eventually(t, "letters", func() error {
		if list := listed(t, x.dir); len(list) != 2 {
			return fmt.Errorf("%+v", list)
		}
		return nil
	})
	list := listed(t, x.dir)
	one, two := list[0], list[1]
	if one.State != deadletter.Open || one.ClientID != "odd-one" || one.Conv != "p:alice:bob" || one.Kind != "send" || one.Verdict.Code != "internal" {
		t.Errorf("%+v", one)
	}
	wantLetters(t, 0, []string{one.ID, "open", "a bug"}, "list", data)
	wantLetters(t, 0, []string{"2 letters in all", two.ID}, "list", "-limit=1", data)
	wantLetters(t, 0, []string{`"content": "odd-one"`, `"state": "open"`, `"error": "`}, "show", one.ID, data)
	x.refusedTo(t, alice, 2)

	// Before it is fixed it is set aside again; nothing else happens.
	wantLetters(t, 1, []string{one.ID, "set aside again"}, "replay", one.ID, data)
	if code, _, errs := deadLetters(t, "replay", "-all", data); code != 1 || strings.Count(errs, "set aside again") != 1 {
		t.Errorf("all, before it is fixed, ended with %d: %s", code, errs)
	}
	x.exec(t, "DROP TRIGGER bug")
	if _, err := alice.Send(t.Context(), wire.Send{To: "bob", ClientID: "odd-one", Type: wire.TypeText, Content: "odd-one"}); err == nil {
		t.Error("the same client_id gets through")
	}
	wantLetters(t, 0, []string{one.ID, "applied, as seq 2"}, "replay", data, one.ID)
	bob.gets(t, "fine", "odd-one")
	alice.gets(t, "fine", "odd-one")
	wantLetters(t, 1, []string{one.ID, "stands already", "seq 2"}, "replay", one.ID, data)
	ack, err := alice.Send(t.Context(), wire.Send{To: "bob", ClientID: "odd-one", Type: wire.TypeText, Content: "odd-one"})
	if err != nil || fmt.Sprint(int64(ack.ID)) != fmt.Sprint(one.Message) {
		t.Errorf("its client_id now: %+v, %v; its id is %d", ack, err, one.Message)
	}
	x.refusedTo(t, alice, 1)
	wantLetters(t, 0, []string{two.ID, "applied, as seq 3"}, "replay", "-all", data)
	wantLetters(t, 1, []string{"nothing to replay"}, "replay", "-all", data)
	bob.gets(t, "fine", "odd-one", "odd-two")
	x.refusedTo(t, alice, 0)
	for _, l := range listed(t, x.dir) { // the one that was set aside again too
		if l.State != deadletter.Applied || l.Verdict.Code != "ok" {
			t.Errorf("%s is %s: %+v", l.ID, l.State, l.Verdict)
		}
	}
	x.unwritten(t, alice, bob)
	if code := x.end(); code != 0 {
		t.Fatalf("the server ended with %d: %s", code, x.errors.String())
	}
	x.alone(t, two.ID)
}

// refusedTo: a sync tells alice of so many refusals.
func (x *installation) refusedTo(t *testing.T, alice *person, n int) {
	t.Helper()
	eventually(t, "refusals", func() error {
		ok, err := alice.Sync(t.Context(), wire.Sync{})
		if err != nil || len(ok.Refused) != n {
			return fmt.Errorf("%d refusals, want %d: %w", len(ok.Refused), n, err)
		}
		return nil
	})
}

// unwritten: a record whose letter is gone is found by its place.
func (x *installation) unwritten(t *testing.T, alice, bob *person) {
	t.Helper()
	data := "-data=" + x.dir
	x.exec(t, "CREATE TRIGGER bug BEFORE INSERT ON messages WHEN NEW.content LIKE 'odd%' BEGIN SELECT RAISE(ABORT, 'a bug'); END")
	alice.say(t, "bob", "odd-three")
	var l letterJSON
	eventually(t, "a letter", func() error {
		list := listed(t, x.dir)
		if l = list[len(list)-1]; l.ClientID != "odd-three" {
			return errors.New("not yet")
		}
		return nil
	})
	x.exec(t, "DROP TRIGGER bug")
	b, err := os.ReadFile(filepath.Join(x.dir, "brokers"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(strings.Fields(string(b))...))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	admin := kadm.NewClient(c)
	ends, err := admin.ListEndOffsets(t.Context(), "im_dead_letter")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.DeleteRecords(t.Context(), ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	wantLetters(t, 0, []string{"no letters", "set aside in all, 0 letters are here"}, "list", data)
	wantLetters(t, 0, []string{`"content": "odd-three"`, `"state": "open"`, "no letter says why"}, "show", l.ID, data)
	p, offset, err := record.ParseLetterID(l.ID)
	if err != nil {
		t.Fatal(err)
	}
	wantLetters(t, 1, []string{"was not set aside"}, "show", fmt.Sprintf("%v/%d", p, 1), data)
	wantLetters(t, 1, []string{"does not have this record"}, "replay", fmt.Sprintf("%v/%d", p, offset+1000), data)
	wantLetters(t, 1, []string{"does not have this record", "was not set aside"}, "replay", fmt.Sprintf("%v/%d", p, offset+1000), fmt.Sprintf("%v/%d", p, 1), data)
	wantLetters(t, 0, []string{"applied, as seq 4"}, "replay", l.ID, data)
	bob.gets(t, "fine", "odd-one", "odd-two", "odd-three")
	wantLetters(t, 1, []string{"stands already"}, "replay", l.ID, data)
}

// alone: without a server the command runs the log itself, and what it writes is
// judged once one runs again.
func (x *installation) alone(t *testing.T, id string) {
	t.Helper()
	data := "-data=" + x.dir
	wantLetters(t, 1, []string{id}, "replay", id, data)
	wantLetters(t, 0, []string{"no letters"}, "list", data)
	// One that a server set aside, and that was written again while none ran.
	x.start(t, data)
	x.ready(t)
	alice, bob := x.join(t, "alice"), x.join(t, "bob")
	x.exec(t, "CREATE TRIGGER bug BEFORE INSERT ON messages WHEN NEW.content LIKE 'odd%' BEGIN SELECT RAISE(ABORT, 'a bug'); END")
	alice.say(t, "bob", "odd-four")
	eventually(t, "a letter", func() error {
		if n := len(listed(t, x.dir)); n != 1 {
			return fmt.Errorf("%d letters", n)
		}
		return nil
	})
	l := listed(t, x.dir)[0]
	bob.Close()
	if code := x.end(); code != 0 {
		t.Fatalf("the server ended with %d: %s", code, x.errors.String())
	}
	x.exec(t, "DROP TRIGGER bug")
	for range 2 { // nobody can know of the first yet
		wantLetters(t, 0, []string{"once a job comes to it"}, "replay", l.ID, data)
	}
	x.start(t, data)
	x.ready(t)
	bob = x.join(t, "bob")
	eventually(t, "the message", func() error {
		ok, err := bob.Sync(t.Context(), wire.Sync{Cursors: map[wire.ConvID]int64{"p:alice:bob": 4}})
		if err != nil {
			return err
		}
		var texts []string
		for _, c := range ok.Conversations {
			for i := range c.Messages {
				texts = append(texts, c.Messages[i].Content)
			}
		}
		if !slices.Equal(texts, []string{"odd-four"}) {
			return fmt.Errorf("got %q", texts)
		}
		return nil
	})
	wantLetters(t, 1, []string{"stands already"}, "replay", l.ID, data)
}

func TestDeadLettersBadInput(t *testing.T) {
	none := "-data=" + t.TempDir()
	for name, tc := range map[string]struct {
		code int
		args []string
		want string
	}{
		"no verb":             {2, nil, "write the verb first"},
		"flags before it":     {2, []string{none, "list"}, "write the verb first"},
		"a verb that is none": {2, []string{"burn"}, `"burn": not known`},
		"no id":               {2, []string{"show"}, "give one"},
		"two ids":             {2, []string{"show", "im_messages/0/1", "im_messages/0/2"}, "give one"},
		"an id that is none":  {2, []string{"show", "0/1"}, "topic/partition/offset"},
		"ids and all":         {2, []string{"replay", "im_messages/0/1", "-all"}, "or -all"},
		"neither":             {2, []string{"replay"}, "or -all"},
		"a list of one":       {2, []string{"list", "im_messages/0/1"}, "use show"},
		"a limit of none":     {2, []string{"list", "-limit=0"}, "limit: 0; give 1 to 10000"},
		"a flag that is none": {2, []string{"list", "-nope"}, "-nope"},
		"another verb's flag": {2, []string{"list", "-all"}, "-all"},
		"a wait before now":   {2, []string{"replay", "-all", "-wait=-1s"}, "wait: -1s"},
		"half an installation": {
			2, []string{"list", "-kafka.brokers=127.0.0.1:1"}, "mysql.dsn: not set; give its address",
		},
		"all that is wrong": {2, []string{"list", "stray", "-limit=-1"}, "limit: -1"},
		"no data folder":    {1, []string{"list", none}, "is no data folder"},
		"no broker": {
			1, []string{"list", "-kafka.brokers=" + testkit.Reserve(t, 1)[0], "-mysql.driver=sqlite", "-mysql.dsn=/no/such.db"}, "look at the topics",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantLetters(t, tc.code, []string{tc.want}, tc.args...)
		})
	}
	wantLetters(t, 0, []string{"replay ID", "-limit", "-wait"}, "-h")
	wantLetters(t, 0, []string{"replay ID"}, "list", "-h")
}
