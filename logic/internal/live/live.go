// Package live passes on what is stored nowhere: who is typing, messages of live
// rooms, broadcasts, receipts. It goes through im_push and is pushed to who is
// online, at most once.
//
// A Service is safe for concurrent use. Room messages of one caller keep their
// order as long as it calls RoomSend from one goroutine.
package live

import (
	"context"
	"errors"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/message"
)

// Of the conversations that typing asks for.
const (
	keptHeads = 10_000
	headsLast = 10 * time.Second
	noneLasts = time.Second // that there is none
)

const retryAfterMS = 500

// Store is what is read of the primary.
type Store interface {
	Conversation(ctx context.Context, conv wire.ConvID) (*store.Conversation, error)
	MemberOf(ctx context.Context, conv wire.ConvID, u wire.UserID) (store.Member, error)
}

// Index is what is asked of Redis.
type Index interface {
	AreMembers(ctx context.Context, pairs []registry.Membership) ([]bool, error)
}

// IDs numbers messages; an error while this instance may not number.
type IDs interface {
	Next() (wire.MsgID, error)
}

// Deps is what a Service works with. LargeGroup: members above which nobody is
// told who is typing.
type Deps struct {
	Log        *zap.Logger
	Push       *Pusher
	Store      Store
	Index      Index
	IDs        IDs
	LargeGroup int
	Limits     message.Limits
	Now        func() time.Time
}

// Service is the use case.
type Service struct {
	d     Deps
	heads *lru.Cache[wire.ConvID, head]
}

// head is what typing needs of a conversation, as it was read.
type head struct {
	store.Conversation
	read time.Time
}

// New returns a Service.
func New(d Deps) (*Service, error) {
	if d.Push == nil || d.Store == nil || d.Index == nil || d.IDs == nil || d.Limits == nil {
		return nil, errors.New("live: pusher, store, index, ids and limits are needed")
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = zap.NewNop()
	}
	heads, err := lru.New[wire.ConvID, head](keptHeads)
	if err != nil {
		return nil, fmt.Errorf("live: %w", err)
	}
	return &Service{d: d, heads: heads}, nil
}

// Typing tells the peer, or the members of a small group, that from is typing
// on a connection. Nothing answers it but an error.
func (s *Service) Typing(ctx context.Context, from wire.UserID, conn wire.ConnID, b wire.Typing) error {
	if err := b.Validate(); err != nil {
		return err
	}
	conv := b.Conv(from)
	h, err := s.head(ctx, conv)
	if err != nil {
		return err
	}
	p := &recordpb.Push{Op: int32(wire.OpTyping), ExceptConn: uint64(conn), Group: string(b.Group)}
	switch {
	case b.Group != "":
		if tell, err := s.mayType(ctx, h, b.Group, from); err != nil || !tell {
			return err
		}
	case h.Blocked(from):
		return nil
	default:
		p.Users = []string{string(b.To)}
	}
	b.From = from
	return s.push(string(conv), p, b, nil)
}

// head returns the head of a conversation, with neither members nor blocks where
// there is none. It may be as old as headsLast.
func (s *Service) head(ctx context.Context, conv wire.ConvID) (head, error) {
	now := s.d.Now()
	if h, ok := s.heads.Get(conv); ok && now.Sub(h.read) <= h.lasts() {
		return h, nil
	}
	h := head{read: now}
	switch c, err := s.d.Store.Conversation(ctx, conv); {
	case err == nil:
		h.Conversation = *c
	case errors.Is(err, store.ErrNotFound):
		// There is none: typing to whom one has never written asks once a second.
	default:
		return head{}, fmt.Errorf("read %s: %w", conv, err)
	}
	s.heads.Add(conv, h)
	return h, nil
}

func (h *head) lasts() time.Duration {
	if h.Conv == "" {
		return noneLasts
	}
	return headsLast
}

// mayType says whether a group is told that u is typing.
func (s *Service) mayType(ctx context.Context, h head, g wire.GroupID, u wire.UserID) (bool, error) {
	switch {
	case h.Group == nil || h.Group.Dismissed:
		return false, wire.Errorf(wire.CodeNotFound, "there is no such group")
	case h.Group.Members > s.d.LargeGroup:
		return false, nil
	}
	if is, err := s.d.Index.AreMembers(ctx, []registry.Membership{{Group: g, User: u}}); err == nil && len(is) == 1 && is[0] {
		return true, nil
	}
	switch m, err := s.d.Store.MemberOf(ctx, h.Conv, u); {
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return false, fmt.Errorf("read the membership of %s: %w", h.Conv, err)
	case err != nil || m.LeftSeq != 0:
		return false, wire.Errorf(wire.CodeNotMember, "not a member of the group")
	}
	return true, nil
}

// RoomSend passes a message to a live room; the edge has seen to it that from is
// in it. done is called once: with nil when it is on its way, from any goroutine.
func (s *Service) RoomSend(from wire.UserID, b wire.RoomSend, done func(*wire.Error)) {
	if err := b.Validate(s.d.Limits.MaxContent()); err != nil {
		done(err)
		return
	}
	if wait := s.d.Limits.Take(from); wait > 0 {
		done(wire.RateLimited(wait, "too many messages of this user"))
		return
	}
	id, err := s.d.IDs.Next()
	if err != nil {
		s.d.Log.Warn("no message id", zap.Error(err))
		done(away())
		return
	}
	msg := wire.RoomMsg{Room: b.Room, ID: id, From: from, Type: b.Type, Content: b.Content, TS: s.d.Now().UnixMilli()}
	key := b.Room.Key()
	err = s.push(string(key), &recordpb.Push{Op: int32(wire.OpRoomMsg), Group: string(key)}, msg, func(ok bool) {
		if ok {
			done(nil)
		} else {
			done(away())
		}
	})
	if err != nil {
		done(away())
	}
}

// Broadcast passes a message to all who are online and returns its id when it is
// on its way.
func (s *Service) Broadcast(ctx context.Context, t wire.MsgType, content string) (wire.MsgID, error) {
	if !t.ClientType() {
		return 0, wire.Errorf(wire.CodeBadRequest, "type is none that a message may have")
	}
	if err := wire.CheckContent(t, content, s.d.Limits.MaxContent()); err != nil {
		return 0, err
	}
	id, err := s.d.IDs.Next()
	if err != nil {
		s.d.Log.Warn("no message id", zap.Error(err))
		return 0, away()
	}
	msg := wire.Broadcast{ID: id, Type: t, Content: content, TS: s.d.Now().UnixMilli()}
	sent := make(chan bool, 1)
	err = s.push(id.String(), &recordpb.Push{Op: int32(wire.OpBroadcast), All: true}, msg, func(ok bool) { sent <- ok })
	if err != nil {
		return 0, away()
	}
	select {
	case ok := <-sent:
		if !ok {
			return 0, away()
		}
		return id, nil
	case <-ctx.Done():
		return 0, away()
	}
}

// push gives p its body and hands it over.
func (s *Service) push(key string, p *recordpb.Push, body any, done func(ok bool)) error {
	b, err := wire.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode the body of operation %d: %w", p.GetOp(), err)
	}
	p.Body = b
	return s.d.Push.Push(key, p, done)
}

func away() *wire.Error {
	return &wire.Error{Code: wire.CodeUnavailable, Message: "it could not be passed on now; try again", RetryAfterMS: retryAfterMS}
}
