package receipt

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics counts cursors and receipts.
type Metrics struct {
	depth     prometheus.Gauge
	dropped   prometheus.Counter
	moved     prometheus.Counter
	uncleared prometheus.Counter
}

// NewMetrics registers the package's metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "starling_logic_" + name, Help: help})
	}
	f.NewGauge(prometheus.GaugeOpts{
		Name: "starling_logic_cursors_capacity", Help: "Capacity of the buffer of acks and reads.",
	}).Set(Capacity)
	return &Metrics{
		depth: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_logic_cursors_depth", Help: "Acks and reads waiting to be written.",
		}),
		dropped:   counter("cursors_dropped_total", "Acks and reads left out because the buffer was full."),
		moved:     counter("cursors_moved_total", "Acks and reads written."),
		uncleared: counter("offline_uncleared_total", "Offline lists that an ack could not clear; the next ack does."),
	}
}
