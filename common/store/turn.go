package store

import (
	"errors"
	"fmt"
	"strings"

	"github.com/starling-im/starling/common/record"
)

// ErrLayout is returned by CheckLayout for a layout that is not the one the
// shard was made with.
var ErrLayout = errors.New("another layout than this store was made with; restore the former settings")

// Limits of what a shard holds, in bytes. Longer is a DeterministicError.
const (
	MaxConv        = 131 // p:<64>:<64>
	MaxID          = 64
	MaxName        = 1024
	MaxDescription = 65535
	MaxContent     = 1<<24 - 1
	MaxMentions    = 1000
)

// DayMS is a day of outcomes: a key is unique within a day of record time, and
// on a later day a new outcome takes the place of the older one.
const DayMS = 24 * 60 * 60 * 1000

// WorkerIDs is the number of snowflake worker ids; WorkerGraceMS is how long a
// lapsed lease stays with its owner, for clocks that differ.
const (
	WorkerIDs     = 1024
	WorkerGraceMS = 10_000
)

// Check refuses, with a DeterministicError, what no shard can hold: values
// that are too long, seqs below 1, a row of a conversation that is neither
// stored nor part of the turn. Every implementation of Commit begins with it.
func (t *Turn) Check() error {
	c := checker{known: make(map[*Conversation]bool, len(t.Conversations))}
	for i := range t.Partitions {
		c.partition(&t.Partitions[i])
	}
	for _, conv := range t.Conversations {
		c.conversation(conv)
	}
	for i := range t.Members {
		c.member(&t.Members[i])
	}
	for i := range t.Rows {
		c.row(&t.Rows[i])
	}
	for i := range t.Updates {
		u := &t.Updates[i]
		c.conv(u.Conv)
		c.least("target_seq", u.TargetSeq, 1)
		c.most("status", u.Status, 16)
		c.most("content", u.Content, MaxContent)
	}
	for i := range t.Outcomes {
		c.outcome(&t.Outcomes[i])
	}
	for i := range t.Refusals {
		r := &t.Refusals[i]
		c.most("user", string(r.User), MaxID)
		c.most("client_id", r.ClientID, MaxID)
		c.most("conv", string(r.Conv), MaxConv)
		c.most("code", string(r.Code), 32)
		c.least("ts", r.TS, 0)
	}
	for i := range t.Blocks {
		b := &t.Blocks[i]
		c.most("owner", string(b.Owner), MaxID)
		c.most("peer", string(b.Peer), MaxID)
		c.least("since", b.Since, 0)
	}
	if c.err != nil {
		return &DeterministicError{Err: c.err}
	}
	return nil
}

// LastVerdict is the record time (ms) of the newest outcome of a partition, 0
// if there is none. Every implementation of Commit keeps the greatest.
func (t *Turn) LastVerdict(p record.PartitionID) int64 {
	var last int64
	for i := range t.Outcomes {
		if o := &t.Outcomes[i]; o.Partition == p {
			last = max(last, o.TS)
		}
	}
	return last
}

type checker struct {
	known map[*Conversation]bool
	err   error
}

func (c *checker) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

func (c *checker) most(what, s string, limit int) {
	if len(s) > limit {
		c.fail("%s of %d bytes is over %d", what, len(s), limit)
	}
}

func (c *checker) least(what string, v, limit int64) {
	if v < limit {
		c.fail("%s %d is below %d", what, v, limit)
	}
}

func (c *checker) conv(conv *Conversation) {
	if conv == nil || conv.ID < 1 || conv.New && !c.known[conv] {
		c.fail("a change of a conversation that is neither stored nor in the turn")
	}
}

func (c *checker) partition(p *PartitionMove) {
	c.most("topic", p.Topic, MaxID)
	if p.To < p.From {
		c.fail("partition %v would move back from %d to %d", p.PartitionID, p.From, p.To)
	}
}

func (c *checker) conversation(conv *Conversation) {
	if conv == nil {
		c.fail("a nil conversation")
		return
	}
	c.known[conv] = true
	if conv.Conv == "" {
		c.fail("a conversation without an id")
	}
	c.least("id", conv.ID, 1)
	c.most("conv", string(conv.Conv), MaxConv)
	c.least("max_seq", conv.MaxSeq, 0)
	c.least("min_seq", conv.MinSeq, 0)
	if g := conv.Group; g != nil {
		c.most("name", g.Name, MaxName)
		c.most("description", g.Description, MaxDescription)
		c.most("owner", string(g.Owner), MaxID)
	}
}

func (c *checker) member(m *MemberChange) {
	c.conv(m.Conv)
	c.most("user", string(m.User), MaxID)
	c.most("role", m.Role, 16)
	c.least("joined_seq", m.JoinedSeq, 0)
	c.least("left_seq", m.LeftSeq, 0)
}

func (c *checker) row(r *ConvRow) {
	c.conv(r.Conv)
	c.least("seq", r.Seq, 1)
	c.least("ts", r.TS, 0)
	if r.Kind != KindMessage && r.Kind != KindUpdate {
		c.fail("row kind %d is unknown", r.Kind)
	}
	c.most("from", string(r.From), MaxID)
	c.most("type", string(r.Type), 16)
	c.most("content", r.Content, MaxContent)
	c.most("client_id", r.ClientID, MaxID)
	c.most("status", r.Status, 16)
	if len(r.Mention) > MaxMentions {
		c.fail("%d mentions are over %d", len(r.Mention), MaxMentions)
	}
	for _, u := range r.Mention {
		c.most("mention", string(u), MaxID)
		if u == "" || strings.Contains(string(u), "\n") {
			c.fail("mention %q is no user", u)
		}
	}
}

func (c *checker) outcome(o *Outcome) {
	c.most("conv", string(o.Conv), MaxConv)
	c.most("from", string(o.From), MaxID)
	c.most("client_id", o.ClientID, MaxID)
	c.most("code", string(o.Code), 32)
	c.most("topic", o.Partition.Topic, MaxID)
	c.least("ts", o.TS, 0)
}
