package edge

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	logins    prometheus.Gauge
	maxLogins prometheus.Gauge
	refused   *prometheus.CounterVec
	replaced  prometheus.Counter
	control   prometheus.Gauge
	seconds   prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		logins: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_logins_pending", Help: "Log-ins under way.",
		}),
		maxLogins: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_logins_capacity", Help: "Log-ins that may be under way at once.",
		}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_edge_logins_refused_total", Help: "Log-ins refused, by code.",
		}, []string{"code"}),
		replaced: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_replaced_total", Help: "Sessions replaced by a newer one of their device.",
		}),
		control: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_control_version", Help: "Version of the newest decision that this edge knows.",
		}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "starling_edge_login_seconds", Help: "From auth to auth_ok.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}),
	}
}
