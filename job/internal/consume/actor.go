package consume

import (
	"context"
	"fmt"
	"time"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/job/internal/machine"
)

// job is one thing for the actor, in order: the effects of a turn, partitions
// to release, or a note that it has come this far.
type job struct {
	effects []machine.Effects
	release []record.PartitionID
	reached chan<- struct{}
}

// hand gives the actor work; a full queue holds up the next turn.
func (s *Shard) hand(ctx context.Context, j job) error {
	select {
	case s.work <- j:
		s.m.queueDepth.Set(float64(len(s.work)))
		return nil
	case <-ctx.Done():
		return fmt.Errorf("hand on effects: %w", ctx.Err())
	}
}

// settle waits until the actor has done all that was handed to it, or ended,
// or over says to go on without (nil: never).
func (s *Shard) settle(over <-chan struct{}) {
	reached := make(chan struct{}, 1)
	select {
	case s.work <- job{reached: reached}:
	case <-s.actorDone:
		return
	case <-over:
		return
	}
	select {
	case <-reached:
	case <-s.actorDone:
	case <-over:
	}
}

// act is the actor.
func (s *Shard) act(ctx context.Context) {
	defer close(s.actorDone)
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-s.work:
			j = s.together(j)
			s.m.queueDepth.Set(float64(len(s.work)))
			if len(j.effects) > 0 {
				begin := time.Now()
				if err := s.d.Deliverer.Act(ctx, j.effects); err != nil {
					return // ctx ended: the next owner does them
				}
				s.m.effectsSeconds.Observe(time.Since(begin).Seconds())
			}
			for _, p := range j.release {
				s.d.Deliverer.Release(p)
			}
			if j.reached != nil {
				j.reached <- struct{}{}
			}
		}
	}
}

// together takes the effects along that wait behind j: one look-up and one
// write of caches for all. It stops at what ends a partition or waits to be
// reached, and at a queue's worth.
func (s *Shard) together(j job) job {
	for range s.cfg.EffectsTurns {
		if j.release != nil || j.reached != nil {
			break
		}
		select {
		case k := <-s.work:
			k.effects = append(j.effects, k.effects...)
			j = k
		default:
			return j
		}
	}
	return j
}
