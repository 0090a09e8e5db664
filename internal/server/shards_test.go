package server

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"go.uber.org/zap"

	starling "github.com/starling-im/starling/client/go"
	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/embedded"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store/sqlstore"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/internal/process"
)

// installation is a server over two shards: main holds partitions 0 and 1 of
// both topics, b the others.
type installation struct {
	dir, driver, api, ws string
	databases            [2]string // their data sources
	job2                 string    // admin port of a second job
	args                 []string
	end                  func() (code int)
	admins               []string
	ended                <-chan struct{}
	errors               bytes.Buffer // of the server, once it has ended
}

func install(t *testing.T, driver string, databases [2]string) *installation {
	t.Helper()
	x := &installation{dir: t.TempDir(), driver: driver, databases: databases}
	if _, err := token.LoadOrCreate(x.dir); err != nil {
		t.Fatal(err)
	}
	services, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = services.Stop(context.Background()) })
	addrs := testkit.Reserve(t, 9)
	x.api, x.ws, x.admins, x.job2 = addrs[0], addrs[1], addrs[5:8], addrs[8]
	for i, key := range []string{"logic.http", "edge.listen", "logic.grpc", "edge.grpc", "edge.tcp", "logic.admin", "edge.admin", "job.admin"} {
		x.args = append(x.args, "-"+key+"-addr="+addrs[i])
	}
	x.args = append(x.args, "-kafka.brokers="+services.KafkaBrokers()[0], "-kafka.single-broker", "-redis.addrs="+services.RedisAddr(),
		"-mysql.driver="+driver, "-auth.jwks="+filepath.Join(x.dir, token.FileName), "-log.level=error",
		"-redis.timeout=10s", "-logic.look-budget=10s", "-logic.wait-budget=12s", "-edge.login-wait=30s", "-app.ready-delay=0s")
	return x
}

// list writes mysql.shards and returns the setting.
func (x *installation) list(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(x.dir, "shards.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "-mysql.shards=" + file
}

func (x *installation) shards() string {
	return fmt.Sprintf(`
- name: main
  dsn: %q
  partitions: {im_messages: 0-1, im_group_chat: 0-1}
- name: b
  dsn: %q
  partitions: {im_messages: 2-3, im_group_chat: 2-3}
`, x.databases[0], x.databases[1])
}

// start runs the server until end, or until it ends by itself.
func (x *installation) start(t *testing.T, setting string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done, ended := make(chan int, 1), make(chan struct{})
	x.ended = ended
	x.errors.Reset()
	p := &Program{}
	p.backend.Kafka.Embedded = true
	go func() {
		defer close(ended)
		done <- process.Main(ctx, "starling", p, process.IO{Args: append(slices.Clone(x.args), setting), Stdout: io.Discard, Stderr: &x.errors})
	}()
	x.end = sync.OnceValue(func() int { cancel(); return <-done })
	t.Cleanup(func() {
		if code := x.end(); t.Failed() {
			t.Logf("the server ended with %d: %s", code, x.errors.String())
		}
	})
}

func (x *installation) migrate(t *testing.T, setting string) {
	t.Helper()
	var out, errs bytes.Buffer
	code := Main(t.Context(), "test", process.IO{
		Args:   []string{"migrate", "-mysql.driver=" + x.driver, setting},
		Stdout: &out, Stderr: &errs,
	})
	if code != 0 || !strings.Contains(out.String(), "shard main") || !strings.Contains(out.String(), "shard b") {
		t.Fatalf("migrate: %d %s %s", code, out.String(), errs.String())
	}
}

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s: %v", what, err)
		}
	}
}

func (x *installation) ready(t *testing.T) {
	t.Helper()
	eventually(t, "the server is ready", func() error {
		for _, addr := range x.admins {
			resp, err := http.Get("http://" + addr + "/readyz")
			if err != nil {
				return err
			}
			b, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s: %s", resp.Status, b)
			}
		}
		return nil
	})
}

// person is a connected user.
type person struct {
	*starling.Client
	mu   sync.Mutex
	seen []wire.Msg
}

