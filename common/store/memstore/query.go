package memstore

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"

	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// GroupsOf returns the groups that u is in now, in byte order.
func (s *Store) GroupsOf(ctx context.Context, u wire.UserID) ([]store.Joined, error) {
	return get(ctx, s, "GroupsOf", func() ([]store.Joined, error) {
		var out []store.Joined
		for _, c := range s.users[u] {
			if c.Group == nil || c.Group.Dismissed {
				continue
			}
			for _, m := range c.members[u] {
				if m.LeftSeq == 0 {
					out = append(out, store.Joined{Group: wire.GroupID(strings.TrimPrefix(string(c.Conv), "g:")), Seq: m.JoinedSeq})
					break
				}
			}
		}
		slices.SortFunc(out, func(a, b store.Joined) int { return cmp.Compare(a.Group, b.Group) })
		return out, nil
	})
}

// Conversation returns a head.
func (s *Store) Conversation(ctx context.Context, conv wire.ConvID) (*store.Conversation, error) {
	return get(ctx, s, "Conversation", func() (*store.Conversation, error) {
		if c := s.convs[conv]; c != nil {
			return cloneHead(&c.Conversation), nil
		}
		return nil, store.ErrNotFound
	})
}

// MemberOf returns the newest interval of u.
func (s *Store) MemberOf(ctx context.Context, conv wire.ConvID, u wire.UserID) (store.Member, error) {
	return get(ctx, s, "MemberOf", func() (store.Member, error) {
		if c := s.convs[conv]; c != nil {
			if list := c.members[u]; len(list) > 0 {
				return list[len(list)-1], nil
			}
		}
		return store.Member{}, store.ErrNotFound
	})
}

// Members pages through active members.
func (s *Store) Members(ctx context.Context, conv wire.ConvID, after wire.UserID, limit int) ([]store.Member, error) {
	return get(ctx, s, "Members", func() ([]store.Member, error) {
		return first(s.convs[conv].active(after), limit), nil
	})
}

func first[T any](list []T, limit int) []T {
	if limit <= 0 {
		return nil
	}
	return list[:min(limit, len(list))]
}

// UserConversations lists what u has, in conv order.
func (s *Store) UserConversations(
	ctx context.Context, u wire.UserID, d wire.DeviceID, after wire.ConvID, limit int, withUnread bool,
) ([]store.UserConv, error) {
	return get(ctx, s, "UserConversations", func() ([]store.UserConv, error) {
		var list []*conversation
		for _, c := range s.users[u] {
			if c.Conv > after {
				list = append(list, c)
			}
		}
		slices.SortFunc(list, func(a, b *conversation) int { return cmp.Compare(a.Conv, b.Conv) })
		var out []store.UserConv
		for _, c := range first(list, limit) {
			out = append(out, c.of(u, d, withUnread))
		}
		return out, nil
	})
}

func (c *conversation) of(u wire.UserID, d wire.DeviceID, withUnread bool) store.UserConv {
	newest := c.members[u][len(c.members[u])-1]
	out := store.UserConv{
		Conversation: *cloneHead(&c.Conversation),
		JoinedSeq:    newest.JoinedSeq, LeftSeq: newest.LeftSeq,
		DeviceDelivered: -1,
	}
	if cur, ok := c.cursors[u][d]; ok {
		out.DeviceDelivered = cur.delivered
	}
	high := c.highest(u)
	out.Delivered, out.Read = high.delivered, high.read
	if p, err := c.Conv.Parse(); err == nil && p.Group == "" {
		peer := c.highest(p.Peer(u))
		out.PeerDelivered, out.PeerRead = peer.delivered, peer.read
	}
	if !withUnread {
		return out
	}
	for i := range c.rows {
		r := &c.rows[i]
		if r.Kind != store.KindMessage || !c.sees(u, r.Seq) {
			continue
		}
		last := cloneRow(r)
		out.Last = &last
		if r.Seq > out.Read && r.From != u && r.Type != wire.TypeSystem && r.Status != wire.StatusRecalled {
			out.Unread++
		}
	}
	return out
}

func (c *conversation) highest(u wire.UserID) cursor {
	var high cursor
	for _, cur := range c.cursors[u] {
		high.delivered = max(high.delivered, cur.delivered)
		high.read = max(high.read, cur.read)
	}
	return high
}

