package process

import (
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// TimerSlack is how late the kernel may be with a timer of a tier: nothing here
// is timed to less than a ms.
const TimerSlack = 500 * time.Microsecond

// procs lets as many goroutines run at once as there are cores, though threads
// wait in C. Whoever waits in C keeps its place until the monitor thread takes
// it away, some hundred µs later; with two cores and three Kafka clients nobody
// could go on meanwhile.
type procs struct {
	chosen bool // by GOMAXPROCS in the environment, which stays

	mu    sync.Mutex
	waits int
}

// chosen says whether an environment sets GOMAXPROCS.
func chosen(environ []string) bool {
	return slices.ContainsFunc(environ, func(kv string) bool {
		v, ok := strings.CutPrefix(kv, "GOMAXPROCS=")
		return ok && v != ""
	})
}

// more makes room for one more thread that waits, and returns how many may run
// then, 0 where that stays as it is.
func (p *procs) more() int {
	if p.chosen {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waits++
	runtime.SetDefaultGOMAXPROCS()
	n := runtime.GOMAXPROCS(0) + p.waits
	runtime.GOMAXPROCS(n)
	return n
}
