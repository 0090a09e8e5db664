package mq_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
)

// TestMemberKilled: the partitions of a member that was killed are taken over.
func TestMemberKilled(t *testing.T) {
	t.Parallel()
	b := realBroker(t)
	memberKilled(b)
}

func memberKilled(b *broker) {
	t := b.t
	o := &owner{}
	join(t, b, b.config(), o)
	eventually(t, "alone", func() bool { return o.count() == 4 })
	m := startMember(t, b)
	eventually(t, "shared", func() bool { return o.count() == 2 && m.owns.Load() == 2 })
	begin := time.Now()
	m.kill()
	eventually(t, "taken over", func() bool { return o.count() == 4 })
	took := time.Since(begin)
	t.Logf("partitions of a killed member were assigned anew after %v", took.Round(time.Millisecond))
	if took > 8*time.Second {
		t.Errorf("taken over after %v", took)
	}
}

// load sends records to all partitions at a pace and keeps the answers.
type load struct {
	mu       sync.Mutex
	acked    map[record.PartitionID][]string
	failed   map[string]bool // since the start
	before   int             // so many of them before reset
	lastAck  map[record.PartitionID]time.Time
	gap, ack time.Duration // longest time without an acknowledgement of a partition; slowest acknowledgement
	slowest  time.Duration // slowest answer of an error
	stop     func()
}

func startLoad(b *broker, p mq.Producer, every time.Duration) *load {
	l := &load{acked: map[record.PartitionID][]string{}, failed: map[string]bool{}, lastAck: map[record.PartitionID]time.Time{}}
	ctx, cancel := context.WithCancel(b.t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			for q := range int32(4) {
				l.send(b, p, b.part(q), fmt.Sprintf("%d-%06d", q, n))
			}
			<-tick.C
		}
	})
	l.stop = sync.OnceFunc(func() {
		cancel()
		work.Wait()
		end, done := context.WithTimeout(context.Background(), time.Minute)
		defer done()
		if err := p.Flush(end); err != nil {
			b.t.Error(err)
		}
	})
	b.t.Cleanup(l.stop)
	return l
}

func (l *load) send(b *broker, p mq.Producer, id record.PartitionID, v string) {
	sent := time.Now()
	err := p.Produce(id, sent.UnixMilli(), []byte(v), func(d mq.Delivery) {
		now := time.Now()
		l.mu.Lock()
		defer l.mu.Unlock()
		if d.Err != nil {
			if !errors.Is(d.Err, mq.ErrUnavailable) {
				b.t.Errorf("answer is %v", d.Err)
			}
			l.failed[v], l.slowest = true, max(l.slowest, now.Sub(sent))
			return
		}
		if last, ok := l.lastAck[id]; ok {
			l.gap = max(l.gap, now.Sub(last))
		}
		l.lastAck[id], l.ack = now, max(l.ack, now.Sub(sent))
		l.acked[id] = append(l.acked[id], v)
	})
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.failed[v] = true
	}
}

func (l *load) counts() (acked, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, vs := range l.acked {
		acked += len(vs)
	}
	return acked, len(l.failed) - l.before
}

func (l *load) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gap, l.ack, l.slowest, l.before = 0, 0, 0, len(l.failed)
}

// same says that all that was acknowledged was read, in order. Of what was
// answered unavailable some may have come too, and records of those seconds
// may stand twice in the log, as after a client's own retry; it returns how many.
func (l *load) same(b *broker, read *ledger) (twice int) {
	b.t.Helper()
	for q := range int32(4) {
		id := b.part(q)
		seen := map[string]bool{}
		got := slices.DeleteFunc(read.values(id), func(v string) bool {
			again := seen[v]
			seen[v] = true
			if again {
				twice++
			}
			return again || l.failed[v]
		})
		if d := cmp.Diff(l.acked[id], got); d != "" {
			b.t.Errorf("partition %d (-acknowledged +read):\n%s", q, d)
		}
	}
	return twice
}

