// Command bench loads a running Starling and says how long deliveries take and
// what was lost, repeated or out of order.
package main

import (
	"context"
	"os"
	"runtime/debug"
)

func main() {
	// Collecting its own garbage makes the tool late, and what is late is taken
	// for latency. GOGC may say otherwise.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(1000)
	}
	os.Exit(run(context.Background(), os.Args[1:]))
}
