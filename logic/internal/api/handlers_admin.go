package api

import (
	"context"
	"strconv"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/history"
)

// ban is a user who is kept out; Until 0: for good. Times are in ms.
type ban struct {
	User  wire.UserID `json:"user"`
	Until int64       `json:"until,omitempty"`
	Since int64       `json:"since,omitempty"`
}

// putBan keeps a user out and ends its sessions.
func (s *Server) putBan(ctx context.Context, c *call) (any, error) {
	var req ban
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if err := checkSubject(req.User, ""); err != nil {
		return nil, err
	}
	if req.Until < 0 || req.Until != 0 && req.Until <= s.d.Now().UnixMilli() {
		return nil, wire.Errorf(wire.CodeBadRequest, "until is a time (ms) in the future, or 0 for good")
	}
	return done{}, s.d.Control.Decide(ctx, control.Entry{Kind: control.Ban, User: req.User, Until: req.Until})
}

// dropBan lets a user in again; one that is not banned is no error.
func (s *Server) dropBan(ctx context.Context, c *call) (any, error) {
	if err := checkSubject(c.member(), ""); err != nil {
		return nil, err
	}
	return done{}, s.d.Control.Decide(ctx, control.Entry{Kind: control.Unban, User: c.member()})
}

func (s *Server) bans(_ context.Context, c *call) (any, error) {
	limit, err := c.number("limit", history.DefaultPage, 1, history.MaxPage)
	if err != nil {
		return nil, err
	}
	list, more := s.d.Control.Bans(wire.UserID(c.Query("after")), int(limit))
	out := struct {
		Bans []ban  `json:"bans"`
		Next string `json:"next,omitempty"`
	}{Bans: []ban{}}
	for i := range list {
		out.Bans = append(out.Bans, ban{User: list[i].User, Until: list[i].Until, Since: list[i].At})
	}
	if more {
		out.Next = string(list[len(list)-1].User)
	}
	return out, nil
}

// kick ends the sessions of a user, or of one of its devices; they may come back.
func (s *Server) kick(ctx context.Context, c *call) (any, error) {
	var req struct {
		User   wire.UserID   `json:"user"`
		Device wire.DeviceID `json:"device"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if err := checkSubject(req.User, req.Device); err != nil {
		return nil, err
	}
	return done{}, s.d.Control.Decide(ctx, control.Entry{Kind: control.Kick, User: req.User, Device: req.Device})
}

// maxRevoked is for how many devices of a user revocations are kept one by one:
// each is known to every logic and edge for control.Kept.
const maxRevoked = 64

// revoke voids tokens: of the caller, or of whom a trusted caller names; of one
// device, or all.
func (s *Server) revoke(ctx context.Context, c *call) (any, error) {
	var req struct {
		User   wire.UserID   `json:"user"`
		Device wire.DeviceID `json:"device"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.User == "" {
		req.User = c.user()
	}
	if req.User != c.user() && !c.trusted() {
		return nil, wire.Errorf(wire.CodeForbidden, "only services may revoke the tokens of others")
	}
	if err := checkSubject(req.User, req.Device); err != nil {
		return nil, err
	}
	if at, n := s.d.Control.Revoked(req.User, req.Device); req.Device != "" && at == 0 && n >= maxRevoked {
		return nil, wire.Errorf(wire.CodeTooLarge, "the tokens of too many devices are revoked one by one; revoke those of all devices")
	}
	return done{}, s.d.Control.Decide(ctx, control.Entry{Kind: control.Revoke, User: req.User, Device: req.Device})
}

// endSession ends one connection of the caller.
func (s *Server) endSession(ctx context.Context, c *call) (any, error) {
	conn, err := strconv.ParseUint(c.Param("conn"), 10, 64)
	if err != nil || conn == 0 {
		return nil, wire.Errorf(wire.CodeBadRequest, "conn is none that auth_ok or /v1/sessions gave")
	}
	list, err := s.d.Presence.Sessions(ctx, c.user())
	if err != nil {
		return nil, err //nolint:wrapcheck // a use case's answer
	}
	for _, se := range list {
		if se.Conn == c.Param("conn") {
			return done{}, s.d.Control.Decide(ctx, control.Entry{Kind: control.Kick, User: c.user(), Conn: wire.ConnID(conn)})
		}
	}
	return nil, wire.Errorf(wire.CodeNotFound, "no such session")
}

func checkSubject(u wire.UserID, d wire.DeviceID) error {
	switch {
	case !wire.ValidID(string(u)):
		return wire.Errorf(wire.CodeBadRequest, "user is not an id: 1–64 of A–Z a–z 0–9 . _ @ -")
	case d != "" && !wire.ValidID(string(d)):
		return wire.Errorf(wire.CodeBadRequest, "device is not an id: 1–64 of A–Z a–z 0–9 . _ @ -")
	}
	return nil
}

// broadcast says something to all who are online.
func (s *Server) broadcast(ctx context.Context, c *call) (any, error) {
	var req struct {
		Type    wire.MsgType `json:"type"`
		Content string       `json:"content"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	id, err := s.d.Live.Broadcast(ctx, req.Type, req.Content)
	if err != nil {
		return nil, err //nolint:wrapcheck // a use case's answer
	}
	return map[string]wire.MsgID{"id": id}, nil
}
