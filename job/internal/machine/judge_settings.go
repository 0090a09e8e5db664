package machine

import (
	"context"

	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// role gives a member another role. The owner's hands the group over.
func (t *turn) role(ctx context.Context, it *item, d *draft, by store.Member) (ruling, error) {
	c := it.rec.GetCommand()
	if by.Role != store.RoleOwner {
		return refuse(wire.CodeForbidden)
	}
	if len(c.GetUsers()) != 1 {
		return refuse(wire.CodeBadRequest)
	}
	switch c.GetRole() {
	case store.RoleOwner, store.RoleAdmin, store.RoleMember:
	default:
		return refuse(wire.CodeBadRequest)
	}
	m, err := t.member(ctx, it, d, wire.UserID(c.GetUsers()[0]))
	switch {
	case err != nil:
		return ruling{}, err
	case !isActive(m):
		return refuse(wire.CodeNotFound)
	case m.Role == c.GetRole():
		return ruling{}, nil
	case m.Role == store.RoleOwner:
		return refuse(wire.CodeForbidden) // hands over by naming the next owner
	}
	m.Role = c.GetRole()
	t.setMember(it, d, m)
	if m.Role == store.RoleOwner {
		by.Role = store.RoleAdmin
		t.setMember(it, d, by)
		d.head.Group.Owner = m.User
	}
	return t.change(ctx, it, d, wire.GroupEvent{Event: wire.EventRole, User: m.User, Role: m.Role})
}

// rename sets name and description, each if given.
func (t *turn) rename(ctx context.Context, it *item, d *draft, by store.Member) (ruling, error) {
	if by.Role == store.RoleMember {
		return refuse(wire.CodeForbidden)
	}
	c := it.rec.GetCommand()
	t.touch(it, d)
	g := d.head.Group
	g.NamedSeq = d.head.MaxSeq + 1
	if c.Name != nil {
		g.Name = c.GetName()
	}
	if c.Description != nil {
		g.Description = c.GetDescription()
	}
	return t.change(ctx, it, d, wire.GroupEvent{Event: wire.EventRenamed, Name: g.Name})
}

// mute silences members, or all but owner and admins, until a time.
func (t *turn) mute(ctx context.Context, it *item, d *draft, by store.Member) (ruling, error) {
	if by.Role == store.RoleMember {
		return refuse(wire.CodeForbidden)
	}
	c := it.rec.GetCommand()
	users := unique("", userIDs(c.GetUsers()))
	if len(users) == 0 {
		t.touch(it, d)
		d.head.Group.MutedUntil = c.GetUntil()
		return t.change(ctx, it, d, wire.GroupEvent{Event: wire.EventMuted, Until: c.GetUntil()})
	}
	if err := t.loadUsers(ctx, it, d, users); err != nil {
		return ruling{}, err
	}
	for _, u := range users {
		m, _ := d.known(u)
		if !isActive(m) {
			return refuse(wire.CodeNotFound)
		}
		if m.Role == store.RoleOwner || m.Role == store.RoleAdmin && by.Role != store.RoleOwner {
			return refuse(wire.CodeForbidden)
		}
	}
	var all ruling
	for _, u := range users {
		m, _ := d.known(u)
		m.MutedUntil = c.GetUntil()
		t.setMember(it, d, m)
		r, err := t.change(ctx, it, d, wire.GroupEvent{Event: wire.EventMuted, User: u, Until: c.GetUntil()})
		if err != nil {
			return ruling{}, err
		}
		if all.n == 0 {
			all.seq = r.seq
		}
		all.n++
	}
	return all, nil
}

// dismiss ends a group. In a small one every interval ends with the event; in
// a large one that would be too many rows: the group is marked alone.
func (t *turn) dismiss(ctx context.Context, it *item, d *draft, by store.Member) (ruling, error) {
	if by.Role != store.RoleOwner {
		return refuse(wire.CodeForbidden)
	}
	file, err := t.audience(ctx, it, d)
	if err != nil {
		return ruling{}, err
	}
	if it.small(d) {
		for _, u := range d.users() {
			m, _ := d.known(u)
			m.LeftSeq = d.head.MaxSeq + 1
			t.setMember(it, d, m)
		}
		d.head.Group.Members = 0
	}
	d.head.Group.Dismissed = true
	row := t.event(it, d, wire.GroupEvent{Event: wire.EventDismissed}, file)
	return ruling{seq: row.Seq, n: 1}, nil
}

// change writes an event that everyone is told.
func (t *turn) change(ctx context.Context, it *item, d *draft, ev wire.GroupEvent) (ruling, error) {
	file, err := t.audience(ctx, it, d)
	if err != nil {
		return ruling{}, err
	}
	row := t.event(it, d, ev, file)
	return ruling{seq: row.Seq, n: 1}, nil
}
