package edge

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/starling-im/starling/common/ledger"
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

// account is the answer to GET /ledger.
func (t *tier) account() ledger.Process {
	name := "edge " + string(t.lease.Server)
	return ledger.Process{Process: name, Pushes: append(t.push.Ledger(name), t.sessions.Ledger(name))}
}

// ledgerCollector shows by how much the account does not balance.
type ledgerCollector struct{ t *tier }

func differenceDesc() *prometheus.Desc {
	return prometheus.NewDesc("starling_edge_ledger_difference",
		"What this edge was handed and neither passed on nor gave a reason for, since it began; 0 is right.", []string{"of"}, nil)
}

// Describe implements prometheus.Collector.
func (ledgerCollector) Describe(ch chan<- *prometheus.Desc) { ch <- differenceDesc() }

// Collect implements prometheus.Collector.
func (c ledgerCollector) Collect(ch chan<- prometheus.Metric) {
	for _, p := range c.t.account().Pushes {
		of := strings.ReplaceAll(p.What, " ", "_")
		ch <- prometheus.MustNewConstMetric(differenceDesc(), prometheus.GaugeValue, float64(p.Difference), of)
	}
}
