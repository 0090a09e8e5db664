package api

import (
	"context"

	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/group"
	"github.com/starling-im/starling/logic/internal/history"
)

// done is the answer of a command that needs no other.
type done struct{}

func (c *call) group() wire.GroupID { return wire.GroupID(c.Param("group")) }
func (c *call) member() wire.UserID { return wire.UserID(c.Param("user")) }

func (s *Server) createGroup(ctx context.Context, c *call) (any, error) {
	var n group.NewGroup
	if err := c.decode(&n); err != nil {
		return nil, err
	}
	return s.d.Groups.Create(ctx, c.command(), n)
}

// mayRead lets members, and services, look into a group.
func (s *Server) mayRead(ctx context.Context, c *call) error {
	if c.trusted() {
		_, err := s.d.Groups.Get(ctx, c.group())
		return err //nolint:wrapcheck // a use case's answer
	}
	return s.d.Groups.Access(ctx, c.user(), c.group()) //nolint:wrapcheck // a use case's answer
}

func (s *Server) getGroup(ctx context.Context, c *call) (any, error) {
	if err := s.mayRead(ctx, c); err != nil {
		return nil, err
	}
	return s.d.Groups.Get(ctx, c.group())
}

func (s *Server) renameGroup(ctx context.Context, c *call) (any, error) {
	var req struct {
		Name        *string `json:"name"`
		Description *string `json:"description"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	info, err := s.d.Groups.Rename(ctx, c.command(), c.group(), req.Name, req.Description)
	if err != nil {
		return nil, err //nolint:wrapcheck // a use case's answer
	}
	return info, nil
}

func (s *Server) dismissGroup(ctx context.Context, c *call) (any, error) {
	return done{}, s.d.Groups.Dismiss(ctx, c.command(), c.group())
}

func (s *Server) members(ctx context.Context, c *call) (any, error) {
	limit, err := c.number("limit", history.DefaultPage, 1, history.MaxPage)
	if err != nil {
		return nil, err
	}
	if err := s.mayRead(ctx, c); err != nil {
		return nil, err
	}
	return s.d.Groups.List(ctx, c.group(), wire.UserID(c.Query("after")), int(limit))
}

func (s *Server) addMembers(ctx context.Context, c *call) (any, error) {
	var req struct {
		Members []wire.UserID `json:"members"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	return done{}, s.d.Groups.Add(ctx, c.command(), c.group(), req.Members)
}

func (s *Server) removeMember(ctx context.Context, c *call) (any, error) {
	return done{}, s.d.Groups.Remove(ctx, c.command(), c.group(), c.member())
}

func (s *Server) setRole(ctx context.Context, c *call) (any, error) {
	var req struct {
		Role string `json:"role"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	return done{}, s.d.Groups.SetRole(ctx, c.command(), c.group(), c.member(), req.Role)
}

func (s *Server) mute(ctx context.Context, c *call) (any, error) {
	var req struct {
		User  wire.UserID `json:"user"`
		Until int64       `json:"until"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	return done{}, s.d.Groups.Mute(ctx, c.command(), c.group(), req.User, req.Until)
}
