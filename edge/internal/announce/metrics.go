package announce

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	unlisted  prometheus.Gauge
	lapses    prometheus.Counter
	announced prometheus.Counter
	errors    *prometheus.CounterVec
	batches   prometheus.Counter
	routes    prometheus.Counter
	depth     prometheus.Gauge
	capacity  prometheus.Gauge
	dropped   *prometheus.CounterVec

	joinDepth    prometheus.Gauge
	joinCapacity prometheus.Gauge
	joinDropped  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		unlisted: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_unlisted", Help: "1 while the registry cannot be written and jobs push everything here.",
		}),
		lapses: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_lease_lapses_total", Help: "Leases that lapsed while the edge lived.",
		}),
		announced: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_announcements_total", Help: "Times that all sessions were announced at once.",
		}),
		errors: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_edge_registry_errors_total", Help: "Calls to the registry that failed, by call.",
		}, []string{"call"}),
		batches: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_route_batches_total", Help: "Calls that wrote routes of log-ins.",
		}),
		routes: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_routes_total", Help: "Routes of log-ins written.",
		}),
		depth: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_removal_queue_depth", Help: "Removals from the registry that wait.",
		}),
		capacity: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_removal_queue_capacity", Help: "Removals that may wait.",
		}),
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_edge_removal_queue_dropped_total",
			Help: "Removals not made because the queue was full, by what they are of (route, group, room); that stays until it expires.",
		}, []string{"of"}),
		joinDepth: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_join_queue_depth", Help: "Joins of live rooms that wait for the registry.",
		}),
		joinCapacity: f.NewGauge(prometheus.GaugeOpts{
			Name: "starling_edge_join_queue_capacity", Help: "Joins of live rooms that may wait for the registry.",
		}),
		joinDropped: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_edge_join_queue_dropped_total", Help: "Joins of live rooms answered overloaded because too many waited.",
		}),
	}
}
