package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
)

// ErrNotJudged is returned by Await while no job has come to a replay.
var ErrNotJudged = errors.New("no job has come to it yet")

// ErrAgain is returned by Await for a replay that left all as it was.
var ErrAgain = errors.New("set aside again, or dropped: the job that owns the partition is not a fixed one, or is older than replays, or its " +
	"job.repeat-window or job.outcome-retention is shorter than this command's; or the record stands in another partition than its conversation's")

const awaitPause = 10 * time.Millisecond

// Producer is what Replay needs of the log.
type Producer interface {
	Produce(p record.PartitionID, ts int64, value []byte, done func(mq.Delivery)) error
}

// refusal says why a letter is not replayed, nil for one that is open.
func (l *Letter) refusal() error {
	switch l.State {
	case Open:
		return nil
	case Applied:
		return fmt.Errorf("%s stands already, since offset %d, as seq %d: there is nothing to replay", l.ID(), l.Verdict.Offset, l.Verdict.Seq)
	case Refused:
		return fmt.Errorf("%s was replayed at offset %d and refused, %s: its sender may send it anew", l.ID(), l.Verdict.Offset, l.Verdict.Code)
	case Taken:
		return fmt.Errorf("%s has the client_id of another record, at offset %d, which stands: there is nothing to replay", l.ID(), l.Verdict.Offset)
	case Late:
		if l.Verdict == nil {
			return fmt.Errorf("%s has no verdict, and is older than job.outcome-retention less job.repeat-window: nobody could tell whether its client_id was another's: its sender may send it anew", l.ID())
		}
		return fmt.Errorf("%s is older than job.repeat-window, beyond which a second replay could not be told from the first: its sender may send it anew", l.ID())
	default:
		return fmt.Errorf("%s cannot be judged by this binary either: run the command of the fixed version: %w", l.ID(), l.Cause)
	}
}

// Replay writes a letter's record into its partition again and returns the
// offset. Only an open letter is written; that it is applied once is not up to
// this check but to the machine.
func (o *Office) Replay(ctx context.Context, p Producer, l *Letter) (int64, error) {
	if err := l.refusal(); err != nil {
		return 0, err
	}
	value, err := l.Replay()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", l.ID(), err)
	}
	done := make(chan mq.Delivery, 1)
	err = p.Produce(l.Place(), o.Now().UnixMilli(), value, func(d mq.Delivery) { done <- d })
	if err != nil {
		return 0, fmt.Errorf("write %s again: %w", l.ID(), err)
	}
	select {
	case d := <-done:
		if d.Err != nil {
			return 0, fmt.Errorf("write %s again: it may have been written or not; replay it once more, it is applied once: %w", l.ID(), d.Err)
		}
		return d.Offset, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("write %s again: it may have been written or not; replay it once more, it is applied once: %w", l.ID(), ctx.Err())
	}
}

// Await returns what a replay at an offset came to. While no job has come to it
// until ctx ends, that is ErrNotJudged; ErrAgain if it is as before.
func (o *Office) Await(ctx context.Context, l *Letter, offset int64) (*Letter, error) {
	st, err := o.store(l.Place())
	if err != nil {
		return nil, err
	}
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s, written again at offset %d: %w", l.ID(), offset, ErrNotJudged)
		case <-t.C:
			t.Reset(awaitPause)
		}
		p, err := st.State(ctx, l.Place())
		if err != nil && ctx.Err() == nil {
			return nil, fmt.Errorf("read how far the jobs are: %w", err)
		}
		if err != nil || p.Applied < offset {
			continue
		}
		now, err := o.Look(ctx, l.DeadLetter)
		if err == nil && now.State == Open {
			err = fmt.Errorf("%s: %w", l.ID(), ErrAgain)
		}
		return now, err
	}
}
