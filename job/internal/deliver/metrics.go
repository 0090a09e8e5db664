package deliver

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	acted     prometheus.Counter
	ephemeral prometheus.Counter
	guessed   prometheus.Counter
	filed     prometheus.Counter
	notHere   prometheus.Counter
	failed    *prometheus.CounterVec

	streams    prometheus.Gauge
	streamEnds prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		acted: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_acted_total", Help: "Records whose effects were done.",
		}),
		ephemeral: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_ephemeral_total", Help: "Entries of im_push handed to the outboxes.",
		}),
		guessed: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_guessed_batches_total", Help: "Batches pushed to every edge, because the index had holes or did not answer.",
		}),
		filed: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_filed_offline_total", Help: "Entries written to users' offline lists.",
		}),
		notHere: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_not_here_total", Help: "Users that a push found no session of.",
		}),
		streams: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_job_streams", Help: "Push streams that stand.",
		}),
		streamEnds: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_job_stream_ends_total", Help: "Push streams that ended or did not come to stand.",
		}),
		failed: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_job_best_effort_failures_total", Help: "Calls for an effect that may be left out, failed.",
		}, []string{"call"}),
	}
}

// unknownDesc is of the process, not of an edge: those that are gone have no series.
func unknownDesc() *prometheus.Desc {
	return prometheus.NewDesc("starling_job_outbox_unknown_total", "Frames held for edges when their lease ended: nobody knows whether they arrived.", nil, nil)
}

// boxCollector shows the outbox of every live edge.
type boxCollector struct{ d *Deliverer }

// boxMetric is one number of an outbox.
type boxMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func boxDesc(name, help string, kind prometheus.ValueType) boxMetric {
	return boxMetric{prometheus.NewDesc("starling_job_outbox_"+name, help, []string{"server"}, nil), kind}
}

func boxMetrics() []boxMetric {
	return []boxMetric{
		boxDesc("frames", "Frames held for an edge until it confirms.", prometheus.GaugeValue),
		boxDesc("bytes", "Bytes held for an edge until it confirms.", prometheus.GaugeValue),
		boxDesc("capacity_frames", "Frames that may be held for an edge.", prometheus.GaugeValue),
		boxDesc("capacity_bytes", "Bytes that may be held for an edge.", prometheus.GaugeValue),
		boxDesc("pushed_total", "Frames taken in for an edge.", prometheus.CounterValue),
		boxDesc("confirmed_total", "Frames that an edge confirmed.", prometheus.CounterValue),
		boxDesc("lost_total", "Frames dropped because the box was full; the edge is told lost.", prometheus.CounterValue),
		boxDesc("lost_told_total", "Frames that told an edge lost.", prometheus.CounterValue),
		boxDesc("released_total", "Frames left to the next owner of their partition.", prometheus.CounterValue),
		boxDesc("difference", "Frames of this process that are in no column of the ledger (GET /ledger); 0 is right.", prometheus.GaugeValue),
		boxDesc("ephemeral_dropped_total", "Frames of im_push that met no stream or a full box, or whose stream ended.", prometheus.CounterValue),
	}
}

// Describe implements prometheus.Collector.
func (c *boxCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range boxMetrics() {
		ch <- m.desc
	}
	ch <- unknownDesc()
}

// Collect implements prometheus.Collector.
func (c *boxCollector) Collect(ch chan<- prometheus.Metric) {
	c.d.mu.Lock()
	unknown := c.d.gone.unknown
	c.d.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(unknownDesc(), prometheus.CounterValue, float64(unknown))
	ms := boxMetrics()
	for _, s := range c.d.Servers() {
		box := c.d.Outbox(s)
		if box == nil {
			continue
		}
		st := box.Stats()
		for i, v := range []float64{
			float64(st.Frames), float64(st.Bytes), float64(c.d.cfg.OutboxFrames), float64(c.d.cfg.OutboxBytes),
			float64(st.Pushed), float64(st.Confirmed), float64(st.Lost), float64(st.LostTold),
			float64(st.Released), float64(difference(s, &st)), float64(st.EphemeralDropped),
		} {
			ch <- prometheus.MustNewConstMetric(ms[i].desc, ms[i].kind, v, string(s))
		}
	}
}
