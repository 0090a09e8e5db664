package machine

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/starling-im/starling/common/store"
)

type metrics struct {
	turns    prometheus.Counter
	records  *prometheus.CounterVec
	redone   prometheus.Counter
	replays  *prometheus.CounterVec
	fenced   prometheus.Counter
	retried  prometheus.Counter
	halved   prometheus.Counter
	stops    prometheus.Counter
	lookups  *prometheus.CounterVec
	owned    prometheus.Gauge
	turnSize prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		turns: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_machine_turns_total", Help: "Turns committed.",
		}),
		records: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_job_machine_records_total", Help: "Records applied, by what they came to.",
		}, []string{"result"}),
		redone: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_machine_redone_total", Help: "Records applied before whose effects were built again.",
		}),
		replays: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_job_machine_replays_total", Help: "Records set aside before that were written again, by what they came to; dropped: another verdict stands, or it is too late.",
		}, []string{"result"}),
		fenced: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_machine_fenced_total", Help: "Partitions lost to another owner at a commit.",
		}),
		retried: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_machine_errors_total", Help: "Turns that ended in an error and are to be tried again.",
		}),
		halved: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_machine_halved_total", Help: "Turns cut in two to find a record that cannot be applied.",
		}),
		stops: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_machine_log_contradictions_total", Help: "Claims and turns refused because the log does not fit the store.",
		}),
		lookups: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_job_machine_lookups_total", Help: "Keys and heads needed by turns, by where they were found.",
		}, []string{"what", "found"}),
		owned: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_job_machine_partitions", Help: "Partitions owned now.",
		}),
		turnSize: f.NewHistogram(prometheus.HistogramOpts{
			Name: "starling_job_machine_turn_records", Help: "New records of a committed turn.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 7),
		}),
	}
}

func (m *metrics) counted(c store.Counts) {
	for result, n := range map[string]int64{
		"stored": c.Stored, "updates": c.Updates, "commands": c.Commands,
		"repeats": c.Repeats, "refused": c.Refused, "set_aside": c.SetAside,
	} {
		if n > 0 {
			m.records.WithLabelValues(result).Add(float64(n))
		}
	}
}
