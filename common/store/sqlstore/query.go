package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// GroupsOf returns the groups that u is in now, in byte order.
func (s *Store) GroupsOf(ctx context.Context, u wire.UserID) ([]store.Joined, error) {
	list, err := all(ctx, s, []statement{{
		sql: "SELECT c.conv, m.joined_seq FROM members m JOIN conversations c ON c.id = m.conv_id" +
			" WHERE m.user = ? AND m.left_seq = 0 AND c.kind = 2 AND c.dismissed = 0 ORDER BY c.conv, m.joined_seq DESC",
		args: []any{string(u)},
	}}, func(r *sql.Rows) (store.Joined, error) {
		var conv string
		var j store.Joined
		err := r.Scan(&conv, &j.Seq)
		j.Group = wire.GroupID(strings.TrimPrefix(conv, "g:"))
		return j, err //nolint:wrapcheck // told below
	})
	if err != nil {
		return nil, fmt.Errorf("read the groups of a user: %w", err)
	}
	return slices.CompactFunc(list, func(a, b store.Joined) bool { return a.Group == b.Group }), nil
}

// Conversation returns a head.
func (s *Store) Conversation(ctx context.Context, conv wire.ConvID) (*store.Conversation, error) {
	c, err := one(ctx, s, statement{
		sql:  "SELECT id, " + headCols + " FROM conversations WHERE conv = ?",
		args: []any{string(conv)},
	}, scanHead)
	if err != nil {
		return nil, fmt.Errorf("read a conversation: %w", err)
	}
	return c, nil
}

// MemberOf returns the newest interval of u.
func (s *Store) MemberOf(ctx context.Context, conv wire.ConvID, u wire.UserID) (store.Member, error) {
	m, err := one(ctx, s, statement{
		sql: "SELECT user, role, joined_seq, left_seq, m.muted_until FROM members m JOIN conversations c ON c.id = m.conv_id" +
			" WHERE c.conv = ? AND m.user = ? ORDER BY joined_seq DESC LIMIT 1",
		args: []any{string(conv), string(u)},
	}, scanMember)
	if err != nil {
		return store.Member{}, fmt.Errorf("read a member: %w", err)
	}
	return m, nil
}

// Members pages through active members.
func (s *Store) Members(ctx context.Context, conv wire.ConvID, after wire.UserID, limit int) ([]store.Member, error) {
	list, err := all(ctx, s, []statement{{
		sql: "SELECT user, role, joined_seq, left_seq, m.muted_until FROM members m JOIN conversations c ON c.id = m.conv_id" +
			" WHERE c.conv = ? AND m.left_seq = 0 AND m.user > ? ORDER BY m.user LIMIT ?",
		args: []any{string(conv), string(after), max(0, limit)},
	}}, scanMember)
	if err != nil {
		return nil, fmt.Errorf("read members: %w", err)
	}
	return list, nil
}

// span is a range of seqs, both ends included.
type span struct{ from, to int64 }

// spans returns what intervals (in order of JoinedSeq) let a user see of
// [from, to], ascending and without overlap.
func spans(intervals []store.Member, from, to int64) []span {
	var out []span
	for _, m := range intervals {
		r := span{max(from, m.JoinedSeq), to}
		if m.LeftSeq != 0 {
			r.to = min(to, m.LeftSeq)
		}
		if r.from <= r.to {
			out = append(out, r)
			from = r.to + 1
		}
	}
	return out
}

