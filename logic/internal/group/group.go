// Package group changes groups: each command becomes a record of the group's
// log, and the answer is the machine's verdict on it.
//
// A Service is safe for concurrent use and holds no state. A command given with
// a key (Idempotency-Key) may be repeated: it is applied once, and each repeat
// gets the first one's verdict; another command under the same key is a
// conflict.
package group

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/message"
)

// Limits of commands.
const (
	MaxUsers       = 1000 // of one command
	MaxName        = 128  // bytes
	MaxDescription = 1024 // bytes
)

// Store is what is read of the primary.
type Store interface {
	Conversation(ctx context.Context, conv wire.ConvID) (*store.Conversation, error)
	MemberOf(ctx context.Context, conv wire.ConvID, u wire.UserID) (store.Member, error)
	Members(ctx context.Context, conv wire.ConvID, after wire.UserID, limit int) ([]store.Member, error)
}

// Service is the use case.
type Service struct {
	store  Store
	submit message.Submitter
}

// New returns a Service.
func New(st Store, submit message.Submitter) (*Service, error) {
	if st == nil || submit == nil {
		return nil, errors.New("group: store and submitter are needed")
	}
	return &Service{store: st, submit: submit}, nil
}

// Command says who does what under which key.
type Command = message.Command

// Info is a group as it stands.
type Info struct {
	ID          wire.GroupID `json:"id"`
	Name        string       `json:"name"`
	Owner       wire.UserID  `json:"owner"`
	Description string       `json:"description"`
	Members     int          `json:"members,omitempty"`
	MutedUntil  int64        `json:"muted_until,omitempty"`
}

// NewGroup is what a group is created from.
type NewGroup struct {
	ID          wire.GroupID  `json:"id"`
	Name        string        `json:"name"`
	Description string        `json:"description"`
	Members     []wire.UserID `json:"members"`
}

// Create makes a group owned by the caller. Without an id one is made, out of
// the key where there is one, so that a repeat names the same group.
func (s *Service) Create(ctx context.Context, c Command, n NewGroup) (*Info, error) {
	if n.ID == "" {
		n.ID = madeID(c)
	}
	if n.Name == "" {
		n.Name = string(n.ID)
	}
	err := errors.Join(checkText("name", n.Name, MaxName), checkText("description", n.Description, MaxDescription))
	if err == nil {
		err = checkUsers(n.Members, true)
	}
	if err != nil {
		return nil, badRequest(err)
	}
	err = s.do(ctx, c, n.ID, &recordpb.Command{
		Kind: recordpb.Command_CREATE, Name: &n.Name, Description: &n.Description, Users: strs(n.Members),
	})
	if err != nil {
		return nil, err
	}
	return &Info{ID: n.ID, Name: n.Name, Owner: c.By, Description: n.Description}, nil
}

// Rename changes name and description, each if given, and returns what stands
// after it.
func (s *Service) Rename(ctx context.Context, c Command, g wire.GroupID, name, description *string) (*Info, error) {
	cmd := &recordpb.Command{Kind: recordpb.Command_RENAME, Name: name, Description: description}
	err := errors.Join(checkText("name", cmd.GetName(), MaxName), checkText("description", cmd.GetDescription(), MaxDescription))
	switch {
	case name == nil && description == nil:
		err = errors.New("name or description is needed")
	case name != nil && *name == "":
		err = errors.New("name is empty")
	}
	if err != nil {
		return nil, badRequest(err)
	}
	if err := s.do(ctx, c, g, cmd); err != nil {
		return nil, err
	}
	info, err := s.Get(ctx, g)
	if we, ok := errors.AsType[*wire.Error](err); ok && we.Code == wire.CodeNotFound { // dismissed since
		return &Info{ID: g, Name: cmd.GetName(), Description: cmd.GetDescription()}, nil
	}
	return info, err
}

