package machine

import (
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/wire"
)

// Effects is all that one record brings to the world, to be done after its
// turn is committed, in order, and again by whoever owns the partition next
// until every edge has confirmed it. A record without any still moves the
// position.
type Effects struct {
	At     record.PartitionID
	Offset int64
	Items  []Item
}

// Kind says what an Item does.
type Kind int

// Kinds of items.
const (
	// Deliver: Body with Op to all sessions of Users, or (Group set) of the
	// group's members by the edges' index.
	Deliver Kind = iota
	// Reply: Body with Op to the connection in Origin, of Users[0]; if that is
	// gone, nothing (the next sync tells).
	Reply
	// Join: from here on Users belong to Group at the edges where they are.
	Join
	// Leave: from here on they do not.
	Leave
	// Drop: the group is no more.
	Drop
)

// Item is one step of Effects.
type Item struct {
	Kind   Kind
	Users  []wire.UserID
	Group  wire.GroupID
	Origin *recordpb.Origin
	Op     wire.Op
	Body   []byte // JSON, not to be changed
	Conv   wire.ConvID
	Seq    int64 // 0: the body has none
	// ID and the message's head, for offline entries and push providers.
	ID   wire.MsgID
	From wire.UserID
	Type wire.MsgType
	TS   int64
	// File: who gets an offline entry where not online (private and small
	// groups: every member; nil for large groups and for what is no message).
	File []wire.UserID
	// Cache: the body for msg:cache; nil where nothing is to be cached. An
	// update carries its target's new state.
	Cache *registry.CachedMsg
	// Members (Join at creation): the whole cached set is replaced.
	Members []wire.UserID
}
