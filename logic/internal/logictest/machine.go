package logictest

import (
	"context"
	"errors"
	"fmt"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// turn applies one record.
type turn struct {
	st   store.Machine
	r    *recordpb.Record
	from wire.UserID
	d    mq.Delivery
	conv *store.Conversation
	out  store.Outcome
	t    store.Turn
}

func newTurn(st store.Machine, r *recordpb.Record, p record.PartitionID, d mq.Delivery) *turn {
	key := store.OutcomeKey{Conv: wire.ConvID(r.GetConv()), From: wire.UserID(r.GetFrom()), ClientID: r.GetClientId()}
	return &turn{st: st, r: r, from: key.From, d: d, out: store.Outcome{
		OutcomeKey: key, Partition: p, ID: wire.MsgID(r.GetId()), Hash: r.GetHash(), TS: d.TS, Offset: d.Offset,
	}}
}

func (t *turn) apply(ctx context.Context) error {
	found, err := t.st.Lookup(ctx, []store.OutcomeKey{t.out.OutcomeKey}, []wire.ConvID{t.out.Conv})
	if err != nil {
		return fmt.Errorf("look up: %w", err)
	}
	if _, repeat := found.Outcomes[t.out.OutcomeKey]; repeat {
		return nil
	}
	t.conv = found.Conversations[t.out.Conv]
	code, err := t.judge(ctx)
	if err != nil {
		return err
	}
	t.out.Code = code
	if code != "" {
		t.t = store.Turn{Refusals: []store.Refusal{{User: t.from, TS: t.d.TS, Refused: wire.Refused{
			ClientID: t.out.ClientID, ID: t.out.ID, Conv: t.out.Conv, Code: code,
		}}}}
	} else if t.conv != nil {
		t.conv.LastTS = max(t.conv.LastTS+1, t.d.TS)
		t.t.Conversations = append(t.t.Conversations, t.conv)
	}
	t.t.Outcomes = append(t.t.Outcomes, t.out)
	if _, err := t.st.Commit(ctx, &t.t); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func (t *turn) judge(ctx context.Context) (wire.Code, error) {
	switch b := t.r.GetBody().(type) {
	case *recordpb.Record_Send:
		return t.send(ctx, b.Send)
	case *recordpb.Record_Update:
		return t.update(ctx, b.Update)
	case *recordpb.Record_Command:
		return t.command(ctx, b.Command)
	}
	return "", errors.New("no body")
}

// seq gives the next seq of the conversation.
func (t *turn) seq() int64 {
	t.conv.MaxSeq++
	t.out.N++
	if t.out.Seq == 0 {
		t.out.Seq = t.conv.MaxSeq
	}
	return t.conv.MaxSeq
}

func (t *turn) row(r store.Row) {
	r.Seq, r.From, r.TS, r.Version = t.seq(), t.from, max(t.conv.LastTS+1, t.d.TS), t.d.Offset
	if r.Kind == store.KindMessage {
		t.conv.LastMsg = r.Seq
	}
	t.t.Rows = append(t.t.Rows, store.ConvRow{Conv: t.conv, Row: r})
}

func (t *turn) join(u wire.UserID, role string, seq int64) {
	t.t.Members = append(t.t.Members, store.MemberChange{Conv: t.conv, Member: store.Member{User: u, Role: role, JoinedSeq: seq}})
}

func (t *turn) send(ctx context.Context, s *recordpb.Send) (wire.Code, error) {
	c, err := t.out.Conv.Parse()
	if err != nil {
		return "", err //nolint:wrapcheck // a test's bug
	}
	if c.Group != "" {
		if code, err := t.member(ctx, t.from); code != "" || err != nil {
			return code, err
		}
	} else if t.conv == nil || t.conv.MaxSeq == 0 {
		if t.conv == nil {
			t.conv = t.begin()
		}
		t.join(c.A, store.RoleMember, 1)
		if c.B != c.A {
			t.join(c.B, store.RoleMember, 1)
		}
	}
	mention := make([]wire.UserID, 0, len(s.GetMention()))
	for _, u := range s.GetMention() {
		mention = append(mention, wire.UserID(u))
	}
	t.row(store.Row{
		Kind: store.KindMessage, ID: t.out.ID, Type: wire.MsgType(s.GetType()), Content: s.GetContent(),
		ClientID: t.out.ClientID, Mention: mention, ReplyTo: wire.MsgID(s.GetReplyTo()),
	})
	return "", nil
}

// begin is a conversation that the record begins.
func (t *turn) begin() *store.Conversation {
	return &store.Conversation{ID: int64(t.out.ID), New: true, Conv: t.out.Conv, MinSeq: 1}
}

// interval is the user's newest, nil if there is none.
func (t *turn) interval(ctx context.Context, u wire.UserID) (*store.Member, error) {
	if t.conv == nil {
		return nil, nil //nolint:nilnil // nil is the answer
	}
	list, err := t.st.Intervals(ctx, t.conv.ID, []wire.UserID{u})
	if err != nil {
		return nil, fmt.Errorf("intervals: %w", err)
	}
	if len(list) == 0 {
		return nil, nil //nolint:nilnil // nil is the answer
	}
	return &list[len(list)-1], nil
}

func (t *turn) member(ctx context.Context, u wire.UserID) (wire.Code, error) {
	if t.conv == nil || t.conv.Group == nil || t.conv.Group.Dismissed {
		return wire.CodeNotFound, nil
	}
	m, err := t.interval(ctx, u)
	if err != nil {
		return "", err
	}
	if m == nil || m.LeftSeq > 0 {
		return wire.CodeNotMember, nil
	}
	return "", nil
}

func (t *turn) update(ctx context.Context, u *recordpb.Update) (wire.Code, error) {
	if t.conv == nil {
		return wire.CodeNotFound, nil
	}
	target, err := t.st.RowByID(ctx, t.conv.ID, wire.MsgID(u.GetTargetId()))
	if errors.Is(err, store.ErrNotFound) {
		return wire.CodeNotFound, nil
	}
	if err != nil {
		return "", fmt.Errorf("target: %w", err)
	}
	if target.From != t.from {
		return wire.CodeForbidden, nil
	}
	t.t.Updates = append(t.t.Updates, store.RowUpdate{
		Conv: t.conv, TargetSeq: target.Seq, Status: u.GetStatus(), Content: u.GetContent(), Version: t.d.Offset,
	})
	t.row(store.Row{Kind: store.KindUpdate, ID: target.ID, Status: u.GetStatus(), Content: u.GetContent(), TargetSeq: target.Seq})
	return "", nil
}

func (t *turn) command(ctx context.Context, c *recordpb.Command) (wire.Code, error) {
	switch k := c.GetKind(); k {
	case recordpb.Command_CREATE:
		return t.create(c), nil
	case recordpb.Command_BLOCK, recordpb.Command_UNBLOCK:
		return t.block(k == recordpb.Command_BLOCK)
	default:
		if code, err := t.member(ctx, t.from); code != "" || err != nil {
			return code, err
		}
		return t.groupCommand(ctx, c)
	}
}

func (t *turn) groupCommand(ctx context.Context, c *recordpb.Command) (wire.Code, error) {
	g := t.conv.Group
	switch c.GetKind() {
	case recordpb.Command_ADD:
		for _, u := range c.GetUsers() {
			if m, err := t.interval(ctx, wire.UserID(u)); err != nil || m != nil && m.LeftSeq == 0 {
				return "", err
			}
			t.event(wire.EventJoined, u)
			t.join(wire.UserID(u), store.RoleMember, t.conv.MaxSeq)
			g.Members++
		}
	case recordpb.Command_REMOVE:
		return t.remove(ctx, wire.UserID(c.GetUsers()[0]))
	case recordpb.Command_ROLE:
		return t.role(ctx, wire.UserID(c.GetUsers()[0]), c.GetRole())
	case recordpb.Command_RENAME:
		t.rename(c)
	case recordpb.Command_MUTE:
		g.MutedUntil = c.GetUntil()
		t.event(wire.EventMuted, "")
	case recordpb.Command_DISMISS:
		g.Dismissed = true
		t.event(wire.EventDismissed, "")
	case recordpb.Command_CREATE, recordpb.Command_JOIN, recordpb.Command_KIND_UNSPECIFIED, recordpb.Command_BLOCK, recordpb.Command_UNBLOCK:
		return wire.CodeBadRequest, nil
	}
	return "", nil
}

func (t *turn) block(on bool) (wire.Code, error) {
	c, err := t.out.Conv.Parse()
	if err != nil {
		return "", err //nolint:wrapcheck // a test's bug
	}
	if t.conv == nil {
		t.conv = t.begin()
	}
	change := store.BlockChange{Owner: t.from, Block: store.Block{Peer: c.Peer(t.from)}}
	if on {
		change.Since = t.d.TS
	}
	if t.from == c.A {
		t.conv.BlockedByA = on
	} else {
		t.conv.BlockedByB = on
	}
	t.t.Blocks = append(t.t.Blocks, change)
	return "", nil
}

func (t *turn) rename(c *recordpb.Command) {
	if c.Name != nil {
		t.conv.Group.Name = c.GetName()
	}
	if c.Description != nil {
		t.conv.Group.Description = c.GetDescription()
	}
	t.conv.Group.NamedSeq = t.conv.MaxSeq + 1
	t.event(wire.EventRenamed, "")
}

func (t *turn) create(c *recordpb.Command) wire.Code {
	if t.conv != nil {
		return wire.CodeConflict
	}
	t.conv = t.begin()
	t.conv.Group = &store.Group{
		Name: c.GetName(), Description: c.GetDescription(), Owner: t.from, Members: 1, NamedSeq: 1,
	}
	t.event(wire.EventCreated, "")
	t.join(t.from, store.RoleOwner, 1)
	for _, u := range c.GetUsers() {
		if wire.UserID(u) != t.from {
			t.join(wire.UserID(u), store.RoleMember, 1)
			t.conv.Group.Members++
		}
	}
	return ""
}

func (t *turn) remove(ctx context.Context, u wire.UserID) (wire.Code, error) {
	m, err := t.interval(ctx, u)
	if err != nil || m == nil || m.LeftSeq > 0 {
		return wire.CodeNotFound, err
	}
	t.event(wire.EventRemoved, string(u))
	m.LeftSeq = t.conv.MaxSeq
	t.conv.Group.Members--
	t.t.Members = append(t.t.Members, store.MemberChange{Conv: t.conv, Member: *m})
	return "", nil
}

func (t *turn) role(ctx context.Context, u wire.UserID, role string) (wire.Code, error) {
	m, err := t.interval(ctx, u)
	if err != nil || m == nil || m.LeftSeq > 0 {
		return wire.CodeNotFound, err
	}
	t.event(wire.EventRole, string(u))
	m.Role = role
	t.t.Members = append(t.t.Members, store.MemberChange{Conv: t.conv, Member: *m})
	return "", nil
}

// event writes a system message.
func (t *turn) event(event, user string) {
	c, _ := t.out.Conv.Parse() // it was decoded
	b, err := wire.Marshal(wire.GroupEvent{Group: c.Group, Event: event, User: wire.UserID(user), By: t.from, TS: t.d.TS})
	if err != nil {
		panic("BUG: event: " + err.Error())
	}
	id := t.out.ID
	if more := t.r.GetCommand().GetEventIds(); t.out.N > 0 && int(t.out.N) <= len(more) {
		id = wire.MsgID(more[t.out.N-1])
	}
	t.row(store.Row{Kind: store.KindMessage, ID: id, Type: wire.TypeSystem, Content: string(b), ClientID: t.out.ClientID})
}