// Add makes users members.
func (s *Service) Add(ctx context.Context, c Command, g wire.GroupID, users []wire.UserID) error {
	if err := checkUsers(users, false); err != nil {
		return badRequest(err)
	}
	return s.do(ctx, c, g, &recordpb.Command{Kind: recordpb.Command_ADD, Users: strs(users)})
}

// Remove ends the membership of a user; of oneself: leaves.
func (s *Service) Remove(ctx context.Context, c Command, g wire.GroupID, u wire.UserID) error {
	if err := checkUsers([]wire.UserID{u}, false); err != nil {
		return badRequest(err)
	}
	return s.do(ctx, c, g, &recordpb.Command{Kind: recordpb.Command_REMOVE, Users: []string{string(u)}})
}

// SetRole gives a member a role.
func (s *Service) SetRole(ctx context.Context, c Command, g wire.GroupID, u wire.UserID, role string) error {
	if err := checkUsers([]wire.UserID{u}, false); err != nil {
		return badRequest(err)
	}
	switch role {
	case store.RoleOwner, store.RoleAdmin, store.RoleMember:
	default:
		return wire.Errorf(wire.CodeBadRequest, "role is none of owner, admin, member")
	}
	return s.do(ctx, c, g, &recordpb.Command{Kind: recordpb.Command_ROLE, Users: []string{string(u)}, Role: role})
}

// Mute silences a member, or (u empty) all but owner and admins, until a time
// in ms; 0 ends it.
func (s *Service) Mute(ctx context.Context, c Command, g wire.GroupID, u wire.UserID, until int64) error {
	if until < 0 {
		return wire.Errorf(wire.CodeBadRequest, "until is negative")
	}
	cmd := &recordpb.Command{Kind: recordpb.Command_MUTE, Until: until}
	if u != "" {
		if err := checkUsers([]wire.UserID{u}, false); err != nil {
			return badRequest(err)
		}
		cmd.Users = []string{string(u)}
	}
	return s.do(ctx, c, g, cmd)
}

// Dismiss ends a group.
func (s *Service) Dismiss(ctx context.Context, c Command, g wire.GroupID) error {
	return s.do(ctx, c, g, &recordpb.Command{Kind: recordpb.Command_DISMISS})
}

// do produces a command and waits for its verdict.
func (s *Service) do(ctx context.Context, c Command, g wire.GroupID, cmd *recordpb.Command) error {
	if !wire.ValidID(string(g)) {
		return wire.Errorf(wire.CodeBadRequest, "group is not an id: 1–64 of A–Z a–z 0–9 . _ @ -")
	}
	return message.Execute(ctx, s.submit, c, wire.GroupConv(g), cmd) //nolint:wrapcheck // an answer, or says what it was
}

func madeID(c Command) wire.GroupID {
	if c.Key == "" {
		return wire.GroupID("g" + rand.Text())
	}
	sum := sha256.Sum256([]byte(string(c.By) + "\x00" + c.Key))
	return wire.GroupID("g" + hex.EncodeToString(sum[:13]))
}

func checkText(what, s string, most int) error {
	switch {
	case len(s) > most:
		return fmt.Errorf("%s is over %d bytes", what, most)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s is not valid UTF-8", what)
	}
	return nil
}

func checkUsers(users []wire.UserID, none bool) error {
	switch {
	case len(users) == 0 && !none:
		return errors.New("members is empty")
	case len(users) > MaxUsers:
		return errors.New("members names more than 1000 users")
	}
	for _, u := range users {
		if !wire.ValidID(string(u)) {
			return errors.New("a member is not an id: 1–64 of A–Z a–z 0–9 . _ @ -")
		}
	}
	return nil
}

func badRequest(err error) error { return wire.Errorf(wire.CodeBadRequest, err.Error()) }

func strs(users []wire.UserID) []string {
	out := make([]string, len(users))
	for i, u := range users {
		out[i] = string(u)
	}
	return out
}
