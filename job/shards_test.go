package job

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/store/shards"
	"github.com/starling-im/starling/common/wire"
)

// twoShards divides the log by topic, its only partitions.
func twoShards(a, b *memstore.Store) []shards.Shard {
	return []shards.Shard{
		{Name: "main", Store: a, Holds: shards.Partitions{record.TopicMessages: {0}}},
		{Name: "b", Store: b, Holds: shards.Partitions{record.TopicGroups: {0}}},
	}
}

func produceGroup(t *testing.T, log *memLog, id int64, r *recordpb.Record) {
	t.Helper()
	r.Id, r.Conv, r.From, r.ClientId, r.Ts, r.Hash = id, "g:g", "alice", "g"+string(rune('a'+id%26)), 1000+id, 1
	r.Limits = &recordpb.Limits{LargeGroup: 500, MaxMembers: 1000, RecallWindowMs: 120000}
	b, err := record.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Produce(record.PartitionID{Topic: record.TopicGroups}, 1000+id, b, func(mq.Delivery) {}); err != nil {
		t.Fatal(err)
	}
}

func say(text string) *recordpb.Record {
	return &recordpb.Record{Body: &recordpb.Record_Send{Send: &recordpb.Send{Type: "text", Content: text}}}
}

// pushed returns the seqs of messages pushed of a conversation.
func (e *edge) pushed(conv string) (seqs []int64) {
	for _, it := range e.items() {
		if it.GetConv() == conv && it.GetOp() == int32(wire.OpMsg) {
			seqs = append(seqs, it.GetSeq())
		}
	}
	return seqs
}

// A shard whose database is away holds up its own partitions alone, and catches
// up in order when it is back.
func TestOneShardAway(t *testing.T) {
	reg, log := memregistry.New(), newMemLog()
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
	a, b := memstore.New(), memstore.New()
	var away atomic.Bool
	a.Hook = func(string, bool) error {
		if away.Load() {
			return errors.New("connection refused")
		}
		return nil
	}
	list := twoShards(a, b)
	mod, metrics, stop := startShards(t, reg, list, log)
	produceGroup(t, log, 1, &recordpb.Record{Body: &recordpb.Record_Command{Command: &recordpb.Command{
		Kind: recordpb.Command_CREATE, Users: []string{"bob"}, Name: new("g"),
	}}})
	send(t, log, 1, "before")
	eventually(t, "both shards work", func() bool { return len(e.pushed("p:alice:bob")) == 1 && len(e.pushed("g:g")) == 1 })
	eventually(t, "a lease each", func() bool {
		jobs, err := reg.Live(t.Context(), registry.TierJob)
		return err == nil && len(jobs) == 2 && strings.HasSuffix(string(jobs[0].Server)+string(jobs[1].Server), ".b") != strings.HasSuffix(string(jobs[0].Server), ".b")
	})

	away.Store(true)
	for i := range int64(10) {
		send(t, log, 2+i, "x"+string(rune('0'+i)))
		produceGroup(t, log, 2+i, say("while the other is away"))
	}
	eventually(t, "what the other shard holds is delivered", func() bool { return len(e.pushed("g:g")) == 11 })
	eventually(t, "and confirmed", func() bool { return log.at(record.TopicGroups) == 11 })
	eventually(t, "the job says which shard is away", func() bool {
		err := mod.Ready()
		return err != nil && strings.Contains(err.Error(), "shard main") && !strings.Contains(err.Error(), "shard b")
	})
	if got := e.pushed("p:alice:bob"); len(got) != 1 {
		t.Errorf("pushed %v of the shard that is away", got)
	}

	away.Store(false)
	eventually(t, "it catches up", func() bool { return len(e.pushed("p:alice:bob")) == 11 })
	if got := e.pushed("p:alice:bob"); !slices.IsSorted(got) || got[10] != 11 {
		t.Errorf("pushed %v", got)
	}
	eventually(t, "ready again", func() bool { return mod.Ready() == nil })
	labels := shardLabels(t, metrics, "starling_job_partitions")
	if !slices.Equal(labels, []string{"b", "main"}) {
		t.Errorf("starling_job_partitions has shards %v", labels)
	}
	stop()
	want := []string{"joins starling-job", "joins starling-job.b", "joins starling-job-push"}
	if !slices.Equal(log.notes, want) {
		t.Errorf("%v", log.notes)
	}
	for i, s := range []*memstore.Store{a, b} { // nothing of the other's
		states, err := s.Partitions(t.Context())
		if err != nil || len(states) != 1 || !list[i].Holds.Has(states[0].PartitionID) {
			t.Errorf("shard %s has partitions %+v, %v", list[i].Name, states, err)
		}
	}
}

func shardLabels(t *testing.T, metrics *prometheus.Registry, name string) (values []string) {
	t.Helper()
	fs, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == name && l.GetName() == "shard" {
					values = append(values, l.GetValue())
				}
			}
		}
	}
	slices.Sort(values)
	return values
}

// A drain takes no longer for several shards than for one: the members leave
// their groups side by side.
func TestMembersLeaveTogether(t *testing.T) {
	reg, log := memregistry.New(), newMemLog()
	reg.SetKnown(true)
	var all sync.WaitGroup
	all.Add(3)
	log.leaving = func(string) { // no member has left before all are about to
		all.Done()
		all.Wait()
	}
	_, _, stop := startShards(t, reg, twoShards(memstore.New(), memstore.New()), log)
	send(t, log, 1, "one")
	eventually(t, "it works", func() bool { return log.at(record.TopicMessages) == 1 })
	stop()
}

// A process whose one shard is not what it has to be works on the others, and
// can be stopped.
func TestShardNotChecked(t *testing.T) {
	reg, log := memregistry.New(), newMemLog()
	reg.SetKnown(true)
	list := twoShards(memstore.New(), memstore.New())
	list[1].Check = func(context.Context) error { return errors.New("shard b: away since the start") }
	mod, _, stop := startShards(t, reg, list, log)
	send(t, log, 1, "one")
	eventually(t, "the other works", func() bool { return log.at(record.TopicMessages) == 1 })
	if err := mod.Ready(); err == nil || !strings.Contains(err.Error(), "away since the start") {
		t.Errorf("ready says %v", err)
	}
	stop()
}

func TestShardNamesAndIDs(t *testing.T) {
	reg := memregistry.New()
	d := Deps{Log: zap.NewNop(), Metrics: prometheus.NewRegistry(), Registry: reg, Producer: newMemLog()}
	if _, err := newTier(testConfig(t), d); err == nil {
		t.Error("no shard was taken")
	}
	d.Shards = twoShards(memstore.New(), memstore.New())
	d.Shards[1].Name = strings.Repeat("x", shards.MaxName)
	tr, err := newTier(testConfig(t), d)
	if err != nil {
		t.Fatalf("a made id leaves no room for the longest name: %v", err)
	}
	if id := string(tr.workers[1].server); !strings.HasSuffix(id, "."+d.Shards[1].Name) {
		t.Errorf("server id %q", id)
	}
	d.Metrics = prometheus.NewRegistry()
	if _, err := newTier(testConfig(t, "-job.id", strings.Repeat("j", 50)), d); err == nil || !strings.Contains(err.Error(), "job.id") {
		t.Errorf("a long id: %v", err)
	}
}
