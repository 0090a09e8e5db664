package process

import (
	"errors"
	"flag"
	"math"
	"runtime/debug"
)

// Memory says how seldom the garbage collector runs.
type Memory struct {
	// BallastMB is heap (MiB) that is allocated and never touched. It takes no
	// memory, but it counts where the collector waits for the heap to double: a
	// small heap is collected a few times a minute instead of every second, and
	// each time costs the latency of those milliseconds.
	BallastMB int
}

// maxBallast is more than a process here ever needs, in MiB.
const maxBallast = 64 << 10

// RegisterFlags defines the settings with their defaults.
func (m *Memory) RegisterFlags(fs *flag.FlagSet, prefix string) {
	fs.IntVar(&m.BallastMB, prefix+"ballast-mb", 256,
		"MiB of heap that are never touched and make the garbage collector run more seldom; at most as much more garbage (times GOGC/100) stands in memory. Left out where GOMEMLIMIT is set, which would count it")
}

// Validate names a setting that cannot work.
func (m *Memory) Validate() error {
	if m.BallastMB < 0 || m.BallastMB > maxBallast {
		return errors.New("memory.ballast-mb: must be 0 (none) to 65536")
	}
	return nil
}

// ballast returns what the caller keeps as long as the process runs, nil for
// none.
func (m *Memory) ballast() []byte {
	if debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return nil
	}
	return make([]byte, m.BallastMB<<20)
}
