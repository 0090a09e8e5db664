package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// Commit applies a turn, or nothing of it.
func (s *Store) Commit(ctx context.Context, t *store.Turn) ([]record.PartitionID, error) {
	if err := t.Check(); err != nil {
		return nil, fmt.Errorf("commit a turn: %w", err)
	}
	var c commit
	err := s.retry(ctx, func() error {
		c = commit{s: s, t: t}
		return c.try(ctx)
	})
	if err != nil {
		return nil, fmt.Errorf("commit a turn: %w", err)
	}
	if len(c.fenced) > 0 {
		return c.fenced, nil
	}
	for _, conv := range t.Conversations {
		conv.New = false
	}
	return nil, nil
}

// commit is one attempt of Commit.
type commit struct {
	s      *Store
	t      *store.Turn
	rows   []guard
	fenced []record.PartitionID
}

// try asks SQLite for the guards and then writes. A server is sent everything at
// once, guarded by statements that fail; which guard it was is asked after.
func (c *commit) try(ctx context.Context) error {
	if c.s.writer != nil {
		return c.s.transact(ctx, c.guards(), c.scanGuard, func(txn) ([]statement, error) {
			if c.check(); len(c.fenced) > 0 {
				return nil, errNothing
			}
			return c.statements(), nil
		})
	}
	err := c.s.transact(ctx, nil, nil, func(txn) ([]statement, error) { return c.statements(), nil })
	if !outOfRange(err) {
		return err
	}
	for _, st := range c.guards() {
		if rerr := c.s.query(ctx, st, c.scanGuard); rerr != nil {
			return fmt.Errorf("read the guards: %w", rerr)
		}
	}
	if c.check(); len(c.fenced) > 0 {
		return nil // a guard that has moved never comes back
	}
	return fmt.Errorf("a guard failed but stands where it is read: connect to the primary alone: %w", err)
}

type guard struct {
	record.PartitionID
	epoch, applied int64
}

// guards reads the partitions' rows, each by its key.
func (c *commit) guards() []statement {
	list := make([]statement, len(c.t.Partitions))
	for i, p := range c.t.Partitions {
		list[i] = statement{
			sql:  "SELECT topic, number, epoch, applied FROM log_partitions WHERE topic = ? AND number = ?",
			args: []any{p.Topic, int64(p.Number)},
		}
	}
	return list
}

func (c *commit) scanGuard(r *sql.Rows) error {
	var g guard
	if err := r.Scan(&g.Topic, &g.Number, &g.epoch, &g.applied); err != nil {
		return fmt.Errorf("scan the guard: %w", err)
	}
	c.rows = append(c.rows, g)
	return nil
}

func (c *commit) check() {
	for _, p := range c.t.Partitions {
		want := guard{p.PartitionID, p.Epoch, p.From}
		if !slices.Contains(c.rows, want) {
			c.fenced = append(c.fenced, p.PartitionID)
		}
	}
}

// moves writes the guards, each by its key and all in one order, so that turns of
// different partitions never wait for each other and none waits in a ring. A
// server is told to fail (out of range) where a guard does not stand as thought.
func (c *commit) moves(b *batch) {
	moves := slices.SortedFunc(slices.Values(c.t.Partitions), func(a, b store.PartitionMove) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Number, b.Number))
	})
	for i := range moves {
		p := &moves[i]
		b.add("UPDATE log_partitions SET applied = ?, applied_ts = "+c.s.d.greatest+"(applied_ts, ?), `stored` = `stored` + ?, updates = updates + ?, commands = commands + ?,"+
			" repeats = repeats + ?, refused = refused + ?, set_aside = set_aside + ? WHERE topic = ? AND number = ? AND epoch = ? AND applied = ?",
			p.To, c.t.LastVerdict(p.PartitionID), p.Add.Stored, p.Add.Updates, p.Add.Commands, p.Add.Repeats, p.Add.Refused, p.Add.SetAside,
			p.Topic, int64(p.Number), p.Epoch, p.From)
		if c.s.writer == nil {
			b.add("SELECT 9223372036854775807 + (ROW_COUNT() <> 1)")
		}
	}
}

