package wire

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Limits of names, from docs/protocol.md section 1.
const (
	MaxIDLen       = 64      // user, group, device and room ids, in bytes
	MaxClientIDLen = 64      // client_id, in bytes
	MaxFrame       = 1 << 17 // largest frame a client may send, in bytes (then close 1009)
	MaxInFlight    = 64      // sends of one connection without an answer
)

// UserID names a user: 1–64 of [A-Za-z0-9._@-].
type UserID string

// GroupID names a group, in the form of a UserID.
type GroupID string

// DeviceID names one device of a user, in the form of a UserID.
type DeviceID string

// ServerID names a process (an edge, a logic, a job) in leases and routes.
type ServerID string

// ConnID numbers a connection. Ids of one edge grow, and a later login of the
// same device anywhere has the greater id: its high bits are milliseconds.
type ConnID uint64

// MsgID is a snowflake: 63 bits, unique in the system, sortable by time. In
// JSON it is a decimal string, because JavaScript has no 64-bit integers.
type MsgID int64

// String returns the decimal form used on the wire.
func (id MsgID) String() string { return strconv.FormatInt(int64(id), 10) }

// MarshalJSON writes the id as a decimal string.
func (id MsgID) MarshalJSON() ([]byte, error) {
	return strconv.AppendQuote(nil, id.String()), nil
}

// UnmarshalJSON reads a decimal string of at most 63 bits. "0" is what an
// absent id marshals to, and null changes nothing, as in encoding/json.
func (id *MsgID) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "null":
		return nil
	case `"0"`:
		*id = 0
		return nil
	}
	if len(b) < 2 || b[0] != '"' || b[len(b)-1] != '"' {
		return errors.New("message id is not a string")
	}
	v, err := ParseMsgID(string(b[1 : len(b)-1]))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

// ParseMsgID reads the decimal form of a message id, which is positive. Signs
// and leading zeros are refused: an id has one form.
func ParseMsgID(s string) (MsgID, error) {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil || v <= 0 || s[0] < '1' {
		return 0, fmt.Errorf("message id %.24q is not a positive decimal", s)
	}
	return MsgID(v), nil
}

// ValidID says whether s can name a user, group, device or room.
func ValidID(s string) bool {
	if s == "" || len(s) > MaxIDLen {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9',
			c == '.', c == '_', c == '@', c == '-':
		default:
			return false
		}
	}
	return true
}

// ValidClientID says whether s can be a client_id: 1–64 bytes of 0x21–0x7e.
func ValidClientID(s string) bool {
	if s == "" || len(s) > MaxClientIDLen {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// ConvID names a conversation: p:<a>:<b> with the users in byte order, or
// g:<group>.
type ConvID string

// PrivateConv returns the conversation of two users, who may be the same.
func PrivateConv(a, b UserID) ConvID {
	if b < a {
		a, b = b, a
	}
	return ConvID("p:" + string(a) + ":" + string(b))
}

// GroupConv returns the conversation of a group.
func GroupConv(g GroupID) ConvID { return ConvID("g:" + string(g)) }

// Conv is a parsed ConvID: either Group is set, or A and B (A <= B).
type Conv struct {
	Group GroupID
	A, B  UserID
}

// ErrBadConv is returned by ConvID.Parse for anything not of the two forms.
var ErrBadConv = errors.New("conversation id is neither p:<a>:<b> (ids in byte order) nor g:<group>")

// Parse checks and takes apart a conversation id.
func (c ConvID) Parse() (Conv, error) {
	s := string(c)
	switch {
	case strings.HasPrefix(s, "g:") && ValidID(s[2:]):
		return Conv{Group: GroupID(s[2:])}, nil
	case strings.HasPrefix(s, "p:"):
		a, b, ok := strings.Cut(s[2:], ":")
		if ok && ValidID(a) && ValidID(b) && a <= b {
			return Conv{A: UserID(a), B: UserID(b)}, nil
		}
	}
	return Conv{}, ErrBadConv
}

// IsGroup says whether the id has the form of a group conversation.
func (c ConvID) IsGroup() bool { return strings.HasPrefix(string(c), "g:") }

// Has says whether u is one of the two users of a private conversation.
func (c Conv) Has(u UserID) bool { return c.Group == "" && (c.A == u || c.B == u) }

// Peer returns the other user of a private conversation (u itself in notes to
// oneself).
func (c Conv) Peer(u UserID) UserID {
	if c.A == u {
		return c.B
	}
	return c.A
}
