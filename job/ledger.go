package job

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/shards"
)

// How often the ledger is read, and room is made for what comes and what is too
// old removed.
const (
	ledgerEvery = 15 * time.Second
	beginEvery  = 10 * time.Second
	houseEvery  = time.Hour
)

// longestLag is how far behind a partition may be without losing the verdicts
// that it still has to compare with. A partition where nobody writes any more
// looks the same, and so keeps everybody's verdicts for that much longer.
const longestLag = 30 * 24 * time.Hour

// columns shows the durable counts of every partition: at any time the log's
// end is the sum of the columns and the lag, counted from the first record.
type columns struct {
	records    *prometheus.GaugeVec
	applied    *prometheus.GaugeVec
	difference *prometheus.GaugeVec
	failures   *prometheus.CounterVec
}

func newColumns(reg prometheus.Registerer) *columns {
	f := promauto.With(reg)
	return &columns{
		difference: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "starling_job_ledger_difference", Help: "Records applied of a partition that are in no column of the ledger (below 0: in two), from the store; 0 is right.",
		}, []string{"topic", "partition"}),
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

func (l *columns) show(states []store.PartitionState) {
	for i := range states {
		s := &states[i]
		number := strconv.Itoa(int(s.Number))
		account := accountOf(s)
		account.Settle()
		l.difference.WithLabelValues(s.Topic, number).Set(float64(account.Difference))
		l.applied.WithLabelValues(s.Topic, number).Set(float64(s.Applied))
		for column, n := range map[string]int64{
			"stored": s.Stored, "updates": s.Updates, "commands": s.Commands,
			"repeats": s.Repeats, "refused": s.Refused, "set_aside": s.SetAside,
		} {
			l.records.WithLabelValues(s.Topic, number, column).Set(float64(n))
		}
	}
}

// house is the housekeeping of one shard.
type house struct {
	log      *zap.Logger
	store    store.Admin
	check    func(ctx context.Context) error // says whether the store may be used; nil: it may
	outcomes time.Duration                   // how long verdicts are kept
	history  time.Duration                   // how long messages are kept; 0: for ever
	columns  *columns
}

func newHouse(log *zap.Logger, reg prometheus.Registerer, shard shards.Shard, cfg *Config) *house {
	return &house{log: log, store: shard.Store, check: shard.Check, outcomes: cfg.OutcomeRetention, history: cfg.HistoryRetention, columns: newColumns(reg)}
}

// keep reads the ledger and keeps the store's house until ctx ends.
func (h *house) keep(ctx context.Context) {
	ledger, house := time.NewTicker(ledgerEvery), time.NewTicker(houseEvery)
	defer ledger.Stop()
	defer house.Stop()
	if !h.begin(ctx) {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ledger.C:
			h.task(ctx, "ledger", h.readLedger)
		case <-house.C:
			h.task(ctx, "prepare", h.prepare)
			h.task(ctx, "purge", h.purge)
			h.task(ctx, "retire", h.retire)
		}
	}
}

// begin checks the store and makes room in it, as often as it takes: rows that
// come where there is none cannot be retired by month and day. False: ctx ended.
func (h *house) begin(ctx context.Context) bool {
	t := time.NewTicker(beginEvery)
	defer t.Stop()
	for {
		prepared := false
		h.task(ctx, "prepare", func(ctx context.Context) error {
			if h.check != nil {
				if err := h.check(ctx); err != nil {
					return err
				}
			}
			err := h.prepare(ctx)
			prepared = err == nil
			return err
		})
		if prepared {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
}

func (h *house) task(ctx context.Context, name string, f func(context.Context) error) {
	if err := f(ctx); err != nil && ctx.Err() == nil {
		h.columns.failures.WithLabelValues(name).Inc()
		h.log.Warn("housekeeping", zap.String("task", name), zap.Error(err))
	}
}

func (h *house) readLedger(ctx context.Context) error {
	states, err := h.store.Partitions(ctx)
	if err == nil {
		h.columns.show(states)
	}
	return err
}

func (h *house) prepare(ctx context.Context) error {
	return h.store.Prepare(ctx, time.Now().UnixMilli())
}

// purge goes by the time of the records: a partition that is days behind will
// see repeats of what was decided days before that.
func (h *house) purge(ctx context.Context) error {
	states, err := h.store.Partitions(ctx)
	if err != nil {
		return err
	}
	return errors.Join(
		h.store.Purge(ctx, recordTime(states, time.Now()).Add(-h.outcomes).UnixMilli()),
		h.store.PurgeControl(ctx, time.Now().UnixMilli()),
	)
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

func (h *house) retire(ctx context.Context) error {
	if h.history == 0 {
		return nil
	}
	states, err := h.store.Partitions(ctx)
	if err != nil {
		return err
	}
	return h.store.Retire(ctx, recordTime(states, time.Now()).Add(-h.history).UnixMilli())
}
