package consume

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/starling-im/starling/common/record"
)

type metrics struct {
	turnSeconds        prometheus.Histogram
	turnRecords        prometheus.Histogram
	recordAge          prometheus.Histogram
	effectsSeconds     prometheus.Histogram
	queueDepth         prometheus.Gauge
	queueCapacity      prometheus.Gauge
	owned              prometheus.Gauge
	retries            prometheus.Counter
	fenced             prometheus.Counter
	rejoins            prometheus.Counter
	poison             prometheus.Counter
	deadLetters        prometheus.Counter
	deadLetterFailures prometheus.Counter
	appliedOffset      *prometheus.GaugeVec
	committedOffset    *prometheus.GaugeVec
	contradicted       *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	seconds := prometheus.ExponentialBuckets(0.0005, 2, 14)
	part := []string{"topic", "partition"}
	return &metrics{
		turnSeconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "starling_job_turn_seconds", Help: "Time of one turn, retries included.", Buckets: seconds,
		}),
		turnRecords: f.NewHistogram(prometheus.HistogramOpts{
			Name: "starling_job_turn_records", Help: "Records of one turn.", Buckets: prometheus.ExponentialBuckets(1, 2, 12),
		}),
		recordAge: f.NewHistogram(prometheus.HistogramOpts{
			Name: "starling_job_record_age_seconds", Help: "Age of the oldest record of a turn once it is applied: how far behind the log the machine is.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 20),
		}),
		effectsSeconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "starling_job_effects_seconds", Help: "Time of the effects of one turn, or of several that waited.", Buckets: seconds,
		}),
		queueDepth: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_job_effects_queue_turns", Help: "Committed turns whose effects wait.",
		}),
		queueCapacity: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_job_effects_queue_capacity_turns", Help: "Committed turns whose effects may wait; nothing is dropped, the next turn waits.",
		}),
		owned: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_job_partitions", Help: "Partitions owned.",
		}),
		retries: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_turn_retries_total", Help: "Turns and claims that failed and were tried again.",
		}),
		fenced: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_fenced_total", Help: "Partitions let go of because another owner had claimed them.",
		}),
		rejoins: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_rejoins_total", Help: "Times the group was left and joined again to claim partitions anew.",
		}),
		poison: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_set_aside_total", Help: "Records that could not be applied.",
		}),
		deadLetters: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_dead_letters_total", Help: "Records set aside that were written to the dead-letter topic.",
		}),
		deadLetterFailures: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_dead_letter_failures_total", Help: "Records set aside that the dead-letter topic did not take.",
		}),
		appliedOffset: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "starling_job_applied_offset", Help: "Last offset brought through the machine.",
		}, part),
		committedOffset: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "starling_job_committed_offset", Help: "Next offset that a new owner would read.",
		}, part),
		contradicted: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "starling_job_contradicted_partitions", Help: "1 for each partition assigned here whose log does not fit the store: it is not taken and its records wait.",
		}, part),
	}
}

// labels are those of a partition.
func labels(p record.PartitionID) []string {
	return []string{p.Topic, strconv.Itoa(int(p.Number))}
}

// applied shows how far the partitions are; those of others were passed over.
func (m *metrics) applied(es []record.Entry, owns func(record.PartitionID) bool) {
	last := make(map[record.PartitionID]int64)
	for i := range es {
		last[es[i].PartitionID] = es[i].Offset
	}
	for p, offset := range last {
		if !owns(p) {
			continue
		}
		m.appliedOffset.WithLabelValues(labels(p)...).Set(float64(offset))
	}
}

func (m *metrics) committed(offsets map[record.PartitionID]int64) {
	for p, offset := range offsets {
		m.committedOffset.WithLabelValues(labels(p)...).Set(float64(offset))
	}
}

// forget drops the series of a partition that is not owned any more.
func (m *metrics) forget(p record.PartitionID) {
	m.appliedOffset.DeleteLabelValues(labels(p)...)
	m.committedOffset.DeleteLabelValues(labels(p)...)
}
