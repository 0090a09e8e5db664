package session

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/starling-im/starling/common/wire"
)

// Metrics counts what sessions do; one for all of an edge.
type Metrics struct {
	open     prometheus.Gauge
	closed   *prometheus.CounterVec
	received *prometheus.CounterVec
	sent     *prometheus.CounterVec
	refused  *prometheus.CounterVec
	ignored  *prometheus.CounterVec
	writes   prometheus.Counter
	bytes    prometheus.Counter
	stalls   prometheus.Counter
	dropped  *prometheus.CounterVec
	lagged   prometheus.Counter
	byReason [numReasons]prometheus.Counter
	in, out  map[wire.Op]prometheus.Counter
	other    prometheus.Counter
	account  account
}

// NewMetrics registers the metrics of sessions.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		open: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_sessions_open", Help: "Authenticated sessions now.",
		}),
		closed: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_edge_sessions_closed_total", Help: "Sessions ended, by reason.",
		}, []string{"reason"}),
		received: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_edge_frames_received_total", Help: "Frames from clients, by operation.",
		}, []string{"op"}),
		sent: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_edge_frames_sent_total", Help: "Frames queued to clients, by operation.",
		}, []string{"op"}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_edge_errors_total", Help: "Errors answered by the edge itself, by code.",
		}, []string{"code"}),
		ignored: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_edge_frames_dropped_total", Help: "Frames from clients not passed on, without an answer, by reason.",
		}, []string{"reason"}),
		writes: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_writes_total", Help: "Write system calls to clients.",
		}),
		bytes: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_written_bytes_total", Help: "Bytes written to clients.",
		}),
		stalls: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_write_stalls_total", Help: "Writes that found the socket full.",
		}),
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_edge_queue_dropped_total", Help: "Pushes not queued to a full or connecting session, by reason.",
		}, []string{"reason"}),
		lagged: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_lagged_total", Help: "Lagged frames sent.",
		}),
		in: map[wire.Op]prometheus.Counter{}, out: map[wire.Op]prometheus.Counter{},
	}
	for r := ClientClosed; r < numReasons; r++ {
		m.byReason[r] = m.closed.WithLabelValues(r.String())
	}
	for op := wire.OpAuth; op.String() != ""; op++ {
		m.out[op] = m.sent.WithLabelValues(op.String())
		if wire.ClientOp(op) {
			m.in[op] = m.received.WithLabelValues(op.String())
		}
	}
	m.other = m.received.WithLabelValues("other")
	return m
}

func (m *Metrics) countIn(op wire.Op) {
	if c := m.in[op]; c != nil {
		c.Inc()
		return
	}
	m.other.Inc()
}

func (m *Metrics) countOut(op wire.Op) {
	if c := m.out[op]; c != nil {
		c.Inc()
	}
}
