package api

import (
	"context"
	_ "embed"
	"math"
	"time"

	"github.com/starling-im/starling/common/idgen"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/history"
	"github.com/starling-im/starling/logic/internal/message"
	"github.com/starling-im/starling/logic/internal/presence"
)

// pendingFor is how long an operation without a verdict counts as under way.
const pendingFor = time.Hour

// openapi is the API as a machine reads it; a test holds it against the routes
// and against what they answer.
//
//go:embed openapi.json
var openapi []byte

func (s *Server) openAPI(context.Context, *call) (any, error) {
	return raw{status: statusOK, contentType: jsonType, body: openapi}, nil
}

func (s *Server) healthz(context.Context, *call) (any, error) {
	return map[string]string{"status": "ok"}, nil
}

func (s *Server) readyz(context.Context, *call) (any, error) {
	if err := s.d.Ready(); err != nil {
		return nil, &wire.Error{Code: wire.CodeUnavailable, Message: err.Error(), RetryAfterMS: retryAfterMS}
	}
	return map[string]string{"status": "ready"}, nil
}

func (s *Server) edges(ctx context.Context, c *call) (any, error) {
	return s.d.Presence.Edges(ctx, c.Query("region"))
}

// send is the same use case as a send on a socket.
func (s *Server) send(ctx context.Context, c *call) (any, error) {
	r := message.Request{From: c.user(), Trusted: c.trusted()}
	if err := c.decode(&r.Body); err != nil {
		return nil, err
	}
	if r.Body.From != "" && r.Body.From != c.user() {
		if !c.trusted() {
			return nil, wire.Errorf(wire.CodeForbidden, "only services may name another sender")
		}
		r.From = r.Body.From
	}
	type result struct {
		ack *wire.SendAck
		err *wire.Error
	}
	done := make(chan result, 1)
	r.Done = func(ack *wire.SendAck, err *wire.Error) { done <- result{ack, err} }
	if !wire.ValidID(string(r.From)) {
		return nil, wire.Errorf(wire.CodeBadRequest, "from is not an id: 1–64 of A–Z a–z 0–9 . _ @ -")
	}
	if r.From != c.user() { // who is banned does not write through a service either
		if werr := s.d.Control.Deny(r.From, "", s.d.Now()); werr != nil {
			return nil, werr
		}
	}
	s.d.Messages.Send(ctx, []message.Request{r})
	select {
	case res := <-done:
		if res.err != nil {
			return nil, res.err
		}
		return res.ack, nil
	case <-ctx.Done():
		return nil, &wire.Error{
			Code: wire.CodeUnavailable, Message: "the log has not answered; send again with the same client_id",
			RetryAfterMS: message.RetryAfterMS, ClientID: r.Body.ClientID,
		}
	}
}

func (s *Server) conversations(ctx context.Context, c *call) (any, error) {
	limit, err := c.number("limit", history.DefaultPage, 1, history.MaxPage)
	if err != nil {
		return nil, err
	}
	after := wire.ConvID(c.Query("after"))
	if after != "" {
		if _, err := after.Parse(); err != nil {
			return nil, wire.Errorf(wire.CodeBadRequest, "after is none that next gave")
		}
	}
	return s.d.History.Conversations(ctx, c.user(), c.claims.Device, after, int(limit))
}

func (s *Server) messages(ctx context.Context, c *call) (any, error) {
	limit, err := c.number("limit", history.DefaultPage, 1, history.MaxPage)
	if err != nil {
		return nil, err
	}
	after, err := c.number("after", 0, 0, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	if c.Query("after") != "" && after == 0 {
		after = -1 // given, so the oldest are asked for
	}
	before, err := c.number("before", 0, 0, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	return s.d.History.History(ctx, c.user(), wire.ConvID(c.Param("conv")), after, before, int(limit))
}

func (s *Server) receipts(ctx context.Context, c *call) (any, error) {
	limit, err := c.number("limit", history.DefaultPage, 1, history.MaxPage)
	if err != nil {
		return nil, err
	}
	seq, err := c.number("seq", 0, 0, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	return s.d.History.Receipts(ctx, c.user(), wire.ConvID(c.Param("conv")), seq, wire.UserID(c.Query("after")), int(limit))
}

func (s *Server) presenceOf(ctx context.Context, c *call) (any, error) {
	list, err := s.d.Presence.Of(ctx, []wire.UserID{wire.UserID(c.Param("user"))})
	if err != nil {
		return nil, err //nolint:wrapcheck // a use case's answer
	}
	return list[0], nil
}

func (s *Server) presences(ctx context.Context, c *call) (any, error) {
	var req struct {
		Users []wire.UserID `json:"users"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	list, err := s.d.Presence.Of(ctx, req.Users)
	if err != nil {
		return nil, err //nolint:wrapcheck // a use case's answer
	}
	return map[string][]wire.Presence{"users": list}, nil
}

func (s *Server) sessions(ctx context.Context, c *call) (any, error) {
	list, err := s.d.Presence.Sessions(ctx, c.user())
	if err != nil {
		return nil, err //nolint:wrapcheck // a use case's answer
	}
	return map[string][]presence.Session{"sessions": list}, nil
}

// sender is whose operation is asked for: the caller's, or of the sender that a
// service has named in its send and names again.
func (c *call) sender() (wire.UserID, error) {
	from := wire.UserID(c.Query("from"))
	switch {
	case from == "" || from == c.user():
		return c.user(), nil
	case !c.trusted():
		return "", wire.Errorf(wire.CodeForbidden, "only services may name another sender")
	case !wire.ValidID(string(from)):
		return "", wire.Errorf(wire.CodeBadRequest, "from is not an id: 1–64 of A–Z a–z 0–9 . _ @ -")
	}
	return from, nil
}

// operation answers 202 while a young operation has no verdict.
func (s *Server) operation(ctx context.Context, c *call) (any, error) {
	id, err := wire.ParseMsgID(c.Param("id"))
	if err != nil {
		return nil, wire.Errorf(wire.CodeBadRequest, err.Error())
	}
	from, err := c.sender()
	if err != nil {
		return nil, err
	}
	op, err := s.d.Messages.OperationByID(ctx, from, id)
	if isNotFound(err) {
		age := s.d.Now().Sub(time.UnixMilli(idgen.Time(id)))
		if age > -pendingFor && age < pendingFor {
			return accepted{message.Operation{ID: id}}, nil
		}
	}
	return op, err //nolint:wrapcheck // a use case's answer
}

func (s *Server) operationByKey(ctx context.Context, c *call) (any, error) {
	conv, key := wire.ConvID(c.Query("conv")), c.Query("client_id")
	if _, err := conv.Parse(); err != nil {
		return nil, wire.Errorf(wire.CodeBadRequest, err.Error())
	}
	if !wire.ValidClientID(key) {
		return nil, wire.Errorf(wire.CodeBadRequest, "client_id is not 1–64 bytes of 0x21–0x7e")
	}
	from, err := c.sender()
	if err != nil {
		return nil, err
	}
	return s.d.Messages.OperationByKey(ctx, from, conv, key)
}
