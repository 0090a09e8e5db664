package watch

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	depth, capacity prometheus.Gauge
	dropped         *prometheus.CounterVec
	looks, failed   prometheus.Counter
	told            prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, w *Watcher) *metrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "starling_edge_watched_users", Help: "Users whose presence somebody here watches.",
	}, func() float64 {
		w.mu.Lock()
		defer w.mu.Unlock()
		return float64(len(w.subjects))
	})
	m := &metrics{
		depth: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_watch_queue_asks", Help: "Requests for presence that wait for their answer.",
		}),
		capacity: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_watch_queue_capacity_asks", Help: "Requests for presence that may wait.",
		}),
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_edge_watch_dropped_total", Help: "Requests for presence answered overloaded, by whose were too many: its own, or all.",
		}, []string{"of"}),
		looks: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_watch_looks_total", Help: "Look-ups of presence in the index, each of up to 500 users.",
		}),
		failed: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_watch_failed_total", Help: "Look-ups of presence that the index did not answer.",
		}),
		told: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_watch_told_total", Help: "Changes of presence pushed to sessions.",
		}),
	}
	m.capacity.Set(maxAsks)
	return m
}
