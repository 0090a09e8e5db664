package group

import (
	"context"
	"errors"
	"fmt"

	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// MemberInfo is one member of a list.
type MemberInfo struct {
	User       wire.UserID `json:"user"`
	Role       string      `json:"role"`
	MutedUntil int64       `json:"muted_until,omitempty"`
}

// Members is a page of members.
type Members struct {
	Members []MemberInfo `json:"members"`
	Next    string       `json:"next,omitempty"`
}

// Get returns a group as it stands; a dismissed one is not found.
func (s *Service) Get(ctx context.Context, g wire.GroupID) (*Info, error) {
	if !wire.ValidID(string(g)) {
		return nil, wire.Errorf(wire.CodeBadRequest, "group is not an id: 1–64 of A–Z a–z 0–9 . _ @ -")
	}
	c, err := s.store.Conversation(ctx, wire.GroupConv(g))
	if errors.Is(err, store.ErrNotFound) || err == nil && (c.Group == nil || c.Group.Dismissed) {
		return nil, wire.Errorf(wire.CodeNotFound, "there is no such group")
	}
	if err != nil {
		return nil, fmt.Errorf("read group: %w", err)
	}
	return &Info{
		ID: g, Name: c.Group.Name, Owner: c.Group.Owner, Description: c.Group.Description,
		Members: c.Group.Members, MutedUntil: c.Group.MutedUntil,
	}, nil
}

// Access says whether u is a member of a group that stands.
func (s *Service) Access(ctx context.Context, u wire.UserID, g wire.GroupID) error {
	if _, err := s.Get(ctx, g); err != nil {
		return err
	}
	m, err := s.store.MemberOf(ctx, wire.GroupConv(g), u)
	if errors.Is(err, store.ErrNotFound) || err == nil && m.LeftSeq > 0 {
		return wire.Errorf(wire.CodeNotMember, "not a member of the group")
	}
	if err != nil {
		return fmt.Errorf("read membership: %w", err)
	}
	return nil
}

// List pages through the members, by user.
func (s *Service) List(ctx context.Context, g wire.GroupID, after wire.UserID, limit int) (*Members, error) {
	list, err := s.store.Members(ctx, wire.GroupConv(g), after, limit+1)
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	out := &Members{Members: []MemberInfo{}}
	if len(list) > limit {
		list = list[:limit]
		out.Next = string(list[limit-1].User)
	}
	for _, m := range list {
		out.Members = append(out.Members, MemberInfo{User: m.User, Role: m.Role, MutedUntil: m.MutedUntil})
	}
	return out, nil
}
