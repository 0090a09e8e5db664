package uplink

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	streams  prometheus.Gauge
	depth    prometheus.Gauge
	capacity prometheus.Gauge
	dropped  *prometheus.CounterVec
	frames   prometheus.Counter
	batches  prometheus.Counter
	answers  prometheus.Counter
	broken   prometheus.Counter
	logins   *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		streams: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_uplink_streams", Help: "Streams to logics that stand.",
		}),
		depth: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_uplink_queue_depth", Help: "Frames waiting for a stream.",
		}),
		capacity: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_uplink_queue_capacity", Help: "Frames that may wait for one stream.",
		}),
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_edge_uplink_dropped_total", Help: "Frames not sent, by reason; the client is told.",
		}, []string{"reason"}),
		frames: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_uplink_frames_total", Help: "Frames sent to logics.",
		}),
		batches: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_uplink_batches_total", Help: "Batches sent to logics.",
		}),
		answers: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_uplink_answers_total", Help: "Frames received from logics.",
		}),
		broken: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_uplink_broken_total", Help: "Streams to logics that broke.",
		}),
		logins: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_edge_logins_total", Help: "Log-ins asked of logic, by outcome.",
		}, []string{"outcome"}),
	}
}
