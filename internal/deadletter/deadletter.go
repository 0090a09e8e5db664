// Package deadletter reads the records that jobs have set aside, says what has
// become of each, and writes them into the log again. It is what `starling
// deadletter` does; docs/decisions/017 has what a replay means.
//
// A letter is in im_dead_letter until the topic's retention is over. What has
// become of its record is in no marker but in the store: the verdict under its
// client_id. A record whose letter could not be written is found by its place.
//
// An Office is for one goroutine. It holds one letter at a time, and the names
// of those it has seen where it goes through all.
package deadletter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/shards"
	"github.com/starling-im/starling/common/wire"
)

// State is what has become of a record that was set aside.
type State string

// States of a letter.
const (
	Open       State = "open"       // to be replayed, or left
	Applied    State = "applied"    // it was written again, and stands
	Refused    State = "refused"    // it was written again, and refused for good
	Taken      State = "taken"      // its client_id is another record's: it was no first
	Unreadable State = "unreadable" // this binary cannot judge it either
	Late       State = "late"       // open, but too old: nobody could tell a second replay, or that it was a repeat
)

// ErrNotAside is returned by Find for a record that was not set aside.
var ErrNotAside = errors.New("it was not set aside")

// Letter is a record that was set aside and what has become of it.
type Letter struct {
	*record.DeadLetter
	State   State
	Cause   error            // of Unreadable
	Record  *recordpb.Record // nil: it cannot be decoded, or does not say whose it is
	Verdict *store.Outcome   // under its client_id; nil: none
}

// Office reads letters. Window is how long a client_id is known
// (job.repeat-window), Retention how long verdicts are (job.outcome-retention).
type Office struct {
	Kafka     mq.Config
	Shards    []shards.Shard
	Window    time.Duration
	Retention time.Duration
	Now       func() time.Time
}

// Each calls f for every letter, each record once, however often it was
// written, in the order of each partition of im_dead_letter. What is no letter
// is given to junk.
func (o *Office) Each(ctx context.Context, f func(*record.DeadLetter) error, junk func(record.Entry, error)) error {
	type place struct {
		record.PartitionID
		offset int64
	}
	seen := make(map[place]struct{})
	err := mq.ReadTopic(ctx, o.Kafka, mq.TopicDeadLetter, func(e record.Entry) error {
		l, err := record.DecodeDeadLetter(e.Value)
		if err != nil {
			junk(e, err)
			return nil
		}
		k := place{l.Place(), l.Offset}
		if _, again := seen[k]; again {
			return nil
		}
		seen[k] = struct{}{}
		return f(l)
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", mq.TopicDeadLetter, err)
	}
	return nil
}

var errFound = errors.New("found")

// Find returns the letter of a record, or the record from its own place where
// none was written. Errors name the remedy; ErrNotAside is one of them.
func (o *Office) Find(ctx context.Context, id string) (*Letter, error) {
	p, offset, err := record.ParseLetterID(id)
	if err != nil {
		return nil, err //nolint:wrapcheck // names the id and the remedy
	}
	var found *record.DeadLetter
	err = o.Each(ctx, func(l *record.DeadLetter) error {
		if l.Place() != p || l.Offset != offset {
			return nil
		}
		found = l
		return errFound
	}, func(record.Entry, error) {})
	if err != nil && !errors.Is(err, errFound) {
		return nil, err
	}
	if found != nil {
		return o.Look(ctx, found)
	}
	return o.unwritten(ctx, p, offset)
}

// unwritten makes the letter that is missing.
func (o *Office) unwritten(ctx context.Context, p record.PartitionID, offset int64) (*Letter, error) {
	e, err := mq.ReadOne(ctx, o.Kafka, p, offset)
	if errors.Is(err, mq.ErrNoRecord) {
		return nil, fmt.Errorf("%v/%d: %w; `starling deadletter list` shows what there is", p, offset, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read %v/%d: %w", p, offset, err)
	}
	l, err := o.Look(ctx, &record.DeadLetter{
		Topic: p.Topic, Partition: p.Number, Offset: offset, TS: e.TS, Value: e.Value,
		Error: "no letter says why: it was not written, or is gone; see the job's log, `record set aside`",
	})
	if err != nil {
		return nil, err
	}
	v := l.Verdict
	aside := l.Record == nil || v != nil && v.ID == wire.MsgID(l.Record.GetId()) && (v.Code == wire.CodeInternal || v.Offset > offset)
	if !aside {
		return nil, fmt.Errorf("%s: %w, or no job has come to it yet; `starling deadletter list` shows what was", l.ID(), ErrNotAside)
	}
	return l, nil
}

// Look says what has become of a letter's record.
func (o *Office) Look(ctx context.Context, d *record.DeadLetter) (*Letter, error) {
	l := &Letter{DeadLetter: d}
	var err error
	if l.Record, err = record.Decode(d.Value); l.Record == nil {
		l.State, l.Cause = Unreadable, err
		return l, nil
	}
	st, serr := o.store(d.Place())
	if serr != nil {
		return nil, serr
	}
	key := store.OutcomeKey{
		Conv: wire.ConvID(l.Record.GetConv()), From: wire.UserID(l.Record.GetFrom()), ClientID: l.Record.GetClientId(),
	}
	v, verr := st.Outcome(ctx, key)
	switch {
	case errors.Is(verr, store.ErrNotFound) || verr == nil && l.first()-v.TS >= o.Window.Milliseconds():
		l.State = o.open(l, err)
		return l, nil
	case verr != nil:
		return nil, fmt.Errorf("read the verdict on %s: %w", d.ID(), verr)
	}
	l.Verdict = &v
	switch same := v.ID == wire.MsgID(l.Record.GetId()) && v.Hash == l.Record.GetHash(); {
	case !same:
		l.State = Taken
	case v.Code == "":
		l.State = Applied
	case v.Code == wire.CodeInternal:
		l.State = o.open(l, err)
	default:
		l.State = Refused
	}
	return l, nil
}

// first is the time (ms) of the record's first place in the log.
func (l *Letter) first() int64 { return cmp.Or(l.Record.GetReplayOf(), l.TS) }

// open says whether a record that has not been judged can be. Without a verdict
// it may have been a repeat, of what is forgotten when the retention is over.
func (o *Office) open(l *Letter, cause error) State {
	until := o.Window
	if l.Verdict == nil {
		until = min(until, o.Retention-o.Window)
	}
	switch {
	case cause != nil:
		l.Cause = cause
		return Unreadable
	case o.Now().UnixMilli()-l.first() >= until.Milliseconds():
		return Late
	}
	return Open
}

// store returns the shard that holds a partition.
func (o *Office) store(p record.PartitionID) (store.Store, error) {
	for i := range o.Shards {
		if s := &o.Shards[i]; s.Holds.Has(p) {
			return s.Store, nil
		}
	}
	return nil, fmt.Errorf("no shard holds %v: compare mysql.shards and kafka.partitions with what the servers have", p)
}

// SetAside is how many records of each partition the ledger says were set
// aside, since the first of it.
func (o *Office) SetAside(ctx context.Context) (map[record.PartitionID]int64, error) {
	out := make(map[record.PartitionID]int64)
	for i := range o.Shards {
		ps, err := o.Shards[i].Store.Partitions(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the ledger: shard %s: %w", o.Shards[i].Name, err)
		}
		for _, p := range ps {
			if p.SetAside > 0 {
				out[p.PartitionID] = p.SetAside
			}
		}
	}
	return out, nil
}
