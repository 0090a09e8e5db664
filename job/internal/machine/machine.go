package machine

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// Config is what an operator may set.
type Config struct {
	MaxCachedConversations int           // heads kept in memory, all partitions together
	MaxCachedOutcomes      int           // verdicts kept in memory, all partitions together
	RepeatWindow           time.Duration // how long a client_id is remembered, by record time

	OutcomeRetention time.Duration // how long the store keeps verdicts; 0: a day more than the window

	// Partitions is the number of partitions of each topic, to set aside a
	// record that stands in another one than its conversation's. nil: not checked.
	Partitions map[string]int32
}

// RegisterFlags declares the settings and their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet, prefix string) {
	fs.IntVar(&c.MaxCachedConversations, prefix+"max-cached-conversations", 100_000,
		"conversation heads that the machine keeps in memory")
	fs.IntVar(&c.MaxCachedOutcomes, prefix+"max-cached-outcomes", 200_000,
		"verdicts that the machine keeps in memory to know repeats without a look-up")
	fs.DurationVar(&c.RepeatWindow, prefix+"repeat-window", 7*24*time.Hour,
		"how long a client_id is remembered")
}

// Validate returns all that is wrong, by key.
func (c *Config) Validate() error {
	var errs []error
	if c.MaxCachedConversations < 1 {
		errs = append(errs, fmt.Errorf("job.max-cached-conversations: %d is below 1; give the number of heads to keep", c.MaxCachedConversations))
	}
	if c.MaxCachedOutcomes < 1 {
		errs = append(errs, fmt.Errorf("job.max-cached-outcomes: %d is below 1; give the number of verdicts to keep", c.MaxCachedOutcomes))
	}
	if c.RepeatWindow < 24*time.Hour {
		errs = append(errs, fmt.Errorf("job.repeat-window: %v is under a day, in which verdicts are unique; the protocol promises 168h", c.RepeatWindow))
	}
	return errors.Join(errs...)
}

// Reasons to stop and alarm: going on would lose or repeat messages. They come
// in a LogError.
var (
	ErrLogShort = errors.New("the log ends below what was applied: records were lost, or it is another log")
	ErrTopicID  = errors.New("the topic is not the one that was applied: it was deleted and made again")
	ErrLogGap   = errors.New("the log starts above what was applied: records are gone that were never applied")
)

// LogError says where the log and the store contradict each other.
type LogError struct {
	record.PartitionID
	Err               error // ErrLogShort, ErrTopicID or ErrLogGap
	Epoch             int64 // of the claim
	Applied           int64 // offset of the last record applied
	Low, High         int64 // first offset kept (or handed over), next to be written
	TopicID, StoredID string
}

// Error names the partition and the figures.
func (e *LogError) Error() string {
	return fmt.Sprintf("%v: %v (applied %d, log %d–%d, topic id %q, stored %q)",
		e.PartitionID, e.Err, e.Applied, e.Low, e.High, e.TopicID, e.StoredID)
}

// Unwrap returns the reason.
func (e *LogError) Unwrap() error { return e.Err }

// Machine judges the records of the partitions it has claimed. It belongs to
// one goroutine.
type Machine struct {
	st    store.Machine
	cfg   Config
	log   *zap.Logger
	met   *metrics
	parts map[record.PartitionID]*partition
}

// partition is all that is known of one while it is owned.
type partition struct {
	id      record.PartitionID
	epoch   int64
	applied int64 // offset of the last record applied
	next    int64 // offset of the next record to judge
	stale   bool  // a commit's outcome is unknown: read the row before the next turn
	convs   *generations[wire.ConvID, *conv]
	recent  *recent
}

// New returns a machine that owns nothing.
func New(st store.Machine, cfg Config, log *zap.Logger, reg prometheus.Registerer) *Machine {
	cfg.MaxCachedConversations = cmp.Or(cfg.MaxCachedConversations, 100_000)
	cfg.MaxCachedOutcomes = cmp.Or(cfg.MaxCachedOutcomes, 200_000)
	cfg.RepeatWindow = cmp.Or(cfg.RepeatWindow, 7*24*time.Hour)
	cfg.OutcomeRetention = cmp.Or(cfg.OutcomeRetention, cfg.RepeatWindow+24*time.Hour)
	m := &Machine{st: st, cfg: cfg, log: log, parts: make(map[record.PartitionID]*partition)}
	m.met = newMetrics(reg)
	return m
}

