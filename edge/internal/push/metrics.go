package push

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/starling-im/starling/edge/internal/session"
)

type metrics struct {
	streams  prometheus.Gauge
	frames   prometheus.Counter
	repeats  prometheus.Counter
	lost     prometheus.Counter
	notHere  prometheus.Counter
	untold   prometheus.Counter
	pushes   [session.Dropped + 1]prometheus.Counter
	seconds  prometheus.Histogram
	laggards prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		streams: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_push_streams", Help: "Streams from jobs.",
		}),
		frames: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_push_frames_total", Help: "Frames from jobs that were passed on.",
		}),
		repeats: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_push_repeats_total", Help: "Frames at or below the position, dropped.",
		}),
		lost: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_push_lost_total", Help: "Frames that said some before them are lost.",
		}),
		notHere: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_push_not_here_total", Help: "Users of a push without a session here.",
		}),
		untold: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_push_not_here_dropped_total", Help: "Answers left out because no job was there to take them.",
		}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "starling_edge_push_seconds", Help: "From the arrival of a batch to its last write.",
			Buckets: prometheus.ExponentialBuckets(0.00005, 2, 16),
		}),
		laggards: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_lagged_all_total", Help: "Sessions told that they may have missed anything.",
		}),
	}
	results := f.NewCounterVec(prometheus.CounterOpts{
		Name: "starling_edge_pushes_total", Help: "Pushes to sessions, by what became of them.",
	}, []string{"result"})
	for r, name := range map[session.Result]string{
		session.NotHere: "not_here", session.Queued: "queued", session.Lagged: "lagged", session.Dropped: "dropped",
	} {
		m.pushes[r] = results.WithLabelValues(name)
	}
	return m
}
