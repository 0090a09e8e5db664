// Package registry is who is where, in Redis: leases of edges, logics and
// jobs, routes of users, edges of groups; and what else Redis holds for a
// while: reserved client ids, cached messages, offline lists.
//
// Redis is an index, never the truth. Every look-up says whether it can be
// trusted (Routes.Known); a caller that gets false or an error does the slower
// thing that needs no index. Calls end after Config.Timeout, without retry,
// behind a breaker. A Client is safe for concurrent use.
package registry

import (
	"context"
	"slices"
	"time"

	"github.com/starling-im/starling/common/wire"
)

// Tiers that take leases.
const (
	TierEdge  = "edge"
	TierLogic = "logic"
	TierJob   = "job"
)

// Lease is a process that lives while its key does. A new Epoch after every
// lapse; routes written under an older epoch count no more.
type Lease struct {
	Tier     string        `json:"tier"`
	Server   wire.ServerID `json:"server"`
	Epoch    uint64        `json:"epoch"`
	RPCAddr  string        `json:"rpc_addr"`      // host:port of its gRPC server
	URL      string        `json:"url,omitempty"` // edge: ws://host:port/ws for clients
	Region   string        `json:"region,omitempty"`
	Zone     string        `json:"zone,omitempty"`
	Weight   int           `json:"weight,omitempty"`
	Load     int64         `json:"load"` // edge: connections now
	Draining bool          `json:"draining,omitempty"`
}

// Route says where one session of a user is.
type Route struct {
	Conn     wire.ConnID   `json:"conn"`
	Server   wire.ServerID `json:"server"`
	Epoch    uint64        `json:"epoch"`
	Device   wire.DeviceID `json:"device"`
	Platform string        `json:"platform,omitempty"`
	Since    int64         `json:"since"` // ms
}

// Routes is the answer of a look-up. With Known false the index may have
// holes: push to every edge.
type Routes struct {
	Known  bool
	Users  map[wire.UserID][]Route          // live leases only
	Groups map[wire.GroupID][]wire.ServerID // edges with a member, live leases only
}

// Presence is what the routes say of a user. lastSeen is LastSeen's, 0 for
// never.
func (r *Routes) Presence(u wire.UserID, lastSeen int64) wire.Presence {
	p := wire.Presence{User: u, Online: len(r.Users[u]) > 0, Platforms: []string{}, LastSeen: lastSeen}
	for i := range r.Users[u] {
		if s := r.Users[u][i].Platform; s != "" {
			p.Platforms = append(p.Platforms, s)
		}
	}
	slices.Sort(p.Platforms)
	p.Platforms = slices.Compact(p.Platforms)
	return p
}

// Reservation asks for the id of a client_id: the first asker's id wins.
type Reservation struct {
	Conv     wire.ConvID
	From     wire.UserID
	ClientID string
	ID       wire.MsgID // taken if nobody was first
	Hash     uint64
}

// Reserved is the answer: the winner's id and hash, and what is known of its
// fate. First is true for the winner itself. Acked is the time (ms) of the
// send_ack, 0 while none was given, below 0 if the message was refused instead.
type Reserved struct {
	ID    wire.MsgID
	Hash  uint64
	First bool
	Acked int64
}

// CachedMsg is a message body in msg:cache:{mid}; Version is Row.Version of
// the row it was written from.
type CachedMsg struct {
	Conv    wire.ConvID
	Seq     int64
	ID      wire.MsgID
	Version int64
	Content string
}

// OfflineEntry is one element of offline:msg:{uid}.
type OfflineEntry struct {
	User wire.UserID
	Conv wire.ConvID
	Seq  int64
	ID   wire.MsgID
}

// Standing is what a renewal found of the index.
type Standing struct {
	// Known: the index has no holes; for an edge also: none of its own making.
	Known bool
	// Announce: this edge has not announced under the present index. It writes
	// all its routes and groups, then calls Announced with Index. Known comes
	// with a later renewal, once every edge that may live has done so.
	Announce bool
	// Index names the present index; it gets another name whenever a part of it
	// may be lost. Empty for other tiers and where it was not found out.
	Index string
}

