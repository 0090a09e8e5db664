package consume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/machine"
	"github.com/starling-im/starling/job/internal/route"
)

var (
	p0 = record.PartitionID{Topic: record.TopicMessages, Number: 0}
	p1 = record.PartitionID{Topic: record.TopicMessages, Number: 1}
)

// journal is what happened, in order, to machine, delivery and log together.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

// take returns what was written since, and forgets it.
func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := j.lines
	j.lines = nil
	return out
}

type fakeMachine struct {
	*journal
	fail   []error       // one a call
	slow   time.Duration // of each claim
	fenced []record.PartitionID
	epoch  atomic.Int64
	poison []machine.Poison
}

func (m *fakeMachine) next() error {
	if len(m.fail) == 0 {
		return nil
	}
	err := m.fail[0]
	m.fail = m.fail[1:]
	return err
}

func (m *fakeMachine) Claim(_ context.Context, p record.PartitionID, topicID string, low, high, committed int64) (int64, error) {
	time.Sleep(m.slow) // the bubble's clock
	if err := m.next(); err != nil {
		m.add("claim %d fails", p.Number)
		return 0, err
	}
	m.add("claim %d %s %d-%d %d", p.Number, topicID, low, high, committed)
	return max(committed, low), nil
}

func (m *fakeMachine) Epoch(context.Context, record.PartitionID) (int64, error) {
	return m.epoch.Load(), nil
}

func (m *fakeMachine) Release(p record.PartitionID) { m.add("machine releases %d", p.Number) }

func (m *fakeMachine) Turn(_ context.Context, es []record.Entry) (machine.Result, error) {
	var names []string
	var res machine.Result
	res.Fenced, m.fenced = m.fenced, nil
	for _, e := range es {
		names = append(names, fmt.Sprintf("%d:%d", e.Number, e.Offset))
		if !slices.Contains(res.Fenced, e.PartitionID) {
			res.Effects = append(res.Effects, machine.Effects{At: e.PartitionID, Offset: e.Offset})
		}
	}
	if err := m.next(); err != nil {
		m.add("turn %v fails", names)
		return machine.Result{Fenced: res.Fenced}, err
	}
	res.Poison, m.poison = m.poison, nil
	m.add("turn %v", names)
	return res, nil
}

type fakeDeliverer struct {
	*journal
	hold chan struct{} // Act waits for it, if set

	mu   sync.Mutex
	next map[record.PartitionID]int64
}

func (d *fakeDeliverer) Claim(p record.PartitionID, start int64) []wire.ServerID {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next[p] = start
	d.add("deliver claims %d at %d", p.Number, start)
	return nil
}

func (d *fakeDeliverer) Release(p record.PartitionID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.next, p)
	d.add("deliver releases %d", p.Number)
}

func (d *fakeDeliverer) Act(ctx context.Context, es []machine.Effects) error {
	if d.hold != nil {
		select {
		case <-d.hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for _, e := range es {
		names = append(names, fmt.Sprintf("%d:%d", e.At.Number, e.Offset))
		d.next[e.At] = e.Offset + 1
	}
	d.add("act %v", names)
	return nil
}

func (d *fakeDeliverer) Committable() map[record.PartitionID]int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.next)
}

// fakeConsumer lets the test play the log: steps run on Run's goroutine.
type fakeConsumer struct {
	*journal
	steps chan func(ctx context.Context, o mq.Owner) error
	last  map[record.PartitionID]int64
}

func (c *fakeConsumer) Run(ctx context.Context, o mq.Owner) error {
	for {
		select {
		case <-ctx.Done():
			o.Revoked([]record.PartitionID{p0}, false)
			return ctx.Err()
		case f := <-c.steps:
			if err := f(ctx, o); err != nil {
				return err
			}
		}
	}
}

func (c *fakeConsumer) Commit(offsets map[record.PartitionID]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cmp.Equal(c.last, offsets) {
		return
	}
	c.last = offsets
	var names []string
	for p, o := range offsets {
		names = append(names, fmt.Sprintf("%d:%d", p.Number, o))
	}
	slices.Sort(names)
	c.lines = append(c.lines, fmt.Sprintf("commit %v", names))
}

func (c *fakeConsumer) Close() error { c.add("close"); return nil }

type fakeProducer struct {
	partitions int32
	letters    []record.DeadLetter
	err        error
}

func (p *fakeProducer) Partitions(string) int32 { return p.partitions }

