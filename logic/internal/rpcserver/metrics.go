package rpcserver

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics counts streams and frames.
type Metrics struct {
	streams    prometheus.Gauge
	logins     prometheus.Counter
	frames     *prometheus.CounterVec
	slowDepth  prometheus.Gauge
	outDepth   prometheus.Gauge
	dropped    *prometheus.CounterVec
	overloaded prometheus.Counter
}

// NewMetrics registers the package's metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Name: "starling_logic_" + name, Help: help})
	}
	gauge("uplink_slow_capacity", "Capacity of each stream's queue of slow calls.").Set(slowQueue)
	gauge("uplink_answers_capacity", "Capacity of each stream's queue of answers.").Set(outQueue)
	return &Metrics{
		streams:   gauge("uplink_streams", "Open streams of edges."),
		slowDepth: gauge("uplink_slow_depth", "Slow calls (sync, recall, edit) waiting or running."),
		outDepth:  gauge("uplink_answers_depth", "Answers waiting to be sent."),
		logins: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_logic_logins_total", Help: "Log-ins answered.",
		}),
		frames: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_logic_frames_total", Help: "Frames of clients, by operation.",
		}, []string{"op"}),
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_logic_answers_dropped_total", Help: "Answers that went nowhere, by reason: stream_ended or queue_full.",
		}, []string{"reason"}),
		overloaded: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_logic_uplink_overloaded_total", Help: "Frames answered overloaded.",
		}),
	}
}
