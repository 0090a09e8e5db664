package wire

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

// CodeInfo is what the protocol says of a code.
type CodeInfo struct {
	HTTP  int  // status of an HTTP answer with this code
	Retry bool // the same request may succeed later; carries retry_after_ms
}

var codeTable = map[Code]CodeInfo{
	CodeBadRequest:      {HTTP: 400},
	CodeUnsupported:     {HTTP: 400},
	CodeUnauthenticated: {HTTP: 401},
	CodeForbidden:       {HTTP: 403},
	CodeNotMember:       {HTTP: 403},
	CodeBlocked:         {HTTP: 403},
	CodeBanned:          {HTTP: 403},
	CodeMuted:           {HTTP: 403},
	CodeNotFound:        {HTTP: 404},
	CodeConflict:        {HTTP: 409},
	CodeTooLarge:        {HTTP: 413},
	CodeRateLimited:     {HTTP: 429, Retry: true},
	CodeOverloaded:      {HTTP: 503, Retry: true},
	CodeUnavailable:     {HTTP: 503, Retry: true},
	CodeInternal:        {HTTP: 500},
}

// Info returns the row of the code table; an unknown code is internal.
func (c Code) Info() CodeInfo {
	if i, ok := codeTable[c]; ok {
		return i
	}
	return codeTable[CodeInternal]
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
