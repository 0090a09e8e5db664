package history

import (
	"context"
	"errors"
	"fmt"

	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// ConvInfo is one conversation of a user's list.
type ConvInfo struct {
	Conv      wire.ConvID `json:"conv"`
	MaxSeq    int64       `json:"max_seq"`
	MinSeq    int64       `json:"min_seq"`
	ReadSeq   int64       `json:"read_seq"`
	Unread    int64       `json:"unread"`
	Delivered int64       `json:"delivered,omitempty"`
	Read      int64       `json:"read,omitempty"`
	Name      string      `json:"name,omitempty"`    // groups
	Members   int         `json:"members,omitempty"` // groups
	Left      bool        `json:"left,omitempty"`    // no longer a member, or the group is dismissed
	Last      *wire.Msg   `json:"last,omitempty"`
}

// Conversations is a page of the list.
type Conversations struct {
	Conversations []ConvInfo `json:"conversations"`
	Next          string     `json:"next,omitempty"`
}

// Conversations lists what u has, in the order of conversation ids.
func (s *Service) Conversations(ctx context.Context, u wire.UserID, d wire.DeviceID, after wire.ConvID, limit int) (*Conversations, error) {
	list, err := s.d.Store.UserConversations(ctx, u, d, after, limit+1, true)
	if err != nil {
		return nil, fmt.Errorf("list conversations: %w", err)
	}
	out := &Conversations{Conversations: []ConvInfo{}}
	if len(list) > limit {
		list = list[:limit]
		out.Next = string(list[limit-1].Conv)
	}
	for i := range list {
		out.Conversations = append(out.Conversations, convInfo(&list[i]))
	}
	return out, nil
}

func convInfo(uc *store.UserConv) ConvInfo {
	c := ConvInfo{
		Conv: uc.Conv, MaxSeq: visibleMax(uc), MinSeq: max(uc.MinSeq, uc.JoinedSeq),
		ReadSeq: uc.Read, Unread: uc.Unread, Delivered: uc.PeerDelivered, Read: uc.PeerRead,
		Left: uc.LeftSeq > 0,
	}
	if g := uc.Group; g != nil {
		// How the group goes on is nothing to who has left it, a new name neither.
		if !c.Left || g.NamedSeq <= uc.LeftSeq {
			c.Name = g.Name
		}
		c.Left = c.Left || g.Dismissed
		if !c.Left {
			c.Members = g.Members
		}
	}
	if uc.Last != nil {
		m := message(uc.Conv, uc.Last)
		c.Last = &m
	}
	return c
}

// Messages is a page of history. Next goes into the parameter that the page was
// asked by: after, or else before.
type Messages struct {
	Messages []wire.Msg `json:"messages"`
	Next     int64      `json:"next,omitempty"`
}

// History returns messages with after < seq < before (0: no bound), ascending:
// the newest limit of them, or with after (-1: before the first) the oldest.
func (s *Service) History(ctx context.Context, u wire.UserID, conv wire.ConvID, after, before int64, limit int) (*Messages, error) {
	if err := s.Access(ctx, u, conv); err != nil {
		return nil, err
	}
	rows, err := s.d.Store.History(ctx, u, conv, after, before, limit+1)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	out := &Messages{Messages: []wire.Msg{}}
	if len(rows) > limit {
		if after != 0 {
			rows = rows[:limit]
			out.Next = rows[limit-1].Seq
		} else {
			rows = rows[len(rows)-limit:]
			out.Next = rows[0].Seq
		}
	}
	for i := range rows {
		out.Messages = append(out.Messages, message(conv, &rows[i]))
	}
	return out, nil
}

// MemberReceipt is how far one member has a conversation.
type MemberReceipt struct {
	User      wire.UserID `json:"user"`
	Delivered int64       `json:"delivered"`
	Read      int64       `json:"read"`
}

// Receipts is a page of members. With a seq asked for, HaveIt and ReadIt name
// those of the page who have it and who read it.
type Receipts struct {
	Receipts []MemberReceipt `json:"receipts"`
	HaveIt   []wire.UserID   `json:"delivered,omitempty"`
	ReadIt   []wire.UserID   `json:"read,omitempty"`
	Next     string          `json:"next,omitempty"`
}

// Receipts pages through the members of a conversation that u is in.
func (s *Service) Receipts(ctx context.Context, u wire.UserID, conv wire.ConvID, seq int64, after wire.UserID, limit int) (*Receipts, error) {
	if err := s.Access(ctx, u, conv); err != nil {
		return nil, err
	}
	if conv.IsGroup() {
		m, err := s.d.Store.MemberOf(ctx, conv, u)
		if errors.Is(err, store.ErrNotFound) || err == nil && m.LeftSeq > 0 {
			return nil, wire.Errorf(wire.CodeNotMember, "no longer a member of the group")
		}
		if err != nil {
			return nil, fmt.Errorf("read membership: %w", err)
		}
	}
	list, err := s.d.Store.Receipts(ctx, conv, after, limit+1)
	if err != nil {
		return nil, fmt.Errorf("read receipts: %w", err)
	}
	out := &Receipts{Receipts: []MemberReceipt{}}
	if len(list) > limit {
		list = list[:limit]
		out.Next = string(list[limit-1].User)
	}
	for _, c := range list {
		out.Receipts = append(out.Receipts, MemberReceipt{User: c.User, Delivered: c.Delivered, Read: c.Read})
		sees := seq > 0 && c.JoinedSeq <= seq
		if sees && c.Delivered >= seq {
			out.HaveIt = append(out.HaveIt, c.User)
		}
		if sees && c.Read >= seq {
			out.ReadIt = append(out.ReadIt, c.User)
		}
	}
	return out, nil
}
