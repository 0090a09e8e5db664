package machine

import (
	"cmp"
	"maps"
	"slices"

	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// maxKnownMembers bounds the members kept of one conversation; above it they
// are forgotten and asked for again.
const maxKnownMembers = 4096

// generations is a bounded map: what was not asked for during a whole
// generation is forgotten.
type generations[K comparable, V any] struct {
	young, old map[K]V
}

func newGenerations[K comparable, V any]() *generations[K, V] {
	return &generations[K, V]{young: make(map[K]V)}
}

func (g *generations[K, V]) get(k K) (V, bool) {
	v, ok := g.young[k]
	if ok {
		return v, true
	}
	if v, ok = g.old[k]; ok {
		g.young[k] = v
	}
	return v, ok
}

// put keeps v; limit is how many may stay in all.
func (g *generations[K, V]) put(k K, v V, limit int) {
	if len(g.young) >= max(limit/2, 1) {
		g.old, g.young = g.young, make(map[K]V)
	}
	g.young[k] = v
}

// conv is a conversation as committed. Only its partition's machine writes it,
// so what was read once stays true.
type conv struct {
	head   store.Conversation
	exists bool
	// members holds the newest interval of known users; one with JoinedSeq 0
	// never was a member. With full set, who is not in it is none.
	members map[wire.UserID]store.Member
	full    bool
	active  []wire.UserID // sorted; nil: to be made from members
}

func newConv(id wire.ConvID, parsed wire.Conv, head *store.Conversation) *conv {
	c := new(conv)
	if parsed.Group != "" {
		c.members = make(map[wire.UserID]store.Member)
	}
	c.head.Conv, c.head.MinSeq = id, 1
	if head != nil {
		c.head, c.exists = *head, true
	} else {
		c.full = true // a conversation that does not exist has no members
	}
	return c
}

func isActive(m store.Member) bool { return m.JoinedSeq > 0 && m.LeftSeq == 0 }

// draft is a conversation as a turn would leave it: its own head, and members
// over those of base.
type draft struct {
	base    *conv
	head    *store.Conversation
	exists  bool
	touched bool
	delta   map[wire.UserID]store.Member
	targets map[wire.MsgID]target // messages that this turn made or changed
	active  []wire.UserID         // as conv.active, over delta
}

// target is a message as the turn leaves it, and where the turn writes it.
type target struct {
	row    store.Row
	inRows int // index in Turn.Rows, or -1
	inUpds int // index in Turn.Updates, or -1
}

func newDraft(base *conv) *draft {
	d := &draft{
		base: base, exists: base.exists,
		delta: make(map[wire.UserID]store.Member), targets: make(map[wire.MsgID]target),
	}
	head := base.head
	if head.Group != nil {
		g := *head.Group
		head.Group = &g
	}
	d.head = &head
	return d
}

// known returns a member without asking the store.
func (d *draft) known(u wire.UserID) (store.Member, bool) {
	if m, ok := d.delta[u]; ok {
		return m, true
	}
	if m, ok := d.base.members[u]; ok {
		return m, true
	}
	return store.Member{User: u}, d.base.full
}

// unknown returns those of users that the store must be asked for.
func (d *draft) unknown(users []wire.UserID) []wire.UserID {
	var out []wire.UserID
	for _, u := range users {
		if _, ok := d.known(u); !ok {
			out = append(out, u)
		}
	}
	return out
}

func (d *draft) set(m store.Member) {
	d.delta[m.User] = m
	d.active = nil
}

// users returns the active members in order; base must be full. The slice is
// shared: not to be changed.
func (d *draft) users() []wire.UserID {
	if len(d.delta) == 0 {
		if d.base.active == nil {
			d.base.active = activeOf(d.base.members, nil)
		}
		return d.base.active
	}
	if d.active == nil {
		d.active = activeOf(d.base.members, d.delta)
	}
	return d.active
}

func activeOf(base, delta map[wire.UserID]store.Member) []wire.UserID {
	out := make([]wire.UserID, 0, len(base)+len(delta))
	for u, m := range base {
		if _, over := delta[u]; !over && isActive(m) {
			out = append(out, u)
		}
	}
	for u, m := range delta {
		if isActive(m) {
			out = append(out, u)
		}
	}
	slices.SortFunc(out, cmp.Compare[wire.UserID])
	return out
}

// merge makes the draft the committed state.
func (d *draft) merge() {
	if !d.touched {
		return
	}
	c := d.base
	c.head, c.exists = *d.head, d.exists
	if len(d.delta) == 0 {
		return
	}
	maps.Copy(c.members, d.delta)
	c.active = nil
	if len(c.members) > maxKnownMembers {
		c.members, c.full = make(map[wire.UserID]store.Member), false
	}
}
