package job

import (
	"context"
	"flag"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/app"
	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/store/shards"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// memLog is a log of one partition a topic, for one member a group.
type memLog struct {
	mu        sync.Mutex
	entries   map[string][]record.Entry
	committed map[string]int64 // by topic, of the group that takes it
	notes     []string
	leaving   func(group string) // if set, called where a member leaves
	grew      chan struct{}
}

func newMemLog() *memLog {
	return &memLog{entries: map[string][]record.Entry{}, committed: map[string]int64{}, grew: make(chan struct{})}
}

func (l *memLog) Produce(p record.PartitionID, ts int64, value []byte, done func(mq.Delivery)) error {
	l.mu.Lock()
	offset := int64(len(l.entries[p.Topic]))
	l.entries[p.Topic] = append(l.entries[p.Topic], record.Entry{PartitionID: p, Offset: offset, TS: ts, Value: value})
	close(l.grew)
	l.grew = make(chan struct{})
	l.mu.Unlock()
	done(mq.Delivery{Offset: offset, TS: ts})
	return nil
}

func (l *memLog) Partitions(string) int32     { return 1 }
func (l *memLog) Flush(context.Context) error { return nil }
func (l *memLog) Ready() error                { return nil }
func (l *memLog) Close()                      {}

func (l *memLog) note(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notes = append(l.notes, s)
}

func (l *memLog) at(topic string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.committed[topic]
}

type memConsumer struct {
	*memLog
	topics []string
	group  string
}

func (c *memConsumer) Close() error { return nil }

func (c *memConsumer) Commit(offsets map[record.PartitionID]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, o := range offsets {
		c.committed[p.Topic] = max(c.committed[p.Topic], o)
	}
}

func (c *memConsumer) Run(ctx context.Context, o mq.Owner) error {
	var as []mq.Assignment
	var ps []record.PartitionID
	c.mu.Lock()
	for _, topic := range c.topics {
		p := record.PartitionID{Topic: topic}
		ps = append(ps, p)
		as = append(as, mq.Assignment{PartitionID: p, TopicID: topic, Committed: c.committed[topic], High: int64(len(c.entries[topic]))})
	}
	c.mu.Unlock()
	next, err := o.Assigned(ctx, as)
	if err != nil {
		return err
	}
	ps = slices.DeleteFunc(ps, func(p record.PartitionID) bool { _, taken := next[p]; return !taken })
	defer func() {
		o.Revoked(ps, false)
		if c.leaving != nil {
			c.leaving(c.group)
		}
	}()
	for {
		var ms []record.Entry
		c.mu.Lock()
		grew := c.grew
		for _, p := range ps {
			ms = append(ms, c.entries[p.Topic][next[p]:]...)
			next[p] = int64(len(c.entries[p.Topic]))
		}
		c.mu.Unlock()
		if len(ms) > 0 {
			if err := o.Messages(ctx, ms); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-grew:
		}
	}
}

// edge takes pushes and keeps them.
type edge struct {
	rpcpb.UnimplementedEdgeServer
	pos rpc.Positions
	mu  sync.Mutex
	got []*rpcpb.PushItem
}

func (e *edge) Push(st grpc.BidiStreamingServer[rpcpb.PushBatch, rpcpb.PushReply]) error {
	err := st.Send(&rpcpb.PushReply{Hello: &rpcpb.EdgeHello{Server: "edge-1", Positions: e.pos.Snapshot()}})
	for err == nil {
		var b *rpcpb.PushBatch
		if b, err = st.Recv(); err != nil {
			break
		}
		e.mu.Lock()
		for _, f := range b.GetFrames() {
			if e.pos.Admit(f.GetAt(), f.GetLost()) {
				e.got = append(e.got, f.GetItems()...)
			}
		}
		e.mu.Unlock()
		err = st.Send(&rpcpb.PushReply{Positions: e.pos.Snapshot()})
	}
	return err
}

func (e *edge) items() []*rpcpb.PushItem {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.got)
}

func (e *edge) listen(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := rpc.NewServer()
	rpcpb.RegisterEdgeServer(srv, e)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() { srv.Stop(); wg.Wait() })
	return l.Addr().String()
}

// modules runs what Register registered.
type modules map[string]app.Module

func (m modules) Register(name string, mod app.Module, _ ...string) { m[name] = mod }

