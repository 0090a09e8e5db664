package api

import (
	"context"

	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/history"
)

func (s *Server) blocks(ctx context.Context, c *call) (any, error) {
	limit, err := c.number("limit", history.DefaultPage, 1, history.MaxPage)
	if err != nil {
		return nil, err
	}
	return s.d.Blocks.List(ctx, c.user(), wire.UserID(c.Query("after")), int(limit))
}

func (s *Server) getBlock(ctx context.Context, c *call) (any, error) {
	return s.d.Blocks.Get(ctx, c.user(), c.member())
}

func (s *Server) putBlock(ctx context.Context, c *call) (any, error) {
	return done{}, s.d.Blocks.Set(ctx, c.command(), c.member(), true)
}

func (s *Server) dropBlock(ctx context.Context, c *call) (any, error) {
	return done{}, s.d.Blocks.Set(ctx, c.command(), c.member(), false)
}
