// Package presence reads from the index who is where: whether users are
// online, the caller's own sessions, and the edges that take connections.
//
// The index may be wrong by a lease; without it every answer is an error of
// code unavailable. A Service is safe for concurrent use and keeps nothing.
package presence

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/wire"
)

const retryAfterMS = 1000

// Index is what is asked of Redis.
type Index interface {
	Lookup(ctx context.Context, users []wire.UserID, groups []wire.GroupID) (registry.Routes, error)
	LastSeen(ctx context.Context, users []wire.UserID) (map[wire.UserID]int64, error)
	Live(ctx context.Context, tier string) ([]registry.Lease, error)
}

// Service is the use case.
type Service struct{ index Index }

// New returns a Service.
func New(index Index) (*Service, error) {
	if index == nil {
		return nil, errors.New("presence: an index is needed")
	}
	return &Service{index: index}, nil
}

// Of returns the presence of users, in the order asked.
func (s *Service) Of(ctx context.Context, users []wire.UserID) ([]wire.Presence, error) {
	if err := (&wire.Users{Users: users}).Validate(); err != nil {
		return nil, err
	}
	out := make([]wire.Presence, 0, len(users))
	if len(users) == 0 {
		return out, nil
	}
	routes, err := s.index.Lookup(ctx, users, nil)
	if err != nil {
		return nil, away()
	}
	seen, err := s.index.LastSeen(ctx, users)
	if err != nil {
		return nil, away()
	}
	for _, u := range users {
		out = append(out, routes.Presence(u, seen[u]))
	}
	return out, nil
}

// Session is one connection of a user. Conn is a decimal string.
type Session struct {
	Conn     string        `json:"conn"`
	Device   wire.DeviceID `json:"device"`
	Platform string        `json:"platform,omitempty"`
	Server   wire.ServerID `json:"server"`
	Since    int64         `json:"since"`
}

// Sessions lists the connections of u, oldest first.
func (s *Service) Sessions(ctx context.Context, u wire.UserID) ([]Session, error) {
	routes, err := s.index.Lookup(ctx, []wire.UserID{u}, nil)
	if err != nil {
		return nil, away()
	}
	list := slices.Clone(routes.Users[u])
	slices.SortFunc(list, func(a, b registry.Route) int { return cmp.Compare(a.Conn, b.Conn) })
	out := make([]Session, 0, len(list))
	for _, r := range list {
		out = append(out, Session{
			Conn: strconv.FormatUint(uint64(r.Conn), 10), Device: r.Device, Platform: r.Platform, Server: r.Server, Since: r.Since,
		})
	}
	return out, nil
}

// Nodes lists the processes of all tiers that live.
func (s *Service) Nodes(ctx context.Context) ([]registry.Lease, error) {
	var out []registry.Lease
	for _, tier := range []string{registry.TierEdge, registry.TierLogic, registry.TierJob} {
		list, err := s.index.Live(ctx, tier)
		if err != nil {
			return nil, away()
		}
		out = append(out, list...)
	}
	return out, nil
}

// Edge is where a client may connect.
type Edge struct {
	URL    string `json:"url"`
	Region string `json:"region"`
	Load   int64  `json:"load"`
}

// Edges lists the edges that take connections, to be tried in this order
// (registry.Suitable); another one each time, so that clients spread.
func (s *Service) Edges(ctx context.Context, region string) ([]Edge, error) {
	leases, err := s.index.Live(ctx, registry.TierEdge)
	if err != nil {
		return nil, away()
	}
	leases = registry.Suitable(leases, region)
	out := make([]Edge, 0, len(leases))
	for _, l := range leases {
		out = append(out, Edge{URL: l.URL, Region: l.Region, Load: l.Load})
	}
	return out, nil
}

func away() error {
	return &wire.Error{Code: wire.CodeUnavailable, Message: "who is where is not known now", RetryAfterMS: retryAfterMS}
}
