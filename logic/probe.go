package logic

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
)

const (
	probeEvery = 2 * time.Second
	probeTime  = time.Second
)

// pinger is what the probe needs of the store.
type pinger interface {
	Ping(ctx context.Context) error
}

// probe asks the store now and then whether it answers, and tells by a metric
// and the log when that changes.
type probe struct {
	store pinger
	log   *zap.Logger
	up    prometheus.Gauge
}

func newProbe(st pinger, reg prometheus.Registerer, log *zap.Logger) *probe {
	return &probe{store: st, log: log, up: promauto.With(reg).NewGauge(prometheus.GaugeOpts{
		Name: "starling_logic_store_up", Help: "1 while the store answers, every shard of it. While it does not, messages are taken, but log-ins, sync and history fail.",
	})}
}

func (p *probe) run(ctx context.Context) error {
	t := time.NewTimer(0)
	defer t.Stop()
	for was := true; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		pctx, cancel := context.WithTimeout(ctx, probeTime)
		err := p.store.Ping(pctx)
		cancel()
		up := err == nil
		switch {
		case ctx.Err() != nil:
			return nil
		case up:
			p.up.Set(1)
		default:
			p.up.Set(0)
		}
		switch {
		case was && !up:
			p.log.Warn("the store does not answer: messages are taken, log-ins, sync and history fail", zap.Error(err))
		case !was && up:
			p.log.Info("the store answers again")
		}
		was = up
		t.Reset(probeEvery)
	}
}
