// Command job runs the job tier alone.
package main

import (
	"context"
	"os"

	"github.com/starling-im/starling/common/timerslack"
	"github.com/starling-im/starling/internal/process"
)

func main() {
	timerslack.Raise(process.TimerSlack)
	os.Exit(process.Main(context.Background(), "job", &program{}, process.OS()))
}
