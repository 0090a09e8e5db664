package backend

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

var errWrong = errors.New("wrong password")

// A service that is missing is asked for until it is there, and readiness says
// why meanwhile.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		a := newAwait("mysql", zap.NewNop(), func(context.Context) error {
			if asked++; asked <= 3 {
				return errors.New("connection refused")
			}
			return nil
		}, func(error) bool { return false })
		if a.ready() == nil {
			t.Error("ready before it was asked")
		}
		done := make(chan error, 1)
		go func() { done <- a.start(t.Context()) }()
		time.Sleep(awaitPause / 2)
		if err := a.ready(); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("while it is missing: %v", err)
		}
		if err := <-done; err != nil || asked != 4 || a.ready() != nil {
			t.Errorf("%v after %d tries; ready: %v", err, asked, a.ready())
		}
	})
}

// What no waiting cures ends the start; so does being asked to stop.
func TestAwaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAwait("mysql", zap.NewNop(), func(context.Context) error { return errWrong },
			func(err error) bool { return errors.Is(err, errWrong) })
		if err := a.start(t.Context()); !errors.Is(err, errWrong) {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		b := newAwait("mysql", zap.NewNop(), func(context.Context) error { return errors.New("away") }, func(error) bool { return false })
		if err := b.start(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}
