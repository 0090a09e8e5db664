package embedded_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap/zaptest"

	"github.com/starling-im/starling/common/embedded"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/testkit"
)

// childEnv makes the test binary a child that serves or writes to a folder.
const childEnv = "STARLING_EMBEDDED_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(child(dir))
	}
	testkit.VerifyMain(m)
}

func start(t *testing.T, cfg embedded.Config) *embedded.Services {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = zaptest.NewLogger(t)
	}
	s, err := embedded.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t *testing.T, s *embedded.Services) {
	t.Helper()
	if err := s.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

func client(t *testing.T, s *embedded.Services, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append(opts, kgo.SeedBrokers(s.KafkaBrokers()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "data")
	s := start(t, embedded.Config{Dir: dir})
	c := client(t, s)
	defer c.Close()
	topics, err := kadm.NewClient(c).ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"im_messages", "im_group_chat", "im_push", "im_offline_messages", "im_dead_letter"} {
		if n := len(topics[name].Partitions); n != 4 {
			t.Errorf("topic %s has %d partitions", name, n)
		}
	}
	if s.SQLitePath() != filepath.Join(dir, "starling.db") {
		t.Errorf("path of SQLite is %s", s.SQLitePath())
	}
	r := redis.NewClient(&redis.Options{Addr: s.RedisAddr()})
	defer func() { _ = r.Close() }()
	if err := r.Set(t.Context(), "stays", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if v := r.Get(t.Context(), "stays").Val(); v != "v" {
		t.Errorf("the key is %q", v)
	}
	begin := time.Now()
	if err := r.Set(t.Context(), "ends", "v", 400*time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	for r.Exists(t.Context(), "ends").Val() == 1 {
		if time.Since(begin) > 30*time.Second {
			t.Fatal("a key of 400 ms lives for 30 s")
		}
	}
	if d := time.Since(begin); d < 400*time.Millisecond {
		t.Errorf("a key of 400 ms lived %v", d)
	}
	stop(t, s)
	stop(t, s)
}

// TestJoin: a command reaches the log of whoever has the folder, and runs it
// itself where nobody has.
func TestJoin(t *testing.T) {
	dir := t.TempDir()
	join := func() (*embedded.Services, bool, error) {
		return embedded.Join(t.Context(), embedded.Config{Dir: dir, Log: zaptest.NewLogger(t)})
	}
	if s, _, err := join(); err == nil || s != nil || !strings.Contains(err.Error(), "-data") {
		t.Errorf("no data folder: %v", err)
	}
	if es, _ := os.ReadDir(dir); len(es) != 0 {
		t.Errorf("it was made: %v", es)
	}
	s := start(t, embedded.Config{Dir: dir})
	j, running, err := join()
	if err != nil || !running || !slices.Equal(j.KafkaBrokers(), s.KafkaBrokers()) || j.SQLitePath() != s.SQLitePath() {
		t.Fatalf("joined %+v, running %v, %v", j, running, err)
	}
	c := client(t, j)
	defer c.Close()
	ping := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return c.Ping(ctx)
	}
	stop(t, j)
	if err := ping(); err != nil {
		t.Errorf("the log after the joined one has left: %v", err)
	}
	file := filepath.Join(dir, "brokers")
	if err := os.Rename(file, file+".away"); err != nil { // it begins just now
		t.Fatal(err)
	}
	if _, _, err := join(); err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("no address: %v", err)
	}
	stop(t, s)
	// What a killed process left behind leads nowhere.
	if err := os.WriteFile(file, []byte("127.0.0.1:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	j, running, err = join()
	if err != nil || running || j.KafkaBrokers()[0] == "127.0.0.1:1" {
		t.Fatalf("nothing runs: %v, running %v", err, running)
	}
	stop(t, j)
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the address is left behind: %v", err)
	}
}

func TestRefused(t *testing.T) {
	used := t.TempDir()
	s := start(t, embedded.Config{Dir: used})
	newer, garbled, foreign := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, filepath.Join(newer, "version"), "starling data folder, version 99\n")
	write(t, filepath.Join(garbled, "version"), "hello")
	write(t, filepath.Join(foreign, "thesis.doc"), "")
	file := filepath.Join(foreign, "thesis.doc")
	_, kafkaPort, _ := strings.Cut(s.KafkaBrokers()[0], ":")
	for name, c := range map[string]struct {
		cfg  embedded.Config
		want []string
	}{
		"no folder":     {embedded.Config{}, []string{"-data DIR"}},
		"used":          {embedded.Config{Dir: used}, []string{"used by process " + strconv.Itoa(os.Getpid()), "stop that process"}},
		"newer":         {embedded.Config{Dir: newer}, []string{"version 99", "run the newer binary"}},
		"garbled":       {embedded.Config{Dir: garbled}, []string{"not the version file", "-data"}},
		"foreign":       {embedded.Config{Dir: foreign}, []string{"thesis.doc", "empty or new folder"}},
		"a file":        {embedded.Config{Dir: file}, []string{"data folder"}},
		"kafka in use":  {embedded.Config{Dir: t.TempDir(), KafkaAddr: "127.0.0.1:" + kafkaPort}, []string{"address already in use"}},
		"redis in use":  {embedded.Config{Dir: t.TempDir(), RedisAddr: s.RedisAddr()}, []string{"address already in use", "choose another"}},
		"unknown host":  {embedded.Config{Dir: t.TempDir(), KafkaAddr: "127.0.0.1:notaport"}, []string{"notaport"}},
		"other numbers": {embedded.Config{Dir: stopped(t, 2), Partitions: 3}, []string{"2 partitions", "set 2 again"}},
	} {
		got, err := embedded.Start(t.Context(), c.cfg)
		if err == nil {
			stop(t, got)
			t.Errorf("%s: accepted", name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q is not in %q", name, w, err)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: more than a line: %q", name, err)
		}
	}
	stop(t, s)
	start(t, embedded.Config{Dir: used}) // free again
}

// stopped returns a folder with the number of partitions, not in use.
func stopped(t *testing.T, partitions int32) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "keys.json"), "{}") // may be there before the first start
	stop(t, start(t, embedded.Config{Dir: dir, Partitions: partitions}))
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// child serves a folder and writes numbered records to all partitions of a
// topic; each acknowledged one is a line "partition offset value" of its
// output. It ends by being killed.
func child(dir string) int {
	ctx := context.Background()
	s, err := embedded.Start(ctx, embedded.Config{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(s.KafkaBrokers()...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0), kgo.MaxBufferedRecords(64))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var mu sync.Mutex // answers come on another goroutine than commits
	tell := func(format string, args ...any) error {
		mu.Lock()
		defer mu.Unlock()
		_, err := fmt.Fprintf(os.Stdout, format, args...)
		return err
	}
	adm := kadm.NewClient(c)
	for i := 0; ; i++ {
		p := int32(i % 4)
		c.Produce(ctx, &kgo.Record{Topic: record.TopicMessages, Partition: p, Value: fmt.Appendf(nil, "%d-%d", os.Getpid(), i)}, func(r *kgo.Record, err error) {
			if err == nil {
				err = tell("%d %d %s\n", r.Partition, r.Offset, r.Value)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		})
		if i%100 == 99 {
			os := kadm.Offsets{}
			os.AddOffset(record.TopicMessages, 0, int64(i), -1)
			if err := adm.CommitAllOffsets(ctx, "g", os); err != nil {
				return 1
			}
			_ = tell("commit 0 %d\n", i)
		}
	}
}

type acked struct {
	partition int32
	offset    int64
}

// TestKill: what was acknowledged stands after kill -9, at its offset, round
// after round, and so do topic ids and committed offsets.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	all, topicID := map[acked]string{}, kadm.TopicID{}
	for round := range 4 {
		before := len(all)
		committed := runAndKill(t, dir, 150+100*round, all)
		if len(all) == before {
			t.Fatal("nothing acknowledged")
		}
		s := start(t, embedded.Config{Dir: dir})
		c := client(t, s)
		details, err := kadm.NewClient(c).ListTopics(t.Context(), record.TopicMessages)
		if err != nil {
			t.Fatal(err)
		}
		if id := details[record.TopicMessages].ID; round == 0 {
			topicID = id
		} else if id != topicID {
			t.Errorf("topic id was %v, is %v", topicID, id)
		}
		offsets, err := kadm.NewClient(c).FetchOffsets(t.Context(), "g")
		if err != nil {
			t.Fatal(err)
		}
		if o, ok := offsets.Lookup(record.TopicMessages, 0); !ok || o.At < committed {
			t.Errorf("committed offset %d is %v now", committed, o.At)
		}
		c.Close()
		readAll(t, s, all)
		stop(t, s)
	}
}

// runAndKill starts the child, takes n lines of it and kills it.
func runAndKill(t *testing.T, dir string, n int, all map[acked]string) (committed int64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	committed = -1
	lines := bufio.NewScanner(out)
	for i := 0; lines.Scan(); i++ {
		if i == n {
			if err := cmd.Process.Kill(); err != nil { // SIGKILL; then what the pipe still holds
				t.Fatal(err)
			}
		}
		var a acked
		var v string
		if _, err := fmt.Sscanf(lines.Text(), "%d %d %s", &a.partition, &a.offset, &v); err == nil {
			all[a] = v
		} else if _, err := fmt.Sscanf(lines.Text(), "commit 0 %d", &committed); err != nil {
			t.Logf("cut line %q", lines.Text())
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("child was not killed: %v", err)
	}
	return committed
}

func readAll(t *testing.T, s *embedded.Services, want map[acked]string) {
	t.Helper()
	ends := map[string]map[int32]kgo.Offset{record.TopicMessages: {}}
	for p := range int32(4) {
		ends[record.TopicMessages][p] = kgo.NewOffset().AtStart()
	}
	c := client(t, s, kgo.ConsumePartitions(ends))
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	left := maps.Clone(want)
	for len(left) > 0 {
		fs := c.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatalf("%d of %d acknowledged records are missing: %v", len(left), len(want), err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			k := acked{r.Partition, r.Offset}
			if v, ok := want[k]; ok && v != string(r.Value) {
				t.Errorf("%v was acknowledged as %s and is %s", k, v, r.Value)
			}
			delete(left, k)
		})
	}
}

// TestKilledOwner: the lock of a killed process does not outlive it, and names
// the living one.
func TestKilledOwner(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_, err = embedded.Start(t.Context(), embedded.Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "process "+strconv.Itoa(cmd.Process.Pid)) {
		t.Errorf("folder of a living process: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
	start(t, embedded.Config{Dir: dir})
}
