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

// How often the ledger is read, and what is too old is deleted.
const (
	ledgerEvery = 15 * time.Second
	purgeEvery  = time.Hour
)

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

// house is the housekeeping of one shard.
type house struct {
	log     *zap.Logger
	store   store.Admin
	keepFor time.Duration // of verdicts
	ledger  *ledger
}

func newHouse(log *zap.Logger, reg prometheus.Registerer, st store.Admin, keepFor time.Duration) *house {
	return &house{log: log, store: st, keepFor: keepFor, ledger: newLedger(reg)}
}

// keep reads the ledger and purges old verdicts until ctx ends.
func (h *house) keep(ctx context.Context) {
	ledger, purge := time.NewTicker(ledgerEvery), time.NewTicker(purgeEvery)
	defer ledger.Stop()
	defer purge.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ledger.C:
			h.task(ctx, "ledger", h.readLedger)
		case <-purge.C:
			h.task(ctx, "purge", h.purge)
		}
	}
}

func (h *house) task(ctx context.Context, name string, f func(context.Context) error) {
	if err := f(ctx); err != nil && ctx.Err() == nil {
		h.ledger.failures.WithLabelValues(name).Inc()
		h.log.Warn("housekeeping", zap.String("task", name), zap.Error(err))
	}
}

func (h *house) readLedger(ctx context.Context) error {
	states, err := h.store.Partitions(ctx)
	if err == nil {
		h.ledger.show(states)
	}
	return err
}

func (h *house) purge(ctx context.Context) error {
	return h.store.Purge(ctx, time.Now().Add(-h.keepFor).UnixMilli())
}