// TestBrokersKilled kills brokers of three under load.
func TestBrokersKilled(t *testing.T) {
	t.Parallel()
	k := startCluster(t, 3)
	b := k.broker(t)
	c := b.config()
	c.MessageTimeout = 5 * time.Second
	if _, err := mq.CreateTopics(t.Context(), c, append(c.Topics(), b.spec())); err != nil {
		t.Fatal(err)
	}
	if err := mq.CheckTopics(t.Context(), c, append(c.Topics(), b.spec())); err != nil {
		t.Fatal(err)
	}
	t.Run("member", func(t *testing.T) {
		b := k.broker(t)
		if _, err := mq.CreateTopics(t.Context(), b.config(), []mq.TopicSpec{b.spec()}); err != nil {
			t.Fatal(err)
		}
		memberKilled(b)
	})
	p := newProducer(t, c)
	o := &owner{commit: true}
	join(t, b, c, o)
	l := startLoad(b, p, 5*time.Millisecond)
	eventually(t, "read", func() bool { return o.ledger.count() > 400 })
	eventually(t, "ready", func() bool { return p.Ready() == nil })

	// One, which is coordinator of the group and leads partitions.
	a := admin(t, b.addr)
	co := a.FindGroupCoordinators(t.Context(), b.group)
	victim := int(co[b.group].NodeID) - 1
	l.reset()
	acked, _ := l.counts()
	read := o.ledger.count()
	o.ledger.resetGap()
	begin := time.Now()
	k.kill(victim)
	eventually(t, "written on", func() bool { n, _ := l.counts(); return n > acked+2000 && time.Since(begin) > 12*time.Second })
	eventually(t, "read on", func() bool { return o.ledger.count() > read+2000 })
	n, bad := l.counts()
	t.Logf("one of three killed (coordinator): no acknowledgement in a partition for at most %v, slowest acknowledgement %v, %d acknowledged, %d unavailable (slowest %v), nothing read of a partition for at most %v, partitions lost: %v, ready: %v",
		l.gap.Round(time.Millisecond), l.ack.Round(time.Millisecond), n-acked, bad, l.slowest.Round(time.Millisecond), o.ledger.longest().Round(time.Millisecond), o.wasLost(), p.Ready())
	if l.gap > 12*time.Second || o.ledger.longest() > 15*time.Second {
		t.Errorf("a broker's loss is felt for %v in writing, %v in reading", l.gap, o.ledger.longest())
	}
	if err := p.Ready(); err != nil {
		t.Errorf("not ready on two of three: %v", err)
	}
	if bad > 0 && l.gap < c.MessageTimeout {
		t.Errorf("%d unavailable without need", bad)
	}

	// Two.
	second := (victim + 1) % 3
	l.reset()
	begin = time.Now()
	k.kill(second)
	eventually(t, "unavailable", func() bool { _, n := l.counts(); return n > 1000 })
	t.Logf("two of three killed: slowest answer %v; not ready after %v: %v", l.slowest.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond), p.Ready())
	if l.slowest > c.MessageTimeout+2*time.Second {
		t.Errorf("unavailable came after %v", l.slowest)
	}
	eventually(t, "not ready", func() bool { return errors.Is(p.Ready(), mq.ErrUnavailable) })

	begin = time.Now()
	k.start(t, victim)
	k.start(t, second)
	acked, _ = l.counts()
	eventually(t, "works again", func() bool { n, _ := l.counts(); return n > acked+1000 && p.Ready() == nil })
	t.Logf("works again %v after their start", time.Since(begin).Round(time.Millisecond))
	l.stop()
	total, _ := l.counts()
	for q := range int32(4) {
		acked := l.acked[b.part(q)]
		eventually(t, "all is read", func() bool { return slices.Contains(o.ledger.values(b.part(q)), acked[len(acked)-1]) })
	}
	twice := l.same(b, o.ledger)
	t.Logf("%d records acknowledged, all read in order; %d answered unavailable; %d stand twice in the log", total, len(l.failed), twice)
}

// TestLeavesSoon: a member that is stopped at any moment, also in the middle of
// a rebalance, leaves its group; the others don't wait for its session.
func TestLeavesSoon(t *testing.T) {
	t.Parallel()
	b := realBroker(t)
	o := &owner{}
	join(t, b, b.config(), o)
	eventually(t, "alone", func() bool { return o.count() == 4 })
	a := admin(t, b.addr)
	var worst, closing time.Duration
	for i := range 12 {
		x, err := mq.NewConsumer(b.config(), b.group, []string{b.topic}, zap.NewNop(), nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*120*time.Millisecond)
		if err := x.Run(ctx, &printer{quiet: true}); err != nil {
			t.Errorf("ended with %v", err)
		}
		cancel()
		ended := time.Now()
		if err := x.Close(); err != nil {
			t.Error(err)
		}
		closing = max(closing, time.Since(ended))
		eventually(t, "alone again", func() bool {
			gs, err := a.DescribeGroups(t.Context(), b.group)
			return err == nil && gs[b.group].State == "Stable" && len(gs[b.group].Members) == 1 && o.count() == 4
		})
		if took := time.Since(ended); took > 2*time.Second {
			t.Logf("stopped after %v: alone again after %v", time.Duration(i)*120*time.Millisecond, took.Round(time.Millisecond))
		}
		worst = max(worst, time.Since(ended))
	}
	t.Logf("the group was without the member that left after at most %v; Close took at most %v", worst.Round(time.Millisecond), closing.Round(time.Millisecond))
	if worst > 5*time.Second {
		t.Errorf("the others waited %v", worst)
	}
}

// TestAllLeave: members that consumed and committed leave one right after the
// other; who comes then is given the partitions at once.
func TestAllLeave(t *testing.T) {
	t.Parallel()
	b := realBroker(t)
	p := newProducer(t, b.config())
	for round := range 3 {
		l, members := newLedger(), make([]func() error, 2)
		for i := range members {
			o := &owner{ledger: l, commit: true}
			members[i] = join(t, b, b.config(), o)
			eventually(t, "assigned", func() bool { return o.count() == 4/(i+1) })
		}
		for n := range int32(4) {
			produce(t, p, b.part(n), numbers(fmt.Sprint(round, "-"), 0, 10)...)
		}
		eventually(t, "consumed", func() bool { return l.count() >= 40 })
		for _, stop := range members {
			if err := stop(); err != nil {
				t.Error(err)
			}
		}
		next := &owner{}
		begin := time.Now()
		stop := join(t, b, b.config(), next)
		eventually(t, "taken over", func() bool { return next.count() == 4 })
		if took := time.Since(begin); took > 4*time.Second {
			t.Errorf("round %d: taken over after %v", round, took)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}
