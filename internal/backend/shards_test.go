package backend

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/shards"
	"github.com/starling-im/starling/common/store/sqlstore"
	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func parse(t *testing.T, args ...string) *Config {
	t.Helper()
	var c Config
	fs := flag.NewFlagSet("test", flag.ContinueOnError)
	c.RegisterFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return &c
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestShardList(t *testing.T) {
	secret := write(t, "im:secret@tcp(db2:3306)/im\n")
	file := write(t, `
- name: main
  dsn: im:x@tcp(db1:3306)/im
  partitions: {im_messages: 0-1, im_group_chat: "0,2"}
- name: b
  dsn: "@`+secret+`"
  partitions:
    im_messages: 2-3
    im_group_chat: 1,3
`)
	list, err := parse(t, "-mysql.shards="+file, "-mysql.conns=7").ShardList()
	if err != nil {
		t.Fatal(err)
	}
	want := []shards.Partitions{
		{record.TopicMessages: {0, 1}, record.TopicGroups: {0, 2}}, {record.TopicMessages: {2, 3}, record.TopicGroups: {1, 3}},
	}
	for i, dsn := range []string{"im:x@tcp(db1:3306)/im", "im:secret@tcp(db2:3306)/im"} {
		s := list[i]
		if s.Name != []string{"main", "b"}[i] || s.MySQL.DSN.Reveal() != dsn || s.MySQL.Conns != 7 {
			t.Errorf("shard %d: %+v", i, s)
		}
		if d := cmp.Diff(want[i], s.Holds); d != "" {
			t.Errorf("shard %d holds (-want +got):\n%s", i, d)
		}
	}
	list, err = parse(t, "-mysql.dsn=im:x@tcp(db1:3306)/im").ShardList()
	if err != nil || len(list) != 1 || list[0].Name != shards.DefaultName || list[0].Holds != nil {
		t.Errorf("mysql.dsn alone: %+v, %v", list, err)
	}
}

func TestBadShards(t *testing.T) {
	const a = "- {name: a, dsn: 'im:x@tcp(h:1)/a', partitions: {im_messages: 0-3, im_group_chat: 0-1}}\n"
	const b = "- {name: b, dsn: 'im:x@tcp(h:1)/b', partitions: {im_group_chat: 2-3}}\n"
	if _, err := parse(t, "-mysql.shards="+write(t, a+b)).ShardList(); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ file, want string }{
		"missing":      {a, "partitions 2-3 of im_group_chat are in no shard"},
		"one database": {a + strings.Replace(b, "/b", "/a", 1), "shard b: its dsn is that of shard a"},
		"no dsn":       {a + strings.Replace(b, "im:x@tcp(h:1)/b", "", 1), "shard b: dsn: missing"},
		"no file":      {a + strings.Replace(b, "im:x", "@/no/such", 1), "shard b: dsn: read the secret"},
		"bad dsn":      {a + strings.Replace(b, "im:x@tcp(h:1)/b", "nonsense", 1), "shard b: dsn: "},
		"bad range":    {a + strings.Replace(b, "2-3", "3-2", 1), `shard b: partitions: im_group_chat: "3-2" is no range`},
		"no name":      {strings.Replace(a, "name: a, ", "", 1) + b, `shard "": not a name`},
		"unknown key":  {strings.Replace(a, "dsn", "dns", 1) + b, "field dns not found"},
		"empty":        {"", "no shard is listed"},
		"no list":      {"name: a", "write a list"},
	} {
		t.Run(name, func(t *testing.T) {
			err := parse(t, "-kafka.brokers=h:1", "-redis.addrs=h:1", "-mysql.shards="+write(t, tc.file)).Validate()
			if err == nil || !strings.Contains(err.Error(), "mysql.shards: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "im:x") {
				t.Errorf("the error shows a password: %v", err)
			}
		})
	}
	_, err := parse(t, "-mysql.shards="+write(t, a+b), "-mysql.dsn=x").ShardList()
	if err == nil || !strings.Contains(err.Error(), "take one of them away") {
		t.Errorf("both given: %v", err)
	}
	if _, err := parse(t, "-mysql.shards=/no/such").ShardList(); err == nil || !strings.Contains(err.Error(), "/no/such") {
		t.Errorf("no file: %v", err)
	}
}

// A shard that is away is no reason not to begin; one that a person has to put
// right is, and so is none at all.
func TestCheckShards(t *testing.T) {
	away := errors.New("connection refused")
	for name, tc := range map[string]struct {
		answers []error
		want    error
	}{
		"all there":    {[]error{nil, nil}, nil},
		"one away":     {[]error{nil, away}, nil},
		"the first":    {[]error{away, nil}, nil},
		"all away":     {[]error{away, away}, away},
		"the only one": {[]error{away}, away},
		"one refused":  {[]error{nil, fmt.Errorf("%w: no such user", sqlstore.ErrRefused)}, sqlstore.ErrRefused},
		"another's":    {[]error{nil, store.ErrLayout}, store.ErrLayout},
		"old schemas":  {[]error{sqlstore.ErrSchemaOld, away}, sqlstore.ErrSchemaOld},
	} {
		var list []shards.Shard
		for i, answer := range tc.answers {
			list = append(list, shards.Shard{Name: fmt.Sprint(i), Check: func(context.Context) error { return answer }})
		}
		m := newMissing(list)
		if err := m.some(t.Context()); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