// Claim takes a partition over and returns the offset to read from: the lower
// of committed and applied + 1; what is below the latter is redone. low and
// high are where the log stands, committed the group's offset (-1: none, then
// all is redone). The epoch is raised first and read after, so that a former
// owner's commits fail from here on. A LogError means that nothing may be
// applied.
func (m *Machine) Claim(ctx context.Context, p record.PartitionID, topicID string, low, high, committed int64) (int64, error) {
	m.Release(p)
	st, err := m.st.Claim(ctx, p, topicID, low)
	if err != nil {
		return 0, fmt.Errorf("claim %v: %w", p, err)
	}
	next := max(st.Applied+1, st.First)
	bad := &LogError{PartitionID: p, Epoch: st.Epoch, Applied: st.Applied, Low: low, High: high, TopicID: topicID, StoredID: st.TopicID}
	switch {
	case st.TopicID != topicID:
		bad.Err = ErrTopicID
	case high-1 < st.Applied:
		bad.Err = ErrLogShort
	case low > next:
		bad.Err = ErrLogGap
	}
	if bad.Err != nil {
		m.met.stops.Inc()
		return 0, bad
	}
	m.parts[p] = &partition{
		id: p, epoch: st.Epoch, applied: st.Applied, next: next,
		convs:  newGenerations[wire.ConvID, *conv](),
		recent: newRecent(p),
	}
	m.met.owned.Set(float64(len(m.parts)))
	// Without a committed offset nothing is known to have been acted: a former
	// owner may have died between its first commit here and its first there.
	start := max(st.First, low)
	if committed >= 0 {
		start = max(min(committed, next), low)
	}
	m.log.Info("partition claimed", zap.Stringer("partition", p), zap.Int64("epoch", st.Epoch),
		zap.Int64("applied", st.Applied), zap.Int64("start", start))
	return start, nil
}

// Release forgets a partition: every state of it in memory dies.
func (m *Machine) Release(p record.PartitionID) {
	delete(m.parts, p)
	m.met.owned.Set(float64(len(m.parts)))
}

// Epoch returns the epoch of a partition's last claim, whoever's it was. Any
// goroutine may call it.
func (m *Machine) Epoch(ctx context.Context, p record.PartitionID) (int64, error) {
	st, err := m.st.State(ctx, p)
	if err != nil {
		return 0, fmt.Errorf("read state of %v: %w", p, err)
	}
	return st.Epoch, nil
}

// Owned returns the partitions claimed and neither released nor fenced, in order.
func (m *Machine) Owned() []record.PartitionID {
	return slices.SortedFunc(maps.Keys(m.parts), comparePartitions)
}

// Applied returns the offset of the last record applied of an owned partition.
func (m *Machine) Applied(p record.PartitionID) (offset int64, owned bool) {
	if part := m.parts[p]; part != nil {
		return part.applied, true
	}
	return 0, false
}

func comparePartitions(a, b record.PartitionID) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Number, b.Number))
}

// suspect forgets what is cached of partitions whose commit may or may not
// have been applied; their rows are read before the next turn.
func (m *Machine) suspect(moves []store.PartitionMove) {
	for i := range moves {
		if p := m.parts[moves[i].PartitionID]; p != nil {
			p.stale = true
			p.forget()
		}
	}
}

func (p *partition) forget() {
	p.convs = newGenerations[wire.ConvID, *conv]()
	p.recent = newRecent(p.id)
}

// refresh reads the rows of suspected partitions; one that has another epoch
// is fenced.
func (m *Machine) refresh(ctx context.Context, res *Result) error {
	for _, id := range m.Owned() {
		p := m.parts[id]
		if !p.stale {
			continue
		}
		st, err := m.st.State(ctx, id)
		if err != nil {
			return fmt.Errorf("read state of %v: %w", id, err)
		}
		if st.Epoch != p.epoch {
			m.fence(id, res)
			continue
		}
		p.applied, p.next, p.stale = st.Applied, max(st.Applied+1, st.First), false
	}
	return nil
}

// fence drops a partition that another owner has claimed.
func (m *Machine) fence(id record.PartitionID, res *Result) {
	m.log.Warn("partition fenced", zap.Stringer("partition", id))
	m.met.fenced.Inc()
	m.Release(id)
	res.Fenced = append(res.Fenced, id)
}
