// Package memstore is a store.Store in memory, for simulations and tests. It
// keeps to the contract of package store as the databases do: the same guards
// and unique keys, all of a turn or nothing, nothing shared with the caller.
//
// All methods may be called concurrently; a mutex makes each one atomic. Hook
// lets a simulation fail an operation before it was done, or after, as a crash
// between a commit and its answer does. Nothing is bounded and nothing
// survives the process.
package memstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

var _ store.Store = (*Store)(nil)

// Store is one shard in memory.
type Store struct {
	// Hook, if set before first use, is called before and after each
	// operation with the method's name. An error before means that nothing was
	// done; an error after means that it was done and the caller does not learn
	// it. It is called without the lock, so it may itself use the store.
	Hook func(op string, before bool) error

	mu         sync.Mutex
	epoch      string
	partitions map[record.PartitionID]*store.PartitionState
	convs      map[wire.ConvID]*conversation
	byID       map[int64]*conversation
	users      map[wire.UserID]map[int64]*conversation // everyone with an interval
	outcomes   map[store.OutcomeKey][]store.Outcome    // one a day, oldest first
	verdicts   map[senderID]store.Outcome
	refusals   map[wire.UserID][]store.Refusal
	blocks     map[wire.UserID][]store.Block // by peer
	control    []control.Entry               // by version
	controls   int64                         // the newest version
	workers    map[int]worker
	layout     map[string]string
}

type senderID struct {
	user wire.UserID
	id   wire.MsgID
}

type worker struct {
	owner string
	until int64
}

// conversation is a head with its rows in seq order, its intervals in order of
// JoinedSeq, and the cursors of its users' devices.
type conversation struct {
	store.Conversation
	rows    []store.Row
	ids     map[wire.MsgID]int64 // of messages, to their seq
	members map[wire.UserID][]store.Member
	cursors map[wire.UserID]map[wire.DeviceID]cursor
}

type cursor struct{ delivered, read int64 }

// New returns an empty shard.
func New() *Store {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return &Store{
		epoch:      hex.EncodeToString(b[:]),
		partitions: make(map[record.PartitionID]*store.PartitionState),
		convs:      make(map[wire.ConvID]*conversation),
		byID:       make(map[int64]*conversation),
		users:      make(map[wire.UserID]map[int64]*conversation),
		outcomes:   make(map[store.OutcomeKey][]store.Outcome),
		verdicts:   make(map[senderID]store.Outcome),
		refusals:   make(map[wire.UserID][]store.Refusal),
		blocks:     make(map[wire.UserID][]store.Block),
		workers:    make(map[int]worker),
	}
}

