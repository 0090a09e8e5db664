package api

import (
	"context"
	"errors"

	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/history"
)

func moves(u wire.UserID, conv wire.ConvID, delivered, read int64) []store.CursorMove {
	return []store.CursorMove{{User: u, Device: "d", Conv: conv, Delivered: delivered, Read: read}}
}

// brokenStore fails where it is asked, and panics where the interface is nil.
type brokenStore struct{ history.Store }

func (brokenStore) MemberOf(context.Context, wire.ConvID, wire.UserID) (store.Member, error) {
	return store.Member{}, errors.New("secret address does not answer")
}
