package wire

import (
	"unicode/utf8"

	"github.com/bytedance/sonic"
)

// Limits of bodies, from docs/protocol.md section 2.
const (
	DefaultMaxContent = 16 << 10 // bytes of content, unless set otherwise
	MaxMentions       = 100      // users in mention
	DefaultSyncLimit  = 100      // messages and updates of a sync_ok, unless asked otherwise
	MaxSyncLimit      = 500
	MaxSyncCursors    = 10_000 // conversations named in one sync
	maxAuthField      = 64     // bytes of platform and region
	maxCaps           = 32
	// MaxTokenLen bounds a JWT, in auth and in headers.
	MaxTokenLen = 8 << 10
)

// Conv returns the conversation that a send from this user goes to. The body
// has been validated.
func (s Send) Conv(from UserID) ConvID {
	if s.Group != "" {
		return GroupConv(s.Group)
	}
	return PrivateConv(from, s.To)
}

// Validate checks a send by itself; rights are another matter. Its errors name
// the client_id where that is valid. Over maxContent bytes is too_large, all
// else bad_request. From, which only services set, is checked for its form.
func (s *Send) Validate(maxContent int) *Error {
	if !ValidClientID(s.ClientID) {
		return Errorf(CodeBadRequest, "client_id is not 1–64 bytes of 0x21–0x7e")
	}
	err := s.validate(maxContent)
	if err != nil {
		err.ClientID = s.ClientID
	}
	return err
}

func (s *Send) validate(maxContent int) *Error {
	if err := checkTarget(s.To, s.Group); err != nil {
		return err
	}
	switch {
	case s.From != "" && !ValidID(string(s.From)):
		return Errorf(CodeBadRequest, "from is not an id: 1–64 of A–Z a–z 0–9 . _ @ -")
	case !s.Type.ClientType():
		return Errorf(CodeBadRequest, "type is none that a client may send")
	case s.ReplyTo < 0:
		return Errorf(CodeBadRequest, "reply_to is not a message id")
	case len(s.Mention) > MaxMentions:
		return Errorf(CodeBadRequest, "mention names more than 100 users")
	}
	for _, u := range s.Mention {
		if !ValidID(string(u)) {
			return Errorf(CodeBadRequest, "mention holds something that is no id")
		}
	}
	return CheckContent(s.Type, s.Content, maxContent)
}

// checkTarget checks that exactly one of to and group is given, and is an id.
func checkTarget(to UserID, group GroupID) *Error {
	switch {
	case (to == "") == (group == ""):
		return Errorf(CodeBadRequest, "exactly one of to and group is needed")
	case to != "" && !ValidID(string(to)):
		return Errorf(CodeBadRequest, "to is not an id: 1–64 of A–Z a–z 0–9 . _ @ -")
	case group != "" && !ValidID(string(group)):
		return Errorf(CodeBadRequest, "group is not an id: 1–64 of A–Z a–z 0–9 . _ @ -")
	}
	return nil
}

// CheckContent checks content for a type: at most maxContent bytes (else
// too_large) of UTF-8, and a JSON text unless the type is text.
func CheckContent(t MsgType, content string, maxContent int) *Error {
	switch {
	case len(content) > maxContent:
		return Errorf(CodeTooLarge, "content is over the limit")
	case !utf8.ValidString(content):
		return Errorf(CodeBadRequest, "content is not valid UTF-8")
	case t == TypeText:
		return nil
	}
	if b := []byte(content); tooDeep(b) || !sonic.Valid(b) {
		return Errorf(CodeBadRequest, "content is not a JSON text, as types other than text need")
	}
	return nil
}

// Validate checks an ack or a read. A seq beyond the conversation's is no
// error: it is clamped where that is known.
func (c *Cursor) Validate() *Error {
	if _, err := c.Conv.Parse(); err != nil {
		return Errorf(CodeBadRequest, err.Error())
	}
	if c.Seq < 0 {
		return Errorf(CodeBadRequest, "seq is negative")
	}
	return nil
}

// Validate checks a sync and sets a Limit of 0 to the default.
func (s *Sync) Validate() *Error {
	if s.Limit == 0 {
		s.Limit = DefaultSyncLimit
	}
	switch {
	case s.Limit < 1 || s.Limit > MaxSyncLimit:
		return Errorf(CodeBadRequest, "limit is not in 1–500")
	case len(s.Cursors) > MaxSyncCursors:
		return Errorf(CodeBadRequest, "cursors name more than 10000 conversations")
	case len(s.Token) > MaxFrame: // it may carry as many cursors as a frame did
		return Errorf(CodeBadRequest, "token is none that a sync_ok carried")
	}
	for conv, seq := range s.Cursors {
		if err := (&Cursor{Conv: conv, Seq: seq}).Validate(); err != nil {
			return err
		}
	}
	return nil
}

// Validate checks the form of an auth; the token is judged by its verifier. A
// device may be absent here, if the token names one.
func (a *Auth) Validate() *Error {
	switch {
	case a.Token == "":
		return Errorf(CodeUnauthenticated, "token is missing")
	case len(a.Token) > MaxTokenLen:
		return Errorf(CodeUnauthenticated, "token is longer than 8 KiB")
	case a.Device != "" && !ValidID(string(a.Device)):
		return Errorf(CodeBadRequest, "device is not an id: 1–64 of A–Z a–z 0–9 . _ @ -")
	case len(a.Platform) > maxAuthField, len(a.Region) > maxAuthField:
		return Errorf(CodeBadRequest, "platform or region is longer than 64 bytes")
	case a.V < 0 || len(a.Caps) > maxCaps:
		return Errorf(CodeBadRequest, "v or caps is out of range")
	}
	return nil
}

// Validate checks a recall.
func (r *RecallBody) Validate() *Error {
	if _, err := r.Conv.Parse(); err != nil {
		return Errorf(CodeBadRequest, err.Error())
	}
	if r.ID <= 0 {
		return Errorf(CodeBadRequest, "id is missing")
	}
	return nil
}

// ValidateEdit checks an edit: a recall's fields and the new content, whose
// type only the message knows, so JSON is not asked for here.
func (r *RecallBody) ValidateEdit(maxContent int) *Error {
	if err := r.Validate(); err != nil {
		return err
	}
	if r.Content == "" {
		return Errorf(CodeBadRequest, "content is missing")
	}
	return CheckContent(TypeText, r.Content, maxContent)
}