func (p *fakeProducer) Produce(to record.PartitionID, _ int64, value []byte, done func(mq.Delivery)) error {
	var l record.DeadLetter
	if err := json.Unmarshal(value, &l); err != nil || to.Topic != mq.TopicDeadLetter {
		return fmt.Errorf("%v: %w", to, err)
	}
	p.letters = append(p.letters, l)
	done(mq.Delivery{Err: p.err})
	return nil
}

// rig is a shard with everything around it played.
type rig struct {
	*Shard
	j    *journal
	m    *fakeMachine
	d    *fakeDeliverer
	c    *fakeConsumer
	prod *fakeProducer
	reg  *prometheus.Registry

	cancel context.CancelFunc
	done   chan error
}

func newRig(t *testing.T) *rig {
	t.Helper()
	j := &journal{}
	r := &rig{
		j: j, m: &fakeMachine{journal: j},
		d:    &fakeDeliverer{journal: j, next: map[record.PartitionID]int64{}},
		c:    &fakeConsumer{journal: j, steps: make(chan func(context.Context, mq.Owner) error)},
		prod: &fakeProducer{partitions: 2}, reg: prometheus.NewRegistry(),
		done: make(chan error, 1),
	}
	r.Shard = NewShard(Config{CommitInterval: 500 * time.Millisecond, TurnRecords: 3, EffectsTurns: 1}, Deps{
		Log: zap.NewNop(), Metrics: r.reg,
		Machine: r.m, Deliverer: r.d, Consumer: r.c, Producer: r.prod,
	})
	return r
}

func (r *rig) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	go func() { r.done <- r.Run(ctx) }()
}

func (r *rig) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.done; err != nil {
		t.Errorf("run: %v", err)
	}
}

// do runs a step on the consumer's goroutine and waits until all is at rest.
func (r *rig) do(f func(ctx context.Context, o mq.Owner) error) {
	r.c.steps <- f
	synctest.Wait()
}

func (r *rig) assign(ps ...record.PartitionID) {
	r.do(func(ctx context.Context, o mq.Owner) error {
		var as []mq.Assignment
		for _, p := range ps {
			as = append(as, mq.Assignment{PartitionID: p, TopicID: "id", Committed: 5, Low: 0, High: 20})
		}
		_, err := o.Assigned(ctx, as)
		return err
	})
}

func (r *rig) messages(es ...record.Entry) {
	r.do(func(ctx context.Context, o mq.Owner) error { return o.Messages(ctx, es) })
}

func entry(p record.PartitionID, offset int64) record.Entry {
	return record.Entry{PartitionID: p, Offset: offset, Value: fmt.Appendf(nil, "v%d", offset)}
}

func (r *rig) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if d := cmp.Diff(want, r.j.take()); d != "" {
		t.Errorf("happened (-want +got):\n%s", d)
	}
}

func TestShardTurnsThenEffectsThenCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start(t)
		r.assign(p0)
		r.want(t, "claim 0 id 0-20 5", "deliver claims 0 at 5")
		r.messages(entry(p0, 5), entry(p0, 6), entry(p0, 7), entry(p0, 8))
		var turns, acted []string // the second turn and the first effects go side by side
		for _, l := range r.j.take() {
			if l, ok := strings.CutPrefix(l, "act "); ok {
				acted = append(acted, strings.Trim(l, "[]"))
			} else {
				turns = append(turns, l)
			}
		}
		got := append(turns, strings.Join(acted, " "))
		if d := cmp.Diff([]string{"turn [0:5 0:6 0:7]", "turn [0:8]", "0:5 0:6 0:7 0:8"}, got); d != "" {
			t.Errorf("happened (-want +got):\n%s", d)
		}
		time.Sleep(600 * time.Millisecond)
		r.want(t, "commit [0:9]")
		r.stop(t)
		r.want(t, "machine releases 0", "deliver releases 0", "close")
	})
}

func TestShardWaitsForSlowEffects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.d.hold = make(chan struct{})
		r.start(t)
		r.assign(p0)
		r.j.take()
		// One turn is being acted, one waits, the third is applied and cannot be
		// handed on, the fourth is not begun.
		var es []record.Entry
		for i := range int64(12) {
			es = append(es, entry(p0, 5+i))
		}
		r.messages(es[:3]...)
		r.messages(es[3:]...)
		r.want(t, "turn [0:5 0:6 0:7]", "turn [0:8 0:9 0:10]", "turn [0:11 0:12 0:13]")
		close(r.d.hold)
		synctest.Wait()
		var acts []string
		for _, l := range r.j.take() {
			if l, ok := strings.CutPrefix(l, "act "); ok {
				acts = append(acts, strings.Trim(l, "[]"))
			}
		}
		if got := strings.Join(acts, " "); got != "0:5 0:6 0:7 0:8 0:9 0:10 0:11 0:12 0:13 0:14 0:15 0:16" {
			t.Errorf("acted %q", got)
		}
		r.stop(t)
	})
}

