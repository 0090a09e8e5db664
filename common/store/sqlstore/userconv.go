package sqlstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// UserConversations lists what u has, in conv order, by a few queries for the
// whole page.
func (s *Store) UserConversations(
	ctx context.Context, u wire.UserID, d wire.DeviceID, after wire.ConvID, limit int, withUnread bool,
) ([]store.UserConv, error) {
	heads, err := all(ctx, s, []statement{{
		sql: "SELECT id, " + headCols + " FROM conversations WHERE id IN (SELECT conv_id FROM members WHERE user = ?)" +
			" AND conv > ? ORDER BY conv LIMIT ?",
		args: []any{string(u), string(after), max(0, limit)},
	}}, scanHead)
	if err != nil {
		return nil, fmt.Errorf("read a user's conversations: %w", err)
	}
	l := listing{s: s, user: u, device: d, at: make(map[int64]int, len(heads)), intervals: make([][]store.Member, len(heads))}
	for i, c := range heads {
		l.list = append(l.list, store.UserConv{Conversation: *c, DeviceDelivered: -1})
		l.ids = append(l.ids, c.ID)
		l.at[c.ID] = i
	}
	steps := []func(context.Context) error{l.members, l.cursors}
	if withUnread {
		steps = append(steps, l.unread, l.last)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("read a user's conversations: %w", err)
		}
	}
	return l.list, nil
}

// listing is a page of UserConversations while it is filled.
type listing struct {
	s         *Store
	user      wire.UserID
	device    wire.DeviceID
	list      []store.UserConv
	ids       []int64
	at        map[int64]int // conversation id -> index in list
	intervals [][]store.Member
}

func (l *listing) each(ctx context.Context, list []statement, scan func(r *sql.Rows) error) error {
	for _, st := range list {
		if err := l.s.query(ctx, st, scan); err != nil {
			return err
		}
	}
	return nil
}

func idArg(dst []any, id int64) []any { return append(dst, id) }

func (l *listing) members(ctx context.Context) error {
	list := anyOf(l.s.d.terms, "SELECT conv_id, joined_seq, left_seq FROM members WHERE user = ? AND", "conv_id = ?",
		" ORDER BY conv_id, joined_seq", l.ids, []any{string(l.user)}, nil, idArg)
	return l.each(ctx, list, func(r *sql.Rows) error {
		var id int64
		var m store.Member
		if err := r.Scan(&id, &m.JoinedSeq, &m.LeftSeq); err != nil {
			return fmt.Errorf("scan an interval: %w", err)
		}
		i := l.at[id]
		l.intervals[i] = append(l.intervals[i], m)
		l.list[i].JoinedSeq, l.list[i].LeftSeq = m.JoinedSeq, m.LeftSeq
		return nil
	})
}

// cursors reads those of the user, and of the peer in private conversations.
func (l *listing) cursors(ctx context.Context) error {
	type key struct {
		id   int64
		user wire.UserID
	}
	var keys []key
	peers := make(map[int64]wire.UserID)
	for i := range l.list {
		c := &l.list[i]
		keys = append(keys, key{c.ID, l.user})
		if p, err := c.Conv.Parse(); err == nil && p.Group == "" {
			peers[c.ID] = p.Peer(l.user)
			if p.A != p.B {
				keys = append(keys, key{c.ID, peers[c.ID]})
			}
		}
	}
	list := anyOf(l.s.d.terms, "SELECT "+cursorCols+" FROM cursors WHERE", "(conv_id = ? AND user = ?)", "", keys, nil, nil,
		func(dst []any, k key) []any { return append(dst, k.id, string(k.user)) })
	return l.each(ctx, list, func(r *sql.Rows) error {
		c, err := scanCursor(r)
		if err != nil {
			return err
		}
		conv := &l.list[l.at[c.conv]]
		if c.user == l.user {
			conv.Delivered, conv.Read = max(conv.Delivered, c.delivered), max(conv.Read, c.read)
			if c.device == l.device {
				conv.DeviceDelivered = c.delivered
			}
		}
		if peers[c.conv] == c.user {
			conv.PeerDelivered, conv.PeerRead = max(conv.PeerDelivered, c.delivered), max(conv.PeerRead, c.read)
		}
		return nil
	})
}

