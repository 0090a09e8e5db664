// Package route decides which edge gets what: it turns the effects of records
// and the entries of im_push into the items of each edge, by what the index
// said of users and groups. Where the index may have holes, every edge gets
// everything; edges drop what they do not hold.
//
// It is pure: no I/O, no clock, the same answer for the same input, in the same
// order. A Table is not safe for concurrent use.
package route

import (
	"slices"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/machine"
)

// Push is an entry of im_push and where it stands.
type Push struct {
	*recordpb.Push
	At     record.PartitionID
	Offset int64
}

// Names is what has to be looked up for a batch: each user and group once, in
// order of appearance.
type Names struct {
	Users  []wire.UserID
	Groups []wire.GroupID

	users  map[wire.UserID]struct{}
	groups map[wire.GroupID]struct{}
}

// AddEffects adds the users and groups that the items name as receivers.
// Files are left out: they are looked up after the pushes.
func (n *Names) AddEffects(effects []machine.Effects) {
	for i := range effects {
		for j := range effects[i].Items {
			it := &effects[i].Items[j]
			if it.Group != "" {
				n.AddGroup(it.Group)
			}
			if it.Kind == machine.Join || it.Kind == machine.Deliver && it.Group == "" {
				n.AddUsers(it.Users)
			}
		}
	}
}

// AddUsers adds users.
func (n *Names) AddUsers(us []wire.UserID) {
	if n.users == nil {
		n.users = make(map[wire.UserID]struct{})
	}
	for _, u := range us {
		if _, ok := n.users[u]; !ok {
			n.users[u] = struct{}{}
			n.Users = append(n.Users, u)
		}
	}
}

// AddGroup adds a group.
func (n *Names) AddGroup(g wire.GroupID) {
	if n.groups == nil {
		n.groups = make(map[wire.GroupID]struct{})
	}
	if _, ok := n.groups[g]; !ok {
		n.groups[g] = struct{}{}
		n.Groups = append(n.Groups, g)
	}
}

// HasUser says whether a user is among the names.
func (n *Names) HasUser(u wire.UserID) bool {
	_, ok := n.users[u]
	return ok
}

// Table is where everybody is, for one batch.
type Table struct {
	// Known is false where the index may have holes: All is pushed to.
	Known bool
	// All is every live edge, Unlisted those that cannot write their routes;
	// both in one order.
	All, Unlisted []wire.ServerID

	users  map[wire.UserID][]wire.ServerID
	groups map[wire.GroupID][]wire.ServerID
}

// NewTable makes a table of the answer of a look-up.
func NewTable(r registry.Routes, all, unlisted []wire.ServerID) *Table {
	t := &Table{
		Known: r.Known, All: all, Unlisted: unlisted,
		users:  make(map[wire.UserID][]wire.ServerID, len(r.Users)),
		groups: make(map[wire.GroupID][]wire.ServerID, len(r.Groups)),
	}
	for u, routes := range r.Users {
		for _, rt := range routes {
			t.users[u] = insert(t.users[u], rt.Server)
		}
	}
	for g, servers := range r.Groups {
		for _, s := range servers {
			t.AddGroup(g, s)
		}
	}
	return t
}

// AddGroup says that an edge has members of a group, whatever the index said:
// the look-up came before a join of the same batch.
func (t *Table) AddGroup(g wire.GroupID, s wire.ServerID) { t.groups[g] = insert(t.groups[g], s) }

// Online says whether the user has a session by the index.
func (t *Table) Online(u wire.UserID) bool { return len(t.users[u]) > 0 }

// Sent is one item for one edge.
type Sent struct {
	Server wire.ServerID
	Item   *rpcpb.PushItem
}

// Joiners returns the edges where users that join are, by the index.
func (t *Table) Joiners(it *machine.Item) []wire.ServerID {
	var out []wire.ServerID
	for _, u := range it.Users {
		for _, s := range t.users[u] {
			out = insert(out, s)
		}
	}
	return out
}