func testConfig(t *testing.T, args ...string) Config {
	t.Helper()
	var cfg Config
	fs := flag.NewFlagSet("job", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	cfg.RegisterFlags(fs, "job.")
	if err := fs.Parse(append([]string{"-job.admin-addr", "127.0.0.1:0", "-job.commit-interval", "20ms", "-job.edge-poll", "20ms"}, args...)); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// single is a store as the only shard.
func single(st store.Store) []shards.Shard {
	return []shards.Shard{{Name: shards.DefaultName, Store: st}}
}

// startJob runs a job; the function returned drains and stops it.
func startJob(t *testing.T, reg *memregistry.Registry, st store.Store, log *memLog) (mod app.Module, stop func()) {
	t.Helper()
	mod, _, stop = startShards(t, reg, single(st), log)
	return mod, stop
}

func startShards(t *testing.T, reg *memregistry.Registry, list []shards.Shard, log *memLog) (mod app.Module, metrics *prometheus.Registry, stop func()) {
	t.Helper()
	ms := modules{}
	metrics = prometheus.NewRegistry()
	err := Register(ms, testConfig(t), Deps{
		Log: zap.NewNop(), Metrics: metrics, Gatherer: metrics, Registry: reg, Shards: list, Producer: log,
		NewConsumer: func(group string, topics []string) (mq.Consumer, error) {
			log.note("joins " + group)
			return &memConsumer{memLog: log, topics: topics, group: group}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	mod = ms[Module]
	if mod.Ready() == nil {
		t.Error("ready before the start")
	}
	if err := mod.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mod.Run(ctx) }()
	return mod, metrics, func() {
		t.Helper()
		if err := mod.Drain(t.Context()); err != nil {
			t.Errorf("drain: %v", err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func send(t *testing.T, log *memLog, id int64, clientID string) {
	t.Helper()
	b, err := record.Encode(&recordpb.Record{
		Id: id, Conv: "p:alice:bob", From: "alice", ClientId: clientID, Ts: 1000 + id, Hash: 1,
		Limits: &recordpb.Limits{LargeGroup: 500, MaxMembers: 1000, RecallWindowMs: 120000},
		Body:   &recordpb.Record_Send{Send: &recordpb.Send{Type: "text", Content: clientID}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Produce(record.PartitionID{Topic: record.TopicMessages}, 1000+id, b, func(mq.Delivery) {}); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	end := time.After(30 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func TestFromTheLogToTheEdge(t *testing.T) {
	reg, st, log := memregistry.New(), memstore.New(), newMemLog()
	reg.SetKnown(true)
	e := &edge{}
	lease := registry.Lease{Tier: registry.TierEdge, Server: "edge-1", Epoch: 1, RPCAddr: e.listen(t)}
	if _, err := reg.Renew(t.Context(), lease, time.Minute); err != nil {
		t.Fatal(err)
	}
	rt := registry.Route{Conn: 5, Server: "edge-1", Epoch: 1, Device: "web"}
	if _, err := reg.PutRoutes(t.Context(), map[wire.UserID][]registry.Route{"bob": {rt}}); err != nil {
		t.Fatal(err)
	}
	mod, stop := startJob(t, reg, st, log)
	for i := range int64(10) {
		send(t, log, 1+i, "c"+string(rune('0'+i)))
	}
	eventually(t, "ten pushes", func() bool { return len(e.items()) == 10 })
	for i, it := range e.items() {
		if it.GetSeq() != int64(i+1) || it.GetOp() != int32(wire.OpMsg) || !slices.Equal(it.GetUsers(), []string{"bob"}) {
			t.Errorf("push %d: %v", i, it)
		}
	}
	if err := mod.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	eventually(t, "the commit follows the edge's confirmation", func() bool { return log.at(record.TopicMessages) == 10 })
	eventually(t, "the job's lease", func() bool {
		jobs, err := reg.Live(t.Context(), registry.TierJob)
		return err == nil && len(jobs) == 1
	})

	// Who is nowhere has it in the list.
	if err := reg.DropRoute(t.Context(), "bob", rt); err != nil {
		t.Fatal(err)
	}
	send(t, log, 11, "to-nobody")
	eventually(t, "bob's offline list", func() bool {
		es, err := reg.Offline(t.Context(), "bob")
		return err == nil && len(es) > 0
	})
	if _, err := reg.PutRoutes(t.Context(), map[wire.UserID][]registry.Route{"bob": {rt}}); err != nil {
		t.Fatal(err)
	}

	// What is not stored goes the same way.
	b, err := proto.Marshal(&recordpb.Push{Version: record.Version, Users: []string{"bob"}, Op: int32(wire.OpTyping), Body: []byte("{}")})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Produce(record.PartitionID{Topic: record.TopicPush}, 1, b, func(mq.Delivery) {}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the typing", func() bool { return len(e.items()) == 11 })
	stop()

	// The next owner goes on where this one was. What the edge had not confirmed
	// may come again (bob was nowhere then), with the same seq.
	send(t, log, 12, "next")
	_, stop = startJob(t, reg, st, log)
	eventually(t, "the twelfth message", func() bool {
		got := e.items()
		return got[len(got)-1].GetSeq() == 12
	})
	for _, it := range e.items()[11:] {
		if it.GetSeq() < 11 {
			t.Errorf("%v was confirmed and came again", it)
		}
	}
	stop()
	if jobs, err := reg.Live(t.Context(), registry.TierJob); err != nil || len(jobs) != 0 {
		t.Errorf("leases of jobs after the end: %v, %v", jobs, err)
	}
}

// Another log under the same store: the job must not apply a record of it. It
// stays up, says so, and goes on with what fits.
func TestAnotherLogIsNotTaken(t *testing.T) {
	reg, st, log := memregistry.New(), memstore.New(), newMemLog()
	reg.SetKnown(true)
	_, stop := startJob(t, reg, st, log)
	send(t, log, 1, "one")
	send(t, log, 2, "two")
	eventually(t, "both are done", func() bool { return log.at(record.TopicMessages) == 2 })
	stop()

	other := newMemLog()
	send(t, other, 3, "three")
	mod, stop := startJob(t, reg, st, other)
	eventually(t, "the job says so", func() bool {
		err := mod.Ready()
		return err != nil && strings.Contains(err.Error(), "im_messages/0: the log ends below") && strings.Contains(err.Error(), "docs/runbook.md")
	})
	group := record.PartitionID{Topic: record.TopicGroups}
	if err := other.Produce(group, 1, []byte("junk"), func(mq.Delivery) {}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other topic is worked on", func() bool {
		st, err := st.State(t.Context(), group)
		return err == nil && st.SetAside == 1
	})
	if st, err := st.State(t.Context(), record.PartitionID{Topic: record.TopicMessages}); err != nil || st.Applied != 1 || st.Stored != 2 {
		t.Errorf("the partition's row: %+v, %v", st, err)
	}
	stop()
}

func TestHousekeeping(t *testing.T) {
	reg, st, log := memregistry.New(), memstore.New(), newMemLog()
	reg.SetKnown(true)
	metrics := prometheus.NewRegistry()
	tr, err := newTier(testConfig(t), Deps{Log: zap.NewNop(), Metrics: metrics, Registry: reg, Shards: single(st), Producer: log})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Claim(t.Context(), record.PartitionID{Topic: record.TopicMessages}, "id", 0); err != nil {
		t.Fatal(err)
	}
	h := tr.workers[0].house
	h.task(t.Context(), "ledger", h.readLedger)
	h.task(t.Context(), "purge", h.purge)
	h.task(t.Context(), "fails", func(context.Context) error { return io.ErrUnexpectedEOF })
	fs, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]int{}
	for _, f := range fs {
		series[f.GetName()] = len(f.GetMetric())
	}
	if series["starling_job_ledger_records"] != 6 || series["starling_job_ledger_applied_offset"] != 1 {
		t.Errorf("series %v", series)
	}
	if series["starling_job_housekeeping_failures_total"] != 1 {
		t.Errorf("only the task that fails is counted: %v", series)
	}
}

func TestConfig(t *testing.T) {
	good := testConfig(t)
	if err := good.Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	bad := testConfig(t, "-job.id", "a b", "-job.admin-addr", "nowhere", "-job.outcome-retention", "1h", "-job.turn-records", "0", "-job.outbox-frames", "0", "-job.repeat-window", "400h")
	err := bad.Validate()
	for _, key := range []string{"job.id", "job.admin-addr", "job.outcome-retention", "job.turn-records", "job.outbox-frames", "job.repeat-window"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("error does not name %s: %v", key, err)
		}
	}
	if err := Register(modules{}, bad, Deps{Log: zap.NewNop()}); err == nil {
		t.Error("a bad config was taken")
	}
	if id := makeServerID(); !wire.ValidID(id) || id == makeServerID() {
		t.Errorf("made id %q", id)
	}
}
