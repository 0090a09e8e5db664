package job

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/store"
)

// How often the ledger is read, and room is made for what comes and what is too
// old removed.
const (
	ledgerEvery = 15 * time.Second
	houseEvery  = time.Hour
)

// longestLag is how far behind a partition may be without losing the verdicts
// that it still has to compare with. A partition where nobody writes any more
// looks the same, and so keeps everybody's verdicts for that much longer.
const longestLag = 30 * 24 * time.Hour

// ledger shows the durable counts of every partition: at any time the log's
// end is the sum of the columns and the lag.
type ledger struct {
	records  *prometheus.GaugeVec
	applied  *prometheus.GaugeVec
	failures *prometheus.CounterVec
}

func newLedger(reg prometheus.Registerer) *ledger {
	f := promauto.With(reg)
	return &ledger{
		records: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "starling_job_ledger_records", Help: "Records of a partition by what became of them, from the store.",
		}, []string{"topic", "partition", "column"}),
		applied: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "starling_job_ledger_applied_offset", Help: "Last offset applied of a partition, from the store.",
		}, []string{"topic", "partition"}),
		failures: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_job_housekeeping_failures_total", Help: "Housekeeping that failed and is tried again at its next time.",
		}, []string{"task"}),
	}
}

func (l *ledger) show(states []store.PartitionState) {
	for i := range states {
		s := &states[i]
		number := strconv.Itoa(int(s.Number))
		l.applied.WithLabelValues(s.Topic, number).Set(float64(s.Applied))
		for column, n := range map[string]int64{
			"stored": s.Stored, "updates": s.Updates, "commands": s.Commands,
			"repeats": s.Repeats, "refused": s.Refused, "set_aside": s.SetAside,
		} {
			l.records.WithLabelValues(s.Topic, number, column).Set(float64(n))
		}
	}
}

// keepHouse reads the ledger and keeps the store's house until ctx ends.
func (t *tier) keepHouse(ctx context.Context) {
	ledger, house := time.NewTicker(ledgerEvery), time.NewTicker(houseEvery)
	defer ledger.Stop()
	defer house.Stop()
	t.task(ctx, "prepare", t.prepare)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ledger.C:
			t.task(ctx, "ledger", t.readLedger)
		case <-house.C:
			t.task(ctx, "prepare", t.prepare)
			t.task(ctx, "purge", t.purge)
			t.task(ctx, "retire", t.retire)
		}
	}
}

func (t *tier) task(ctx context.Context, name string, f func(context.Context) error) {
	if err := f(ctx); err != nil && ctx.Err() == nil {
		t.ledger.failures.WithLabelValues(name).Inc()
		t.log.Warn("housekeeping", zap.String("task", name), zap.Error(err))
	}
}

func (t *tier) readLedger(ctx context.Context) error {
	states, err := t.d.Store.Partitions(ctx)
	if err == nil {
		t.ledger.show(states)
	}
	return err
}

func (t *tier) prepare(ctx context.Context) error {
	return t.d.Store.Prepare(ctx, time.Now().UnixMilli())
}

// purge goes by the time of the records: a partition that is days behind will
// see repeats of what was decided days before that.
func (t *tier) purge(ctx context.Context) error {
	states, err := t.d.Store.Partitions(ctx)
	if err != nil {
		return err
	}
	return t.d.Store.Purge(ctx, recordTime(states, time.Now()).Add(-t.cfg.OutcomeRetention).UnixMilli())
}

// recordTime is the time that every partition has reached. One without any
// verdict has none to lose.
func recordTime(states []store.PartitionState, now time.Time) time.Time {
	oldest := now
	for i := range states {
		if ts := states[i].AppliedTS; ts > 0 && ts < oldest.UnixMilli() {
			oldest = time.UnixMilli(ts)
		}
	}
	if limit := now.Add(-longestLag); oldest.Before(limit) {
		return limit
	}
	return oldest
}

func (t *tier) retire(ctx context.Context) error {
	if t.cfg.HistoryRetention == 0 {
		return nil
	}
	return t.d.Store.Retire(ctx, time.Now().Add(-t.cfg.HistoryRetention).UnixMilli())
}
