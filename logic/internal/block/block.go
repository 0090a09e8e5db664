// Package block keeps users' blacklists: who is blocked by a user cannot write to
// it in private, nor is it told that they type. Groups know nothing of blocks.
//
// A block is a command in the conversation of the two, so that it has its place
// among their messages; it takes no seq and the peer is not told of it. A
// Service is safe for concurrent use and holds no state.
package block

import (
	"context"
	"errors"
	"fmt"

	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/message"
)

// Store is what is read of the primary.
type Store interface {
	Conversation(ctx context.Context, conv wire.ConvID) (*store.Conversation, error)
	Blocks(ctx context.Context, u, after wire.UserID, limit int) ([]store.Block, error)
}

// Service is the use case.
type Service struct {
	store  Store
	submit message.Submitter
}

// New returns a Service.
func New(st Store, submit message.Submitter) (*Service, error) {
	if st == nil || submit == nil {
		return nil, errors.New("block: store and submitter are needed")
	}
	return &Service{store: st, submit: submit}, nil
}

// Info is one block; Since is in ms.
type Info struct {
	User  wire.UserID `json:"user"`
	Since int64       `json:"since,omitempty"`
}

// List is a page of a blacklist.
type List struct {
	Blocks []Info `json:"blocks"`
	Next   string `json:"next,omitempty"`
}

// Set blocks a peer, or ends that. What stands already is no error.
func (s *Service) Set(ctx context.Context, c message.Command, peer wire.UserID, on bool) error {
	if err := check(c.By, peer); err != nil {
		return err
	}
	kind := recordpb.Command_UNBLOCK
	if on {
		kind = recordpb.Command_BLOCK
	}
	return message.Execute(ctx, s.submit, c, wire.PrivateConv(c.By, peer), &recordpb.Command{Kind: kind}) //nolint:wrapcheck // an answer, or says what it was
}

// Get returns the block of a peer; none is not found.
func (s *Service) Get(ctx context.Context, u, peer wire.UserID) (*Info, error) {
	if err := check(u, peer); err != nil {
		return nil, err
	}
	c, err := s.store.Conversation(ctx, wire.PrivateConv(u, peer))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("read block: %w", err)
	}
	if err != nil || !c.Blocked(peer) {
		return nil, wire.Errorf(wire.CodeNotFound, "this user is not blocked")
	}
	return &Info{User: peer}, nil
}

// List pages through whom u has blocked, by user.
func (s *Service) List(ctx context.Context, u, after wire.UserID, limit int) (*List, error) {
	list, err := s.store.Blocks(ctx, u, after, limit+1)
	if err != nil {
		return nil, fmt.Errorf("list blocks: %w", err)
	}
	out := &List{Blocks: []Info{}}
	if len(list) > limit {
		list = list[:limit]
		out.Next = string(list[limit-1].Peer)
	}
	for _, b := range list {
		out.Blocks = append(out.Blocks, Info{User: b.Peer, Since: b.Since})
	}
	return out, nil
}

func check(u, peer wire.UserID) error {
	switch {
	case !wire.ValidID(string(peer)):
		return wire.Errorf(wire.CodeBadRequest, "user is not an id: 1–64 of A–Z a–z 0–9 . _ @ -")
	case u == peer:
		return wire.Errorf(wire.CodeBadRequest, "nobody can block oneself")
	}
	return nil
}
