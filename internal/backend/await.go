package backend

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/app"
)

const (
	// awaitPause is the time between two looks at a service that is missing.
	awaitPause = time.Second
	// awaitWarn is how often the log tells that one is still missing.
	awaitWarn = 30 * time.Second
)

// await is a module whose start waits for a service: processes may be started
// in any order. What no waiting cures ends the process with the remedy.
type await struct {
	name    string
	check   func(ctx context.Context) error
	refused func(err error) bool
	log     *zap.Logger
	why     atomic.Pointer[string] // what is missing; nil: nothing
}

func newAwait(name string, log *zap.Logger, check func(ctx context.Context) error, refused func(err error) bool) *await {
	a := &await{name: name, check: check, refused: refused, log: log}
	asking := "asking it for the first time"
	a.why.Store(&asking)
	return a
}

func (a *await) module() app.Module { return app.Module{Start: a.start, Ready: a.ready} }

func (a *await) start(ctx context.Context) error {
	t := time.NewTimer(0)
	defer t.Stop()
	for warned := (time.Time{}); ; {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", a.name, ctx.Err())
		case <-t.C:
		}
		err := a.check(ctx)
		if err == nil {
			a.why.Store(nil)
			if !warned.IsZero() {
				a.log.Info("the service is there", zap.String("service", a.name))
			}
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for %s: %w", a.name, ctx.Err())
		}
		if a.refused(err) {
			return err
		}
		text := err.Error()
		a.why.Store(&text)
		if time.Since(warned) > awaitWarn {
			warned = time.Now()
			a.log.Warn("waiting for a service", zap.String("service", a.name), zap.Error(err))
		}
		t.Reset(awaitPause)
	}
}

func (a *await) ready() error {
	if why := a.why.Load(); why != nil {
		return errors.New(*why)
	}
	return nil
}