// seen returns a conversation's id, MaxSeq and MinSeq, and what u may see of
// (after, to] in it.
func (s *Store) seen(ctx context.Context, u wire.UserID, conv wire.ConvID, after, to int64) (*store.Conversation, []span, error) {
	c := &store.Conversation{Conv: conv}
	if after >= to { // also keeps after + 1 below from running over
		return c, nil, nil
	}
	intervals, err := all(ctx, s, []statement{{
		sql: "SELECT c.id, c.max_seq, c.min_seq, m.joined_seq, m.left_seq FROM conversations c JOIN members m ON m.conv_id = c.id" +
			" WHERE c.conv = ? AND m.user = ? ORDER BY m.joined_seq",
		args: []any{string(conv), string(u)},
	}}, func(r *sql.Rows) (m store.Member, err error) {
		err = r.Scan(&c.ID, &c.MaxSeq, &c.MinSeq, &m.JoinedSeq, &m.LeftSeq)
		return m, err //nolint:wrapcheck // told below
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read a user's intervals: %w", err)
	}
	if planted.Now(planted.LogicOpensHistory) {
		intervals = []store.Member{{JoinedSeq: 1}}
		if c, err = s.Conversation(ctx, conv); err != nil {
			return nil, nil, err
		}
	}
	return c, spans(intervals, after+1, to), nil
}

// Timeline returns what u may see of (after, upto].
func (s *Store) Timeline(
	ctx context.Context, u wire.UserID, conv wire.ConvID, after, upto int64, limit int, bodies bool,
) ([]store.Row, error) {
	c, ranges, err := s.seen(ctx, u, conv, after, upto)
	if err != nil {
		return nil, err
	}
	var out []store.Row
	for _, r := range ranges {
		if len(out) >= limit {
			break
		}
		part, err := all(ctx, s, []statement{{
			sql:  "SELECT " + rowColumns(bodies) + " FROM messages WHERE conv_id = ? AND seq >= ? AND seq <= ? ORDER BY seq LIMIT ?",
			args: []any{c.ID, r.from, r.to, limit - len(out)},
		}}, scanRow)
		if err != nil {
			return nil, fmt.Errorf("read a timeline: %w", err)
		}
		out = append(out, part...)
	}
	return out, nil
}

// History returns messages that u may see: who they are and how far they see
// from the primary, the rows from the replica where it has them all.
func (s *Store) History(ctx context.Context, u wire.UserID, conv wire.ConvID, after, before int64, limit int) ([]store.Row, error) {
	to := before - 1
	if before == 0 {
		to = 1<<63 - 1
	}
	c, ranges, err := s.seen(ctx, u, conv, after, to)
	if err != nil {
		return nil, err
	}
	if len(ranges) == 0 {
		return nil, nil
	}
	read := func(query reading) ([]store.Row, error) { return page(ctx, query, c.ID, ranges, after == 0, limit) }
	out, ok := s.fromReplica(ctx, c, read)
	if !ok {
		out, err = read(func(ctx context.Context, st statement) ([]store.Row, error) {
			return all(ctx, s, []statement{st}, scanRow)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	return out, nil
}

// page reads messages of ranges, ascending: the newest limit, or the oldest.
func page(ctx context.Context, query reading, id int64, ranges []span, newest bool, limit int) ([]store.Row, error) {
	order := " ORDER BY seq LIMIT ?"
	ranges = slices.Clone(ranges)
	if newest {
		order = " ORDER BY seq DESC LIMIT ?"
		slices.Reverse(ranges)
	}
	var out []store.Row
	for _, r := range ranges {
		if len(out) >= limit {
			break
		}
		part, err := query(ctx, statement{
			sql:  "SELECT " + rowCols + " FROM messages WHERE conv_id = ? AND seq >= ? AND seq <= ? AND kind = 1" + order,
			args: []any{id, r.from, r.to, limit - len(out)},
		})
		if err != nil {
			return nil, err
		}
		out = append(out, part...)
	}
	if newest {
		slices.Reverse(out)
	}
	return out, nil
}

// Contents returns the content of messages.
func (s *Store) Contents(ctx context.Context, conv wire.ConvID, seqs []int64) (map[int64]store.Content, error) {
	out := make(map[int64]store.Content, len(seqs))
	c, err := s.Conversation(ctx, conv)
	if errors.Is(err, store.ErrNotFound) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	list := anyOf(s.d.terms, "SELECT seq, content, status, version FROM messages WHERE conv_id = ? AND kind = 1 AND", "seq = ?", "", seqs, []any{c.ID}, nil,
		func(dst []any, seq int64) []any { return append(dst, seq) })
	for _, st := range list {
		err := s.query(ctx, st, func(r *sql.Rows) error {
			var seq int64
			var content store.Content
			err := r.Scan(&seq, &content.Text, &content.Status, &content.Version)
			out[seq] = content
			return err //nolint:wrapcheck // told below
		})
		if err != nil {
			return nil, fmt.Errorf("read contents: %w", err)
		}
	}
	return out, nil
}

// Outcome returns a verdict.
func (s *Store) Outcome(ctx context.Context, key store.OutcomeKey) (store.Outcome, error) {
	o, err := one(ctx, s, statement{
		sql:  "SELECT " + outcomeCols + " FROM outcomes WHERE conv = ? AND sender = ? AND client_id = ? ORDER BY day DESC LIMIT 1",
		args: []any{string(key.Conv), string(key.From), key.ClientID},
	}, scanOutcome)
	if err != nil {
		return store.Outcome{}, fmt.Errorf("read an outcome: %w", err)
	}
	return o, nil
}

// OutcomeByID returns the verdict on a record of u.
func (s *Store) OutcomeByID(ctx context.Context, u wire.UserID, id wire.MsgID) (store.Outcome, error) {
	o, err := one(ctx, s, statement{
		sql:  "SELECT " + outcomeCols + " FROM outcomes WHERE id = ? AND sender = ? ORDER BY day DESC LIMIT 1",
		args: []any{int64(id), string(u)},
	}, scanOutcome)
	if err != nil {
		return store.Outcome{}, fmt.Errorf("read an outcome by id: %w", err)
	}
	return o, nil
}

// Blocks pages through whom u has blocked.
func (s *Store) Blocks(ctx context.Context, u, after wire.UserID, limit int) ([]store.Block, error) {
	list, err := all(ctx, s, []statement{{
		sql:  "SELECT peer, since FROM blocks WHERE owner = ? AND peer > ? ORDER BY peer LIMIT ?",
		args: []any{string(u), string(after), max(0, limit)},
	}}, func(r *sql.Rows) (b store.Block, err error) {
		err = r.Scan((*string)(&b.Peer), &b.Since)
		return b, err //nolint:wrapcheck // told below
	})
	if err != nil {
		return nil, fmt.Errorf("read blocks: %w", err)
	}
	return list, nil
}

// Refusals returns the newest refusals of u by id, oldest first: the order of
// the primary key, so that a sender of very many costs no more than one of few.
func (s *Store) Refusals(ctx context.Context, u wire.UserID, after int64, limit int) ([]wire.Refused, error) {
	list, err := all(ctx, s, []statement{{
		sql:  "SELECT client_id, id, conv, code FROM refusals WHERE user = ? AND ts > ? ORDER BY id DESC LIMIT ?",
		args: []any{string(u), after, max(0, limit)},
	}}, func(r *sql.Rows) (f wire.Refused, err error) {
		err = r.Scan(&f.ClientID, (*int64)(&f.ID), (*string)(&f.Conv), (*string)(&f.Code))
		return f, err //nolint:wrapcheck // told below
	})
	if err != nil {
		return nil, fmt.Errorf("read refusals: %w", err)
	}
	slices.Reverse(list)
	return list, nil
}
