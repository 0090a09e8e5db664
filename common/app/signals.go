package app

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Signals returns a context that ends at the first SIGINT or SIGTERM; the
// second ends the process at once with exit code 1. SIGHUP is ignored, SIGQUIT
// keeps Go's default (a dump of all goroutines). stop gives the signals back
// and waits for the watching goroutine.
func Signals(ctx context.Context) (signalled context.Context, stop func()) {
	return signals(ctx, os.Exit)
}

func signals(ctx context.Context, exit func(int)) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	signal.Ignore(syscall.SIGHUP)
	got := make(chan os.Signal, 2)
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM)
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for first := true; ; first = false {
			select {
			case <-end:
				return
			case <-got:
			}
			if !first {
				exit(1)
				return
			}
			cancel()
		}
	})
	var once sync.Once
	return ctx, func() {
		once.Do(func() {
			signal.Stop(got)
			close(end)
			wg.Wait()
			cancel()
		})
	}
}
