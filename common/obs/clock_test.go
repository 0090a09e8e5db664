package obs

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestClockWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var redis atomic.Int64
		metrics := prometheus.NewRegistry()
		core, logs := observer.New(zap.ErrorLevel)
		w := NewClockWatch([]Clock{
			{"redis", func(context.Context) (time.Duration, error) { return time.Duration(redis.Load()), nil }},
			{"mysql", func(context.Context) (time.Duration, error) { return time.Hour, errors.New("away") }},
		}, metrics, zap.New(core))
		if err := w.Check(t.Context()); err != nil {
			t.Errorf("a right clock and one that is away: %v", err)
		}
		redis.Store(int64(-1500 * time.Millisecond))
		err := w.Check(t.Context())
		for _, want := range []string{"redis", "1.5s behind", "NTP"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not in: %v", want, err)
			}
		}
		fs, err := metrics.Gather()
		if err != nil || len(fs) != 1 || len(fs[0].GetMetric()) != 1 || fs[0].GetMetric()[0].GetGauge().GetValue() != -1.5 {
			t.Errorf("want one gauge, of the clock that can be read: %v, %v", fs, err)
		}

		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.Run(ctx) }()
		step := func(what string, d time.Duration, alarms int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := len(logs.TakeAll()); got != alarms {
				t.Errorf("%s: %d alarms, want %d", what, got, alarms)
			}
		}
		step("at once", 0, 1)
		step("within a minute", 59*time.Second, 0)
		step("after a minute", 2*time.Second, 1)
		redis.Store(int64(time.Second))
		step("right again", 20*time.Second, 0)
		redis.Store(int64(time.Minute))
		step("wrong once more", 11*time.Second, 1)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
