package listen

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics counts connections; sessions count what happens on them.
type metrics struct {
	accepted prometheus.Counter
	rejected *prometheus.CounterVec
	live     prometheus.Gauge
	received prometheus.Counter
	watched  prometheus.Gauge
	panics   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		accepted: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_accepted_total", Help: "Connections accepted.",
		}),
		rejected: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_edge_rejected_total", Help: "Connections refused at accept, by limit.",
		}, []string{"reason"}),
		live: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_connections", Help: "Connections now, authenticated or not.",
		}),
		received: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_read_bytes_total", Help: "Bytes read from clients.",
		}),
		watched: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_write_waiting", Help: "Connections whose socket is full.",
		}),
		panics: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_panics_total", Help: "Panics while handling input; the connection is ended.",
		}),
	}
}