// do runs one operation under the lock, between the hook's two calls.
func (s *Store) do(ctx context.Context, op string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if s.Hook != nil {
		if err := s.Hook(op, true); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	if err := s.locked(f); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if s.Hook != nil {
		if err := s.Hook(op, false); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	return nil
}

func (s *Store) locked(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f()
}

// get is do with a result, which is zero on any error.
func get[T any](ctx context.Context, s *Store, op string, f func() (T, error)) (T, error) {
	var v T
	err := s.do(ctx, op, func() (err error) {
		v, err = f()
		return err
	})
	if err != nil {
		var zero T
		return zero, err
	}
	return v, nil
}

// Claim raises the partition's epoch.
func (s *Store) Claim(ctx context.Context, p record.PartitionID, topicID string, first int64) (store.PartitionState, error) {
	return get(ctx, s, "Claim", func() (store.PartitionState, error) {
		st := s.partitions[p]
		if st == nil {
			st = &store.PartitionState{PartitionID: p, Applied: -1, Counts: store.Counts{First: first}}
			s.partitions[p] = st
		}
		st.Epoch++
		if st.TopicID == "" {
			st.TopicID = topicID
		}
		return *st, nil
	})
}

// State returns a partition's row.
func (s *Store) State(ctx context.Context, p record.PartitionID) (store.PartitionState, error) {
	return get(ctx, s, "State", func() (store.PartitionState, error) {
		if st := s.partitions[p]; st != nil {
			return *st, nil
		}
		return store.PartitionState{}, store.ErrNotFound
	})
}

// Lookup returns the verdicts that stand and the heads that exist.
func (s *Store) Lookup(ctx context.Context, keys []store.OutcomeKey, convs []wire.ConvID) (store.Found, error) {
	return get(ctx, s, "Lookup", func() (store.Found, error) {
		f := store.Found{
			Outcomes:      make(map[store.OutcomeKey]store.Outcome, len(keys)),
			Conversations: make(map[wire.ConvID]*store.Conversation, len(convs)),
		}
		for _, k := range keys {
			if days := s.outcomes[k]; len(days) > 0 {
				f.Outcomes[k] = days[len(days)-1]
			}
		}
		for _, id := range convs {
			if c := s.convs[id]; c != nil {
				f.Conversations[id] = cloneHead(&c.Conversation)
			}
		}
		return f, nil
	})
}

// ActiveMembers returns everyone whose interval is open.
func (s *Store) ActiveMembers(ctx context.Context, conv int64) ([]store.Member, error) {
	return get(ctx, s, "ActiveMembers", func() ([]store.Member, error) {
		return s.byID[conv].active(""), nil
	})
}

// Intervals returns all intervals of the users.
func (s *Store) Intervals(ctx context.Context, conv int64, users []wire.UserID) ([]store.Member, error) {
	return get(ctx, s, "Intervals", func() ([]store.Member, error) {
		c := s.byID[conv]
		if c == nil {
			return nil, nil
		}
		var out []store.Member
		for _, u := range slices.Compact(slices.Sorted(slices.Values(users))) {
			out = append(out, c.members[u]...)
		}
		return out, nil
	})
}

// Rows returns a range of a timeline.
func (s *Store) Rows(ctx context.Context, conv, from, to int64) ([]store.Row, error) {
	return get(ctx, s, "Rows", func() ([]store.Row, error) {
		c := s.byID[conv]
		if c == nil || to < from {
			return nil, nil
		}
		var out []store.Row
		for i := c.find(from); i < len(c.rows) && c.rows[i].Seq <= to; i++ {
			out = append(out, cloneRow(&c.rows[i]))
		}
		return out, nil
	})
}

// RowByID returns a message by its id.
func (s *Store) RowByID(ctx context.Context, conv int64, id wire.MsgID) (store.Row, error) {
	return get(ctx, s, "RowByID", func() (store.Row, error) {
		if c := s.byID[conv]; c != nil {
			if seq, ok := c.ids[id]; ok {
				return cloneRow(c.row(seq)), nil
			}
		}
		return store.Row{}, store.ErrNotFound
	})
}

// find returns the index of the first row at or after seq.
func (c *conversation) find(seq int64) int {
	if n := len(c.rows); n == 0 || c.rows[n-1].Seq < seq {
		return n
	}
	i, _ := slices.BinarySearchFunc(c.rows, seq, func(r store.Row, seq int64) int { return cmp.Compare(r.Seq, seq) })
	return i
}

// row returns the row of a seq, or nil.
func (c *conversation) row(seq int64) *store.Row {
	if i := c.find(seq); i < len(c.rows) && c.rows[i].Seq == seq {
		return &c.rows[i]
	}
	return nil
}

// active returns the open intervals of users after one, in user order.
func (c *conversation) active(after wire.UserID) []store.Member {
	if c == nil {
		return nil
	}
	var out []store.Member
	for u, intervals := range c.members {
		if u <= after {
			continue
		}
		for i := range intervals {
			if intervals[i].LeftSeq == 0 {
				out = append(out, intervals[i])
			}
		}
	}
	slices.SortFunc(out, func(a, b store.Member) int { return cmp.Compare(a.User, b.User) })
	return out
}

// sees says whether u may see a seq.
func (c *conversation) sees(u wire.UserID, seq int64) bool {
	for _, m := range c.members[u] {
		if seq >= m.JoinedSeq && (m.LeftSeq == 0 || seq <= m.LeftSeq) {
			return true
		}
	}
	return false
}

func cloneHead(c *store.Conversation) *store.Conversation {
	out := *c
	if c.Group != nil {
		g := *c.Group
		out.Group = &g
	}
	return &out
}

func cloneRow(r *store.Row) store.Row {
	out := *r
	out.Mention = slices.Clone(r.Mention)
	return out
}
