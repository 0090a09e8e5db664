package message

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/wire"
)

// Submitter produces records whose verdict is waited for; *Service.
type Submitter interface {
	Submit(ctx context.Context, r *recordpb.Record, retried bool) (*Pending, error)
}

// Command says who changes a conversation under which key (Idempotency-Key). Key
// "" is none.
type Command struct {
	By  wire.UserID
	Key string
}

// UndecidedError is returned when the verdict takes longer than a request may:
// the operation goes on.
type UndecidedError struct{ Operation wire.MsgID }

// Error says that there is no verdict yet.
func (e *UndecidedError) Error() string {
	return "operation " + e.Operation.String() + " is not decided yet"
}

// Execute produces a command and waits for its verdict.
func Execute(ctx context.Context, s Submitter, c Command, conv wire.ConvID, cmd *recordpb.Command) error {
	if c.Key != "" && !wire.ValidClientID(c.Key) {
		return wire.Errorf(wire.CodeBadRequest, "Idempotency-Key is not 1–64 bytes of 0x21–0x7e")
	}
	p, err := s.Submit(ctx, &recordpb.Record{
		Conv: string(conv), From: string(c.By), ClientId: c.Key, Hash: hash(cmd),
		Body: &recordpb.Record_Command{Command: cmd},
	}, c.Key != "")
	if err != nil {
		return fmt.Errorf("submit command: %w", err)
	}
	err = p.Wait(ctx)
	if errors.Is(err, ErrNoAnswer) {
		return &UndecidedError{Operation: p.ID}
	}
	if err != nil {
		return fmt.Errorf("command: %w", err)
	}
	return nil
}

// hash covers all that the caller decided.
func hash(c *recordpb.Command) uint64 {
	parts := []string{"command", c.GetKind().String(), given(c.Name), given(c.Description), c.GetRole(), strconv.FormatInt(c.GetUntil(), 10)}
	return record.ContentHash(append(parts, c.GetUsers()...)...)
}

// given tells an empty text from none.
func given(s *string) string {
	if s == nil {
		return ""
	}
	return "=" + *s
}
