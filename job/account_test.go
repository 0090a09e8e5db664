package job

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/ledger"
	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/store/shards"
	"github.com/starling-im/starling/common/wire"
)

// ends is where a memLog ends.
func (l *memLog) ends(_ context.Context, ps []record.PartitionID) (map[record.PartitionID]int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[record.PartitionID]int64)
	for _, p := range ps {
		out[p] = int64(len(l.entries[p.Topic]))
	}
	return out, nil
}

func accounted(t *testing.T, reg *memregistry.Registry, list []shards.Shard, log *memLog) (*tier, *prometheus.Registry) {
	t.Helper()
	metrics := prometheus.NewRegistry()
	tr, err := newTier(testConfig(t, "-job.id=j"), Deps{
		Log: zap.NewNop(), Metrics: metrics, Registry: reg, Shards: list, Producer: log, Ends: log.ends,
		NewConsumer: func(group string, topics []string) (mq.Consumer, error) {
			return &memConsumer{memLog: log, topics: topics, group: group}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr, metrics
}

// The ledger balances at every moment while records are produced, applied,
// pushed, cut off and confirmed.
func TestLedgerBalancesAllTheTime(t *testing.T) {
	reg, log := memregistry.New(), newMemLog()
	reg.SetKnown(true)
	e := &edge{}
	if _, err := reg.Renew(t.Context(), registry.Lease{Tier: registry.TierEdge, Server: "edge-1", Epoch: 1, RPCAddr: e.listen(t)}, time.Minute); err != nil {
		t.Fatal(err)
	}
	rt := registry.Route{Conn: 5, Server: "edge-1", Epoch: 1, Device: "web"}
	if _, err := reg.PutRoutes(t.Context(), map[wire.UserID][]registry.Route{"bob": {rt}}); err != nil {
		t.Fatal(err)
	}
	tr, _ := accounted(t, reg, single(memstore.New()), log)
	if err := tr.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	work.Go(func() { _ = tr.run(ctx) })
	const sends = 400
	work.Go(func() {
		for i := range int64(sends) {
			send(t, log, 1+i, fmt.Sprint("c", i-i%4/3)) // every fourth is a repeat
		}
	})
	var l *ledger.Ledger
	read := 0
	eventually(t, "all is applied and confirmed", func() bool {
		l = ledger.Sum([]ledger.Process{tr.account(ctx)}, nil)
		read++
		if !l.Balanced {
			t.Fatalf("reading %d: %q", read, l.Differences)
		}
		return l.Totals.End == sends && l.Totals.Lag == 0 && l.Pushes[0].Columns["confirmed"] == sends*3/4
	})
	if l.Totals.Stored != sends*3/4 || l.Totals.Repeats != sends/4 || len(l.Log) != 2 || l.Pushes[0].What != "to edge edge-1" {
		t.Errorf("%+v", l)
	}
}

// Columns that do not add up, an end that was lost and a database that is away
// are told, with topic and partition.
func TestLedgerTellsWhatIsWrong(t *testing.T) {
	st, log := memstore.New(), newMemLog()
	tr, metrics := accounted(t, memregistry.New(), single(st), log)
	p := record.PartitionID{Topic: record.TopicGroups}
	row, err := st.Claim(t.Context(), p, "id", 10)
	if err != nil {
		t.Fatal(err)
	}
	move := store.PartitionMove{PartitionID: p, Epoch: row.Epoch, From: -1, To: 12, Add: store.Counts{Stored: 1, Refused: 1}} // 10, 11, 12
	if _, err := st.Commit(t.Context(), &store.Turn{Partitions: []store.PartitionMove{move}}); err != nil {
		t.Fatal(err)
	}
	l := ledger.Sum([]ledger.Process{tr.account(t.Context())}, nil)
	want := []string{"im_group_chat/0: +1: 3 records were applied from offset 10 on, and the columns count 2", "im_group_chat/0: -13: "}
	if l.Balanced || len(l.Differences) != 2 || l.Differences[0] != want[0] || !strings.HasPrefix(l.Differences[1], want[1]) {
		t.Errorf("%q, want %q", l.Differences, want)
	}
	tr.workers[0].house.task(t.Context(), "ledger", tr.workers[0].house.readLedger)
	if v := gauge(t, metrics, "starling_job_ledger_difference"); v != 1 {
		t.Errorf("the metric says %v, want 1", v)
	}

	st.Hook = func(string, bool) error { return errors.New("connection refused") }
	if a := tr.account(t.Context()); len(a.Problems) != 1 || !strings.Contains(a.Problems[0], "shard main cannot be read: ") {
		t.Errorf("%+v", a)
	}
	st.Hook = nil
	tr.d.Ends = func(context.Context, []record.PartitionID) (map[record.PartitionID]int64, error) {
		return nil, errors.New("no broker answers")
	}
	if a := tr.account(t.Context()); len(a.Problems) != 1 || !strings.Contains(a.Problems[0], "no broker answers") || a.Partitions[0].End != -1 {
		t.Errorf("%+v", a)
	}
}

// Each that asks where the log ends connects to it, so one does at a time; who
// waits does so for his own time.
func TestOneAsksWhereTheLogEnds(t *testing.T) {
	tr, _ := accounted(t, memregistry.New(), single(memstore.New()), newMemLog())
	asked, answer := make(chan struct{}, 2), make(chan struct{})
	tr.d.Ends = func(ctx context.Context, _ []record.PartitionID) (map[record.PartitionID]int64, error) {
		asked <- struct{}{}
		select {
		case <-answer:
		case <-ctx.Done():
		}
		return nil, ctx.Err()
	}
	var wg sync.WaitGroup
	wg.Go(func() { tr.account(t.Context()) })
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := tr.ends(ctx, nil); !errors.Is(err, context.DeadlineExceeded) || len(asked) != 0 {
		t.Errorf("a second one at once: %v, %d asked", err, len(asked))
	}
	answer <- struct{}{}
	wg.Go(func() { tr.account(t.Context()) })
	<-asked
	answer <- struct{}{}
	wg.Wait()
}

func gauge(t *testing.T, metrics *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	fs, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range fs {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				found = true
				sum += m.GetGauge().GetValue()
			}
		}
	}
	if !found {
		t.Errorf("there is no %s", name)
	}
	return sum
}
