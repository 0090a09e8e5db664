package wire

import (
	"errors"
	"net/http"
	"time"
)

// Code is an error code: the contract with clients. Texts beside it are
// English and may change.
type Code string

// Error codes of docs/protocol.md.
const (
	CodeBadRequest      Code = "bad_request"
	CodeUnauthenticated Code = "unauthenticated"
	CodeForbidden       Code = "forbidden"
	CodeNotMember       Code = "not_member"
	CodeBlocked         Code = "blocked"
	CodeBanned          Code = "banned"
	CodeMuted           Code = "muted"
	CodeNotFound        Code = "not_found"
	CodeConflict        Code = "conflict"
	CodeTooLarge        Code = "too_large"
	CodeRateLimited     Code = "rate_limited"
	CodeOverloaded      Code = "overloaded"
	CodeUnavailable     Code = "unavailable"
	CodeUnsupported     Code = "unsupported"
	CodeInternal        Code = "internal"
)

// CodeInfo is what the protocol says of an error code.
type CodeInfo struct {
	HTTP  int  // status of an HTTP answer with this code
	Retry bool // the same request may succeed later; carries retry_after_ms
}

// Info returns what the protocol says of the code; an unknown one is internal.
func (c Code) Info() CodeInfo {
	switch c {
	case CodeBadRequest, CodeUnsupported:
		return CodeInfo{HTTP: http.StatusBadRequest}
	case CodeUnauthenticated:
		return CodeInfo{HTTP: http.StatusUnauthorized}
	case CodeForbidden, CodeNotMember, CodeBlocked, CodeBanned, CodeMuted:
		return CodeInfo{HTTP: http.StatusForbidden}
	case CodeNotFound:
		return CodeInfo{HTTP: http.StatusNotFound}
	case CodeConflict:
		return CodeInfo{HTTP: http.StatusConflict}
	case CodeTooLarge:
		return CodeInfo{HTTP: http.StatusRequestEntityTooLarge}
	case CodeRateLimited:
		return CodeInfo{HTTP: http.StatusTooManyRequests, Retry: true}
	case CodeOverloaded, CodeUnavailable:
		return CodeInfo{HTTP: http.StatusServiceUnavailable, Retry: true}
	case CodeInternal:
	}
	return CodeInfo{HTTP: http.StatusInternalServerError}
}

// Codes returns all error codes, in the order of docs/protocol.md.
func Codes() []Code {
	return []Code{
		CodeBadRequest, CodeUnauthenticated, CodeForbidden, CodeNotMember, CodeBlocked,
		CodeBanned, CodeMuted, CodeNotFound, CodeConflict, CodeTooLarge, CodeRateLimited,
		CodeOverloaded, CodeUnavailable, CodeUnsupported, CodeInternal,
	}
}

// Error is a refusal that goes to a client as it stands.
type Error struct {
	Code         Code   `json:"code"`
	Message      string `json:"message"`
	RetryAfterMS int64  `json:"retry_after_ms,omitempty"`
	ClientID     string `json:"client_id,omitempty"`
}

// Error returns code and text.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Errorf makes an Error of a code and a text.
func Errorf(code Code, text string) *Error { return &Error{Code: code, Message: text} }

// RateLimited makes the Error of who must wait before it tries again.
func RateLimited(wait time.Duration, text string) *Error {
	return &Error{Code: CodeRateLimited, Message: text, RetryAfterMS: wait.Milliseconds() + 1} // rounded up: not too early
}

// Close codes of docs/protocol.md.
const (
	CloseBye             = 1000
	CloseGoingAway       = 1001
	CloseProtocol        = 1002
	CloseUnsupportedData = 1003
	CloseInvalidUTF8     = 1007
	ClosePolicy          = 1008
	CloseTooBig          = 1009
	CloseRestart         = 1012
	CloseTryLater        = 1013
	CloseUnauthenticated = 4001
	CloseBanned          = 4003
	CloseHeartbeat       = 4008
	CloseReplaced        = 4009
	CloseTooSlow         = 4010
)

// Reaction is what a client does after a close, by itself.
type Reaction uint8

// Reactions to a close.
const (
	ComeBack Reaction = iota // reconnect, with growing pauses
	StayAway                 // not before a person or new credentials say so
)

// String returns the form that tables and logs show.
func (r Reaction) String() string {
	if r == StayAway {
		return "stay_away"
	}
	return "come_back"
}

// CloseInfo is what the protocol says of a close code.
type CloseInfo struct {
	Name     string // snake_case, for logs and metric labels
	Reaction Reaction
}

// CloseInfoOf returns what the protocol says of a close code. One that it does
// not have is "unknown", after which clients come back.
func CloseInfoOf(code int) CloseInfo {
	switch code {
	case CloseBye:
		return CloseInfo{Name: "bye"}
	case CloseGoingAway:
		return CloseInfo{Name: "going_away"}
	case CloseProtocol:
		return CloseInfo{Name: "protocol_error"}
	case CloseUnsupportedData:
		return CloseInfo{Name: "unsupported_data"}
	case CloseInvalidUTF8:
		return CloseInfo{Name: "invalid_utf8"}
	case ClosePolicy:
		return CloseInfo{Name: "policy"}
	case CloseTooBig:
		return CloseInfo{Name: "too_big"}
	case CloseRestart:
		return CloseInfo{Name: "restart"}
	case CloseTryLater:
		return CloseInfo{Name: "try_later"}
	case CloseUnauthenticated:
		return CloseInfo{Name: "unauthenticated", Reaction: StayAway}
	case CloseBanned:
		return CloseInfo{Name: "banned", Reaction: StayAway}
	case CloseHeartbeat:
		return CloseInfo{Name: "heartbeat"}
	case CloseReplaced:
		return CloseInfo{Name: "replaced", Reaction: StayAway}
	case CloseTooSlow:
		return CloseInfo{Name: "too_slow"}
	}
	return CloseInfo{Name: "unknown"}
}

// CloseCodes returns all close codes, in the order of docs/protocol.md.
func CloseCodes() []int {
	return []int{
		CloseBye, CloseGoingAway, CloseProtocol, CloseUnsupportedData, CloseInvalidUTF8,
		ClosePolicy, CloseTooBig, CloseRestart, CloseTryLater, CloseUnauthenticated,
		CloseBanned, CloseHeartbeat, CloseReplaced, CloseTooSlow,
	}
}

// CloseOf returns the close code for an error of DecodeBinary or Frames, with
// which a connection ends: nothing after such bytes can be understood.
func CloseOf(err error) int {
	switch {
	case errors.Is(err, ErrTooBig):
		return CloseTooBig
	case errors.Is(err, ErrUTF8):
		return CloseInvalidUTF8
	}
	return CloseProtocol
}
