package message

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics counts sends by how they were answered.
type Metrics struct {
	sends        *prometheus.CounterVec
	looks        *prometheus.CounterVec
	produce      prometheus.Histogram
	ackedDepth   prometheus.Gauge
	ackedDropped prometheus.Counter
}

// NewMetrics registers the package's metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		sends: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_logic_sends_total", Help: "Sends by their answer: acked, repeat, or an error code.",
		}, []string{"answer"}),
		looks: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_logic_looks_unanswered_total", Help: "First looks that brought no answer in time, by what was asked.",
		}, []string{"what"}),
		produce: f.NewHistogram(prometheus.HistogramOpts{
			Name: "starling_logic_produce_seconds", Help: "From Produce to the log's acknowledgement.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		ackedDepth: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_logic_acked_marks_depth", Help: "Acknowledged reservations waiting to be marked.",
		}),
		ackedDropped: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_logic_acked_marks_dropped_total", Help: "Marks left out: the queue was full or the index away. The machine drops a repeat all the same.",
		}),
	}
	f.NewGauge(prometheus.GaugeOpts{
		Name: "starling_logic_acked_marks_capacity", Help: "Capacity of the queue of marks.",
	}).Set(ackedQueue)
	return m
}
