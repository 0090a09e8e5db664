package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/cloudwego/hertz/pkg/app"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/message"
)

const (
	requestIDHeader = "X-Request-Id"
	jsonType        = "application/json; charset=utf-8"
	statusOK        = 200
	statusAccepted  = 202
	retryAfterMS    = 1000
)

// call is one request.
type call struct {
	*app.RequestContext
	claims token.Claims
	id     string
}

// accepted is an answer with status 202.
type accepted struct{ body any }

// raw is an answer that is no JSON.
type raw struct {
	status      int
	contentType string
	body        []byte
}

// serve wraps a route: counts, time, request id, policy, errors.
func (s *Server) serve(r *route) app.HandlerFunc {
	return func(ctx context.Context, rc *app.RequestContext) {
		start := s.d.Now()
		if s.enter() {
			rc.SetConnectionClose()
		}
		defer s.leave()
		ctx, cancel := context.WithTimeout(ctx, CallTime)
		defer cancel()
		c := &call{RequestContext: rc, id: requestID(string(rc.GetHeader(requestIDHeader)))}
		rc.Response.Header.Set(requestIDHeader, c.id)
		rc.Response.Header.Set("X-Content-Type-Options", "nosniff")
		rc.Response.Header.Set("Cache-Control", "no-store")
		body, err := s.do(ctx, r, c)
		s.answer(c, r, body, err)
		s.d.Metrics.requests.WithLabelValues(r.method+" "+r.path, strconv.Itoa(rc.Response.StatusCode())).Inc()
		s.d.Metrics.seconds.WithLabelValues(r.method + " " + r.path).Observe(s.d.Now().Sub(start).Seconds())
	}
}

// do checks the policy and calls the handler; a panic is an internal error.
func (s *Server) do(ctx context.Context, r *route, c *call) (body any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.d.Log.Error("BUG: panic in a call", zap.String("route", r.path), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			body, err = nil, wire.Errorf(wire.CodeInternal, "internal error")
		}
	}()
	if ambiguous(c.Request.Header.RawHeaders()) {
		c.SetConnectionClose()
		return nil, wire.Errorf(wire.CodeBadRequest, "Content-Length stands twice, or beside Transfer-Encoding")
	}
	if !r.public {
		claims, err := s.authenticate(c)
		if err != nil {
			return nil, err
		}
		if !r.allowed(claims) {
			return nil, wire.Errorf(wire.CodeForbidden, "the token's roles do not allow this")
		}
		c.claims = claims
		if werr := s.tooMany(r, c); werr != nil {
			return nil, werr
		}
	}
	if len(c.Request.Body()) > MaxBody {
		return nil, wire.Errorf(wire.CodeTooLarge, "body is over 256 KiB")
	}
	return r.do(s, ctx, c)
}

// tooMany counts a call as one more message of the user, and says whether there
// were too many. Trusted callers act for many users and are not counted.
func (s *Server) tooMany(r *route, c *call) *wire.Error {
	if !r.counted || c.trusted() {
		return nil
	}
	wait := s.d.Quota.Take(c.user())
	if wait <= 0 {
		return nil
	}
	return wire.RateLimited(wait, "too many changes of this user")
}

// ambiguous says whether a proxy in front may have seen the body end elsewhere,
// and what follows as another request.
func ambiguous(headers []byte) bool {
	lengths, encodings := 0, 0
	for line := range bytes.Lines(headers) {
		name, _, _ := bytes.Cut(line, []byte{':'})
		switch name = bytes.TrimSpace(name); {
		case bytes.EqualFold(name, []byte("Content-Length")):
			lengths++
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			encodings++
		}
	}
	return lengths+encodings > 1
}

func (s *Server) authenticate(c *call) (token.Claims, error) {
	scheme, t, ok := strings.Cut(string(c.GetHeader("Authorization")), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return token.Claims{}, wire.Errorf(wire.CodeUnauthenticated, "Authorization: Bearer <token> is needed")
	}
	claims, err := s.d.Verifier.Verify(strings.TrimSpace(t), s.d.Now())
	switch {
	case errors.Is(err, token.ErrExpired):
		return claims, wire.Errorf(wire.CodeUnauthenticated, "token has expired")
	case err != nil:
		return claims, wire.Errorf(wire.CodeUnauthenticated, "token is not valid")
	}
	if err := s.d.Control.Deny(claims.User, claims.Device, claims.AuthTime); err != nil {
		return claims, err
	}
	return claims, nil
}

// requestID keeps a caller's id if it is of a decent form.
func requestID(given string) string {
	if wire.ValidClientID(given) {
		return given
	}
	return rand.Text()
}

// answer writes body or err.
func (s *Server) answer(c *call, r *route, body any, err error) {
	if undecided, ok := errors.AsType[*message.UndecidedError](err); ok {
		body, err = accepted{map[string]wire.MsgID{"operation": undecided.Operation}}, nil
	}
	if err != nil {
		s.answerError(c, r, err)
		return
	}
	status := statusOK
	switch b := body.(type) {
	case raw:
		c.Data(b.status, b.contentType, b.body)
		return
	case accepted:
		status, body = statusAccepted, b.body
	}
	b, err := wire.Marshal(body)
	if err != nil {
		s.answerError(c, r, err)
		return
	}
	c.Data(status, jsonType, b)
}

// answerError maps an error to its code's status. What no use case has put into
// a code is the store's or the index's: unavailable.
func (s *Server) answerError(c *call, r *route, err error) {
	we := new(wire.Error)
	if !errors.As(err, &we) {
		s.d.Log.Warn("call failed", zap.String("route", r.path), zap.String("request_id", c.id), zap.Error(err))
		we = &wire.Error{Code: wire.CodeUnavailable, Message: "no answer in time; try again", RetryAfterMS: retryAfterMS}
	}
	info := we.Code.Info()
	if info.Retry {
		ms := we.RetryAfterMS
		if ms <= 0 {
			ms = retryAfterMS
		}
		c.Response.Header.Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
	}
	if we.Code == wire.CodeUnauthenticated {
		c.Response.Header.Set("WWW-Authenticate", "Bearer")
	}
	b, err := wire.Marshal(map[string]*wire.Error{"error": we})
	if err != nil {
		b = []byte(`{"error":{"code":"internal","message":"internal error"}}`)
	}
	c.Data(info.HTTP, jsonType, b)
}

// decode reads the body into v.
func (c *call) decode(v any) error {
	if err := wire.Decode(c.Request.Body(), v); err != nil {
		return err
	}
	return nil
}

// user is the caller.
func (c *call) user() wire.UserID { return c.claims.User }

// trusted says whether the caller may act for others.
func (c *call) trusted() bool {
	return c.claims.Has(token.RoleAdmin) || c.claims.Has(token.RoleService)
}

// number reads a query parameter; def if it is absent.
func (c *call) number(name string, def, lo, hi int64) (int64, error) {
	s, ok := c.GetQuery(name)
	if !ok || s == "" {
		return def, nil
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil || v < lo || v > hi {
		return 0, wire.Errorf(wire.CodeBadRequest, name+" is not a number from "+strconv.FormatInt(lo, 10)+" to "+strconv.FormatInt(hi, 10))
	}
	return v, nil
}

// command names who does what under which key.
func (c *call) command() message.Command {
	return message.Command{By: c.user(), Key: string(c.GetHeader("Idempotency-Key"))}
}
