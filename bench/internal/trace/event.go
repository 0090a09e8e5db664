// Package trace is the record of a verified run: what every client sent and saw,
// which faults were made and what the processes counted, in the order in which
// it happened to the tool. It is kept as JSON lines, gzipped where the file's
// name ends in .gz, so that it can be checked again and read by others.
//
// A Writer may be used by many goroutines at once; a Reader by one. Events are
// numbered under the writer's lock: one that returned before another was called
// stands before it, and nothing else may be concluded from the order of two.
package trace

import (
	"encoding/json"

	"github.com/starling-im/starling/common/wire"
)

// Kind says what an event is. What each kind fills in beside N and T stands with
// it; User is always whose connection or call it is, and Device too where Conn
// is not 0.
type Kind string

// The run.
const (
	Begin  Kind = "begin"  // Text: version of this format; Run
	Phase  Kind = "phase"  // Text: one of the phases below
	Fault  Kind = "fault"  // Fault
	Ledger Kind = "ledger" // Ledger: what `starling ledger -json` printed
	Note   Kind = "note"   // Text: for who reads a story
)

// Connections. Conn is the tool's number of a connection, never used again.
const (
	Open  Kind = "open"  // Conn, Server, At: auth_ok came; since At its client wanted it
	Close Kind = "close" // Conn, Close, Text: it ended, by whomever; Op OpLeave: its client went away for a while, by plan
)

// Sends. A message is named by From (User) and ClientID.
const (
	Due     Kind = "due"     // Conv, ClientID, Content, At: since then its user wants to send it
	Send    Kind = "send"    // Conn (0: HTTP), Conv, ClientID, Content: one attempt
	Ack     Kind = "ack"     // Conn, Conv, ClientID, ID: send_ack; Op OpFirst: it was no answer, but tells the first one's id
	Fail    Kind = "fail"    // Conn, Conv, ClientID, Code: error; no code: no answer came
	Refused Kind = "refused" // Conn, Conv, ClientID, ID, Code
)

// What a connection was told.
const (
	Msg     Kind = "msg"     // Conn, Msg: pushed
	Update  Kind = "update"  // Conn, Update: pushed
	Receipt Kind = "receipt" // Conn, Receipt: pushed
	Lagged  Kind = "lagged"  // Conn, Lagged
)

// Questions and their answers. Call is the tool's number of a call, never used
// again. An answer that never came is Return with the code NoAnswer.
const (
	Sync    Kind = "sync"    // Conn, Call, Cursors
	Page    Kind = "page"    // Conn, Call, Page: one page; Page.More: another follows
	Cursor  Kind = "cursor"  // Conn, Conv, Seq, Op: ack or read
	Call    Kind = "call"    // Conn (0: HTTP), Call, Op, Conv, ID, Content, Users, Role
	Return  Kind = "return"  // Call, Code: "" applied
	History Kind = "history" // Call, Conv, Messages: all that User is shown, ascending, read after the last phase
)

// NoAnswer is the code of a call whose outcome is not known.
const NoAnswer = "no_answer"

// Operations of Call, beside ack and read of Cursor.
const (
	OpAck     = "ack"
	OpRead    = "read"
	OpRecall  = "recall"
	OpEdit    = "edit"
	OpCreate  = "create"
	OpAdd     = "add"
	OpRemove  = "remove"
	OpLeave   = "leave"
	OpRole    = "role"
	OpHistory = "history"
	OpFirst   = "first"
)

// Phases, in this order.
const (
	PhaseWork   = "work"   // the workload begins
	PhaseRest   = "rest"   // nothing new is sent
	PhaseCalm   = "calm"   // everything was with everybody by pushes and the syncs that they asked for
	PhaseLate   = "late"   // instead of calm: time was up
	PhaseRead   = "read"   // every device syncs from its cursors once more, then history is read
	PhaseFinish = "finish" // nothing follows but ledgers
)

// Event is one line. Body slices and pointers belong to the event.
type Event struct {
	N    int64 `json:"n"` // 1, 2, 3 …
	T    int64 `json:"t"` // µs since the run began
	Kind Kind  `json:"k"`

	Conn     int64                 `json:"conn,omitempty"`
	User     wire.UserID           `json:"u,omitempty"`
	Device   wire.DeviceID         `json:"d,omitempty"`
	Server   wire.ServerID         `json:"srv,omitempty"`
	Call     int64                 `json:"call,omitempty"`
	Op       string                `json:"op,omitempty"`
	Conv     wire.ConvID           `json:"conv,omitempty"`
	ClientID string                `json:"cid,omitempty"`
	ID       wire.MsgID            `json:"id,omitempty"`
	Seq      int64                 `json:"seq,omitempty"`
	At       int64                 `json:"at,omitempty"` // µs since the run began; 0: as T
	Content  string                `json:"content,omitempty"`
	Code     string                `json:"code,omitempty"`
	Close    int                   `json:"close,omitempty"`
	Text     string                `json:"text,omitempty"`
	Users    []wire.UserID         `json:"users,omitempty"`
	Role     string                `json:"role,omitempty"`
	Cursors  map[wire.ConvID]int64 `json:"cursors,omitempty"`

	Msg      *wire.Msg       `json:"msg,omitempty"`
	Update   *wire.Update    `json:"update,omitempty"`
	Receipt  *wire.Receipt   `json:"receipt,omitempty"`
	Lagged   *wire.Lagged    `json:"lagged,omitempty"`
	Page     *wire.SyncOK    `json:"page,omitempty"`
	Messages []wire.Msg      `json:"msgs,omitempty"`
	Fault    *FaultEvent     `json:"fault,omitempty"`
	Run      *Run            `json:"run,omitempty"`
	Ledger   json.RawMessage `json:"ledger,omitempty"`
}

// Run is how a run began.
type Run struct {
	Seed    uint64            `json:"seed"`
	Started int64             `json:"started"` // Unix ms, the tool's clock
	Flags   map[string]string `json:"flags"`   // of `bench verify`, without secrets
	Build   string            `json:"build"`
}

// FaultEvent is a step of a fault. Each fault has a number; it begins, ends (the
// cause is gone), and heals (everything is in sync again) or does not.
type FaultEvent struct {
	No     int    `json:"no"`
	Kind   string `json:"kind"`             // such as kill, stop, cut, flush, disk-full, clock, slow
	Target string `json:"target,omitempty"` // such as edge-1, redis
	Step   string `json:"step"`             // begin, end, healed, not-healed
	Text   string `json:"text,omitempty"`
}

// Steps of a fault.
const (
	StepBegin     = "begin"
	StepEnd       = "end"
	StepHealed    = "healed"
	StepNotHealed = "not-healed"
)
