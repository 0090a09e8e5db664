package machine

import (
	"context"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// judgeSend decides a message.
func (t *turn) judgeSend(ctx context.Context, it *item, d *draft) (ruling, error) {
	s := it.rec.GetSend()
	if !wire.MsgType(s.GetType()).ClientType() {
		return refuse(wire.CodeBadRequest)
	}
	code, err := t.maySpeak(ctx, it, d)
	if err != nil || code != "" {
		return ruling{code: code}, err
	}
	if it.conv.Group == "" && d.head.MaxSeq == 0 { // a block may have begun it
		t.openPrivate(it, d)
	}
	file, err := t.audience(ctx, it, d)
	if err != nil {
		return ruling{}, err
	}
	row := t.take(it, d, store.Row{
		Kind: store.KindMessage, ID: wire.MsgID(it.rec.GetId()), From: it.key.From,
		Type: wire.MsgType(s.GetType()), Content: s.GetContent(), ClientID: it.key.ClientID,
		Mention: userIDs(s.GetMention()), ReplyTo: wire.MsgID(s.GetReplyTo()),
	})
	it.pushMessage(row, file)
	return ruling{seq: row.Seq, n: 1}, nil
}

// maySpeak says why the sender may not add to the conversation, "" if it may.
func (t *turn) maySpeak(ctx context.Context, it *item, d *draft) (wire.Code, error) {
	if it.conv.Group == "" {
		switch {
		case !it.conv.Has(it.key.From):
			return wire.CodeForbidden, nil
		case d.head.Blocked(it.key.From):
			return wire.CodeBlocked, nil
		}
		return "", nil
	}
	m, code, err := t.actor(ctx, it, d)
	if err != nil || code != "" {
		return code, err
	}
	if m.MutedUntil > it.TS || m.Role == store.RoleMember && d.head.Group.MutedUntil > it.TS {
		return wire.CodeMuted, nil
	}
	return "", nil
}

// ownPrivate says why the record is none of one of two people about the other.
func (it *item) ownPrivate() wire.Code {
	switch {
	case it.conv.Group != "" || it.conv.A == it.conv.B:
		return wire.CodeBadRequest
	case !it.conv.Has(it.key.From):
		return wire.CodeForbidden
	}
	return ""
}

// actor returns the acting user's membership of a group that stands, or why
// there is none.
func (t *turn) actor(ctx context.Context, it *item, d *draft) (store.Member, wire.Code, error) {
	if !d.exists || d.head.Group == nil || d.head.Group.Dismissed {
		return store.Member{}, wire.CodeNotFound, nil
	}
	m, err := t.member(ctx, it, d, it.key.From)
	if err != nil {
		return store.Member{}, "", err
	}
	if !isActive(m) && !planted.Now(planted.NobodyChecksMembers) {
		return store.Member{}, wire.CodeNotMember, nil
	}
	return m, "", nil
}

// openPrivate makes the conversation and the membership of both, or of the
// one who writes to itself.
func (t *turn) openPrivate(it *item, d *draft) {
	t.touch(it, d)
	t.setMember(it, d, store.Member{User: it.conv.A, Role: store.RoleMember, JoinedSeq: 1})
	if it.conv.B != it.conv.A {
		t.setMember(it, d, store.Member{User: it.conv.B, Role: store.RoleMember, JoinedSeq: 1})
	}
}

func userIDs(ss []string) []wire.UserID {
	if len(ss) == 0 {
		return nil
	}
	out := make([]wire.UserID, len(ss))
	for i, s := range ss {
		out[i] = wire.UserID(s)
	}
	return out
}
