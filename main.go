// Command starling runs an instant-messaging system, whole or one tier of it:
//
//	starling [-target=all|edge|logic|job] [-data DIR] [settings]
//	starling token -user alice -device web-1 [-role admin] [-ttl 24h]
//	starling migrate | version
//
// It exits 0 after an orderly end, 2 for bad settings and 1 for all else.
package main

import (
	"context"
	"os"

	"github.com/starling-im/starling/common/buildinfo"
	"github.com/starling-im/starling/common/timerslack"
	"github.com/starling-im/starling/internal/process"
	"github.com/starling-im/starling/internal/server"
)

func main() {
	timerslack.Raise(process.TimerSlack)
	os.Exit(server.Main(context.Background(), buildinfo.Read().String(), process.OS()))
}