// Item returns what one item of an effect brings to the edges. Items are
// shared between edges: they must not be changed.
func (t *Table) Item(it *machine.Item) []Sent {
	p := &rpcpb.PushItem{Op: int32(it.Op), Body: it.Body, Conv: string(it.Conv), Seq: it.Seq, Group: string(it.Group)}
	switch it.Kind {
	case machine.Deliver:
		if it.Group != "" {
			return toAll(t.groupEdges(it.Group), p)
		}
		return t.toUsers(it.Users, p)
	case machine.Reply:
		if it.Origin.GetConn() == 0 || len(it.Users) == 0 {
			return nil
		}
		p.Users, p.Conn, p.Group = []string{string(it.Users[0])}, it.Origin.GetConn(), ""
		return []Sent{{Server: wire.ServerID(it.Origin.GetServer()), Item: p}}
	// A change of membership goes to every edge. A session that is logging in has
	// no route yet while a join is looked up, but its edge may have an older
	// removal on the way: only who gets all changes in order ends where the log does.
	case machine.Join:
		return toAll(t.All, &rpcpb.PushItem{
			Action: rpcpb.PushItem_GROUP_ADD, Group: string(it.Group), Users: names(it.Users), Conv: string(it.Conv), Seq: it.Seq,
		})
	case machine.Leave:
		return toAll(t.All, &rpcpb.PushItem{
			Action: rpcpb.PushItem_GROUP_REMOVE, Group: string(it.Group), Users: names(it.Users), Conv: string(it.Conv), Seq: it.Seq,
		})
	case machine.Drop:
		return toAll(t.All, &rpcpb.PushItem{Action: rpcpb.PushItem_GROUP_DROP, Group: string(it.Group)})
	}
	return nil
}

// Push returns what an entry of im_push brings to the edges.
func (t *Table) Push(e *recordpb.Push) []Sent {
	p := &rpcpb.PushItem{Op: e.GetOp(), Body: e.GetBody(), ExceptConn: e.GetExceptConn()}
	switch {
	case e.GetAll():
		p.All = true
		return toAll(t.All, p)
	case e.GetGroup() != "":
		p.Group = e.GetGroup()
		return toAll(t.groupEdges(wire.GroupID(e.GetGroup())), p)
	}
	users := make([]wire.UserID, len(e.GetUsers()))
	for i, u := range e.GetUsers() {
		users[i] = wire.UserID(u)
	}
	return t.toUsers(users, p)
}

// Servers returns every edge that the index named, in order.
func (t *Table) Servers() []wire.ServerID {
	seen := make(map[wire.ServerID]struct{})
	for _, ss := range t.users {
		for _, s := range ss {
			seen[s] = struct{}{}
		}
	}
	for _, ss := range t.groups {
		for _, s := range ss {
			seen[s] = struct{}{}
		}
	}
	out := make([]wire.ServerID, 0, len(seen))
	for s := range seen {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

func (t *Table) groupEdges(g wire.GroupID) []wire.ServerID {
	if !t.Known {
		return t.All
	}
	out := t.groups[g]
	if len(t.Unlisted) == 0 {
		return out
	}
	out = slices.Clone(out)
	for _, s := range t.Unlisted {
		out = insert(out, s)
	}
	return out
}

// toUsers sends an item to users where they are: each edge is named its own,
// edges that get everything are named all.
func (t *Table) toUsers(us []wire.UserID, p *rpcpb.PushItem) []Sent {
	if len(us) == 0 {
		return nil
	}
	if !t.Known {
		p.Users = names(us)
		return toAll(t.All, p)
	}
	var order []wire.ServerID
	at := make(map[wire.ServerID][]string)
	for _, u := range us {
		for _, s := range t.users[u] {
			if len(at[s]) == 0 {
				order = insert(order, s)
			}
			at[s] = append(at[s], string(u))
		}
	}
	for _, s := range t.Unlisted {
		order, at[s] = insert(order, s), names(us)
	}
	out := make([]Sent, 0, len(order))
	for _, s := range order {
		own := &rpcpb.PushItem{
			Action: p.GetAction(), Users: at[s], Group: p.GetGroup(), ExceptConn: p.GetExceptConn(),
			Op: p.GetOp(), Body: p.GetBody(), Conv: p.GetConv(), Seq: p.GetSeq(),
		}
		out = append(out, Sent{Server: s, Item: own})
	}
	return out
}

func toAll(servers []wire.ServerID, p *rpcpb.PushItem) []Sent {
	out := make([]Sent, 0, len(servers))
	for _, s := range servers {
		out = append(out, Sent{Server: s, Item: p})
	}
	return out
}

func names(us []wire.UserID) []string {
	out := make([]string, len(us))
	for i, u := range us {
		out[i] = string(u)
	}
	return out
}

// insert keeps a short list sorted and without repeats.
func insert(ss []wire.ServerID, s wire.ServerID) []wire.ServerID {
	i, ok := slices.BinarySearch(ss, s)
	if ok {
		return ss
	}
	return slices.Insert(ss, i, s)
}
