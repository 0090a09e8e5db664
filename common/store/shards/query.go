package shards

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// merged asks all shards at once and returns their lists as one, in order.
func merged[T any](ctx context.Context, s *Set, order func(a, b T) int, f func(ctx context.Context, st store.Store) ([]T, error)) ([]T, error) {
	lists, err := every(ctx, s, func(ctx context.Context, _ int, st store.Store) ([]T, error) { return f(ctx, st) })
	if err != nil {
		return nil, err
	}
	out := slices.Concat(lists...)
	slices.SortStableFunc(out, order)
	return out, nil
}

// GroupsOf merges every shard's.
func (s *Set) GroupsOf(ctx context.Context, u wire.UserID) ([]store.Joined, error) {
	return merged(ctx, s, func(a, b store.Joined) int { return cmp.Compare(a.Group, b.Group) },
		func(ctx context.Context, st store.Store) ([]store.Joined, error) { return st.GroupsOf(ctx, u) })
}

// UserConversations merges every shard's page: each is asked for a whole one,
// since all of it may be there.
func (s *Set) UserConversations(
	ctx context.Context, u wire.UserID, d wire.DeviceID, after wire.ConvID, limit int, withUnread bool,
) ([]store.UserConv, error) {
	list, err := merged(ctx, s, func(a, b store.UserConv) int { return cmp.Compare(a.Conv, b.Conv) },
		func(ctx context.Context, st store.Store) ([]store.UserConv, error) {
			return st.UserConversations(ctx, u, d, after, limit, withUnread)
		})
	return list[:min(len(list), max(0, limit))], err
}

// Blocks merges every shard's page, each a whole one.
func (s *Set) Blocks(ctx context.Context, u, after wire.UserID, limit int) ([]store.Block, error) {
	list, err := merged(ctx, s, func(a, b store.Block) int { return cmp.Compare(a.Peer, b.Peer) },
		func(ctx context.Context, st store.Store) ([]store.Block, error) {
			return st.Blocks(ctx, u, after, limit)
		})
	return list[:min(len(list), max(0, limit))], err
}

// Refusals merges every shard's newest.
func (s *Set) Refusals(ctx context.Context, u wire.UserID, after int64, limit int) ([]wire.Refused, error) {
	list, err := merged(ctx, s, func(a, b wire.Refused) int { return cmp.Compare(a.ID, b.ID) },
		func(ctx context.Context, st store.Store) ([]wire.Refused, error) {
			return st.Refusals(ctx, u, after, limit)
		})
	return list[max(0, len(list)-max(0, limit)):], err
}

// OutcomeByID asks every shard: an id does not say whose conversation it is in.
// What one shard knows is the answer, whether the others answer or not.
func (s *Set) OutcomeByID(ctx context.Context, u wire.UserID, id wire.MsgID) (store.Outcome, error) {
	found, err := every(ctx, s, func(ctx context.Context, _ int, st store.Store) (*store.Outcome, error) {
		o, err := st.OutcomeByID(ctx, u, id)
		if errors.Is(err, store.ErrNotFound) {
			return nil, nil //nolint:nilnil // none is an answer
		}
		return &o, err //nolint:wrapcheck // named by every
	})
	if i := slices.IndexFunc(found, func(o *store.Outcome) bool { return o != nil && o.ID == id }); i >= 0 {
		return *found[i], nil
	}
	if err == nil {
		err = store.ErrNotFound
	}
	return store.Outcome{}, err
}

// MoveCursors gives each shard its moves, at once. With an error come the
// states of the shards that answered; their moves stand.
func (s *Set) MoveCursors(ctx context.Context, moves []store.CursorMove) ([]store.CursorState, error) {
	type place struct {
		user wire.UserID
		conv wire.ConvID
	}
	parts := make([][]store.CursorMove, len(s.list))
	order := make(map[place]int, len(moves))
	for i := range moves {
		m := &moves[i]
		at := s.at(m.Conv)
		parts[at] = append(parts[at], *m)
		if _, ok := order[place{m.User, m.Conv}]; !ok {
			order[place{m.User, m.Conv}] = i
		}
	}
	lists, err := every(ctx, s, func(ctx context.Context, i int, st store.Store) ([]store.CursorState, error) {
		if len(parts[i]) == 0 {
			return nil, nil
		}
		return st.MoveCursors(ctx, parts[i])
	})
	out := slices.Concat(lists...)
	slices.SortStableFunc(out, func(a, b store.CursorState) int {
		return cmp.Compare(order[place{a.User, a.Conv}], order[place{b.User, b.Conv}])
	})
	return out, err
}

// Conversation asks the conversation's shard.
func (s *Set) Conversation(ctx context.Context, conv wire.ConvID) (*store.Conversation, error) {
	return in(ctx, s, conv, func(st store.Store) (*store.Conversation, error) { return st.Conversation(ctx, conv) })
}

// MemberOf asks the conversation's shard.
func (s *Set) MemberOf(ctx context.Context, conv wire.ConvID, u wire.UserID) (store.Member, error) {
	return in(ctx, s, conv, func(st store.Store) (store.Member, error) { return st.MemberOf(ctx, conv, u) })
}

// Members asks the conversation's shard.
func (s *Set) Members(ctx context.Context, conv wire.ConvID, after wire.UserID, limit int) ([]store.Member, error) {
	return in(ctx, s, conv, func(st store.Store) ([]store.Member, error) { return st.Members(ctx, conv, after, limit) })
}

// Timeline asks the conversation's shard.
func (s *Set) Timeline(
	ctx context.Context, u wire.UserID, conv wire.ConvID, after, upto int64, limit int, bodies bool,
) ([]store.Row, error) {
	return in(ctx, s, conv, func(st store.Store) ([]store.Row, error) {
		return st.Timeline(ctx, u, conv, after, upto, limit, bodies)
	})
}

// History asks the conversation's shard.
func (s *Set) History(ctx context.Context, u wire.UserID, conv wire.ConvID, after, before int64, limit int) ([]store.Row, error) {
	return in(ctx, s, conv, func(st store.Store) ([]store.Row, error) { return st.History(ctx, u, conv, after, before, limit) })
}

// Contents asks the conversation's shard.
func (s *Set) Contents(ctx context.Context, conv wire.ConvID, seqs []int64) (map[int64]store.Content, error) {
	return in(ctx, s, conv, func(st store.Store) (map[int64]store.Content, error) { return st.Contents(ctx, conv, seqs) })
}

// Receipts asks the conversation's shard.
func (s *Set) Receipts(ctx context.Context, conv wire.ConvID, after wire.UserID, limit int) ([]store.CursorState, error) {
	return in(ctx, s, conv, func(st store.Store) ([]store.CursorState, error) { return st.Receipts(ctx, conv, after, limit) })
}

// Outcome asks the conversation's shard.
func (s *Set) Outcome(ctx context.Context, key store.OutcomeKey) (store.Outcome, error) {
	return in(ctx, s, key.Conv, func(st store.Store) (store.Outcome, error) { return st.Outcome(ctx, key) })
}
