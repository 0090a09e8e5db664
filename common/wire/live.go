package wire

// Limits of what is not stored, from docs/protocol.md section 2.
const (
	MaxPresenceUsers = 200 // users named by one presence_sub or presence_unsub
)

// RoomID names a live room, in the form of a UserID. A room exists while
// somebody is in it.
type RoomID string

// roomPrefix sets rooms apart from groups where both are looked up by one key:
// no group's id has a colon.
const roomPrefix = "r:"

// Key is the name under which edges with somebody in the room are indexed,
// beside groups.
func (r RoomID) Key() GroupID { return GroupID(roomPrefix + r) }

// IsRoom says whether the key is a room's.
func (g GroupID) IsRoom() bool { return len(g) > len(roomPrefix) && g[:len(roomPrefix)] == roomPrefix }

// Typing is the body of typing: exactly one of To and Group. The server adds
// From; what a client says there counts for nothing.
type Typing struct {
	To    UserID  `json:"to,omitempty"`
	Group GroupID `json:"group,omitempty"`
	From  UserID  `json:"from,omitempty"`
}

// Validate checks a typing by itself.
func (t *Typing) Validate() *Error {
	return checkTarget(t.To, t.Group)
}

// Conv returns the conversation that a typing of this user is about. The body
// has been validated.
func (t *Typing) Conv(from UserID) ConvID {
	if t.Group != "" {
		return GroupConv(t.Group)
	}
	return PrivateConv(from, t.To)
}

// Users is the body of presence_sub and presence_unsub, and of POST
// /v1/presence.
type Users struct {
	Users []UserID `json:"users"`
}

// Validate checks the list: over MaxPresenceUsers ids is too_large, what is no id
// bad_request.
func (u *Users) Validate() *Error {
	if len(u.Users) > MaxPresenceUsers {
		return Errorf(CodeTooLarge, "more than 200 users at once")
	}
	for _, id := range u.Users {
		if !ValidID(string(id)) {
			return Errorf(CodeBadRequest, "users holds something that is no id")
		}
	}
	return nil
}

// Presence is the body of presence. LastSeen (ms) is when the user's last
// connection ended, 0 if that is not known.
type Presence struct {
	User      UserID   `json:"user"`
	Online    bool     `json:"online"`
	Platforms []string `json:"platforms"`
	LastSeen  int64    `json:"last_seen,omitempty"`
}

// Room is the body of join and leave.
type Room struct {
	Room RoomID `json:"room"`
}

// Validate checks the room's id.
func (r *Room) Validate() *Error {
	if !ValidID(string(r.Room)) {
		return Errorf(CodeBadRequest, "room is not an id: 1–64 of A–Z a–z 0–9 . _ @ -")
	}
	return nil
}

// RoomSend is the body of room_send.
type RoomSend struct {
	Room    RoomID  `json:"room"`
	Type    MsgType `json:"type"`
	Content string  `json:"content"`
}

// Validate checks a room_send by itself. Over maxContent bytes is too_large,
// all else bad_request.
func (r *RoomSend) Validate(maxContent int) *Error {
	if err := (&Room{Room: r.Room}).Validate(); err != nil {
		return err
	}
	if !r.Type.ClientType() {
		return Errorf(CodeBadRequest, "type is none that a client may send")
	}
	return CheckContent(r.Type, r.Content, maxContent)
}

// RoomMsg is the body of room_msg.
type RoomMsg struct {
	Room    RoomID  `json:"room"`
	ID      MsgID   `json:"id"`
	From    UserID  `json:"from"`
	Type    MsgType `json:"type"`
	Content string  `json:"content"`
	TS      int64   `json:"ts"`
}

// Broadcast is the body of broadcast.
type Broadcast struct {
	ID      MsgID   `json:"id"`
	Type    MsgType `json:"type"`
	Content string  `json:"content"`
	TS      int64   `json:"ts"`
}
