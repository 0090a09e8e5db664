package history

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics counts where bodies came from.
type Metrics struct {
	bodies *prometheus.CounterVec
	rows   prometheus.Counter
}

// NewMetrics registers the package's metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	return &Metrics{
		bodies: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_logic_sync_bodies_total", Help: "Message bodies of syncs by where they were read: cache or store.",
		}, []string{"source"}),
		rows: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_logic_sync_rows_total", Help: "Messages and updates given out by sync.",
		}),
	}
}
