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

// MaxUsers is how many users may be asked for at once.
const MaxUsers = 200

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

// Status is the presence of one user.
type Status struct {
	User      wire.UserID `json:"user"`
	Online    bool        `json:"online"`
	Platforms []string    `json:"platforms"`
	LastSeen  int64       `json:"last_seen,omitempty"`
}

// Of returns the presence of users, in the order asked.
func (s *Service) Of(ctx context.Context, users []wire.UserID) ([]Status, error) {
	if len(users) > MaxUsers {
		return nil, wire.Errorf(wire.CodeBadRequest, "more than 200 users at once")
	}
	for _, u := range users {
		if !wire.ValidID(string(u)) {
			return nil, wire.Errorf(wire.CodeBadRequest, "users holds something that is no id")
		}
	}
	out := make([]Status, 0, len(users))
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
		st := Status{User: u, Online: len(routes.Users[u]) > 0, Platforms: []string{}, LastSeen: seen[u]}
		for _, r := range routes.Users[u] {
			if r.Platform != "" && !slices.Contains(st.Platforms, r.Platform) {
				st.Platforms = append(st.Platforms, r.Platform)
			}
		}
		slices.Sort(st.Platforms)
		out = append(out, st)
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