// Timeline returns what u may see of (after, upto].
func (s *Store) Timeline(
	ctx context.Context, u wire.UserID, conv wire.ConvID, after, upto int64, limit int, bodies bool,
) ([]store.Row, error) {
	return get(ctx, s, "Timeline", func() ([]store.Row, error) {
		c := s.convs[conv]
		if c == nil || after >= upto {
			return nil, nil
		}
		var out []store.Row
		for i := c.find(after + 1); i < len(c.rows) && c.rows[i].Seq <= upto && len(out) < limit; i++ {
			if !c.sees(u, c.rows[i].Seq) {
				continue
			}
			r := cloneRow(&c.rows[i])
			if !bodies {
				r.Content = ""
			}
			out = append(out, r)
		}
		return out, nil
	})
}

// History returns messages that u may see.
func (s *Store) History(ctx context.Context, u wire.UserID, conv wire.ConvID, after, before int64, limit int) ([]store.Row, error) {
	return get(ctx, s, "History", func() ([]store.Row, error) {
		c := s.convs[conv]
		if c == nil || limit <= 0 || after == math.MaxInt64 {
			return nil, nil
		}
		var out []store.Row
		for i := c.find(after + 1); i < len(c.rows) && (before == 0 || c.rows[i].Seq < before); i++ {
			if r := &c.rows[i]; r.Kind == store.KindMessage && c.sees(u, r.Seq) {
				out = append(out, cloneRow(r))
			}
		}
		if after == 0 {
			return out[max(0, len(out)-limit):], nil
		}
		return first(out, limit), nil
	})
}

// Contents returns the content of messages.
func (s *Store) Contents(ctx context.Context, conv wire.ConvID, seqs []int64) (map[int64]store.Content, error) {
	return get(ctx, s, "Contents", func() (map[int64]store.Content, error) {
		out := make(map[int64]store.Content, len(seqs))
		c := s.convs[conv]
		if c == nil {
			return out, nil
		}
		for _, seq := range seqs {
			if r := c.row(seq); r != nil && r.Kind == store.KindMessage {
				out[seq] = store.Content{Text: r.Content, Status: r.Status, Version: r.Version}
			}
		}
		return out, nil
	})
}

// Outcome returns a verdict.
func (s *Store) Outcome(ctx context.Context, key store.OutcomeKey) (store.Outcome, error) {
	return get(ctx, s, "Outcome", func() (store.Outcome, error) {
		if days := s.outcomes[key]; len(days) > 0 {
			return days[len(days)-1], nil
		}
		return store.Outcome{}, store.ErrNotFound
	})
}

// OutcomeByID returns the verdict on a record of u.
func (s *Store) OutcomeByID(ctx context.Context, u wire.UserID, id wire.MsgID) (store.Outcome, error) {
	return get(ctx, s, "OutcomeByID", func() (store.Outcome, error) {
		if o, ok := s.verdicts[senderID{u, id}]; ok {
			return o, nil
		}
		return store.Outcome{}, store.ErrNotFound
	})
}

// Blocks pages through whom u has blocked.
func (s *Store) Blocks(ctx context.Context, u, after wire.UserID, limit int) ([]store.Block, error) {
	return get(ctx, s, "Blocks", func() ([]store.Block, error) {
		var out []store.Block
		for _, b := range s.blocks[u] {
			if b.Peer > after && len(out) < limit {
				out = append(out, b)
			}
		}
		return out, nil
	})
}

// Refusals returns the newest refusals of u, oldest first.
func (s *Store) Refusals(ctx context.Context, u wire.UserID, after int64, limit int) ([]wire.Refused, error) {
	return get(ctx, s, "Refusals", func() ([]wire.Refused, error) {
		list := slices.Clone(s.refusals[u])
		list = slices.DeleteFunc(list, func(r store.Refusal) bool { return r.TS <= after })
		slices.SortFunc(list, func(a, b store.Refusal) int {
			return cmp.Compare(a.ID, b.ID)
		})
		var out []wire.Refused
		for _, r := range list[max(0, len(list)-max(0, limit)):] {
			out = append(out, r.Refused)
		}
		return out, nil
	})
}
