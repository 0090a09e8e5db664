// Package history reads timelines for users: sync (what came after a device's
// cursors), the list of conversations, history page by page and receipts.
//
// What exists, who may see it and where a device stands always comes from the
// primary; the index (offline entries and cached bodies) only spares bodies,
// and a cached body counts only if it was written from the very version of the
// row. A Service is safe for concurrent use and holds no state: the token of a
// sync carries all that its next page needs.
package history

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// Limits of answers.
const (
	DefaultPage = 50
	MaxPage     = 500

	listChunk    = 500       // conversations read at once
	pageBytes    = 256 << 10 // content and mentions of a sync page, after which it ends
	maxRefusals  = 200
	refusalsBack = 7 * 24 * time.Hour
)

// Store is what is read of the primary.
type Store interface {
	Conversation(ctx context.Context, conv wire.ConvID) (*store.Conversation, error)
	MemberOf(ctx context.Context, conv wire.ConvID, u wire.UserID) (store.Member, error)
	UserConversations(ctx context.Context, u wire.UserID, d wire.DeviceID, after wire.ConvID, limit int, withUnread bool) ([]store.UserConv, error)
	Timeline(ctx context.Context, u wire.UserID, conv wire.ConvID, after, upto int64, limit int, bodies bool) ([]store.Row, error)
	History(ctx context.Context, u wire.UserID, conv wire.ConvID, after, before int64, limit int) ([]store.Row, error)
	Contents(ctx context.Context, conv wire.ConvID, seqs []int64) (map[int64]store.Content, error)
	Receipts(ctx context.Context, conv wire.ConvID, after wire.UserID, limit int) ([]store.CursorState, error)
	Refusals(ctx context.Context, u wire.UserID, after int64, limit int) ([]wire.Refused, error)
}

// Index is what is asked of Redis.
type Index interface {
	Offline(ctx context.Context, u wire.UserID) ([]registry.OfflineEntry, error)
	GetMessages(ctx context.Context, ids []wire.MsgID) (map[wire.MsgID]registry.CachedMsg, error)
}

// Deps is what a Service works with.
type Deps struct {
	Log     *zap.Logger
	Store   Store
	Index   Index
	Metrics *Metrics
	Now     func() time.Time
}

// Service is the use case.
type Service struct{ d Deps }

// New returns a Service.
func New(d Deps) (*Service, error) {
	if d.Store == nil || d.Index == nil {
		return nil, errors.New("history: store and index are needed")
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = zap.NewNop()
	}
	if d.Metrics == nil {
		d.Metrics = NewMetrics(nil)
	}
	return &Service{d: d}, nil
}

// Access says whether u may look into a conversation: it is one of the two, or
// is or was a member of the group. Else a *wire.Error.
func (s *Service) Access(ctx context.Context, u wire.UserID, conv wire.ConvID) error {
	c, err := conv.Parse()
	switch {
	case planted.Now(planted.LogicOpensHistory):
		return nil
	case err != nil:
		return wire.Errorf(wire.CodeBadRequest, err.Error())
	case c.Group == "" && !c.Has(u):
		return wire.Errorf(wire.CodeNotMember, "not your conversation")
	case c.Group == "":
		return nil
	}
	_, err = s.d.Store.MemberOf(ctx, conv, u)
	if err == nil {
		return nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("read membership: %w", err)
	}
	switch _, err = s.d.Store.Conversation(ctx, conv); {
	case errors.Is(err, store.ErrNotFound):
		return wire.Errorf(wire.CodeNotFound, "there is no such group")
	case err != nil:
		return fmt.Errorf("read conversation: %w", err)
	}
	return wire.Errorf(wire.CodeNotMember, "not a member of the group")
}

// message is a row as msg shows it; what is recalled is empty.
func message(conv wire.ConvID, r *store.Row) wire.Msg {
	m := wire.Msg{
		ID: r.ID, Conv: conv, Seq: r.Seq, From: r.From, Type: r.Type, Content: r.Content,
		TS: r.TS, ClientID: r.ClientID, Mention: r.Mention, ReplyTo: r.ReplyTo, Status: r.Status,
	}
	if m.Status == wire.StatusRecalled {
		m.Content = ""
	}
	if m.Status != "" && planted.Now(planted.LogicForgetsStatus) {
		m.Status = ""
	}
	return m
}
