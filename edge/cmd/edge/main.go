// Command edge runs the edge tier alone. It is pure Go: no Kafka, no SQL.
package main

import (
	"context"
	"os"

	"github.com/starling-im/starling/common/timerslack"
	"github.com/starling-im/starling/internal/process"
)

func main() {
	timerslack.Raise(process.TimerSlack)
	os.Exit(process.Main(context.Background(), "edge", &program{}, process.OS()))
}
