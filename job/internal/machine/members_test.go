package machine

import (
	"fmt"
	"slices"
	"testing"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/wire"
)

// command writes a change of g:big by its owner and returns its entry.
func (b *bed) command(c *recordpb.Command) []record.Entry {
	b.t.Helper()
	n := int64(len(b.log))
	v, err := record.Encode(&recordpb.Record{
		Id: 100 + n, Conv: "g:big", From: "owner", ClientId: fmt.Sprintf("c%d", n), Hash: uint64(n),
		Body: &recordpb.Record_Command{Command: c},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.log = append(b.log, record.Entry{PartitionID: b.p, Offset: n, TS: 1000 + n, Value: v})
	return b.log[n:]
}

// TestMoreMembersThanKept: what was known of a large group's members is
// forgotten at some point, also between two users of one command; who is a
// member stays the same.
func TestMoreMembersThanKept(t *testing.T) {
	b := newBed(t)
	b.p.Topic = record.TopicGroups
	m := b.machine()
	b.claim(m, -1)
	b.turn(m, b.command(&recordpb.Command{Kind: recordpb.Command_CREATE}))
	var users []string
	for i := range maxKnownMembers + 1000 {
		users = append(users, fmt.Sprintf("u%d", i))
	}
	add := func(users ...string) {
		b.turn(m, b.command(&recordpb.Command{Kind: recordpb.Command_ADD, Users: users}))
	}
	for at := 0; at < len(users); at += 1000 {
		add(users[at:min(at+1000, len(users))]...)
	}
	count := func(want int) {
		t.Helper()
		c, err := b.st.Conversation(t.Context(), "g:big")
		if err != nil || c.Group.Members != want {
			t.Fatalf("%+v %v, want %d members", c, err, want)
		}
	}
	known := func() int {
		c, _ := m.parts[b.p].convs.get("g:big")
		return len(c.members)
	}
	fill := func() { // until the next unknown user makes all forgotten
		for at := 0; known() <= maxKnownMembers; at += 500 {
			add(users[at : at+500]...)
		}
	}
	count(1 + len(users))
	fill()
	add("owner", "u1", "newcomer")
	count(2 + len(users))
	if got, err := b.st.MemberOf(t.Context(), "g:big", "owner"); err != nil || got.Role != "owner" {
		t.Errorf("the owner is %+v %v", got, err)
	}
	fill()
	b.turn(m, b.command(&recordpb.Command{Kind: recordpb.Command_REMOVE, Users: []string{"u1", users[len(users)-1]}}))
	count(len(users))
	for _, u := range []wire.UserID{"u1", wire.UserID(users[len(users)-1])} {
		if got, err := b.st.MemberOf(t.Context(), "g:big", u); err != nil || got.LeftSeq == 0 {
			t.Errorf("%s was removed and is %+v %v", u, got, err)
		}
	}
}

// TestRenameOfOne: two who change name and description at the same time both
// get what they asked for, and every event has an id of its own.
func TestRenameOfOne(t *testing.T) {
	b := newBed(t)
	b.p.Topic = record.TopicGroups
	m := b.machine()
	b.claim(m, -1)
	b.turn(m, b.command(&recordpb.Command{
		Kind: recordpb.Command_CREATE, Name: new("old"), Description: new("long"), Users: []string{"u1", "u2"},
	}))
	b.turn(m, slices.Concat(
		b.command(&recordpb.Command{Kind: recordpb.Command_RENAME, Name: new("new")}),
		b.command(&recordpb.Command{Kind: recordpb.Command_RENAME, Description: new("")}),
		b.command(&recordpb.Command{Kind: recordpb.Command_REMOVE, Users: []string{"u1", "u2"}, EventIds: []int64{900}}),
	))
	c, err := b.st.Conversation(t.Context(), "g:big")
	if err != nil || c.Group.Name != "new" || c.Group.Description != "" {
		t.Fatalf("%+v %v", c, err)
	}
	rows, err := b.st.Rows(t.Context(), c.ID, 1, 100)
	if err != nil {
		t.Fatal(err)
	}
	var ids []wire.MsgID
	for _, r := range rows {
		ids = append(ids, r.ID)
	}
	if want := []wire.MsgID{100, 101, 102, 103, 900}; !slices.Equal(ids, want) {
		t.Errorf("ids %v, want %v", ids, want)
	}
}