// statements is everything, in the order that lets a change of a row follow its
// insert.
func (c *commit) statements() []statement {
	b := c.s.newBatch()
	c.moves(&b)
	var fresh, heads []*store.Conversation
	for _, conv := range c.t.Conversations {
		if conv.New {
			fresh = append(fresh, conv)
		} else {
			heads = append(heads, conv)
		}
	}
	head := func(of []*store.Conversation) func(dst []any, i int) []any {
		return func(dst []any, i int) []any { return headArgs(append(dst, of[i].ID), of[i]) }
	}
	b.insert(c.s.t.fresh, len(fresh), head(fresh))
	b.insert(c.s.t.heads, len(heads), head(heads))
	b.insert(c.s.t.members, len(c.t.Members), func(dst []any, i int) []any {
		m := &c.t.Members[i]
		if m.LeftSeq > 0 && planted.Now(planted.StoreForgetsLeave) {
			return append(dst, m.Conv.ID, string(m.User), m.Role, m.JoinedSeq, int64(0), m.MutedUntil)
		}
		return append(dst, m.Conv.ID, string(m.User), m.Role, m.JoinedSeq, m.LeftSeq, m.MutedUntil)
	})
	rows := c.t.Rows
	if len(rows) > 0 && planted.Now(planted.StoreLosesRow) {
		rows = rows[1:]
	}
	b.insert(c.s.t.messages, len(rows), func(dst []any, i int) []any {
		r := &rows[i]
		return append(dst, r.Conv.ID, month(r.TS), r.Seq, int64(r.Kind), int64(r.ID), string(r.From), string(r.Type), r.Content, r.TS,
			r.ClientID, joinUsers(r.Mention), int64(r.ReplyTo), r.Status, r.TargetSeq, r.Version)
	})
	for i := range c.t.Updates {
		u := &c.t.Updates[i]
		b.add("UPDATE messages SET status = ?, content = ?, version = ? WHERE conv_id = ? AND seq = ?",
			u.Status, u.Content, u.Version, u.Conv.ID, u.TargetSeq)
	}
	c.verdicts(&b)
	var begun []store.BlockChange
	for _, bc := range c.t.Blocks {
		if bc.Since > 0 {
			begun = append(begun, bc)
		} else {
			b.add("DELETE FROM blocks WHERE owner = ? AND peer = ?", string(bc.Owner), string(bc.Peer))
		}
	}
	b.insert(c.s.t.blocks, len(begun), func(dst []any, i int) []any {
		return append(dst, string(begun[i].Owner), string(begun[i].Peer), begun[i].Since)
	})
	return b.list
}

// verdicts writes outcomes and refusals in the places of those that are voided.
func (c *commit) verdicts(b *batch) {
	for i := range c.t.Voided {
		v := &c.t.Voided[i]
		b.add("DELETE FROM outcomes WHERE conv = ? AND sender = ? AND client_id = ? AND day = ?",
			string(v.Conv), string(v.From), v.ClientID, v.TS/store.DayMS)
		b.add("DELETE FROM refusals WHERE user = ? AND id = ?", string(v.From), int64(v.ID))
	}
	b.insert(c.s.t.outcomes, len(c.t.Outcomes), func(dst []any, i int) []any {
		o := &c.t.Outcomes[i]
		return append(dst, o.TS/store.DayMS, string(o.Conv), string(o.From), o.ClientID, o.Partition.Topic, int64(o.Partition.Number),
			int64(o.ID), int64(o.Hash), string(o.Code), o.Seq, o.N, o.TS, o.Offset) // hash: the bits are kept
	})
	b.insert(c.s.t.refusals, len(c.t.Refusals), func(dst []any, i int) []any {
		r := &c.t.Refusals[i]
		return append(dst, string(r.User), int64(r.ID), r.TS, r.ClientID, string(r.Conv), string(r.Code))
	})
}

// Kinds of conversations.
const (
	kindPrivate = 1
	kindGroup   = 2
)

// Bits of a private conversation's blocked.
const (
	blockedByA = 1
	blockedByB = 2
)

func headArgs(dst []any, c *store.Conversation) []any {
	kind, dismissed := int64(kindPrivate), int64(0)
	var g store.Group
	if c.Group != nil {
		kind, g = kindGroup, *c.Group
	}
	if g.Dismissed {
		dismissed = 1
	}
	blocked := int64(0)
	if c.BlockedByA {
		blocked |= blockedByA
	}
	if c.BlockedByB {
		blocked |= blockedByB
	}
	return append(dst, string(c.Conv), kind, c.MaxSeq, c.MinSeq, c.LastTS, c.LastMsg,
		g.Name, g.Description, string(g.Owner), int64(g.Members), g.MutedUntil, dismissed, g.NamedSeq, blocked)
}

// joinUsers writes a list of users, none of which holds a line feed.
func joinUsers(users []wire.UserID) string {
	if len(users) == 0 {
		return ""
	}
	s := make([]string, len(users))
	for i, u := range users {
		s[i] = string(u)
	}
	return strings.Join(s, "\n")
}

func splitUsers(s string) []wire.UserID {
	if s == "" {
		return nil
	}
	parts := strings.Split(s, "\n")
	users := make([]wire.UserID, len(parts))
	for i, p := range parts {
		users[i] = wire.UserID(p)
	}
	return users
}
