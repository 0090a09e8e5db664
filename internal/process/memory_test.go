package process

import (
	"flag"
	"math"
	"runtime/debug"
	"testing"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func TestMemoryDefaultsAndBounds(t *testing.T) {
	var m Memory
	m.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError), "memory.")
	if err := m.Validate(); err != nil || m.BallastMB == 0 {
		t.Errorf("default %d MiB: %v", m.BallastMB, err)
	}
	for _, mb := range []int{-1, maxBallast + 1} {
		if err := (&Memory{BallastMB: mb}).Validate(); err == nil {
			t.Errorf("%d MiB is taken", mb)
		}
	}
}

// A ballast would count towards a limit of memory, and only make it tighter.
func TestBallastGivesWayToALimit(t *testing.T) {
	m := Memory{BallastMB: 3}
	old := debug.SetMemoryLimit(math.MaxInt64)
	defer debug.SetMemoryLimit(old)
	if got := len(m.ballast()); got != 3<<20 {
		t.Errorf("%d bytes without a limit, want 3 MiB", got)
	}
	debug.SetMemoryLimit(1 << 40)
	if m.ballast() != nil {
		t.Error("a ballast in spite of a limit")
	}
}
