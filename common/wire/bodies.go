package wire

import "encoding/json"

// MsgType is the type of a message's content.
type MsgType string

// Message types. Only the server makes TypeSystem.
const (
	TypeText     MsgType = "text"
	TypeImage    MsgType = "image"
	TypeAudio    MsgType = "audio"
	TypeVideo    MsgType = "video"
	TypeFile     MsgType = "file"
	TypeLocation MsgType = "location"
	TypeCustom   MsgType = "custom"
	TypeSystem   MsgType = "system"
)

// ClientType says whether a client may send messages of type t.
func (t MsgType) ClientType() bool {
	switch t {
	case TypeText, TypeImage, TypeAudio, TypeVideo, TypeFile, TypeLocation, TypeCustom:
		return true
	case TypeSystem:
	}
	return false
}

// Auth is the body of auth.
type Auth struct {
	Token    string   `json:"token"`
	Device   DeviceID `json:"device,omitempty"`
	Platform string   `json:"platform,omitempty"`
	Region   string   `json:"region,omitempty"`
	V        int      `json:"v,omitempty"`
	Caps     []string `json:"caps,omitempty"`
}

// AuthOK is the body of auth_ok. HeartbeatMS: send something at least this
// often.
type AuthOK struct {
	User         UserID   `json:"user"`
	Device       DeviceID `json:"device"`
	Conn         string   `json:"conn"`
	Server       ServerID `json:"server"`
	HeartbeatMS  int64    `json:"heartbeat_ms"`
	TS           int64    `json:"ts"`
	V            int      `json:"v"`
	HistoryEpoch string   `json:"history_epoch"`
}

// Pong is the body of pong.
type Pong struct {
	TS int64 `json:"ts"`
}

// Send is the body of send and of POST /v1/messages: exactly one of To and
// Group. From is for services over HTTP only.
type Send struct {
	To       UserID   `json:"to,omitempty"`
	Group    GroupID  `json:"group,omitempty"`
	ClientID string   `json:"client_id"`
	Type     MsgType  `json:"type"`
	Content  string   `json:"content"`
	Mention  []UserID `json:"mention,omitempty"`
	ReplyTo  MsgID    `json:"reply_to,omitempty"`
	From     UserID   `json:"from,omitempty"`
}

// SendAck is the body of send_ack: the message is durable.
type SendAck struct {
	ClientID string `json:"client_id"`
	ID       MsgID  `json:"id"`
	Conv     ConvID `json:"conv"`
	TS       int64  `json:"ts"`
}

// Refused is the body of refused, and a member of sync_ok's list.
type Refused struct {
	ClientID string `json:"client_id"`
	ID       MsgID  `json:"id"`
	Conv     ConvID `json:"conv"`
	Code     Code   `json:"code"`
}

// Msg is the body of msg. Status is "" or "recalled" or "edited" where history
// and sync show the present state.
type Msg struct {
	ID       MsgID    `json:"id"`
	Conv     ConvID   `json:"conv"`
	Seq      int64    `json:"seq"`
	From     UserID   `json:"from"`
	Type     MsgType  `json:"type"`
	Content  string   `json:"content"`
	TS       int64    `json:"ts"`
	ClientID string   `json:"client_id,omitempty"`
	Mention  []UserID `json:"mention,omitempty"`
	ReplyTo  MsgID    `json:"reply_to,omitempty"`
	Status   string   `json:"status,omitempty"`
}

// Update is the body of update: it takes a seq of its own and names its target.
type Update struct {
	Conv      ConvID `json:"conv"`
	Seq       int64  `json:"seq"`
	ID        MsgID  `json:"id"`
	TargetSeq int64  `json:"target_seq"`
	Status    string `json:"status"`
	Content   string `json:"content,omitempty"`
}

// States of a message in Msg.Status and Update.Status.
const (
	StatusRecalled = "recalled"
	StatusEdited   = "edited"
)

// Cursor is the body of ack and of read.
type Cursor struct {
	Conv ConvID `json:"conv"`
	Seq  int64  `json:"seq"`
}

// Receipt is the body of receipt.
type Receipt struct {
	Conv      ConvID `json:"conv"`
	User      UserID `json:"user"`
	Delivered int64  `json:"delivered"`
	Read      int64  `json:"read"`
	TS        int64  `json:"ts"`
}

// Sync is the body of sync. Limit counts messages and updates over the whole
// answer: 1–500, 0 is 100.
type Sync struct {
	Cursors map[ConvID]int64 `json:"cursors,omitempty"`
	Limit   int              `json:"limit,omitempty"`
	Token   string           `json:"token,omitempty"`
}

// SyncConv is one conversation of sync_ok: the timeline from the cursor to
// Upto without a hole.
type SyncConv struct {
	Conv      ConvID   `json:"conv"`
	MaxSeq    int64    `json:"max_seq"`
	MinSeq    int64    `json:"min_seq"`
	Upto      int64    `json:"upto"`
	ReadSeq   int64    `json:"read_seq"`
	Unread    int64    `json:"unread"`
	Delivered int64    `json:"delivered,omitempty"`
	Read      int64    `json:"read,omitempty"`
	Messages  []Msg    `json:"messages"`
	Updates   []Update `json:"updates"`
	More      bool     `json:"more"`
}

// SyncOK is the body of sync_ok.
type SyncOK struct {
	Conversations []SyncConv `json:"conversations"`
	Token         string     `json:"token,omitempty"`
	More          bool       `json:"more"`
	Refused       []Refused  `json:"refused,omitempty"`
}

// GroupEvent is the body of group, and (as JSON text) the content of a system
// message.
type GroupEvent struct {
	Group GroupID `json:"group"`
	Event string  `json:"event"`
	User  UserID  `json:"user,omitempty"`
	By    UserID  `json:"by"`
	TS    int64   `json:"ts"`
	// Role, Name and Until say what changed in role, renamed and muted.
	Role  string `json:"role,omitempty"`
	Name  string `json:"name,omitempty"`
	Until int64  `json:"until,omitempty"`
}

// Events of GroupEvent.
const (
	EventCreated   = "created"
	EventJoined    = "joined"
	EventLeft      = "left"
	EventRemoved   = "removed"
	EventRole      = "role"
	EventRenamed   = "renamed"
	EventDismissed = "dismissed"
	EventMuted     = "muted"
)

// RecallBody is the body of recall; with Content, of edit.
type RecallBody struct {
	Conv    ConvID `json:"conv"`
	ID      MsgID  `json:"id"`
	Content string `json:"content,omitempty"`
}

// Kick is the body of kick, sent before the close: replaced, banned, revoked
// or admin.
type Kick struct {
	Reason string `json:"reason"`
}

// Reconnect is the body of reconnect: come back elsewhere after AfterMS.
type Reconnect struct {
	AfterMS int64    `json:"after_ms"`
	Reason  string   `json:"reason"`
	Edges   []string `json:"edges"`
}

// Lagged is the body of lagged: ranges of seq, both ends included, that were
// left out. Empty: anything may be missing, sync all.
type Lagged struct {
	Convs map[ConvID][2]int64 `json:"convs,omitempty"`
}

// Envelope is a JSON text message. Body stays raw until its operation is known.
type Envelope struct {
	Op   string          `json:"op"`
	Seq  int32           `json:"seq,omitempty"`
	Body json.RawMessage `json:"body,omitempty"`
}
