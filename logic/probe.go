package logic

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

const (
	probeEvery = 2 * time.Second
	probeTime  = time.Second
)

// probe asks the store now and then whether it answers.
type probe struct {
	store interface {
		Ping(ctx context.Context) error
	}
	last atomic.Pointer[probed]
}

type probed struct{ err error }

func newProbe(st interface {
	Ping(ctx context.Context) error
},
) *probe {
	p := &probe{store: st}
	p.last.Store(&probed{errors.New("not asked yet")})
	return p
}

func (p *probe) run(ctx context.Context) error {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		pctx, cancel := context.WithTimeout(ctx, probeTime)
		p.last.Store(&probed{p.store.Ping(pctx)})
		cancel()
		t.Reset(probeEvery)
	}
}

func (p *probe) ready() error { return p.last.Load().err }
