package storetest

import (
	"testing"

	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

func testGroupsOf(f *fixture) {
	t := f.t
	f.private(t, "a", "b", 1)
	f.group(t, "z", "a")
	left := f.group(t, "left", "b", "a")
	f.member(t, left, store.Member{User: "a", JoinedSeq: 1, LeftSeq: 2})
	gone := f.group(t, "gone", "a")
	gone.Group.Dismissed = true
	f.commit(t, &store.Turn{Conversations: []*store.Conversation{gone}})
	f.group(t, "b", "b", "a")
	back := f.group(t, "back", "b", "a")
	f.member(t, back, store.Member{User: "a", JoinedSeq: 1, LeftSeq: 2})
	f.member(t, back, store.Member{User: "a", JoinedSeq: 7})
	equal(t, "groups", got[[]store.Joined](t)(f.s.GroupsOf(t.Context(), "a")), []store.Joined{{Group: "b", Seq: 1}, {Group: "back", Seq: 7}, {Group: "z", Seq: 1}})
	equal(t, "of nobody", len(got[[]store.Joined](t)(f.s.GroupsOf(t.Context(), "x"))), 0)
}

func testMemberPages(f *fixture) {
	t := f.t
	c := f.group(t, "g", "d", "b", "a", "c", "e")
	f.member(t, c, store.Member{User: "c", JoinedSeq: 1, LeftSeq: 2})
	page := func(after wire.UserID, limit int) []wire.UserID {
		t.Helper()
		out := []wire.UserID{}
		for _, m := range got[[]store.Member](t)(f.s.Members(t.Context(), c.Conv, after, limit)) {
			out = append(out, m.User)
		}
		return out
	}
	equal(t, "first", page("", 2), []wire.UserID{"a", "b"})
	equal(t, "second", page("b", 2), []wire.UserID{"d", "e"})
	equal(t, "end", page("e", 2), []wire.UserID{})
	equal(t, "no limit", page("", 0), []wire.UserID{})
	equal(t, "no group", len(got[[]store.Member](t)(f.s.Members(t.Context(), "g:none", "", 5))), 0)
}

func (f *fixture) move(t *testing.T, moves ...store.CursorMove) []store.CursorState {
	t.Helper()
	return got[[]store.CursorState](t)(f.s.MoveCursors(t.Context(), moves))
}

func testCursorsGrow(f *fixture) {
	t := f.t
	c := f.private(t, "a", "b", 10)
	move := func(d wire.DeviceID, delivered, read int64) store.CursorState {
		t.Helper()
		list := f.move(t, store.CursorMove{User: "b", Device: d, Conv: c.Conv, Delivered: delivered, Read: read})
		if len(list) != 1 {
			t.Fatalf("%d states", len(list))
		}
		return list[0]
	}
	state := func(delivered, read int64, grew bool) store.CursorState {
		return store.CursorState{User: "b", Conv: c.Conv, Delivered: delivered, Read: read, Grew: grew}
	}
	equal(t, "first ack", move("d1", 5, 0), state(5, 0, true))
	equal(t, "again", move("d1", 5, 0), state(5, 0, false))
	equal(t, "backwards", move("d1", 3, 0), state(5, 0, false))
	equal(t, "another device behind", move("d2", 2, 0), state(5, 0, false))
	equal(t, "read delivers", move("d2", 0, 7), state(7, 7, true))
	equal(t, "no device", move("", 8, 0), state(8, 7, true))
	own := func(d wire.DeviceID) int64 {
		t.Helper()
		return got[[]store.UserConv](t)(f.s.UserConversations(t.Context(), "b", d, "", 10, false))[0].DeviceDelivered
	}
	equal(t, "device 1", own("d1"), int64(5))
	equal(t, "device 2", own("d2"), int64(7))
	equal(t, "no device", own(""), int64(8))
	equal(t, "never seen", own("d3"), int64(-1))
	peer := got[[]store.UserConv](t)(f.s.UserConversations(t.Context(), "a", "d1", "", 10, false))[0]
	equal(t, "as the peer sees it", [4]int64{peer.PeerDelivered, peer.PeerRead, peer.Delivered, peer.Read}, [4]int64{8, 7, 0, 0})
}

func testCursorsClamp(f *fixture) {
	t := f.t
	c := f.group(t, "g", "a", "b")
	f.saying(t, c, "a", 9)
	state := func(u wire.UserID, delivered, read int64) []store.CursorState {
		return []store.CursorState{{User: u, Conv: c.Conv, Delivered: delivered, Read: read, Grew: true, Members: 2}}
	}
	equal(t, "to the end", f.move(t, store.CursorMove{User: "a", Conv: c.Conv, Delivered: 99, Read: 98}), state("a", 10, 10))
	f.member(t, c, store.Member{User: "b", JoinedSeq: 1, LeftSeq: 4})
	equal(t, "to where it left", f.move(t, store.CursorMove{User: "b", Conv: c.Conv, Delivered: 9}), state("b", 4, 0))
	equal(t, "ignored", len(f.move(t,
		store.CursorMove{User: "x", Conv: c.Conv, Delivered: 3},
		store.CursorMove{User: "a", Conv: "g:none", Delivered: 3},
		store.CursorMove{User: "a", Conv: c.Conv},
		store.CursorMove{User: "a", Conv: c.Conv, Delivered: -5, Read: -1},
	)), 0)
	equal(t, "nothing", len(f.move(t)), 0)
}

func testCursorsAddUp(f *fixture) {
	t := f.t
	c, other := f.private(t, "a", "b", 10), f.private(t, "a", "c", 10)
	list := f.move(t,
		store.CursorMove{User: "b", Device: "1", Conv: c.Conv, Delivered: 4},
		store.CursorMove{User: "c", Device: "1", Conv: other.Conv, Read: 2},
		store.CursorMove{User: "b", Device: "2", Conv: c.Conv, Delivered: 6},
		store.CursorMove{User: "b", Device: "1", Conv: c.Conv, Read: 3},
	)
	equal(t, "one state each", list, []store.CursorState{
		{User: "b", Conv: c.Conv, Delivered: 6, Read: 3, Grew: true},
		{User: "c", Conv: other.Conv, Delivered: 2, Read: 2, Grew: true},
	})
}

func testReceipts(f *fixture) {
	t := f.t
	c := f.group(t, "g", "a", "b", "c", "d")
	f.saying(t, c, "a", 9)
	f.move(t,
		store.CursorMove{User: "b", Device: "1", Conv: c.Conv, Delivered: 4, Read: 1},
		store.CursorMove{User: "b", Device: "2", Conv: c.Conv, Delivered: 2, Read: 2},
		store.CursorMove{User: "d", Device: "1", Conv: c.Conv, Delivered: 9},
	)
	all := got[[]store.CursorState](t)(f.s.Receipts(t.Context(), c.Conv, "", 3))
	equal(t, "first page", all, []store.CursorState{
		{User: "a", Conv: c.Conv, Members: 4, JoinedSeq: 1},
		{User: "b", Conv: c.Conv, Delivered: 4, Read: 2, Members: 4, JoinedSeq: 1},
		{User: "c", Conv: c.Conv, Members: 4, JoinedSeq: 1},
	})
	rest := got[[]store.CursorState](t)(f.s.Receipts(t.Context(), c.Conv, "c", 3))
	equal(t, "second page", rest, []store.CursorState{{User: "d", Conv: c.Conv, Delivered: 9, Members: 4, JoinedSeq: 1}})
	equal(t, "no group", len(got[[]store.CursorState](t)(f.s.Receipts(t.Context(), "g:none", "", 3))), 0)
}

func testUserConversations(f *fixture) {
	t := f.t
	f.private(t, "b", "c", 2)
	p := f.private(t, "a", "b", 2)
	g := f.group(t, "g", "b", "a")
	left := f.group(t, "left", "b", "a")
	f.member(t, left, store.Member{User: "a", JoinedSeq: 1, LeftSeq: 1})
	page := func(after wire.ConvID, limit int) []wire.ConvID {
		t.Helper()
		out := []wire.ConvID{}
		for _, c := range got[[]store.UserConv](t)(f.s.UserConversations(t.Context(), "a", "d", after, limit, false)) {
			out = append(out, c.Conv)
		}
		return out
	}
	equal(t, "first", page("", 2), []wire.ConvID{g.Conv, left.Conv})
	equal(t, "second", page(left.Conv, 2), []wire.ConvID{p.Conv})
	equal(t, "end", page(p.Conv, 2), []wire.ConvID{})
	equal(t, "limit 0", page("", 0), []wire.ConvID{})
	list := got[[]store.UserConv](t)(f.s.UserConversations(t.Context(), "a", "d", "", 10, true))
	equal(t, "head", list[0].Conversation, *g)
	equal(t, "left", [2]int64{list[1].JoinedSeq, list[1].LeftSeq}, [2]int64{1, 1})
	equal(t, "last", list[2].Last.Content, "message 2")
	bare := got[[]store.UserConv](t)(f.s.UserConversations(t.Context(), "b", "d", "p:a", 1, false))
	equal(t, "without unread", [2]any{bare[0].Unread, bare[0].Last == nil}, [2]any{int64(0), true})

	self := f.private(t, "z", "z", 2)
	f.move(t, store.CursorMove{User: "z", Device: "d", Conv: self.Conv, Read: 1})
	notes := got[[]store.UserConv](t)(f.s.UserConversations(t.Context(), "z", "d", "", 10, true))
	equal(t, "notes to oneself", [4]int64{int64(len(notes)), notes[0].Unread, notes[0].Read, notes[0].PeerRead}, [4]int64{1, 0, 1, 1})
}

func testUnread(f *fixture) {
	t := f.t
	c := f.group(t, "g", "a", "b") // 1 is a system message
	f.saying(t, c, "a", 6)         // 2..7
	f.saying(t, c, "b", 2)         // 8..9
	for i := range 40 {
		f.private(t, "b", wire.UserID("peer-"+string(rune('A'+i))), 1)
	}
	unread := func(u wire.UserID) int64 {
		t.Helper()
		return got[[]store.UserConv](t)(f.s.UserConversations(t.Context(), u, "d", "", 50, true))[0].Unread
	}
	equal(t, "of b", unread("b"), int64(6))
	equal(t, "of a", unread("a"), int64(2))
	f.move(t, store.CursorMove{User: "b", Device: "x", Conv: c.Conv, Read: 4})
	equal(t, "after a read", unread("b"), int64(3))
	f.commit(t, &store.Turn{Updates: []store.RowUpdate{{Conv: c, TargetSeq: 6, Status: wire.StatusRecalled}}})
	equal(t, "after a recall", unread("b"), int64(2))
	f.move(t, store.CursorMove{User: "b", Device: "y", Conv: c.Conv, Read: 9})
	equal(t, "all read", unread("b"), int64(0))
}

func testLast(f *fixture) {
	t := f.t
	c := f.group(t, "g", "a", "b")
	f.saying(t, c, "a", 9)
	f.member(t, c, store.Member{User: "b", JoinedSeq: 1, LeftSeq: 4})
	last := func(u wire.UserID) int64 {
		t.Helper()
		return got[[]store.UserConv](t)(f.s.UserConversations(t.Context(), u, "d", "", 50, true))[0].Last.Seq
	}
	equal(t, "of a", last("a"), int64(10))
	equal(t, "of b", last("b"), int64(4))
	f.member(t, c, store.Member{User: "b", JoinedSeq: 11})
	equal(t, "joined again, nothing said since", last("b"), int64(4))

	empty := f.fresh("p:x:y")
	f.commit(t, &store.Turn{
		Conversations: []*store.Conversation{empty},
		Members:       []store.MemberChange{{Conv: empty, Member: store.Member{User: "x", Role: store.RoleMember, JoinedSeq: 1}}},
	})
	list := got[[]store.UserConv](t)(f.s.UserConversations(t.Context(), "x", "d", "", 50, true))
	equal(t, "nothing said", list[0].Last == nil, true)
}

func testRefusals(f *fixture) {
	t := f.t
	turn := &store.Turn{}
	var want []wire.Refused
	for i := range int64(5) {
		r := wire.Refused{ClientID: "c", ID: wire.MsgID(i + 1), Conv: "g:g", Code: wire.CodeMuted}
		want = append(want, r)
		turn.Refusals = append(turn.Refusals, store.Refusal{User: "a", Refused: r, TS: base + i})
	}
	f.commit(t, turn)
	equal(t, "all", got[[]wire.Refused](t)(f.s.Refusals(t.Context(), "a", 0, 10)), want)
	equal(t, "newest", got[[]wire.Refused](t)(f.s.Refusals(t.Context(), "a", 0, 2)), want[3:])
	equal(t, "after", got[[]wire.Refused](t)(f.s.Refusals(t.Context(), "a", base+1, 10)), want[2:])
	equal(t, "of another", len(got[[]wire.Refused](t)(f.s.Refusals(t.Context(), "b", 0, 10))), 0)
	f.commit(t, &store.Turn{Refusals: turn.Refusals[4:]})
	late := store.Refusal{User: "a", Refused: wire.Refused{ClientID: "c", ID: 1, Conv: "g:g", Code: wire.CodeMuted}, TS: base + 9}
	f.commit(t, &store.Turn{Refusals: []store.Refusal{late}})
	equal(t, "newest by id", got[[]wire.Refused](t)(f.s.Refusals(t.Context(), "a", 0, 2)), want[3:])
	equal(t, "said once", len(got[[]wire.Refused](t)(f.s.Refusals(t.Context(), "a", 0, 10))), 5)
}

func testBlocks(f *fixture) {
	t := f.t
	c := f.private(t, "a", "b", 1)
	block := func(since int64, owner wire.UserID, peers ...wire.UserID) {
		t.Helper()
		turn := &store.Turn{}
		for _, p := range peers {
			turn.Blocks = append(turn.Blocks, store.BlockChange{Owner: owner, Block: store.Block{Peer: p, Since: since}})
		}
		f.commit(t, turn)
	}
	list := func(u, after wire.UserID, limit int) []store.Block {
		t.Helper()
		return append([]store.Block{}, got[[]store.Block](t)(f.s.Blocks(t.Context(), u, after, limit))...)
	}
	block(5, "a", "c", "b", "B", "b ")
	block(6, "b", "a")
	block(7, "a", "b") // again: from now
	equal(t, "first", list("a", "", 2), []store.Block{{Peer: "B", Since: 5}, {Peer: "b", Since: 7}})
	equal(t, "second", list("a", "b", 9), []store.Block{{Peer: "b ", Since: 5}, {Peer: "c", Since: 5}})
	block(0, "a", "b", "none")
	equal(t, "ended", list("a", "B", 9), []store.Block{{Peer: "b ", Since: 5}, {Peer: "c", Since: 5}})
	equal(t, "the other's stays", list("b", "", 9), []store.Block{{Peer: "a", Since: 6}})
	equal(t, "of nobody", list("x", "", 9), []store.Block{})

	head := func() [2]bool {
		t.Helper()
		h := got[*store.Conversation](t)(f.s.Conversation(t.Context(), c.Conv))
		return [2]bool{h.Blocked("a"), h.Blocked("b")}
	}
	equal(t, "at first", head(), [2]bool{})
	c.BlockedByA = true
	f.commit(t, &store.Turn{Conversations: []*store.Conversation{c}})
	equal(t, "a blocks b", head(), [2]bool{false, true})
	c.BlockedByA, c.BlockedByB = false, true
	f.commit(t, &store.Turn{Conversations: []*store.Conversation{c}})
	equal(t, "b blocks a", head(), [2]bool{true, false})
	fresh := &store.Conversation{ID: 77_001, New: true, Conv: "p:x:y", MinSeq: 1, BlockedByA: true}
	f.commit(t, &store.Turn{Conversations: []*store.Conversation{fresh}})
	equal(t, "begun by a block, not listed", len(got[[]store.UserConv](t)(f.s.UserConversations(t.Context(), "x", "d", "", 9, true))), 0)
	found := got[store.Found](t)(f.s.Lookup(t.Context(), nil, []wire.ConvID{"p:x:y"}))
	equal(t, "found", found.Conversations["p:x:y"].BlockedByA, true)
}
