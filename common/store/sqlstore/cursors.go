package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// cursorRow is one device's position in a conversation.
type cursorRow struct {
	conv            int64
	user            wire.UserID
	device          wire.DeviceID
	delivered, read int64
}

func scanCursor(r *sql.Rows) (c cursorRow, err error) {
	if err = r.Scan(&c.conv, (*string)(&c.user), (*string)(&c.device), &c.delivered, &c.read); err != nil {
		err = fmt.Errorf("scan a cursor: %w", err)
	}
	return c, err
}

// userAt is a user in a conversation.
type userAt struct {
	conv int64
	user wire.UserID
}

type deviceAt struct {
	userAt
	device wire.DeviceID
}

type position struct{ delivered, read int64 }

func (p *position) raise(q position) {
	p.delivered, p.read = max(p.delivered, q.delivered), max(p.read, q.read)
}

// moves is one call of MoveCursors.
type moves struct {
	heads map[wire.ConvID]*store.Conversation
	users []userAt // in order of appearance, each once
	convs map[int64]*store.Conversation
	top   map[userAt]int64 // highest seq that a member may see
	old   map[deviceAt]position
	now   map[deviceAt]position
}

// MoveCursors applies acks and reads, all in one transaction and only where a
// device's position grows. Of two calls at once for the same user both may say
// that it grew.
func (s *Store) MoveCursors(ctx context.Context, list []store.CursorMove) ([]store.CursorState, error) {
	m := moves{
		convs: make(map[int64]*store.Conversation),
		top:   make(map[userAt]int64),
		old:   make(map[deviceAt]position),
		now:   make(map[deviceAt]position),
	}
	if err := m.read(ctx, s, list); err != nil {
		return nil, fmt.Errorf("read cursors: %w", err)
	}
	m.apply(list)
	b := s.newBatch()
	grown := m.grown()
	b.insert(s.t.cursors, len(grown), func(dst []any, i int) []any {
		c := grown[i]
		return append(dst, c.conv, string(c.user), string(c.device), c.delivered, c.read)
	})
	if planted.Now(planted.StoreTurnsCursorBack) {
		b.add("UPDATE cursors SET delivered = delivered / 2, read_seq = read_seq / 2")
	}
	if len(b.list) > 0 {
		if err := s.write(ctx, b.list); err != nil {
			return nil, fmt.Errorf("move cursors: %w", err)
		}
	}
	return m.states(), nil
}

// read gets the heads, the newest intervals and the cursors of who moves.
func (m *moves) read(ctx context.Context, s *Store, list []store.CursorMove) (err error) {
	var ids []wire.ConvID
	for _, v := range list {
		ids = append(ids, v.Conv)
	}
	slices.Sort(ids)
	found, err := s.Lookup(ctx, nil, slices.Compact(ids))
	if err != nil {
		return err
	}
	m.heads = found.Conversations
	seen := make(map[userAt]bool)
	for _, v := range list {
		c := m.heads[v.Conv]
		if c == nil || v.Delivered <= 0 && v.Read <= 0 || seen[userAt{c.ID, v.User}] {
			continue
		}
		m.convs[c.ID] = c
		seen[userAt{c.ID, v.User}] = true
		m.users = append(m.users, userAt{c.ID, v.User})
	}
	args := func(dst []any, u userAt) []any { return append(dst, u.conv, string(u.user)) }
	const term = "(conv_id = ? AND user = ?)"
	members := anyOf(s.d.terms, "SELECT conv_id, user, left_seq FROM members WHERE", term, " ORDER BY conv_id, user, joined_seq", m.users, nil, nil, args)
	_, err = all(ctx, s, members, func(r *sql.Rows) (u userAt, err error) {
		var left int64
		if err := r.Scan(&u.conv, (*string)(&u.user), &left); err != nil {
			return u, fmt.Errorf("scan a member: %w", err)
		}
		m.top[u] = m.convs[u.conv].MaxSeq
		if left != 0 {
			m.top[u] = min(m.top[u], left)
		}
		return u, nil
	})
	if err != nil {
		return err
	}
	cursors := anyOf(s.d.terms, "SELECT "+cursorCols+" FROM cursors WHERE", term, "", m.users, nil, nil, args)
	rows, err := all(ctx, s, cursors, scanCursor)
	for _, c := range rows {
		m.old[deviceAt{userAt{c.conv, c.user}, c.device}] = position{c.delivered, c.read}
	}
	return err
}

