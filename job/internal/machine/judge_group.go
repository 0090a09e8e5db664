package machine

import (
	"context"
	"fmt"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// judgeCommand decides a change of a group, or a block.
func (t *turn) judgeCommand(ctx context.Context, it *item, d *draft) (ruling, error) {
	c := it.rec.GetCommand()
	switch k := c.GetKind(); {
	case k == recordpb.Command_BLOCK, k == recordpb.Command_UNBLOCK:
		return t.block(it, d, k == recordpb.Command_BLOCK)
	case it.conv.Group == "":
		return refuse(wire.CodeBadRequest)
	}
	for _, u := range c.GetUsers() {
		if !wire.ValidID(u) {
			return refuse(wire.CodeBadRequest)
		}
	}
	switch c.GetKind() {
	case recordpb.Command_CREATE:
		return t.create(it, d)
	case recordpb.Command_JOIN:
		return refuse(wire.CodeForbidden) // no group is open to all yet
	default:
	}
	change := t.changeOf(c.GetKind())
	if change == nil {
		return ruling{}, fmt.Errorf("%w: command %d", record.ErrUnknown, c.GetKind())
	}
	by, code, err := t.actor(ctx, it, d)
	if err != nil || code != "" {
		return ruling{code: code}, err
	}
	return change(ctx, it, d, by)
}

// changeFunc decides one kind of change by a member.
type changeFunc func(ctx context.Context, it *item, d *draft, by store.Member) (ruling, error)

// changeOf returns what decides a kind of command, nil for an unknown one.
func (t *turn) changeOf(k recordpb.Command_Kind) changeFunc {
	switch k {
	case recordpb.Command_ADD:
		return t.add
	case recordpb.Command_REMOVE:
		return t.remove
	case recordpb.Command_ROLE:
		return t.role
	case recordpb.Command_RENAME:
		return t.rename
	case recordpb.Command_MUTE:
		return t.mute
	case recordpb.Command_DISMISS:
		return t.dismiss
	case recordpb.Command_KIND_UNSPECIFIED, recordpb.Command_CREATE, recordpb.Command_JOIN, recordpb.Command_BLOCK, recordpb.Command_UNBLOCK:
	}
	return nil
}

// create makes a group: one seq, at which all first members joined.
func (t *turn) create(it *item, d *draft) (ruling, error) {
	c := it.rec.GetCommand()
	if d.exists {
		return refuse(wire.CodeConflict)
	}
	users := unique(it.key.From, userIDs(c.GetUsers()))
	if most := it.rec.GetLimits().GetMaxMembers(); most > 0 && len(users) > int(most) {
		return refuse(wire.CodeTooLarge)
	}
	t.touch(it, d)
	d.head.Group = &store.Group{
		Name: c.GetName(), Description: c.GetDescription(), Owner: it.key.From, Members: len(users),
		NamedSeq: d.head.MaxSeq + 1,
	}
	for _, u := range users {
		role := store.RoleMember
		if u == it.key.From {
			role = store.RoleOwner
		}
		t.setMember(it, d, store.Member{User: u, Role: role, JoinedSeq: d.head.MaxSeq + 1})
	}
	var file []wire.UserID
	if it.small(d) {
		file = without(users, it.key.From)
	}
	row := t.event(it, d, wire.GroupEvent{Event: wire.EventCreated, User: it.key.From, Name: c.GetName()}, file)
	return ruling{seq: row.Seq, n: 1}, nil
}

// add lets users in, all that are not yet members or none.
func (t *turn) add(ctx context.Context, it *item, d *draft, by store.Member) (ruling, error) {
	if by.Role == store.RoleMember {
		return refuse(wire.CodeForbidden)
	}
	users := unique("", userIDs(it.rec.GetCommand().GetUsers()))
	if err := t.loadUsers(ctx, it, d, users); err != nil {
		return ruling{}, err
	}
	var fresh []wire.UserID
	for _, u := range users {
		if m, _ := d.known(u); !isActive(m) {
			fresh = append(fresh, u)
		}
	}
	g := d.head.Group
	after := g.Members + len(fresh)
	if most := it.rec.GetLimits().GetMaxMembers(); most > 0 && after > int(most) {
		return refuse(wire.CodeTooLarge)
	}
	if after > it.large() {
		for _, u := range fresh {
			t.setMember(it, d, store.Member{User: u, Role: store.RoleMember, JoinedSeq: d.head.MaxSeq + 1})
		}
		g.Members = after
		if len(fresh) == 0 {
			return ruling{}, nil
		}
		it.pushQuiet(g.Owner, fresh, wire.EventJoined, d.head.MaxSeq+1)
		return ruling{seq: d.head.MaxSeq + 1}, nil // for the redo: where they joined
	}
	var r ruling
	for _, u := range fresh {
		t.setMember(it, d, store.Member{User: u, Role: store.RoleMember, JoinedSeq: d.head.MaxSeq + 1})
		g.Members++
		file, err := t.audience(ctx, it, d)
		if err != nil {
			return ruling{}, err
		}
		r.took(t.event(it, d, wire.GroupEvent{Event: wire.EventJoined, User: u}, file))
	}
	return r, nil
}

// remove lets users out, or the acting user itself.
func (t *turn) remove(ctx context.Context, it *item, d *draft, by store.Member) (ruling, error) {
	users := unique("", userIDs(it.rec.GetCommand().GetUsers()))
	if err := t.loadUsers(ctx, it, d, users); err != nil {
		return ruling{}, err
	}
	var gone []store.Member
	for _, u := range users {
		m, _ := d.known(u)
		if !isActive(m) {
			continue
		}
		if !mayRemove(by, m) {
			return refuse(wire.CodeForbidden)
		}
		gone = append(gone, m)
	}
	if len(gone) == 0 {
		if by.Role == store.RoleMember {
			return refuse(wire.CodeForbidden)
		}
		return refuse(wire.CodeNotFound)
	}
	if !it.small(d) {
		return t.removeQuietly(it, d, gone)
	}
	var r ruling
	for _, m := range gone {
		file, err := t.audience(ctx, it, d) // the removed one sees its own event
		if err != nil {
			return ruling{}, err
		}
		m.LeftSeq = d.head.MaxSeq + 1
		t.setMember(it, d, m)
		d.head.Group.Members--
		r.took(t.event(it, d, wire.GroupEvent{Event: leaveEvent(it, m.User), User: m.User}, file))
	}
	return r, nil
}

// removeQuietly is remove in a large group, where leaving takes no seq.
func (t *turn) removeQuietly(it *item, d *draft, gone []store.Member) (ruling, error) {
	for _, m := range gone {
		m.LeftSeq = d.head.MaxSeq
		t.setMember(it, d, m)
		d.head.Group.Members--
		it.pushQuiet(d.head.Group.Owner, []wire.UserID{m.User}, leaveEvent(it, m.User), 0)
	}
	return ruling{seq: d.head.MaxSeq}, nil // for the redo: where they left
}

// mayRemove: oneself, but not the owner; others by the owner, and members by
// admins.
func mayRemove(by, m store.Member) bool {
	if m.Role == store.RoleOwner {
		return false // hands over or dismisses first
	}
	switch by.Role {
	case store.RoleOwner:
		return true
	case store.RoleAdmin:
		return m.User == by.User || m.Role == store.RoleMember
	default:
		return m.User == by.User
	}
}

func leaveEvent(it *item, u wire.UserID) string {
	if u == it.key.From {
		return wire.EventLeft
	}
	return wire.EventRemoved
}

// loadUsers makes the users of a command known.
func (t *turn) loadUsers(ctx context.Context, it *item, d *draft, users []wire.UserID) error {
	if it.small(d) {
		return t.loadAll(ctx, d)
	}
	return t.loadSome(ctx, d, users)
}

// unique returns first (unless "") and the users, each once, in order.
func unique(first wire.UserID, users []wire.UserID) []wire.UserID {
	seen := make(map[wire.UserID]bool, len(users)+1)
	out := make([]wire.UserID, 0, len(users)+1)
	if first != "" {
		seen[first] = true
		out = append(out, first)
	}
	for _, u := range users {
		if !seen[u] {
			seen[u] = true
			out = append(out, u)
		}
	}
	return out
}

func (r *ruling) took(row store.Row) {
	if r.n == 0 {
		r.seq = row.Seq
	}
	r.n++
}
