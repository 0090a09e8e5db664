// Package store is the durable state behind the log: conversations, members,
// the timeline, verdicts, cursors and the position of each partition's
// machine, in MySQL/MariaDB or SQLite behind one interface (Store) and one
// contract suite (package storetest); package memstore is the same in memory
// for simulations.
//
// A Store is one shard. All methods may be called concurrently. Ids are
// compared byte by byte. Errors are wrapped with what was tried; ErrFenced and
// Deterministic are what callers act on, any other error may pass by itself.
package store

import (
	"context"
	"errors"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/wire"
)

// ErrNotFound is returned where exactly one row was asked for and none stands.
var ErrNotFound = errors.New("not found")

// DeterministicError marks a failure that the same rows would bring again:
// the machine bisects its turn and sets the record aside.
type DeterministicError struct{ Err error }

// Error returns the text of the cause.
func (e *DeterministicError) Error() string { return "deterministic: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *DeterministicError) Unwrap() error { return e.Err }

// PartitionState is the row that guards a partition. Applied is the offset of
// the last record applied, -1 before the first. The counters are the durable
// part of the ledger: together they count every record at or below Applied.
type PartitionState struct {
	record.PartitionID
	Epoch   int64
	Applied int64
	// AppliedTS is the record time (ms) of the newest verdict, 0 before the first.
	AppliedTS int64
	TopicID   string // of the topic that Applied counts in; "" before the first claim
	Counts
}

// Counts are the ledger's exact columns: log end = First + sum of the others + lag.
type Counts struct {
	Stored   int64 // messages that took a seq
	Updates  int64 // recalls and edits that took a seq
	Commands int64 // group commands applied
	Repeats  int64 // dropped: the same client_id before
	Refused  int64 // verdict other than ok
	SetAside int64 // poison, in the dead-letter topic
	First    int64 // offset of the first record counted (the log's start at the first claim)
}

// Conversation is the head of a timeline.
type Conversation struct {
	ID      int64 // unique in the shard: the id of the record that began it
	New     bool  // not stored yet; Commit clears it
	Conv    wire.ConvID
	MaxSeq  int64
	MinSeq  int64 // oldest seq still kept; 1 for a new conversation; a turn can only raise it
	LastTS  int64 // ms of the newest record; the next one's is greater
	LastMsg int64 // seq of the newest row that is a message, not an update; 0: none
	Group   *Group
	// Of a private conversation p:a:b, whether a has blocked b, and b has blocked a.
	BlockedByA, BlockedByB bool
}

// Blocked says whether the peer of u in a private conversation p:a:b has blocked
// u.
func (c *Conversation) Blocked(u wire.UserID) bool {
	p, err := c.Conv.Parse()
	return err == nil && p.Group == "" && (u == p.B && c.BlockedByA || u == p.A && c.BlockedByB)
}

// Group is what a group conversation has beside its timeline.
type Group struct {
	Name, Description string
	Owner             wire.UserID
	Members           int   // active now
	MutedUntil        int64 // ms; all but owner and admins are muted till then
	Dismissed         bool
	NamedSeq          int64 // of the event that gave it its name and description
}

// Roles of members.
const (
	RoleOwner  = "owner"
	RoleAdmin  = "admin"
	RoleMember = "member"
)

// Member is one interval of membership: [JoinedSeq, LeftSeq], both included.
// LeftSeq 0: still a member.
type Member struct {
	User       wire.UserID
	Role       string
	JoinedSeq  int64
	LeftSeq    int64
	MutedUntil int64 // ms
}

// Row kinds of the timeline.
const (
	KindMessage = 1 // message or system message
	KindUpdate  = 2 // recall or edit
)

// Row is one seq of a timeline. A message shows its present state: Status and,
// once recalled, an empty Content. Version is the offset of the record that
// last changed it.
type Row struct {
	Seq       int64
	Kind      int
	ID        wire.MsgID // of an update: the target's
	From      wire.UserID
	Type      wire.MsgType
	Content   string
	TS        int64
	ClientID  string
	Mention   []wire.UserID
	ReplyTo   wire.MsgID
	Status    string
	TargetSeq int64 // updates only
	Version   int64
}

// Content is a message's content with the state that it belongs to, as in Row.
type Content struct {
	Text    string
	Status  string
	Version int64
}

// OutcomeKey is what a repeat has in common with its first.
type OutcomeKey struct {
	Conv     wire.ConvID
	From     wire.UserID
	ClientID string
}

// Outcome is the verdict on the first record under a key. Code "" is ok; then
// Seq is the first of N seqs that it took (N may be 0).
type Outcome struct {
	OutcomeKey
	Partition record.PartitionID
	ID        wire.MsgID
	Hash      uint64
	Code      wire.Code
	Seq, N    int64
	TS        int64 // ms, the record's
	Offset    int64
}

// Found is the answer of Lookup. What is not stored has no entry.
type Found struct {
	Outcomes      map[OutcomeKey]Outcome // of one key the newest
	Conversations map[wire.ConvID]*Conversation
}

// Turn is one transaction of a shard's machine: the new state of everything
// that a run of records changed. Commit applies all of it or nothing.
type Turn struct {
	// Partitions are checked (Epoch and From against the row) and moved:
	// Applied becomes To, Counts are added.
	Partitions    []PartitionMove
	Conversations []*Conversation // new ones, and others as they are now
	Members       []MemberChange
	Rows          []ConvRow
	Updates       []RowUpdate
	// Voided verdicts go, and the refusals of their ids with them, before what
	// follows is written: others take their places. One that does not stand is
	// passed over.
	Voided   []Outcome
	Outcomes []Outcome
	Refusals []Refusal
	Blocks   []BlockChange // at most one of a pair
}

// PartitionMove guards and moves one partition. Commit fences it out unless
// the row has this Epoch and Applied == From.
type PartitionMove struct {
	record.PartitionID
	Epoch    int64
	From, To int64
	Add      Counts
}

// MemberChange upserts the interval (Conv, User, JoinedSeq).
type MemberChange struct {
	Conv *Conversation
	Member
}

// ConvRow inserts one row of a timeline.
type ConvRow struct {
	Conv *Conversation
	Row
}

// RowUpdate changes the present state of a message.
type RowUpdate struct {
	Conv      *Conversation
	TargetSeq int64
	Status    string
	Content   string
	Version   int64
}

// BlockChange begins a block, or (Since 0) ends it. The head of the conversation
// of the two says the same to the machine.
type BlockChange struct {
	Owner wire.UserID
	Block
}

// Block is one of a user's blacklist.
type Block struct {
	Peer  wire.UserID
	Since int64 // ms
}

// Refusal is kept for the sender's next sync.
type Refusal struct {
	User wire.UserID
	wire.Refused
	TS int64
}

// Machine is what the partition machine needs of a shard. Only the owner of a
// partition writes its conversations, so what it reads after Claim stays true
// as long as its commits pass the guard.
type Machine interface {
	// Claim raises the partition's epoch by one and returns the row after
	// that. first is the log's start, kept as Counts.First at the first claim.
	Claim(ctx context.Context, p record.PartitionID, topicID string, first int64) (PartitionState, error)
	// State returns the row as it stands, ErrNotFound before the first Claim.
	State(ctx context.Context, p record.PartitionID) (PartitionState, error)
	// Lookup returns the verdicts that stand and the conversations that exist,
	// by one question for both.
	Lookup(ctx context.Context, keys []OutcomeKey, convs []wire.ConvID) (Found, error)
	// ActiveMembers returns everyone whose interval is open, by user.
	ActiveMembers(ctx context.Context, conv int64) ([]Member, error)
	// Intervals returns all intervals of the given users, by user and JoinedSeq.
	Intervals(ctx context.Context, conv int64, users []wire.UserID) ([]Member, error)
	// Rows returns the rows from..to, both included, in seq order.
	Rows(ctx context.Context, conv, from, to int64) ([]Row, error)
	// RowByID returns the message (not update) with the id, or ErrNotFound.
	RowByID(ctx context.Context, conv int64, id wire.MsgID) (Row, error)
	// Commit applies a turn. Fenced partitions (epoch or applied differ) are
	// returned and then nothing was applied: take them out and commit the rest.
	// After any other error the outcome is unknown: read State.
	Commit(ctx context.Context, t *Turn) (fenced []record.PartitionID, err error)
}

// CursorMove is one device's ack or read. Both only grow; Read also delivers.
type CursorMove struct {
	User            wire.UserID
	Device          wire.DeviceID
	Conv            wire.ConvID
	Delivered, Read int64
}

// CursorState is what a move came to: the user's highest over all devices,
// clamped to MaxSeq, and whether that grew (then the others get a receipt).
type CursorState struct {
	User            wire.UserID
	Conv            wire.ConvID
	Delivered, Read int64
	Grew            bool
	Members         int   // of a group, to tell a large one; 0 for private
	JoinedSeq       int64 // by Receipts alone: of the present membership
}

// Joined is a group that a user is in now, and the first seq of that interval.
type Joined struct {
	Group wire.GroupID
	Seq   int64
}

// UserConv is one conversation of a user's list.
type UserConv struct {
	Conversation
	JoinedSeq, LeftSeq int64 // of the newest interval; earlier intervals count in Unread and history too
	DeviceDelivered    int64 // this device's ack; -1: never
	Delivered, Read    int64 // highest over the user's devices
	Unread             int64
	PeerDelivered      int64 // private only: the peer's highest
	PeerRead           int64
	Last               *Row // newest message that the user may see
}

// Query is what logic reads and the cursors it writes; always the primary.
type Query interface {
	// GroupsOf returns the groups the user is a member of now, by group.
	GroupsOf(ctx context.Context, u wire.UserID) ([]Joined, error)
	// Conversation returns the head, or ErrNotFound.
	Conversation(ctx context.Context, conv wire.ConvID) (*Conversation, error)
	// MemberOf returns the user's newest interval (open or closed), or ErrNotFound.
	MemberOf(ctx context.Context, conv wire.ConvID, u wire.UserID) (Member, error)
	// Members pages through active members in user order, after a user.
	Members(ctx context.Context, conv wire.ConvID, after wire.UserID, limit int) ([]Member, error)
	// UserConversations lists the conversations of u in conv order after a
	// conversation id ("" from the start), at most limit. withUnread fills
	// Unread and Last too.
	UserConversations(ctx context.Context, u wire.UserID, d wire.DeviceID, after wire.ConvID, limit int, withUnread bool) ([]UserConv, error)
	// Timeline returns the rows in (after, upto] that u may see, all kinds,
	// ascending, at most limit. bodies false leaves Content empty.
	Timeline(ctx context.Context, u wire.UserID, conv wire.ConvID, after, upto int64, limit int, bodies bool) ([]Row, error)
	// History returns messages (not updates) that u may see with
	// after < seq < before (0: no bound), ascending. Newest limit when after is
	// 0, else the oldest limit after it; -1 is before the first.
	History(ctx context.Context, u wire.UserID, conv wire.ConvID, after, before int64, limit int) ([]Row, error)
	// Contents returns the content of messages by seq, for those that stand.
	Contents(ctx context.Context, conv wire.ConvID, seqs []int64) (map[int64]Content, error)
	// MoveCursors applies acks and reads, clamped to what the user may see;
	// moves of conversations the user is not in are left out of the answer.
	// States that come with an error stand (several shards, of which one
	// failed); repeating all moves is harmless.
	MoveCursors(ctx context.Context, moves []CursorMove) ([]CursorState, error)
	// Receipts returns every member's highest cursors, by user, paged.
	Receipts(ctx context.Context, conv wire.ConvID, after wire.UserID, limit int) ([]CursorState, error)
	// Outcome returns a verdict, or ErrNotFound.
	Outcome(ctx context.Context, key OutcomeKey) (Outcome, error)
	// OutcomeByID returns the verdict on a record of u by its id, or ErrNotFound.
	OutcomeByID(ctx context.Context, u wire.UserID, id wire.MsgID) (Outcome, error)
	// Blocks pages through whom u has blocked, in order, after a user.
	Blocks(ctx context.Context, u, after wire.UserID, limit int) ([]Block, error)
	// Refusals returns the newest refusals (by id) of a user after a time, oldest first.
	Refusals(ctx context.Context, u wire.UserID, after int64, limit int) ([]wire.Refused, error)
}

// Admin is housekeeping.
type Admin interface {
	// HistoryEpoch is made with the store and changes only by a restore.
	HistoryEpoch(ctx context.Context) (string, error)
	// LeaseWorker takes a snowflake worker id (0–1023) that nobody else uses:
	// free, or unused for longer than grace. It returns the id and the last
	// time (ms) it may have been used; ids must be issued only after that.
	LeaseWorker(ctx context.Context, owner string, now, until int64) (worker int, lastUsed int64, err error)
	// RenewWorker moves the lease to until; ErrFenced when another owner has it.
	RenewWorker(ctx context.Context, worker int, owner string, until int64) error
	// ReleaseWorker ends a lease; lastUsed (ms) is the time of the last id, not
	// beyond the lease. ErrFenced when another owner has it, and from then on
	// to this one.
	ReleaseWorker(ctx context.Context, worker int, owner string, lastUsed int64) error
	// Partitions returns all partition rows, the ledger.
	Partitions(ctx context.Context) ([]PartitionState, error)
	// CheckLayout stores what the shard is made for, by name (how many
	// partitions a topic has, which of them are here) at the first call, and
	// refuses another value of a name that is stored, with ErrLayout.
	CheckLayout(ctx context.Context, layout map[string]string) error
	// Prepare makes room for the months and days of now (ms) and after; it is
	// called every hour or so. Without it rows are taken all the same, but
	// neither Purge nor Retire can tell them apart by day and month.
	Prepare(ctx context.Context, now int64) error
	// Retire removes the messages of months (UTC) that ended before a time (ms),
	// and raises MinSeq of their conversations beyond them. A month that was not
	// prepared goes with a later one.
	Retire(ctx context.Context, before int64) error
	// Purge deletes outcomes of days (UTC, of record time) that ended before a
	// time (ms), and refusals that are older. A day that was not prepared goes
	// with a later one.
	Purge(ctx context.Context, before int64) error
	// PurgeControl deletes entries that are over (control.Entry.OverAt) at a time
	// (ms).
	PurgeControl(ctx context.Context, now int64) error
	// Ping says whether the store answers.
	Ping(ctx context.Context) error
	// Close releases the connections.
	Close() error
}

// Control keeps what is decided while the system runs, in the first shard.
type Control interface {
	// AppendControl stores entries under the next versions, in their order, each
	// in the place of the one about the same subject. It returns the last version.
	// Whoever reads a version has read, or can read, all before it.
	AppendControl(ctx context.Context, es []control.Entry) (version int64, err error)
	// ControlSince returns the entries with a version after one, by version.
	ControlSince(ctx context.Context, version int64, limit int) ([]control.Entry, error)
}

// ErrFenced is returned by RenewWorker and ReleaseWorker to an owner that lost
// its lease.
var ErrFenced = errors.New("fenced: another owner has taken over")

// Store is one shard.
type Store interface {
	Machine
	Query
	Control
	Admin
}
