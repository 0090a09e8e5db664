package listen

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/cloudwego/netpoll"
)

// Sizes of netpoll's buffers. An input node above a page of 8 KiB is given back
// whole by Release; outputs are never used.
const (
	inputNode   = 16384
	minimumNode = 512
)

// netpoll is process-wide, so is this.
//
//nolint:gochecknoglobals // guards the globals of netpoll
var (
	configured    sync.Once
	errConfigured error
)

// ConfigureNetpoll sets netpoll for the whole process: how many loops (0: its
// own choice), tasks run on the loop itself, small buffers. It must precede the
// first connection; only the first call counts.
func ConfigureNetpoll(pollers int) error {
	configured.Do(func() {
		netpoll.LinkBufferCap = minimumNode
		errConfigured = netpoll.Configure(netpoll.Config{
			PollerNum:    pollers,
			BufferSize:   inputNode,
			Runner:       func(_ context.Context, f func()) { f() },
			LoggerOutput: io.Discard,
			LoadBalance:  netpoll.RoundRobin,
		})
	})
	if errConfigured != nil {
		return fmt.Errorf("configure netpoll: %w", errConfigured)
	}
	return nil
}
