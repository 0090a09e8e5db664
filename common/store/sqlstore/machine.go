package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// partitionCols quotes a word that MySQL reserves; the others take that, too.
const partitionCols = "topic, number, epoch, applied, topic_id, `stored`, updates, commands, repeats, refused, set_aside, first_offset, applied_ts"

func scanPartition(r *sql.Rows) (p store.PartitionState, err error) {
	err = r.Scan(&p.Topic, &p.Number, &p.Epoch, &p.Applied, &p.TopicID,
		&p.Stored, &p.Updates, &p.Commands, &p.Repeats, &p.Refused, &p.SetAside, &p.First, &p.AppliedTS)
	return p, err //nolint:wrapcheck // callers say what they tried
}

// all collects what scan makes of each row.
func all[T any](ctx context.Context, s *Store, list []statement, scan func(r *sql.Rows) (T, error)) ([]T, error) {
	var out []T
	for _, st := range list {
		err := s.query(ctx, st, func(r *sql.Rows) error {
			v, err := scan(r)
			out = append(out, v)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// one returns the first row, or ErrNotFound.
func one[T any](ctx context.Context, s *Store, st statement, scan func(r *sql.Rows) (T, error)) (T, error) {
	list, err := all(ctx, s, []statement{st}, scan)
	if err == nil && len(list) > 0 {
		return list[0], nil
	}
	var zero T
	if err == nil {
		err = store.ErrNotFound
	}
	return zero, err
}

// Claim raises the partition's epoch. A topic id that stands is kept, for the
// caller to compare.
func (s *Store) Claim(ctx context.Context, p record.PartitionID, topicID string, first int64) (store.PartitionState, error) {
	var st store.PartitionState
	claim := statement{
		sql: "INSERT INTO log_partitions (" + partitionCols + ") VALUES (?, ?, 1, -1, ?, 0, 0, 0, 0, 0, 0, ?, 0)" +
			s.d.upsert("topic, number", "epoch=log_partitions.epoch + 1, topic_id="+s.d.fill("topic_id")),
		args: []any{p.Topic, int64(p.Number), topicID, first},
	}
	read := statement{
		sql:  "SELECT " + partitionCols + " FROM log_partitions WHERE topic = ? AND number = ?",
		args: []any{p.Topic, int64(p.Number)},
	}
	err := s.retry(ctx, func() error {
		return s.transact(ctx, []statement{claim}, nil, func(t txn) ([]statement, error) {
			return nil, t.query(ctx, []statement{read}, func(r *sql.Rows) (err error) {
				st, err = scanPartition(r)
				return err
			})
		})
	})
	if err != nil {
		return store.PartitionState{}, fmt.Errorf("claim partition %v: %w", p, err)
	}
	return st, nil
}

// State returns a partition's row.
func (s *Store) State(ctx context.Context, p record.PartitionID) (store.PartitionState, error) {
	st, err := one(ctx, s, statement{
		sql:  "SELECT " + partitionCols + " FROM log_partitions WHERE topic = ? AND number = ?",
		args: []any{p.Topic, int64(p.Number)},
	}, scanPartition)
	if err != nil {
		return st, fmt.Errorf("read partition %v: %w", p, err)
	}
	return st, nil
}

func scanHead(r *sql.Rows) (*store.Conversation, error) {
	var c store.Conversation
	var g store.Group
	var kind, dismissed, blocked int
	err := r.Scan(&c.ID, (*string)(&c.Conv), &kind, &c.MaxSeq, &c.MinSeq, &c.LastTS, &c.LastMsg,
		&g.Name, &g.Description, (*string)(&g.Owner), &g.Members, &g.MutedUntil, &dismissed, &g.NamedSeq, &blocked)
	if err != nil {
		return nil, fmt.Errorf("scan a conversation: %w", err)
	}
	c.BlockedByA, c.BlockedByB = blocked&blockedByA != 0, blocked&blockedByB != 0
	if kind == kindGroup {
		g.Dismissed = dismissed != 0
		c.Group = &g
	}
	return &c, nil
}

func headsOf(terms []int, convs []wire.ConvID) []statement {
	return anyOf(terms, "SELECT id, "+headCols+" FROM conversations WHERE", "conv = ?", "", convs, nil, nil,
		func(dst []any, c wire.ConvID) []any { return append(dst, string(c)) })
}

// Lookup returns verdicts and heads; MySQL is asked for both at once, in a text.
func (s *Store) Lookup(ctx context.Context, keys []store.OutcomeKey, convs []wire.ConvID) (store.Found, error) {
	f := store.Found{
		Outcomes:      make(map[store.OutcomeKey]store.Outcome),
		Conversations: make(map[wire.ConvID]*store.Conversation, len(convs)),
	}
	keyTerms, convTerms := s.d.keyTerms, s.d.terms
	if s.writer == nil && len(keys) > 0 && len(convs) > 0 {
		keyTerms, convTerms = exactly(len(keys)), exactly(len(convs))
	}
	var list []question
	for _, st := range s.outcomesOf(keyTerms, keys) {
		list = append(list, question{st, func(r *sql.Rows) error {
			o, err := scanOutcome(r)
			if old, ok := f.Outcomes[o.OutcomeKey]; err == nil && (!ok || old.TS < o.TS) {
				f.Outcomes[o.OutcomeKey] = o
			}
			return err
		}})
	}
	for _, st := range headsOf(convTerms, convs) {
		list = append(list, question{st, func(r *sql.Rows) error {
			c, err := scanHead(r)
			if err == nil {
				f.Conversations[c.Conv] = c
			}
			return err
		}})
	}
	if err := s.ask(ctx, list); err != nil {
		return store.Found{}, fmt.Errorf("look up %d outcomes and %d conversations: %w", len(keys), len(convs), err)
	}
	return f, nil
}

func scanMember(r *sql.Rows) (m store.Member, err error) {
	err = r.Scan((*string)(&m.User), &m.Role, &m.JoinedSeq, &m.LeftSeq, &m.MutedUntil)
	return m, err //nolint:wrapcheck // callers say what they tried
}

// ActiveMembers returns everyone whose interval is open.
func (s *Store) ActiveMembers(ctx context.Context, conv int64) ([]store.Member, error) {
	list, err := all(ctx, s, []statement{{
		sql:  "SELECT " + memberCols + " FROM members WHERE conv_id = ? AND left_seq = 0 ORDER BY user",
		args: []any{conv},
	}}, scanMember)
	if err != nil {
		return nil, fmt.Errorf("read the members of conversation %d: %w", conv, err)
	}
	return list, nil
}

// Intervals returns all intervals of the users.
func (s *Store) Intervals(ctx context.Context, conv int64, users []wire.UserID) ([]store.Member, error) {
	users = slices.Compact(slices.Sorted(slices.Values(users)))
	list := anyOf(s.d.terms, "SELECT "+memberCols+" FROM members WHERE conv_id = ? AND", "user = ?", " ORDER BY user, joined_seq",
		users, []any{conv}, nil, func(dst []any, u wire.UserID) []any { return append(dst, string(u)) })
	members, err := all(ctx, s, list, scanMember)
	if err != nil {
		return nil, fmt.Errorf("read intervals in conversation %d: %w", conv, err)
	}
	return members, nil
}

func scanOutcome(r *sql.Rows) (o store.Outcome, err error) {
	var hash int64
	err = r.Scan((*string)(&o.Conv), (*string)(&o.From), &o.ClientID, &o.Partition.Topic, &o.Partition.Number,
		(*int64)(&o.ID), &hash, (*string)(&o.Code), &o.Seq, &o.N, &o.TS, &o.Offset)
	o.Hash = uint64(hash) // the bits are kept
	return o, err         //nolint:wrapcheck // callers say what they tried
}

// outcomesOf asks for verdicts by their keys. MySQL takes keys that are or-ed
// through its planner one by one; joined in this order they are looked up.
func (s *Store) outcomesOf(terms []int, keys []store.OutcomeKey) []statement {
	args := func(dst []any, k store.OutcomeKey) []any {
		return append(dst, string(k.Conv), string(k.From), k.ClientID)
	}
	if s.writer != nil {
		return anyOf(terms, "SELECT "+outcomeCols+" FROM outcomes WHERE", "(conv = ? AND sender = ? AND client_id = ?)", "", keys, nil, nil, args)
	}
	var list []statement
	for part := range slices.Chunk(keys, terms[0]) {
		n := round(terms, len(part))
		var all []any
		for i := range n {
			all = args(all, part[min(i, len(part)-1)])
		}
		list = append(list, statement{
			sql: "SELECT " + outcomeCols + " FROM (SELECT ? AS k_conv, ? AS k_sender, ? AS k_id" +
				strings.Repeat(" UNION ALL SELECT ?, ?, ?", n-1) +
				") k STRAIGHT_JOIN outcomes o ON o.conv = k_conv AND o.sender = k_sender AND o.client_id = k_id",
			args: all,
		})
	}
	return list
}

func scanRow(r *sql.Rows) (row store.Row, err error) {
	var mention string
	err = r.Scan(&row.Seq, &row.Kind, (*int64)(&row.ID), (*string)(&row.From), (*string)(&row.Type), &row.Content, &row.TS,
		&row.ClientID, &mention, (*int64)(&row.ReplyTo), &row.Status, &row.TargetSeq, &row.Version)
	row.Mention = splitUsers(mention)
	return row, err //nolint:wrapcheck // callers say what they tried
}

// rowColumns is rowCols, without bodies with an empty content.
func rowColumns(bodies bool) string {
	if bodies {
		return rowCols
	}
	return strings.Replace(rowCols, "content", "'' AS content", 1)
}

// Rows returns a range of a timeline.
func (s *Store) Rows(ctx context.Context, conv, from, to int64) ([]store.Row, error) {
	list, err := all(ctx, s, []statement{{
		sql:  "SELECT " + rowCols + " FROM messages WHERE conv_id = ? AND seq >= ? AND seq <= ? ORDER BY seq",
		args: []any{conv, from, to},
	}}, scanRow)
	if err != nil {
		return nil, fmt.Errorf("read rows %d to %d of conversation %d: %w", from, to, conv, err)
	}
	return list, nil
}

// RowByID returns a message by its id.
func (s *Store) RowByID(ctx context.Context, conv int64, id wire.MsgID) (store.Row, error) {
	row, err := one(ctx, s, statement{
		// The sum keeps the primary key out of the plan.
		sql:  "SELECT " + rowCols + " FROM messages WHERE id = ? AND conv_id + 0 = ? AND kind = 1",
		args: []any{int64(id), conv},
	}, scanRow)
	if err != nil {
		return store.Row{}, fmt.Errorf("read message %d of conversation %d: %w", id, conv, err)
	}
	return row, nil
}
