package obs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
)

const (
	// clockLimit is how far clocks may be apart: snowflakes, leases of worker ids
	// and the times that users see come from several machines.
	clockLimit = time.Second
	clockEvery = 10 * time.Second
	clockAlarm = time.Minute // between alarms of one clock
)

// Clock is another machine's clock.
type Clock struct {
	Name   string                                       // of the server, as the metric's label: redis, mysql
	Offset func(context.Context) (time.Duration, error) // its time less this process's
}

// ClockWatch compares clocks with this process's. Check refuses at start, Run
// alarms while running. Safe for concurrent use.
type ClockWatch struct {
	clocks []Clock
	log    *zap.Logger
	offset *prometheus.GaugeVec
}

// NewClockWatch makes a watch; nothing runs yet.
func NewClockWatch(clocks []Clock, reg prometheus.Registerer, log *zap.Logger) *ClockWatch {
	return &ClockWatch{
		clocks: clocks, log: log,
		offset: promauto.With(reg).NewGaugeVec(prometheus.GaugeOpts{
			Name: "starling_clock_offset_seconds", Help: "Clock of a server less this process's; absent while it cannot be read.",
		}, []string{"server"}),
	}
}

// ClockError says which clock is off by how much, and what to do.
type ClockError struct {
	Server string
	Offset time.Duration
}

func (e *ClockError) Error() string {
	way := "ahead of"
	if e.Offset < 0 {
		way = "behind"
	}
	return fmt.Sprintf("the clock of %s is %v %s this machine's, more than %v: keep both machines' time by NTP (chronyc tracking, timedatectl)",
		e.Server, e.Offset.Abs().Round(time.Millisecond), way, clockLimit)
}

// Check returns a ClockError for each clock that is off by more than a second,
// joined. A clock that cannot be read is none: its server may not be up yet.
func (w *ClockWatch) Check(ctx context.Context) error {
	var errs []error
	for _, c := range w.clocks {
		if err := w.measure(ctx, c); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// measure returns nil where the clock is right or cannot be read.
func (w *ClockWatch) measure(ctx context.Context, c Clock) *ClockError {
	// A longer way has a larger error than what is looked for.
	ctx, cancel := context.WithTimeout(ctx, clockLimit)
	defer cancel()
	d, err := c.Offset(ctx)
	if err != nil {
		w.offset.DeleteLabelValues(c.Name)
		w.log.Debug("read a clock", zap.String("server", c.Name), zap.Error(err))
		return nil
	}
	w.offset.WithLabelValues(c.Name).Set(d.Seconds())
	if d.Abs() <= clockLimit {
		return nil
	}
	return &ClockError{Server: c.Name, Offset: d}
}

// Run measures every ten seconds until ctx ends, and logs an error for each
// clock that is off, again every minute. It does not end for a wrong clock: a
// process that stopped for it would serve nobody.
func (w *ClockWatch) Run(ctx context.Context) error {
	alarmed := map[string]time.Time{}
	t := time.NewTicker(clockEvery)
	defer t.Stop()
	for {
		for _, c := range w.clocks {
			err := w.measure(ctx, c)
			if err == nil {
				delete(alarmed, c.Name)
				continue
			}
			if at, ok := alarmed[c.Name]; ok && time.Since(at) < clockAlarm {
				continue
			}
			alarmed[c.Name] = time.Now()
			w.log.Error("clocks differ", zap.String("server", c.Name), zap.Duration("offset", err.Offset), zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}
