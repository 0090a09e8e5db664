package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

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
		c = commit{s: s, t: t, ids: make(map[*store.Conversation]int64)}
		return c.try(ctx)
	})
	if err != nil {
		return nil, fmt.Errorf("commit a turn: %w", err)
	}
	if len(c.fenced) > 0 {
		return c.fenced, nil
	}
	for conv, id := range c.ids {
		conv.ID = id
	}
	return nil, nil
}

// commit is one attempt of Commit.
type commit struct {
	s      *Store
	t      *store.Turn
	rows   []guard
	fenced []record.PartitionID
	ids    map[*store.Conversation]int64 // of new conversations
}

func (c *commit) try(ctx context.Context) error {
	return c.s.transact(ctx, c.guards(), c.scanGuard, func(tx txn) ([]statement, error) {
		if c.check(); len(c.fenced) > 0 {
			return nil, errNothing
		}
		if err := c.begin(ctx, tx); err != nil {
			return nil, err
		}
		return c.statements(), nil
	})
}

type guard struct {
	record.PartitionID
	epoch, applied int64
}

// guards reads and locks the partitions' rows, each by its key and all in one
// order, so that turns of different partitions never wait for each other and
// none waits in a ring.
func (c *commit) guards() []statement {
	moves := slices.SortedFunc(slices.Values(c.t.Partitions), func(a, b store.PartitionMove) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Number, b.Number))
	})
	list := make([]statement, 0, len(moves))
	for _, p := range moves {
		list = append(list, statement{
			sql:  "SELECT topic, number, epoch, applied FROM log_partitions WHERE topic = ? AND number = ?" + c.s.d.lock,
			args: []any{p.Topic, int64(p.Number)},
		})
	}
	if len(list) == 0 {
		list = append(list, statement{sql: "SELECT topic, number, epoch, applied FROM log_partitions WHERE 1 = 0"})
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

// begin inserts the heads of new conversations and reads the ids they got.
func (c *commit) begin(ctx context.Context, tx txn) error {
	fresh := make(map[wire.ConvID]*store.Conversation)
	var list []*store.Conversation
	for _, conv := range c.t.Conversations {
		if conv.ID == 0 {
			fresh[conv.Conv] = conv
			list = append(list, conv)
		}
	}
	if len(list) == 0 {
		return nil
	}
	b := c.s.newBatch()
	b.insert(c.s.t.fresh, len(list), func(dst []any, i int) []any { return headArgs(dst, list[i]) })
	ids := anyOf(c.s.d.terms, "SELECT id, conv FROM conversations WHERE", "conv = ?", "", list, nil, nil,
		func(dst []any, conv *store.Conversation) []any { return append(dst, string(conv.Conv)) })
	scan := func(r *sql.Rows) error {
		var id int64
		var conv wire.ConvID
		if err := r.Scan(&id, (*string)(&conv)); err != nil {
			return fmt.Errorf("scan a new id: %w", err)
		}
		c.ids[fresh[conv]] = id
		return nil
	}
	if c.s.writer == nil { // in one round trip
		return tx.query(ctx, append(b.list, ids...), scan)
	}
	if err := tx.exec(ctx, b.list); err != nil {
		return err
	}
	return tx.query(ctx, ids, scan)
}

func (c *commit) id(conv *store.Conversation) int64 { return cmp.Or(conv.ID, c.ids[conv]) }

// statements is everything but new heads, in the order that lets a change of a
// row follow its insert.
func (c *commit) statements() []statement {
	b := c.s.newBatch()
	for i := range c.t.Partitions {
		p := &c.t.Partitions[i]
		b.add("UPDATE log_partitions SET applied = ?, applied_ts = "+c.s.d.greatest+"(applied_ts, ?), `stored` = `stored` + ?, updates = updates + ?, commands = commands + ?,"+
			" repeats = repeats + ?, refused = refused + ?, set_aside = set_aside + ? WHERE topic = ? AND number = ?",
			p.To, c.t.LastVerdict(p.PartitionID), p.Add.Stored, p.Add.Updates, p.Add.Commands, p.Add.Repeats, p.Add.Refused, p.Add.SetAside, p.Topic, int64(p.Number))
	}
	var heads []*store.Conversation
	for _, conv := range c.t.Conversations {
		if conv.ID != 0 {
			heads = append(heads, conv)
		}
	}
	b.insert(c.s.t.heads, len(heads), func(dst []any, i int) []any { return headArgs(append(dst, heads[i].ID), heads[i]) })
	b.insert(c.s.t.members, len(c.t.Members), func(dst []any, i int) []any {
		m := &c.t.Members[i]
		return append(dst, c.id(m.Conv), string(m.User), m.Role, m.JoinedSeq, m.LeftSeq, m.MutedUntil)
	})
	b.insert(c.s.t.messages, len(c.t.Rows), func(dst []any, i int) []any {
		r := &c.t.Rows[i]
		return append(dst, c.id(r.Conv), month(r.TS), r.Seq, int64(r.Kind), int64(r.ID), string(r.From), string(r.Type), r.Content, r.TS,
			r.ClientID, joinUsers(r.Mention), int64(r.ReplyTo), r.Status, r.TargetSeq, r.Version)
	})
	for i := range c.t.Updates {
		u := &c.t.Updates[i]
		b.add("UPDATE messages SET status = ?, content = ?, version = ? WHERE conv_id = ? AND seq = ?",
			u.Status, u.Content, u.Version, c.id(u.Conv), u.TargetSeq)
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
	return b.list
}

// Kinds of conversations.
const (
	kindPrivate = 1
	kindGroup   = 2
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
	return append(dst, string(c.Conv), kind, c.MaxSeq, c.MinSeq, c.LastTS, c.LastMsg,
		g.Name, g.Description, string(g.Owner), int64(g.Members), g.MutedUntil, dismissed, g.NamedSeq)
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
