// Command logic runs the logic tier alone.
package main

import (
	"context"
	"os"

	"github.com/starling-im/starling/common/timerslack"
	"github.com/starling-im/starling/internal/process"
)

func main() {
	timerslack.Raise(process.TimerSlack)
	os.Exit(process.Main(context.Background(), "logic", &program{}, process.OS()))
}