// spanOf is a range of one conversation.
type spanOf struct {
	id int64
	span
}

// unread counts where anything can be unread.
func (l *listing) unread(ctx context.Context) error {
	var keys []spanOf
	for i := range l.list {
		c := &l.list[i]
		for _, r := range spans(l.intervals[i], c.Read+1, c.LastMsg) {
			keys = append(keys, spanOf{c.ID, r})
		}
	}
	terms := make([]int, 0, len(l.s.d.terms))
	for _, n := range l.s.d.terms {
		if n <= l.s.d.countTerms {
			terms = append(terms, n)
		}
	}
	list := anyOf(terms, "SELECT conv_id, COUNT(*) FROM messages WHERE", "(conv_id = ? AND seq >= ? AND seq <= ?)",
		" AND kind = 1 AND sender <> ? AND type <> 'system' AND status <> 'recalled' GROUP BY conv_id", keys, nil, []any{string(l.user)},
		func(dst []any, k spanOf) []any { return append(dst, k.id, k.from, k.to) })
	return l.each(ctx, list, func(r *sql.Rows) error {
		var id, n int64
		if err := r.Scan(&id, &n); err != nil {
			return fmt.Errorf("scan a count: %w", err)
		}
		l.list[l.at[id]].Unread += n
		return nil
	})
}

// last reads the newest message that the user may see: the conversation's, but
// for who has left.
func (l *listing) last(ctx context.Context) error {
	var keys []spanOf
	for i := range l.list {
		c := &l.list[i]
		if c.LastMsg == 0 {
			continue
		}
		if at := spans(l.intervals[i], c.LastMsg, c.LastMsg); len(at) > 0 {
			keys = append(keys, spanOf{c.ID, at[0]})
			continue
		}
		if err := l.lastBefore(ctx, i); err != nil {
			return err
		}
	}
	list := anyOf(l.s.d.terms, "SELECT conv_id, "+rowCols+" FROM messages WHERE", "(conv_id = ? AND seq = ?)", "", keys, nil, nil,
		func(dst []any, k spanOf) []any { return append(dst, k.id, k.from) })
	return l.each(ctx, list, func(r *sql.Rows) error {
		id, row, err := scanConvRow(r)
		if err != nil {
			return err
		}
		l.list[l.at[id]].Last = &row
		return nil
	})
}

func (l *listing) lastBefore(ctx context.Context, i int) error {
	c := &l.list[i]
	ranges := spans(l.intervals[i], 1, c.LastMsg)
	for n := len(ranges) - 1; n >= 0 && c.Last == nil; n-- {
		st := statement{
			sql:  "SELECT " + rowCols + " FROM messages WHERE conv_id = ? AND seq >= ? AND seq <= ? AND kind = 1 ORDER BY seq DESC LIMIT 1",
			args: []any{c.ID, ranges[n].from, ranges[n].to},
		}
		err := l.s.query(ctx, st, func(r *sql.Rows) error {
			row, err := scanRow(r)
			c.Last = &row
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func scanConvRow(r *sql.Rows) (id int64, row store.Row, err error) {
	var mention string
	err = r.Scan(&id, &row.Seq, &row.Kind, (*int64)(&row.ID), (*string)(&row.From), (*string)(&row.Type), &row.Content, &row.TS,
		&row.ClientID, &mention, (*int64)(&row.ReplyTo), &row.Status, &row.TargetSeq, &row.Version)
	row.Mention = splitUsers(mention)
	return id, row, err //nolint:wrapcheck // callers say what they tried
}
