package check

import "github.com/starling-im/starling/common/wire"

// Rule is a promise that was broken.
type Rule string

// Rules. What each means stands in Meaning.
const (
	Lost      Rule = "lost"
	Repeated  Rule = "repeated"
	Order     Rule = "order"
	Hole      Rule = "hole"
	Leak      Rule = "leak"
	Corrupt   Rule = "corrupt"
	Phantom   Rule = "phantom"
	Ghost     Rule = "ghost"
	AckID     Rule = "ack-id"
	FIFO      Rule = "fifo"
	Gap       Rule = "gap"
	NotTold   Rule = "not-told"
	Sync      Rule = "sync"
	History   Rule = "history"
	Stale     Rule = "stale"
	Receipt   Rule = "receipt"
	Unread    Rule = "unread"
	Refusal   Rule = "refusal"
	Late      Rule = "late"
	Ledger    Rule = "ledger"
	Unhealed  Rule = "unhealed"
	Cut       Rule = "cut"
	Truncated Rule = "truncated"
)

// Meaning lists the rules and what breaks each.
func Meaning() map[Rule]string {
	return map[Rule]string{
		Lost:      "a message was acknowledged, not refused since, or a change applied, and stands in no timeline",
		Repeated:  "a client_id of one sender stands twice in a conversation, an id anywhere, or a change more often than it was asked for",
		Order:     "two were shown different things under one seq, times go back, or a connection was pushed a seq after a higher one",
		Hole:      "a seq below the highest was shown to nobody",
		Leak:      "somebody was shown what is outside their membership, or one who is no member is heard",
		Corrupt:   "a message is not what its sender sent, nor what an edit made of it, or a change is of no such message or its user's to make",
		Phantom:   "a message that nobody sent, or a change that nobody asked for",
		Ghost:     "a message or a change that was refused, and stands in the timeline all the same",
		AckID:     "the id of the first or the last send_ack is not the message's, or a send_ack is of what was not sent",
		FIFO:      "acknowledged sends of one connection changed their order",
		Gap:       "a connection was pushed past a seq that was its user's, and not told lagged",
		NotTold:   "a connection that stands was not given what is its user's, and not told lagged",
		Sync:      "an answer to sync leaves out what is between its cursor and upto, ends before what was known when it was asked, or says wrongly where a conversation begins or ends",
		History:   "history is not the timeline of its reader's membership",
		Stale:     "sync or history shows a message as it was before a change that was known when it was asked for",
		Receipt:   "a cursor went back, is none that its user ever said, or was told to a stranger",
		Unread:    "unread is not the number of others' messages after read_seq",
		Refusal:   "a message was refused though its sender was a member all the while",
		Late:      "a message, or the answer to a send, took too long to somebody who was there, and no fault explains it",
		Ledger:    "the columns of the ledger do not add up",
		Unhealed:  "after a fault the system did not come back in sync in time",
		Cut:       "a connection ended, and neither its client, nor that it was slow, nor a fault explains it",
		Truncated: "the record ends before the run did: nothing can be concluded from what is missing",
	}
}

// Violation is one broken promise, and what its story is about.
type Violation struct {
	Rule Rule
	Text string // one line, with names

	Conv     wire.ConvID
	Seq      int64
	From     wire.UserID // with ClientID: the message
	ClientID string
	Conns    []int64 // whose sight of it matters
	Event    int64   // where it showed; 0: at the end
}

// keep is how many violations of one rule are kept; all are counted.
const keep = 10

// findings collects violations.
type findings struct {
	broken map[Rule]int
	kept   []Violation
}

func (f *findings) add(v Violation) {
	if f.broken == nil {
		f.broken = make(map[Rule]int)
	}
	f.broken[v.Rule]++
	if f.broken[v.Rule] <= keep {
		f.kept = append(f.kept, v)
	}
}
