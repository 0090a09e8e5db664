package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// level says how much of a set-aside record is still written: its verdict for
// the sender, or nothing but the move of the partition.
type level int

const (
	verdict level = iota + 1
	bare
)

type setAside struct {
	level level
	err   error
}

type asideKey struct {
	record.PartitionID
	offset int64
}

func keyOf(e record.Entry) asideKey { return asideKey{e.PartitionID, e.Offset} }

// asides are the records that this turn gives up.
type asides map[asideKey]setAside

// note gives up what cannot be judged: with a verdict, if it says whose it is.
func (a asides) note(it *item) {
	if it.err == nil {
		return
	}
	k := keyOf(it.Entry)
	switch _, given := a[k]; {
	case it.rec == nil:
		a[k] = setAside{bare, it.err}
	case !given:
		a[k] = setAside{verdict, it.err}
	}
}

// raise gives a record up; one that cannot even be given up is an error.
func (a asides) raise(e record.Entry, err error) error {
	k := keyOf(e)
	old := a[k]
	if old.level == bare {
		return fmt.Errorf("set aside %v at %d: %w", e.PartitionID, e.Offset, err)
	}
	if old.err != nil {
		err = old.err // the first cause is the one to report
	}
	a[k] = setAside{old.level + 1, err}
	return nil
}

// poisonError says that judging an entry failed in a way that would come again.
type poisonError struct {
	entry record.Entry
	err   error
}

func (e *poisonError) Error() string {
	return fmt.Sprintf("poison at %v/%d: %v", e.entry.PartitionID, e.entry.Offset, e.err)
}

func (e *poisonError) Unwrap() error { return e.err }

// guarded judges a record; a panic or a deterministic error makes it poison.
func (t *turn) guarded(ctx context.Context, it *item, mv *store.PartitionMove) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &poisonError{it.Entry, fmt.Errorf("panic: %v", r)}
		}
	}()
	err = t.judge(ctx, it, mv)
	var det *store.DeterministicError
	if errors.As(err, &det) || errors.Is(err, record.ErrUnknown) {
		return &poisonError{it.Entry, err}
	}
	return err
}

// setAside writes what is left of a poisoned record: the verdict internal,
// told to the sender, unless a verdict stands already, or might.
func (t *turn) setAside(it *item, a setAside) {
	t.poison = append(t.poison, Poison{Entry: it.Entry, Err: a.err})
	if it.replay() {
		t.replays["set_aside"]++
	}
	if a.level != verdict {
		return
	}
	first, repeated := t.firstOf(it)
	if repeated || it.replay() && !t.mayReplay(it, first, repeated) {
		return // a verdict on a replay that comes too late would let the next one in
	}
	t.decide(it, wire.CodeInternal, 0, 0)
	t.refusal(it, wire.CodeInternal)
}
