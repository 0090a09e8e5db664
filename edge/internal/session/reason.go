package session

import "github.com/starling-im/starling/common/wire"

// Reason is why a session ended. The zero value means that it has not.
type Reason uint8

// Reasons.
const (
	None            Reason = iota
	ClientClosed           // the client sent a close frame
	Disconnected           // the socket ended without one
	BadHandshake           // no proper upgrade came
	HandshakeLate          // none came in time
	ProtocolError          // RFC 6455 or a binary header broken
	UnsupportedData        // reserved for messages that are neither text nor binary
	InvalidUTF8            //
	TooBig                 // a message over the limit
	AuthFlood              // more bytes before auth than the budget
	AuthTimeout            // no auth in time
	AuthFailed             // a bad token, another first frame, a foreign device
	TokenExpired           // exp passed on an open connection
	Banned                 // banned, revoked or ended by an administrator
	HeartbeatMissed        //
	Replaced               // the same device logged in again
	TooSlow                // the queue did not move for the write timeout, or overflowed with answers
	Unavailable            // log-in found no logic
	Overloaded             // too many log-ins at once
	TooMany                // the user has too many connections
	Drained                // this edge is leaving
	Shutdown               // this edge stopped
	numReasons
)

// reasonRow is what a reason is called and the close code that goes with it; 0
// sends none.
type reasonRow struct {
	name string
	code int
}

//nolint:gochecknoglobals // a constant table
var reasonTable = [numReasons]reasonRow{
	None:            {"none", 0},
	ClientClosed:    {"client_closed", 0},
	Disconnected:    {"disconnected", 0},
	BadHandshake:    {"bad_handshake", 0},
	HandshakeLate:   {"handshake_late", 0},
	ProtocolError:   {"protocol_error", wire.CloseProtocol},
	UnsupportedData: {"unsupported_data", wire.CloseUnsupportedData},
	InvalidUTF8:     {"invalid_utf8", wire.CloseInvalidUTF8},
	TooBig:          {"too_big", wire.CloseTooBig},
	AuthFlood:       {"auth_flood", wire.ClosePolicy},
	AuthTimeout:     {"auth_timeout", wire.CloseUnauthenticated},
	AuthFailed:      {"auth_failed", wire.CloseUnauthenticated},
	TokenExpired:    {"token_expired", wire.CloseUnauthenticated},
	Banned:          {"banned", wire.CloseBanned},
	HeartbeatMissed: {"heartbeat_missed", wire.CloseHeartbeat},
	Replaced:        {"replaced", wire.CloseReplaced},
	TooSlow:         {"too_slow", wire.CloseTooSlow},
	Unavailable:     {"unavailable", wire.CloseTryLater},
	Overloaded:      {"overloaded", wire.CloseTryLater},
	TooMany:         {"too_many", wire.ClosePolicy},
	Drained:         {"drained", wire.CloseRestart},
	Shutdown:        {"shutdown", wire.CloseGoingAway},
}

// String is the log field and the metric label.
func (r Reason) String() string {
	if r >= numReasons {
		return "unknown"
	}
	return reasonTable[r].name
}

// Code is the close code, 0 if no close frame is sent.
func (r Reason) Code() int {
	if r >= numReasons {
		return 0
	}
	return reasonTable[r].code
}

// ReasonOf returns the reason for a close code of the framing.
func ReasonOf(code int) Reason {
	switch code {
	case wire.CloseInvalidUTF8:
		return InvalidUTF8
	case wire.CloseTooBig:
		return TooBig
	case wire.CloseUnsupportedData:
		return UnsupportedData
	}
	return ProtocolError
}
