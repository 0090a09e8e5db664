package memstore

import (
	"context"

	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

type userConv struct {
	user wire.UserID
	conv wire.ConvID
}

// MoveCursors applies acks and reads.
func (s *Store) MoveCursors(ctx context.Context, moves []store.CursorMove) ([]store.CursorState, error) {
	return get(ctx, s, "MoveCursors", func() ([]store.CursorState, error) {
		before := make(map[userConv]cursor)
		var order []userConv
		for _, m := range moves {
			c := s.convs[m.Conv]
			if c == nil {
				continue
			}
			k := userConv{m.User, m.Conv}
			high := c.highest(m.User)
			if !c.move(m) {
				continue
			}
			if _, ok := before[k]; !ok {
				before[k] = high
				order = append(order, k)
			}
		}
		var out []store.CursorState
		for _, k := range order {
			c := s.convs[k.conv]
			now := c.highest(k.user)
			st := store.CursorState{User: k.user, Conv: k.conv, Delivered: now.delivered, Read: now.read, Grew: now != before[k]}
			if c.Group != nil {
				st.Members = c.Group.Members
			}
			out = append(out, st)
		}
		return out, nil
	})
}

// move applies one; false if it says nothing or the user is not in here.
func (c *conversation) move(m store.CursorMove) bool {
	list := c.members[m.User]
	if len(list) == 0 {
		return false
	}
	top := c.MaxSeq
	if left := list[len(list)-1].LeftSeq; left != 0 {
		top = min(top, left)
	}
	read := min(max(m.Read, 0), top)
	delivered := max(min(m.Delivered, top), read)
	if delivered <= 0 {
		return false
	}
	if c.cursors[m.User] == nil {
		c.cursors[m.User] = make(map[wire.DeviceID]cursor)
	}
	old := c.cursors[m.User][m.Device]
	c.cursors[m.User][m.Device] = cursor{delivered: max(old.delivered, delivered), read: max(old.read, read)}
	return true
}

// Receipts returns the active members' cursors.
func (s *Store) Receipts(ctx context.Context, conv wire.ConvID, after wire.UserID, limit int) ([]store.CursorState, error) {
	return get(ctx, s, "Receipts", func() ([]store.CursorState, error) {
		c := s.convs[conv]
		var out []store.CursorState
		for _, m := range first(c.active(after), limit) {
			high := c.highest(m.User)
			st := store.CursorState{User: m.User, Conv: conv, Delivered: high.delivered, Read: high.read, JoinedSeq: m.JoinedSeq}
			if c.Group != nil {
				st.Members = c.Group.Members
			}
			out = append(out, st)
		}
		return out, nil
	})
}
