// Package shards divides the durable state among several databases: a
// conversation hashes to a partition of the log (package record), and each
// partition is in exactly one shard. New gives the store of all shards
// together, as logic reads it; a job works on each Shard by itself.
//
// What is asked by conversation goes to the shard that holds it, and only that
// shard's failure fails it. What is asked by user (groups, conversations,
// refusals) is asked of every shard at once and merged; it fails while any
// shard does not answer, because a list that silently lacks conversations
// would be taken for the truth. Worker numbers are leased in the first shard, so
// it must be up for a logic to begin; which one is the first must not change.
//
// All is safe for concurrent use. Which partition is where is fixed with the
// first start: CheckLayout stores it in each shard and refuses another.
package shards

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// DefaultName is the name of a single shard that holds everything.
const DefaultName = "main"

// MaxName is the longest name of a shard, in bytes: it is part of server ids.
const MaxName = 16

// Shard is one database and what it holds.
type Shard struct {
	Name  string
	Store store.Store
	Holds Partitions // nil: all
	// Check, if given, says whether the database is what it has to be (schema,
	// layout); until it does, Store is used for nothing else. A Set asks before
	// each use, a job before it works on the shard: make it with Once.
	Check func(ctx context.Context) error
}

// errAsking is the answer while another call waits for the check's.
var errAsking = errors.New("the database is being checked")

// Once returns a check that passes for good once it has passed, and that only
// one caller waits for; the others get an error meanwhile.
func Once(check func(ctx context.Context) error) func(ctx context.Context) error {
	var passed atomic.Bool
	var asking sync.Mutex
	return func(ctx context.Context) error {
		if passed.Load() {
			return nil
		}
		if !asking.TryLock() {
			return errAsking
		}
		defer asking.Unlock()
		if passed.Load() {
			return nil
		}
		err := check(ctx)
		passed.Store(err == nil)
		return err
	}
}

// checkName refuses what can't be part of a server id and of a group's name.
func checkName(name string) error {
	if ok, _ := regexp.MatchString(`^[a-z0-9][a-z0-9-]*$`, name); !ok || len(name) > MaxName {
		return fmt.Errorf("shard %q: not a name; use 1-%d of a-z 0-9 and -", name, MaxName)
	}
	return nil
}

// Names under which a shard stores what it is.
const (
	layoutName  = "shard"
	layoutPlace = "shard place"  // in the list: the first leases worker ids
	layoutHolds = "shard holds " // and the topic
)

// CheckLayout stores in shard i, at the first call, its name and place in the
// list, how many partitions each topic has and which of them are here; later it
// refuses anything else.
func CheckLayout(ctx context.Context, list []Shard, i int, counts map[string]int32) error {
	s := &list[i]
	layout := make(map[string]string, len(counts)+4)
	for topic, n := range counts {
		layout[topic] = strconv.Itoa(int(n))
	}
	held := s.Holds
	if held == nil {
		held = all(counts)
	}
	layout[layoutName], layout[layoutPlace] = s.Name, strconv.Itoa(i+1)
	for _, topic := range Topics() {
		layout[layoutHolds+topic] = held[topic].String()
	}
	err := s.Store.CheckLayout(ctx, layout)
	if errors.Is(err, store.ErrLayout) {
		return fmt.Errorf("%w (the name of a shard, its place in the list, its dsn and its partitions belong together for good, and kafka.partitions with them)", err)
	}
	return err //nolint:wrapcheck // says what was tried
}

// Store is what logic needs of all shards together. A store.Store is one.
type Store interface {
	store.Query
	HistoryEpoch(ctx context.Context) (string, error)
	LeaseWorker(ctx context.Context, owner string, now, until int64) (worker int, lastUsed int64, err error)
	RenewWorker(ctx context.Context, worker int, owner string, until int64) error
	ReleaseWorker(ctx context.Context, worker int, owner string, lastUsed int64) error
	AppendControl(ctx context.Context, es []control.Entry) (version int64, err error)
	ControlSince(ctx context.Context, version int64, limit int) ([]control.Entry, error)
	Ping(ctx context.Context) error
}

var _ Store = (*Set)(nil)

