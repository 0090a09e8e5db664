package message

import (
	"context"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/wire"
)

// Change produces a recall (status recalled) or an edit of a message. It keeps
// its place among the sends of the calling goroutine. Errors are *wire.Error.
func (s *Service) Change(ctx context.Context, from wire.UserID, origin *recordpb.Origin, status string, b wire.RecallBody) (*Pending, error) {
	err := b.Validate()
	if status == wire.StatusEdited {
		err = b.ValidateEdit(s.d.Limits.MaxContent())
	}
	if err != nil {
		return nil, err
	}
	if c, _ := b.Conv.Parse(); c.Group == "" && !c.Has(from) {
		return nil, wire.Errorf(wire.CodeNotMember, "not your conversation")
	}
	if wait := s.d.Limits.Take(from); wait > 0 {
		return nil, tooFast(wait, "")
	}
	content := b.Content
	if status == wire.StatusRecalled {
		content = ""
	}
	return s.Submit(ctx, &recordpb.Record{
		Conv: string(b.Conv), From: string(from), Origin: origin,
		Hash: record.ContentHash("update", b.ID.String(), status, content),
		Body: &recordpb.Record_Update{Update: &recordpb.Update{TargetId: int64(b.ID), Status: status, Content: content}},
	}, false)
}
