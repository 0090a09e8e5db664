package uplink

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
)

// followPause is between two attempts to follow the decisions of a logic.
const followPause = 100 * time.Millisecond

// follow takes decisions from one logic, and from another when that fails.
func (c *Client) follow(ctx context.Context) {
	for ctx.Err() == nil {
		c.mu.Lock()
		l := c.pickLocked()
		c.mu.Unlock()
		if l != nil {
			if err := c.followOne(ctx, l.logic); err != nil && ctx.Err() == nil {
				c.log.Debug("following decisions ended", zap.String("addr", l.addr), zap.Error(err))
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(followPause):
		}
	}
}

func (c *Client) followOne(ctx context.Context, logic rpcpb.LogicClient) error {
	ctx, cancel := context.WithCancel(rpc.WithServer(ctx, c.cfg.Server))
	defer cancel()
	st, err := logic.Control(ctx, &rpcpb.ControlRequest{})
	if err != nil {
		return fmt.Errorf("follow decisions: %w", err)
	}
	var es []control.Entry
	for first := true; ; {
		b, err := st.Recv()
		// An older logic, where nothing is decided; but a newer one, in the middle
		// of an upgrade, may have told what must not be forgotten.
		if status.Code(err) == codes.Unimplemented && !c.learned {
			c.sink.Decided(nil, true)
		}
		if err != nil {
			return fmt.Errorf("follow decisions: %w", err)
		}
		es = append(es, rpc.ControlEntries(b)...)
		if !b.GetMore() {
			c.sink.Decided(es, first)
			es, first, c.learned = nil, false, true
		}
	}
}
