package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
)

// Lifetimes of tokens.
const (
	tokenTTL    = 24 * time.Hour
	maxTokenTTL = 30 * 24 * time.Hour
	refreshTTL  = 30 * 24 * time.Hour
	maxRoles    = 4 // there are no more
)

// issued is the answer of everything that makes tokens. Expires is in ms.
type issued struct {
	Token   string `json:"token"`
	Refresh string `json:"refresh"`
	Expires int64  `json:"expires"`
}

// login gives anyone a token under any name, in the embedded default alone.
func (s *Server) login(_ context.Context, c *call) (any, error) {
	if !s.d.Embedded {
		return nil, notHere()
	}
	var req struct {
		User   wire.UserID   `json:"user"`
		Device wire.DeviceID `json:"device"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	return s.issue(token.Claims{User: req.User, Device: req.Device, Roles: []string{token.RoleUser}}, tokenTTL)
}

// mint makes a token for a user. Only an admin may give roles beyond user.
func (s *Server) mint(_ context.Context, c *call) (any, error) {
	var req struct {
		User   wire.UserID   `json:"user"`
		Device wire.DeviceID `json:"device"`
		Roles  []string      `json:"roles"`
		TTLS   int64         `json:"ttl_s"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if len(req.Roles) == 0 {
		req.Roles = []string{token.RoleUser}
	}
	if len(req.Roles) > maxRoles {
		return nil, wire.Errorf(wire.CodeBadRequest, "roles are user, operator, admin and service")
	}
	for _, r := range req.Roles {
		if !token.ValidRole(r) {
			return nil, wire.Errorf(wire.CodeBadRequest, "roles are user, operator, admin and service")
		}
		if r != token.RoleUser && !c.claims.Has(token.RoleAdmin) {
			return nil, wire.Errorf(wire.CodeForbidden, "only an admin may give the role "+r)
		}
	}
	ttl := tokenTTL
	if req.TTLS != 0 {
		if req.TTLS < 1 || req.TTLS > int64(maxTokenTTL/time.Second) {
			return nil, wire.Errorf(wire.CodeBadRequest, "ttl_s is not from 1 to 2592000")
		}
		ttl = time.Duration(req.TTLS) * time.Second
	}
	return s.issue(token.Claims{User: req.User, Device: req.Device, Roles: req.Roles}, ttl)
}

// refresh makes new tokens out of a refresh token. They keep the time of the
// log-in: a revocation that is on its way here voids them too.
func (s *Server) refresh(_ context.Context, c *call) (any, error) {
	var req struct {
		Refresh string `json:"refresh"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	claims, err := s.d.Verifier.VerifyRefresh(req.Refresh, s.d.Now())
	if err != nil {
		return nil, wire.Errorf(wire.CodeUnauthenticated, "refresh token is not valid")
	}
	if err := s.d.Control.Deny(claims.User, claims.Device, claims.AuthTime); err != nil {
		return nil, err
	}
	return s.issue(token.Claims{User: claims.User, Device: claims.Device, Roles: slices.Clone(claims.Roles), AuthTime: claims.AuthTime}, tokenTTL)
}

func (s *Server) issue(c token.Claims, ttl time.Duration) (any, error) {
	switch {
	case s.d.Tokens == nil:
		return nil, notHere()
	case !wire.ValidID(string(c.User)):
		return nil, wire.Errorf(wire.CodeBadRequest, "user is not an id: 1–64 of A–Z a–z 0–9 . _ @ -")
	case c.Device != "" && !wire.ValidID(string(c.Device)):
		return nil, wire.Errorf(wire.CodeBadRequest, "device is not an id: 1–64 of A–Z a–z 0–9 . _ @ -")
	}
	c.IssuedAt = s.d.Now()
	access, err := s.d.Tokens.Mint(c, ttl)
	if errors.Is(err, token.ErrNoSigningKey) {
		return nil, notHere()
	}
	if err != nil {
		return nil, fmt.Errorf("mint: %w", err)
	}
	c.Use = token.UseRefresh
	again, err := s.d.Tokens.Mint(c, max(ttl, refreshTTL))
	if err != nil {
		return nil, fmt.Errorf("mint: %w", err)
	}
	return issued{Token: access, Refresh: again, Expires: c.IssuedAt.Add(ttl).UnixMilli()}, nil
}

func notHere() error { return wire.Errorf(wire.CodeNotFound, "not found") }