func (x *installation) join(t *testing.T, user string) *person {
	t.Helper()
	var out bytes.Buffer
	if err := Token(process.IO{Args: []string{"-data", x.dir, "-user", user, "-device", "d"}, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	p := &person{}
	c, err := starling.Dial(t.Context(), starling.Options{
		URL: "ws://" + x.ws + "/ws", Token: strings.TrimSpace(out.String()), Device: "d", Platform: "test",
		OnPush: func(f wire.Frame) {
			var m wire.Msg
			if f.Op != wire.OpMsg || wire.Unmarshal(f.Body, &m) != nil {
				return
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			p.seen = append(p.seen, m)
		},
	})
	if err != nil {
		t.Fatalf("connect %s: %v", user, err)
	}
	t.Cleanup(c.Close)
	p.Client = c
	return p
}

func (p *person) say(t *testing.T, to wire.UserID, text string) {
	t.Helper()
	if _, err := p.Send(t.Context(), wire.Send{To: to, ClientID: text, Type: wire.TypeText, Content: text}); err != nil {
		t.Fatalf("send %s to %s: %v", text, to, err)
	}
}

func (p *person) texts() (texts []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.seen {
		texts = append(texts, p.seen[i].Content)
	}
	return texts
}

func (p *person) gets(t *testing.T, texts ...string) {
	t.Helper()
	eventually(t, "messages", func() error {
		if got := p.texts(); !slices.Equal(got, texts) {
			return fmt.Errorf("got %q, want %q", got, texts)
		}
		return nil
	})
}

// inB says whether the private conversation of a and b is in shard b.
func inB(a, b wire.UserID) bool {
	return record.PartitionOf(string(wire.PrivateConv(a, b)), 4) >= 2
}

func TestShardsSQLite(t *testing.T) {
	dir := t.TempDir()
	testShards(t, sqlstore.DriverSQLite, [2]string{filepath.Join(dir, "main.db"), filepath.Join(dir, "b.db")})
}

// TestShardsMySQL empties the databases STARLING_TEST_MYSQL_DSN and
// STARLING_TEST_MYSQL_DSN_2, or makes the second on the first one's server.
func TestShardsMySQL(t *testing.T) {
	first, second := os.Getenv("STARLING_TEST_MYSQL_DSN"), os.Getenv("STARLING_TEST_MYSQL_DSN_2")
	if first == "" {
		if os.Getenv("STARLING_TEST_REAL") == "1" {
			t.Fatal("STARLING_TEST_MYSQL_DSN is not set")
		}
		t.Skip("STARLING_TEST_MYSQL_DSN is not set")
	}
	cfg, err := mysql.ParseDSN(first)
	if err != nil {
		t.Fatal(err)
	}
	if second == "" {
		other := cfg.Clone()
		other.DBName += "_2"
		second = other.FormatDSN()
	}
	db := openDB(t, "mysql", first)
	for _, dsn := range []string{first, second} {
		c, err := mysql.ParseDSN(dsn)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range []string{"DROP DATABASE IF EXISTS " + c.DBName, "CREATE DATABASE " + c.DBName + " CHARACTER SET utf8mb4"} {
			if _, err := db.ExecContext(t.Context(), q); err != nil {
				t.Fatalf("%s: %v (let the user make databases)", q, err)
			}
		}
	}
	testShards(t, sqlstore.DriverMySQL, [2]string{first, second})
}

func openDB(t *testing.T, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// block holds the guards of a database, so that nothing commits there, until
// the function returned is called.
func block(t *testing.T, driver, dsn string) (release func()) {
	t.Helper()
	conn, err := openDB(t, driver, dsn).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	statements := []string{"BEGIN IMMEDIATE"}
	if driver == sqlstore.DriverMySQL {
		statements = []string{"BEGIN", "UPDATE log_partitions SET epoch = epoch"}
	}
	eventually(t, "the database is blocked", func() error {
		for _, q := range statements {
			if _, err := conn.ExecContext(t.Context(), q); err != nil {
				return err
			}
		}
		return nil
	})
	return func() {
		if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
			t.Error(err)
		}
		_ = conn.Close()
	}
}

const peers = 8

func testShards(t *testing.T, driver string, databases [2]string) {
	t.Helper()
	x := install(t, driver, databases)
	setting := x.list(t, x.shards())
	x.migrate(t, setting)
	x.start(t, setting)
	x.ready(t)

	alice := x.join(t, "alice")
	var names []wire.UserID
	var people []*person
	for i := range peers {
		names = append(names, wire.UserID(fmt.Sprint("peer", i)))
		people = append(people, x.join(t, string(names[i])))
	}
	for i, p := range people {
		alice.say(t, names[i], "one")
		alice.say(t, names[i], "two")
		p.gets(t, "one", "two")
	}
	x.isolated(t, alice, names, people)
	x.shared(t, setting, alice, names, people)
	x.reads(t, names)
	x.balances(t, 6*peers)
	if code := x.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, x.errors.String())
	}
	x.divided(t)

	// Databases swapped by mistake: refused, with the remedy.
	swapped := *x
	swapped.databases[0], swapped.databases[1] = x.databases[1], x.databases[0]
	x.start(t, x.list(t, swapped.shards()))
	select {
	case <-x.ended:
	case <-time.After(time.Minute):
	}
	if code := x.end(); code == 0 || !strings.Contains(x.errors.String(), "is stored") || !strings.Contains(x.errors.String(), "restore the former settings") {
		t.Errorf("databases swapped: exit code %d, %s", code, x.errors.String())
	}
}

// isolated: while nothing commits in shard b, what main holds is delivered;
// then b catches up in order.
func (x *installation) isolated(t *testing.T, alice *person, names []wire.UserID, people []*person) {
	t.Helper()
	release := block(t, x.driver, x.databases[1])
	release = sync.OnceFunc(release)
	defer release()
	for i := range people {
		alice.say(t, names[i], "three")
		alice.say(t, names[i], "four")
	}
	var held int
	for i, p := range people {
		if inB("alice", names[i]) {
			held++
		} else {
			p.gets(t, "one", "two", "three", "four")
		}
	}
	if held == 0 || held == peers {
		t.Fatalf("%d of %d conversations are in shard b", held, peers)
	}
	for i, p := range people {
		if got := p.texts(); inB("alice", names[i]) && len(got) != 2 {
			t.Errorf("%s got %q, though its shard is blocked", names[i], got)
		}
	}
	release()
	for _, p := range people {
		p.gets(t, "one", "two", "three", "four")
	}
}

// shared: a second job takes a part of every group, and gives it back when it
// goes; what is sent meanwhile and after arrives.
func (x *installation) shared(t *testing.T, setting string, alice *person, names []wire.UserID, people []*person) {
	t.Helper()
	y := &installation{args: slices.Concat(x.args, []string{"-target=job", "-job.admin-addr=" + x.job2}), api: x.job2}
	y.start(t, setting)
	owned := func() (n float64) {
		resp, err := http.Get("http://" + x.job2 + "/metrics")
		if err != nil {
			return 0
		}
		defer func() { _ = resp.Body.Close() }()
		b, _ := io.ReadAll(resp.Body)
		for line := range strings.Lines(string(b)) {
			var v float64
			if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, "starling_job_partitions{") {
				if _, err := fmt.Sscan(value, &v); err == nil {
					n += v
				}
			}
		}
		return n
	}
	eventually(t, "the second job has its half", func() error {
		if n := owned(); n != 4 {
			return fmt.Errorf("it owns %v of 8", n)
		}
		return nil
	})
	y.ready(t)
	for i := range people {
		alice.say(t, names[i], "five")
	}
	for _, p := range people {
		p.gets(t, "one", "two", "three", "four", "five")
	}
	began := time.Now()
	if code := y.end(); code != 0 {
		t.Errorf("the second job: exit code %d: %s", code, y.errors.String())
	}
	for i := range people {
		alice.say(t, names[i], "six")
	}
	for _, p := range people {
		p.gets(t, "one", "two", "three", "four", "five", "six")
	}
	// Members that leave give their partitions back at once; whose session has
	// to end are missed for six seconds.
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the partitions were back after %v", took)
	}
}