// TestShardDoesWaitingEffectsTogether: up to what ends a partition, or waits.
func TestShardDoesWaitingEffectsTogether(t *testing.T) {
	j := &journal{}
	d := &fakeDeliverer{journal: j, next: map[record.PartitionID]int64{}}
	s := NewShard(Config{EffectsTurns: 8}, Deps{Log: zap.NewNop(), Metrics: prometheus.NewRegistry(), Deliverer: d})
	turn := func(p record.PartitionID, offset int64) job {
		return job{effects: []machine.Effects{{At: p, Offset: offset}}}
	}
	end := make(chan struct{}, 1)
	for _, w := range []job{turn(p0, 1), turn(p1, 1), turn(p0, 2), {release: []record.PartitionID{p0}}, turn(p1, 2), turn(p1, 3), {reached: end}} {
		s.work <- w
	}
	ctx, cancel := context.WithCancel(t.Context())
	go s.act(ctx)
	<-end
	cancel()
	<-s.actorDone
	if d := cmp.Diff([]string{"act [0:1 1:1 0:2]", "deliver releases 0", "act [1:2 1:3]"}, j.take()); d != "" {
		t.Errorf("happened (-want +got):\n%s", d)
	}
}

func TestShardKeepsRecordsInHandWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.m.fail = []error{errors.New("away")}
		r.start(t)
		r.c.steps <- func(ctx context.Context, o mq.Owner) error {
			_, err := o.Assigned(ctx, []mq.Assignment{{PartitionID: p0, TopicID: "id", Committed: -1, High: 3}})
			return err
		}
		synctest.Wait()
		if r.Ready() == nil {
			t.Error("ready although a claim fails")
		}
		time.Sleep(time.Second)
		r.want(t, "claim 0 fails", "claim 0 id 0-3 -1", "deliver claims 0 at 0", "commit [0:0]")
		if err := r.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
		r.m.fail = []error{errors.New("away"), errors.New("away")}
		r.messages(entry(p0, 0), entry(p0, 1))
		if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "away") {
			t.Errorf("readiness does not say why: %v", err)
		}
		time.Sleep(time.Second)
		r.want(t, "turn [0:0 0:1] fails", "turn [0:0 0:1] fails", "turn [0:0 0:1]", "act [0:0 0:1]", "commit [0:2]")
		r.stop(t)
	})
}

func TestShardEndsWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start(t)
		r.assign(p0)
		for range 100 {
			r.m.fail = append(r.m.fail, errors.New("away"))
		}
		r.messages(entry(p0, 5))
		r.stop(t)
	})
}

// TestShardEndsInTheMiddleOfATurn: a store that is cut off by the end says
// something of its own, which is no failure of the tier.
func TestShardEndsInTheMiddleOfATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start(t)
		r.assign(p0)
		r.c.steps <- func(_ context.Context, o mq.Owner) error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			r.m.fail = []error{errors.New("interrupted")}
			err := o.Messages(ctx, []record.Entry{entry(p0, 5)})
			if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "interrupted") {
				t.Errorf("the turn ended with %v", err)
			}
			return nil
		}
		synctest.Wait()
		r.stop(t)
	})
}

// Effects of committed turns are done before a partition goes: the next owner
// finds a sequence without a hole.
func TestShardRevoked(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("lost=%v", lost), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.start(t)
				r.assign(p0, p1)
				r.d.hold = make(chan struct{})
				r.messages(entry(p0, 5), entry(p1, 5))
				r.j.take()
				r.do(func(_ context.Context, o mq.Owner) error { o.Revoked([]record.PartitionID{p1}, lost); return nil })
				r.want(t)
				close(r.d.hold)
				want := []string{"act [0:5 1:5]", "commit [0:6 1:6]", "machine releases 1", "deliver releases 1"}
				if lost {
					want = slices.Delete(want, 1, 2)
				}
				r.want(t, want...)
				time.Sleep(600 * time.Millisecond)
				r.want(t, "commit [0:6]")
				r.stop(t)
			})
		})
	}
}

func TestShardFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start(t)
		r.assign(p0, p1)
		r.j.take()
		r.m.fenced = []record.PartitionID{p1}
		r.messages(entry(p0, 5), entry(p1, 5))
		r.want(t, "turn [0:5 1:5]", "deliver releases 1", "act [0:5]")
		time.Sleep(600 * time.Millisecond)
		r.want(t, "commit [0:6]")
		// Also when the turn that found it out fails.
		r.m.fenced, r.m.fail = []record.PartitionID{p0}, []error{errors.New("away")}
		r.messages(entry(p0, 6))
		r.want(t, "turn [0:6] fails", "deliver releases 0")
		r.stop(t)
	})
}

func TestShardSetsPoisonAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start(t)
		r.assign(p1)
		bad := entry(p1, 5)
		r.m.poison = []machine.Poison{{Entry: bad, Err: errors.New("nonsense")}}
		r.messages(bad)
		want := []record.DeadLetter{{Topic: p1.Topic, Partition: 1, Offset: 5, Error: "nonsense", Value: []byte("v5")}}
		if d := cmp.Diff(want, r.prod.letters); d != "" {
			t.Errorf("dead letters (-want +got):\n%s", d)
		}
		// A log that takes none does not hold up the partition.
		r.prod.partitions = 0
		r.m.poison = []machine.Poison{{Entry: entry(p1, 6), Err: errors.New("nonsense")}}
		r.messages(entry(p1, 6))
		// Nor does one that does not acknowledge it.
		r.prod.partitions, r.prod.err = 4, mq.ErrUnavailable
		r.m.poison = []machine.Poison{{Entry: entry(p1, 7), Err: errors.New("nonsense")}}
		r.messages(entry(p1, 7))
		for name, want := range map[string]float64{
			"starling_job_set_aside_total": 3, "starling_job_dead_letters_total": 1, "starling_job_dead_letter_failures_total": 2,
		} {
			if got := r.metric(t, name); !slices.Equal(got, []float64{want}) {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		r.j.take()
		time.Sleep(600 * time.Millisecond)
		r.want(t, "commit [1:8]")
		r.stop(t)
	})
}

func TestPushes(t *testing.T) {
	var got []string
	p := NewPushes(zap.NewNop(), prometheus.NewRegistry(), func(_ context.Context, es []route.Push) error {
		for _, e := range es {
			got = append(got, strings.Join(e.GetUsers(), "+"))
		}
		return nil
	})
	starts, err := p.Assigned(t.Context(), []mq.Assignment{{PartitionID: p0, Committed: -1}})
	if err != nil || starts[p0] != 0 {
		t.Errorf("start %v, %v", starts, err)
	}
	push := func(version uint32, op wire.Op) record.Entry {
		b, err := proto.Marshal(&recordpb.Push{Version: version, Users: []string{"a", "b"}, Op: int32(op)})
		if err != nil {
			t.Fatal(err)
		}
		return record.Entry{PartitionID: p0, Value: b}
	}
	err = p.Messages(t.Context(), []record.Entry{
		push(record.Version, wire.OpTyping),
		push(record.Version+1, wire.OpTyping), // of a newer binary
		push(record.Version, 0),
		{PartitionID: p0, Value: []byte{0xff}},
		push(record.Version, wire.OpReceipt),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Messages(t.Context(), []record.Entry{{Value: []byte{0xff}}}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, []string{"a+b", "a+b"}) {
		t.Errorf("pushed %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	j := &journal{}
	if err := p.Run(ctx, &fakeConsumer{journal: j}); err != nil {
		t.Errorf("run: %v", err)
	}
	if got := j.take(); !slices.Equal(got, []string{"commit [0:1]", "close"}) {
		t.Errorf("at the end: %v", got)
	}
}

func FuzzDecodePush(f *testing.F) {
	b, err := proto.Marshal(&recordpb.Push{Version: record.Version, All: true, Op: 130, Body: []byte("{}")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodePush(b)
		if (e == nil) == (err == nil) {
			t.Fatalf("entry %v, error %v", e, err)
		}
		if err == nil && (e.GetVersion() != record.Version || e.GetOp() <= 0) {
			t.Fatalf("let pass: %v", e)
		}
	})
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	err := (&Config{}).Validate()
	for _, key := range []string{"job.commit-interval", "job.turn-records", "job.effects-turns"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("error does not name %s: %v", key, err)
		}
	}
}
