// Command bench loads a running Starling and says how long deliveries take and
// what was lost, repeated or out of order.
package main

import (
	"context"
	"os"
	"runtime/debug"
	"time"

	"github.com/starling-im/starling/common/timerslack"
)

// slack is how late the kernel may be with a timer: a message that is sent so much
// late counts as so much slower.
const slack = 200 * time.Microsecond

func main() {
	timerslack.Raise(slack)
	// Collecting its own garbage makes the tool late, and what is late is taken
	// for latency. GOGC may say otherwise.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(1000)
	}
	os.Exit(run(context.Background(), os.Args[1:]))
}