// New returns the store of all shards together; of one shard that is its own
// store. counts is the number of partitions of each of Topics.
func New(list []Shard, counts map[string]int32) (Store, error) {
	if err := CheckMap(list, counts); err != nil {
		return nil, err
	}
	if len(list) == 1 {
		return list[0].Store, nil
	}
	s := &Set{list: slices.Clone(list), of: make(map[string][]int, len(counts))}
	for _, topic := range Topics() {
		s.of[topic] = make([]int, counts[topic])
		for i := range list {
			for _, n := range list[i].Holds[topic] {
				s.of[topic][n] = i
			}
		}
	}
	return s, nil
}

// Set is several shards as one Store. Make it with New.
type Set struct {
	list []Shard
	of   map[string][]int // by topic, the shard's index of each partition
}

// at returns the index of the shard that holds a conversation.
func (s *Set) at(conv wire.ConvID) int {
	of := s.of[record.Topic(conv)]
	return of[record.PartitionOf(string(conv), int32(len(of)))]
}

// in asks the shard of a conversation.
func in[T any](ctx context.Context, s *Set, conv wire.ConvID, f func(st store.Store) (T, error)) (T, error) {
	return ask(ctx, s, s.at(conv), f)
}

// ask asks one shard; an error names it.
func ask[T any](ctx context.Context, s *Set, i int, f func(st store.Store) (T, error)) (v T, err error) {
	if check := s.list[i].Check; check != nil {
		err = check(ctx)
	}
	if err == nil {
		v, err = f(s.list[i].Store)
	}
	if err != nil {
		err = fmt.Errorf("shard %s: %w", s.list[i].Name, err)
	}
	return v, err
}

// every asks all shards at once; with an error, what the others gave comes too.
func every[T any](ctx context.Context, s *Set, f func(ctx context.Context, i int, st store.Store) (T, error)) ([]T, error) {
	out, errs := make([]T, len(s.list)), make([]error, len(s.list))
	var wg sync.WaitGroup
	for i := range s.list {
		wg.Go(func() {
			out[i], errs[i] = ask(ctx, s, i, func(st store.Store) (T, error) { return f(ctx, i, st) })
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

// HistoryEpoch is made of every shard's, so that a restore of any of them shows.
func (s *Set) HistoryEpoch(ctx context.Context) (string, error) {
	epochs, err := every(ctx, s, func(ctx context.Context, _ int, st store.Store) (string, error) {
		return st.HistoryEpoch(ctx)
	})
	if err != nil {
		return "", err
	}
	return strings.Join(epochs, "."), nil
}

// LeaseWorker takes a worker id in the first shard.
func (s *Set) LeaseWorker(ctx context.Context, owner string, now, until int64) (worker int, lastUsed int64, err error) {
	_, err = ask(ctx, s, 0, func(st store.Store) (_ struct{}, err error) {
		worker, lastUsed, err = st.LeaseWorker(ctx, owner, now, until)
		return struct{}{}, err
	})
	return worker, lastUsed, err
}

// RenewWorker moves a lease in the first shard.
func (s *Set) RenewWorker(ctx context.Context, worker int, owner string, until int64) error {
	_, err := ask(ctx, s, 0, func(st store.Store) (struct{}, error) { return struct{}{}, st.RenewWorker(ctx, worker, owner, until) })
	return err
}

// ReleaseWorker ends a lease in the first shard.
func (s *Set) ReleaseWorker(ctx context.Context, worker int, owner string, lastUsed int64) error {
	_, err := ask(ctx, s, 0, func(st store.Store) (struct{}, error) {
		return struct{}{}, st.ReleaseWorker(ctx, worker, owner, lastUsed)
	})
	return err
}

// AppendControl stores decisions in the first shard.
func (s *Set) AppendControl(ctx context.Context, es []control.Entry) (int64, error) {
	return ask(ctx, s, 0, func(st store.Store) (int64, error) { return st.AppendControl(ctx, es) })
}

// ControlSince reads decisions in the first shard.
func (s *Set) ControlSince(ctx context.Context, version int64, limit int) ([]control.Entry, error) {
	return ask(ctx, s, 0, func(st store.Store) ([]control.Entry, error) { return st.ControlSince(ctx, version, limit) })
}

// Ping says which shards do not answer.
func (s *Set) Ping(ctx context.Context) error {
	_, err := every(ctx, s, func(ctx context.Context, _ int, st store.Store) (struct{}, error) {
		return struct{}{}, st.Ping(ctx)
	})
	return err
}
