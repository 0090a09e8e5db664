package registry

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type redisMetrics struct {
	seconds *prometheus.HistogramVec
	errs    *prometheus.CounterVec
	open    prometheus.Gauge
	swept   prometheus.Counter
}

func newRedisMetrics(reg prometheus.Registerer) *redisMetrics {
	f := promauto.With(reg)
	return &redisMetrics{
		seconds: f.NewHistogramVec(prometheus.HistogramOpts{Name: "starling_registry_call_seconds", Help: "Time of calls to Redis that were tried, by operation.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 12)}, []string{"op"}),
		errs:    f.NewCounterVec(prometheus.CounterOpts{Name: "starling_registry_errors_total", Help: "Calls that failed, by operation and reason (open: not tried)."}, []string{"op", "reason"}),
		open:    f.NewGauge(prometheus.GaugeOpts{Name: "starling_registry_breaker_open", Help: "1 while calls fail at once."}),
		swept:   f.NewCounter(prometheus.CounterOpts{Name: "starling_registry_swept_total", Help: "Routes and groups' edges of dead edges that this process removed."}),
	}
}