// apply clamps the moves and adds them up by device.
func (m *moves) apply(list []store.CursorMove) {
	for _, v := range list {
		c := m.heads[v.Conv]
		if c == nil {
			continue
		}
		u := userAt{c.ID, v.User}
		top := m.top[u] // 0 for who is no member
		to := position{read: min(max(v.Read, 0), top)}
		to.delivered = max(min(v.Delivered, top), to.read)
		if to.delivered <= 0 {
			continue
		}
		k := deviceAt{u, v.Device}
		at, ok := m.now[k]
		if !ok {
			at = m.old[k]
		}
		at.raise(to)
		m.now[k] = at
	}
}

// grown returns the rows to write, in the order of their keys, so that two
// writers never wait in a ring.
func (m *moves) grown() []cursorRow {
	var out []cursorRow
	for k, p := range m.now {
		if p != m.old[k] && !planted.Now(planted.StoreLosesCursor) {
			out = append(out, cursorRow{k.conv, k.user, k.device, p.delivered, p.read})
		}
	}
	slices.SortFunc(out, func(a, b cursorRow) int {
		return cmp.Or(cmp.Compare(a.conv, b.conv), cmp.Compare(a.user, b.user), cmp.Compare(a.device, b.device))
	})
	return out
}

// states returns what became of who moved.
func (m *moves) states() []store.CursorState {
	before, after := make(map[userAt]position), make(map[userAt]position)
	moved := make(map[userAt]bool)
	for k, p := range m.old {
		high := before[k.userAt]
		high.raise(p)
		before[k.userAt], after[k.userAt] = high, high
	}
	for k, p := range m.now {
		high := after[k.userAt]
		high.raise(p)
		after[k.userAt] = high
		moved[k.userAt] = true
	}
	var out []store.CursorState
	for _, u := range m.users {
		if !moved[u] {
			continue
		}
		out = append(out, state(u.user, m.convs[u.conv], after[u]))
		out[len(out)-1].Grew = after[u] != before[u]
	}
	return out
}

func state(u wire.UserID, c *store.Conversation, p position) store.CursorState {
	st := store.CursorState{User: u, Conv: c.Conv, Delivered: p.delivered, Read: p.read}
	if c.Group != nil {
		st.Members = c.Group.Members
	}
	return st
}

// Receipts returns the active members' cursors.
func (s *Store) Receipts(ctx context.Context, conv wire.ConvID, after wire.UserID, limit int) ([]store.CursorState, error) {
	members, err := s.Members(ctx, conv, after, limit)
	if err != nil || len(members) == 0 {
		return nil, err
	}
	c, err := s.Conversation(ctx, conv)
	if err != nil {
		return nil, err
	}
	list := anyOf(s.d.terms, "SELECT "+cursorCols+" FROM cursors WHERE conv_id = ? AND", "user = ?", "", members, []any{c.ID}, nil,
		func(dst []any, m store.Member) []any { return append(dst, string(m.User)) })
	rows, err := all(ctx, s, list, scanCursor)
	if err != nil {
		return nil, fmt.Errorf("read receipts: %w", err)
	}
	high := make(map[wire.UserID]position, len(members))
	for _, r := range rows {
		p := high[r.user]
		p.raise(position{r.delivered, r.read})
		high[r.user] = p
	}
	out := make([]store.CursorState, 0, len(members))
	for _, m := range members {
		st := state(m.User, c, high[m.User])
		st.JoinedSeq = m.JoinedSeq
		out = append(out, st)
	}
	return out, nil
}