// reads: a sync has the conversations of both shards, whole.
func (x *installation) reads(t *testing.T, names []wire.UserID) {
	t.Helper()
	var again *person
	eventually(t, "all is synced", func() error {
		if again == nil {
			again = x.join(t, "alice")
		}
		got := make(map[wire.ConvID]int)
		s := wire.Sync{}
		for {
			ok, err := again.Sync(t.Context(), s)
			if err != nil {
				return err
			}
			for _, c := range ok.Conversations {
				got[c.Conv] += len(c.Messages)
			}
			if s.Token = ok.Token; !ok.More {
				break
			}
		}
		var errs []error
		for _, n := range names {
			if c := wire.PrivateConv("alice", n); got[c] != 6 {
				errs = append(errs, fmt.Errorf("%s has %d messages", c, got[c]))
			}
		}
		return errors.Join(errs...)
	})
}

// divided: each database holds its own partitions and conversations, nothing else.
func (x *installation) divided(t *testing.T) {
	t.Helper()
	for i, dsn := range x.databases {
		st, err := sqlstore.Open(t.Context(), sqlstore.Config{Driver: x.driver, DSN: config.NewSecret(dsn)})
		if err != nil {
			t.Fatal(err)
		}
		states, err := st.Partitions(t.Context())
		if err != nil || len(states) != 4 {
			t.Errorf("shard %d has %d partitions, %v", i, len(states), err)
		}
		for j := range states {
			if int(states[j].Number)/2 != i {
				t.Errorf("shard %d has %v", i, states[j].PartitionID)
			}
		}
		list, err := st.UserConversations(t.Context(), "alice", "d", "", 100, false)
		if err != nil || len(list) == 0 {
			t.Errorf("shard %d: %d conversations, %v", i, len(list), err)
		}
		for j := range list {
			if in := record.PartitionOf(string(list[j].Conv), 4) / 2; int(in) != i {
				t.Errorf("shard %d has %s", i, list[j].Conv)
			}
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
}