// Leases is how processes find each other.
type Leases interface {
	// Renew writes the lease for ttl. All edges give the same ttl: an index that
	// was lost is unknown for at least as long.
	Renew(ctx context.Context, l Lease, ttl time.Duration) (Standing, error)
	// Release deletes the lease if it still has this epoch.
	Release(ctx context.Context, l Lease) error
	// Live returns the leases of a tier that have not lapsed.
	Live(ctx context.Context, tier string) ([]Lease, error)
	// Announced records that an edge has announced all its routes, having begun
	// under this index. Under another one by now it counts for nothing.
	Announced(ctx context.Context, server wire.ServerID, epoch uint64, index string) error
}

// Index is routes of users and edges of groups.
type Index interface {
	// PutRoutes writes routes and returns, per user, the others that live, by
	// connection, and what stood before for the same device under an older
	// connection id, which is replaced (a newer one wins and is returned, so the
	// caller gives way). Of several routes of a user in one call each is another
	// to the rest: all of them that stand are returned, too.
	PutRoutes(ctx context.Context, routes map[wire.UserID][]Route) (map[wire.UserID][]Route, error)
	// DropRoute deletes a route if it still names this server and epoch.
	DropRoute(ctx context.Context, u wire.UserID, r Route) error
	// AddGroupEdge counts a server in for the groups and returns the counters,
	// which grow, and never come again after their entry was removed.
	AddGroupEdge(ctx context.Context, server wire.ServerID, groups []wire.GroupID) ([]int64, error)
	// DropGroupEdges takes the server out of each group whose counter is still
	// that of counters, in one pipeline.
	DropGroupEdges(ctx context.Context, server wire.ServerID, groups []wire.GroupID, counters []int64) error
	// Lookup reads the routes of users and the edges of groups, and after them
	// whether they can be trusted, in one pipeline.
	Lookup(ctx context.Context, users []wire.UserID, groups []wire.GroupID) (Routes, error)
	// SetLastSeen keeps user:status:{uid} for presence.
	SetLastSeen(ctx context.Context, u wire.UserID, ms int64) error
	// LastSeen reads it; users never seen are left out.
	LastSeen(ctx context.Context, users []wire.UserID) (map[wire.UserID]int64, error)
}

// Cache is what makes repeats and syncs cheap.
type Cache interface {
	// Reserve answers each reservation, in one pipeline.
	Reserve(ctx context.Context, rs []Reservation) ([]Reserved, error)
	// MarkAcked keeps the time of a send_ack with its reservation (Reserved.Acked).
	MarkAcked(ctx context.Context, rs []Reservation, ts []int64) error
	// PutMessages caches bodies; GetMessages returns those that stand, by id.
	PutMessages(ctx context.Context, ms []CachedMsg) error
	GetMessages(ctx context.Context, ids []wire.MsgID) (map[wire.MsgID]CachedMsg, error)
	// FileOffline appends to the users' offline lists (each bounded).
	FileOffline(ctx context.Context, es []OfflineEntry) error
	// Offline lists what waits for a user.
	Offline(ctx context.Context, u wire.UserID) ([]OfflineEntry, error)
	// ClearOffline removes entries of a conversation at or below a seq.
	ClearOffline(ctx context.Context, u wire.UserID, conv wire.ConvID, upto int64) error
	// PutMembers replaces (add nil, remove nil, all set) or changes group:members:{gid}.
	PutMembers(ctx context.Context, g wire.GroupID, all []wire.UserID) error
	ChangeMembers(ctx context.Context, g wire.GroupID, add, remove []wire.UserID) error
	// AreMembers says for each pair whether the cached set holds the user; false
	// also where nothing is cached.
	AreMembers(ctx context.Context, pairs []Membership) ([]bool, error)
}

// Membership is a pair asked of AreMembers.
type Membership struct {
	Group wire.GroupID
	User  wire.UserID
}

// Registry is all of it. New returns the Redis one; packages that need less
// declare less.
type Registry interface {
	Leases
	Index
	Cache
	Ping(ctx context.Context) error
	// Clock returns the server's time less this process's, to half a round trip;
	// of several servers that which is off the most.
	Clock(ctx context.Context) (offset time.Duration, err error)
	Close() error
}
