package limits

import (
	"flag"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func TestDefaultsAreValid(t *testing.T) {
	var c Config
	fs := flag.NewFlagSet("t", flag.ContinueOnError)
	c.RegisterFlags(fs, Prefix)
	if err := c.Validate(); err != nil || c != Default() {
		t.Errorf("%+v: %v", c, err)
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	nan := Default()
	nan.FramesPerSecond = 0 / func() float64 { return 0 }()
	for _, c := range []Config{{MessagesPerSecond: -1, FramesPerSecond: 2e9, ConnectionsPerUser: -1, ConnectionsPerIP: -1, Devices: "some"}, nan} {
		err := c.Validate()
		keys := []string{"limits.frames-per-second"}
		if c.MessagesPerSecond < 0 {
			keys = append(keys, "limits.messages-per-second", "limits.message-burst", "limits.frame-burst", "limits.connections-per-user",
				"limits.connections-per-ip", "limits.max-content", "limits.devices")
		}
		for _, key := range keys {
			if err == nil || !strings.Contains(err.Error(), key+":") {
				t.Errorf("%s is not named in %v", key, err)
			}
		}
	}
}

func TestWith(t *testing.T) {
	base := Default()
	got, err := base.With(map[string]string{"limits.devices": "one", "limits.messages-per-second": "2.5", "limits.max-content": "7"})
	want := Default()
	want.Devices, want.MessagesPerSecond, want.MaxContent = "one", 2.5, 7
	if err != nil || got != want {
		t.Errorf("%+v: %v", got, err)
	}
	if v := got.Values(); v["limits.devices"] != "one" || v["limits.messages-per-second"] != "2.5" || v["limits.frame-burst"] != "5000" || len(v) != 8 {
		t.Errorf("values %v", v)
	}
	for name, bad := range map[string]map[string]string{
		"no such setting": {"edge.weight": "1"},
		"no value":        {"limits.max-content": "many"},
		"no good value":   {"limits.max-content": "0"},
	} {
		if _, err := base.With(bad); err == nil {
			t.Error(name)
		}
	}
	if base != Default() {
		t.Error("the base has changed")
	}
}

func TestLive(t *testing.T) {
	base := Default()
	base.MaxContent = 100
	l := NewLive(base)
	if err := l.Change(map[string]string{"limits.max-content": "5", "limits.devices": "one"}); err != nil || l.Get().MaxContent != 5 || l.Get().Devices != "one" {
		t.Errorf("%+v: %v", l.Get(), err)
	}
	// What is unknown or no good changes nothing, and keeps nothing else back.
	err := l.Change(map[string]string{"limits.devices": "platform", "limits.max-content": "0", "limits.of-the-future": "1"})
	if err == nil || !strings.Contains(err.Error(), "of-the-future") || !strings.Contains(err.Error(), "max-content") ||
		l.Get().Devices != "platform" || l.Get().MaxContent != 100 {
		t.Errorf("%+v: %v", l.Get(), err)
	}
	if err := l.Change(nil); err != nil || *l.Get() != base || l.Base() != base {
		t.Errorf("%+v: %v", l.Get(), err)
	}
}

func TestBuckets(t *testing.T) {
	b, err := NewBuckets[string](2)
	if err != nil {
		t.Fatal(err)
	}
	now := time.UnixMilli(1_000_000)
	take := func(k string, n int, perSecond float64, burst int) (last time.Duration) {
		for range n {
			last = b.Take(k, now, perSecond, burst)
		}
		return last
	}
	if w := take("a", 5, 10, 5); w != 0 {
		t.Errorf("a burst: %v", w)
	}
	if w := take("a", 3, 10, 5); w != 100*time.Millisecond {
		t.Errorf("over it: %v; asking costs nothing", w)
	}
	if w := take("b", 1, 10, 5); w != 0 {
		t.Errorf("another key: %v", w)
	}
	now = now.Add(100 * time.Millisecond)
	if w := take("a", 1, 10, 5); w != 0 {
		t.Errorf("after the wait: %v", w)
	}
	if w := take("a", 1, 0, 5); w != 0 {
		t.Errorf("without a limit: %v", w)
	}
	if w := take("a", 1, 1, 5); w != time.Second {
		t.Errorf("a slower rate counts at once: %v", w)
	}
	now = now.Add(time.Hour)
	if w := take("a", 3, 1, 2); w != time.Second {
		t.Errorf("a smaller burst counts at once: %v", w)
	}
	take("b", 1, 10, 5)
	take("c", 1, 10, 5) // and a is forgotten
	if w := take("a", 2, 1, 2); w != 0 {
		t.Errorf("begins full: %v", w)
	}
}

// TestFloodIsForgotten: who takes without end, from many goroutines, does not owe
// for it afterwards.
func TestFloodIsForgotten(t *testing.T) {
	b, err := NewBuckets[int](10)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 1000 {
				b.Take(1, now, 100, 100)
			}
		})
	}
	all.Wait()
	if w := b.Take(1, now, 100, 100); w <= 0 || w > 20*time.Millisecond {
		t.Errorf("wait %v for one of a hundred a second", w)
	}
	if w := b.Take(1, now.Add(20*time.Millisecond), 100, 100); w != 0 {
		t.Errorf("after that wait: %v", w)
	}
}

func TestBucketsTogether(t *testing.T) {
	b, err := NewBuckets[int](10)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	var mu sync.Mutex
	taken := 0
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				if b.Take(1, now, 0.001, 50) == 0 {
					mu.Lock()
					taken++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	if taken != 50 {
		t.Errorf("%d of a burst of 50", taken)
	}
}
