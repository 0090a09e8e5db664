package mq

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type producerMetrics struct {
	queued     prometheus.Gauge
	capacity   prometheus.Gauge
	rejected   *prometheus.CounterVec
	deliveries *prometheus.CounterVec
	seconds    prometheus.Histogram
	recreated  prometheus.Counter
}

func newProducerMetrics(reg prometheus.Registerer) *producerMetrics {
	f := promauto.With(reg)
	return &producerMetrics{
		queued:     f.NewGauge(prometheus.GaugeOpts{Name: "starling_mq_producer_queue_records", Help: "Records queued or in flight to the log."}),
		capacity:   f.NewGauge(prometheus.GaugeOpts{Name: "starling_mq_producer_queue_capacity_records", Help: "Records that may be queued or in flight."}),
		rejected:   f.NewCounterVec(prometheus.CounterOpts{Name: "starling_mq_producer_rejected_total", Help: "Records not queued, by reason."}, []string{"reason"}),
		deliveries: f.NewCounterVec(prometheus.CounterOpts{Name: "starling_mq_producer_deliveries_total", Help: "Records answered, by topic and result."}, []string{"topic", "result"}),
		seconds:    f.NewHistogram(prometheus.HistogramOpts{Name: "starling_mq_producer_ack_seconds", Help: "Time from Produce to the broker's acknowledgement.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15)}),
		recreated:  f.NewCounter(prometheus.CounterOpts{Name: "starling_mq_producer_recreated_total", Help: "Times the client was made anew after a fatal error."}),
	}
}

type consumerMetrics struct {
	records    *prometheus.CounterVec
	buffered   prometheus.Gauge
	capacity   prometheus.Gauge
	busy       prometheus.Histogram
	rebalances *prometheus.CounterVec
	errs       *prometheus.CounterVec
	stalls     prometheus.Counter
	repeats    prometheus.Counter
	lag        *prometheus.GaugeVec
}

func newConsumerMetrics(reg prometheus.Registerer, group string) *consumerMetrics {
	if reg != nil {
		reg = prometheus.WrapRegistererWith(prometheus.Labels{"group": group}, reg)
	}
	f := promauto.With(reg)
	return &consumerMetrics{
		records:    f.NewCounterVec(prometheus.CounterOpts{Name: "starling_mq_consumer_records_total", Help: "Records handed to the owner, by topic."}, []string{"topic"}),
		buffered:   f.NewGauge(prometheus.GaugeOpts{Name: "starling_mq_consumer_queue_records", Help: "Records taken from the log that wait for the owner."}),
		capacity:   f.NewGauge(prometheus.GaugeOpts{Name: "starling_mq_consumer_queue_capacity_records", Help: "Records that may wait for the owner."}),
		busy:       f.NewHistogram(prometheus.HistogramOpts{Name: "starling_mq_consumer_owner_seconds", Help: "Time the owner kept a batch.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15)}),
		rebalances: f.NewCounterVec(prometheus.CounterOpts{Name: "starling_mq_consumer_rebalances_total", Help: "Partitions assigned, declined by the owner, revoked and lost."}, []string{"event"}),
		errs:       f.NewCounterVec(prometheus.CounterOpts{Name: "starling_mq_consumer_errors_total", Help: "Errors of the client, by code."}, []string{"code"}),
		stalls:     f.NewCounter(prometheus.CounterOpts{Name: "starling_mq_consumer_stalls_total", Help: "Times the partitions were paused because the owner kept a batch for long."}),
		repeats:    f.NewCounter(prometheus.CounterOpts{Name: "starling_mq_consumer_repeats_total", Help: "Records that the client gave once more and that were left out."}),
		lag:        f.NewGaugeVec(prometheus.GaugeOpts{Name: "starling_mq_consumer_lag_records", Help: "Records of an owned partition that were not handed to the owner yet, by the end of the log as last fetched."}, []string{"topic", "partition"}),
	}
}
