package storetest

import (
	"fmt"
	"math"
	"strings"

	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

func testRows(f *fixture) {
	t := f.t
	c := f.group(t, "g", "a")
	other := f.group(t, "h", "a")
	f.saying(t, c, "a", 5)
	f.saying(t, other, "a", 5)
	equal(t, "a range", seqs(got[[]store.Row](t)(f.s.Rows(t.Context(), c.ID, 2, 4))), []int64{2, 3, 4})
	equal(t, "beyond the end", seqs(got[[]store.Row](t)(f.s.Rows(t.Context(), c.ID, 5, 99))), []int64{5, 6})
	equal(t, "nothing", len(got[[]store.Row](t)(f.s.Rows(t.Context(), c.ID, 4, 3))), 0)
	equal(t, "no conversation", len(got[[]store.Row](t)(f.s.Rows(t.Context(), 999_999, 1, 3))), 0)
	rows := got[[]store.Row](t)(f.s.Rows(t.Context(), c.ID, 3, 3))
	equal(t, "by id", got[store.Row](t)(f.s.RowByID(t.Context(), c.ID, rows[0].ID)), rows[0])
	_, err := f.s.RowByID(t.Context(), other.ID, rows[0].ID)
	notFound(t, "in another conversation", err)
}

func testRowColumns(f *fixture) {
	t := f.t
	c := f.group(t, "g", "a")
	message := store.Row{
		Seq: 2, Kind: store.KindMessage, ID: 1<<62 + 1, From: "a", Type: wire.TypeImage, Content: `{"u":1}`, TS: base, ClientID: "c!~",
		Mention: []wire.UserID{"b", "c.d@e-f_g"}, ReplyTo: 1<<62 + 7, Status: wire.StatusEdited, Version: 1 << 40,
	}
	update := store.Row{
		Seq: 3, Kind: store.KindUpdate, ID: message.ID, From: "b", Content: "new", TS: base + 1, ClientID: "d", Status: wire.StatusEdited,
		TargetSeq: 2, Version: 1<<40 + 1,
	}
	f.commit(t, &store.Turn{Rows: []store.ConvRow{{Conv: c, Row: message}, {Conv: c, Row: update}}})
	equal(t, "rows", got[[]store.Row](t)(f.s.Rows(t.Context(), c.ID, 2, 3)), []store.Row{message, update})
	rows := got[[]store.Row](t)(f.s.Rows(t.Context(), c.ID, 2, 2))
	rows[0].Mention[0] = "changed by the caller"
	message.Mention = []wire.UserID{"b", "c.d@e-f_g"}
	equal(t, "by id: the message", got[store.Row](t)(f.s.RowByID(t.Context(), c.ID, message.ID)), message)
}

func testHeads(f *fixture) {
	t := f.t
	c := &store.Conversation{
		ID: 1, New: true, Conv: "g:g", MaxSeq: 1 << 40, MinSeq: 3, LastTS: base, LastMsg: 1<<40 - 1,
		Group: &store.Group{Name: "Stäre 🐦", Description: strings.Repeat("d", 2000), Owner: "a", Members: 12, MutedUntil: base, Dismissed: true, NamedSeq: 7},
	}
	private := &store.Conversation{ID: 2, New: true, Conv: "p:a:b", MaxSeq: 4, MinSeq: 1}
	f.commit(t, &store.Turn{Conversations: []*store.Conversation{c, private}})
	want, group := *c, *c.Group
	want.Group = &group
	c.Group.Owner = "changed after the commit"
	equal(t, "group", got[*store.Conversation](t)(f.s.Conversation(t.Context(), "g:g")), &want)
	equal(t, "private", got[*store.Conversation](t)(f.s.Conversation(t.Context(), "p:a:b")), private)
	_, err := f.s.Conversation(t.Context(), "g:none")
	notFound(t, "none", err)

	read := got[*store.Conversation](t)(f.s.Conversation(t.Context(), "g:g"))
	read.MaxSeq, read.Group.Name = 1, "changed by the caller"
	equal(t, "after the caller's change", got[*store.Conversation](t)(f.s.Conversation(t.Context(), "g:g")), &want)
	c.Group = &store.Group{Name: "new"}
	f.commit(t, &store.Turn{Conversations: []*store.Conversation{c}})
	equal(t, "renamed", got[*store.Conversation](t)(f.s.Conversation(t.Context(), "g:g")), c)
}

func testBytes(f *fixture) {
	t := f.t
	users := []wire.UserID{"A", "a", "a ", "ä", "b"}
	convs := make(map[wire.UserID]*store.Conversation)
	for _, u := range users {
		convs[u] = f.group(t, wire.GroupID(u), u)
	}
	c := f.group(t, "all", users...)
	for _, u := range users {
		var groups []wire.GroupID
		for _, j := range got[[]store.Joined](t)(f.s.GroupsOf(t.Context(), u)) {
			groups = append(groups, j.Group)
		}
		equal(t, "groups", groups, sorted(wire.GroupID(u), "all"))
		equal(t, "head", got[*store.Conversation](t)(f.s.Conversation(t.Context(), wire.ConvID("g:"+u))), convs[u])
	}
	var order []wire.UserID
	for _, m := range got[[]store.Member](t)(f.s.ActiveMembers(t.Context(), c.ID)) {
		order = append(order, m.User)
	}
	equal(t, "in byte order", order, []wire.UserID{"A", "a", "a ", "b", "ä"})
	var turn store.Turn
	for _, u := range users {
		turn.Outcomes = append(turn.Outcomes, store.Outcome{OutcomeKey: store.OutcomeKey{Conv: c.Conv, From: "a", ClientID: string(u)}, TS: base})
	}
	f.commit(t, &turn)
}

func sorted(a, b wire.GroupID) []wire.GroupID {
	if b < a {
		a, b = b, a
	}
	return []wire.GroupID{a, b}
}

func testContent(f *fixture) {
	t := f.t
	c := f.group(t, "g", "a")
	turn := &store.Turn{}
	contents := []string{"", " trailing ", "🐦🐦 4 bytes", "a\x00b", "\x00", "quote ' \" \\ ; ? -- %s", "line\r\nfeed", strings.Repeat("🐦", 4096)}
	for i, s := range contents {
		turn.Rows = append(turn.Rows, store.ConvRow{Conv: c, Row: f.row(int64(i+2), "a", wire.TypeText, s)})
	}
	f.commit(t, turn)
	rows := got[[]store.Row](t)(f.s.Timeline(t.Context(), "a", c.Conv, 1, 100, 100, true))
	equal(t, "rows", len(rows), len(contents))
	for i, r := range rows {
		equal(t, fmt.Sprintf("content %.20q", contents[i]), r.Content, contents[i])
	}
}

func testTimeline(f *fixture) {
	t := f.t
	c := f.group(t, "g", "a")
	f.saying(t, c, "a", 9)
	update := f.row(11, "a", "", "")
	update.Kind, update.TargetSeq, update.ID = store.KindUpdate, 4, 4
	f.commit(t, &store.Turn{Rows: []store.ConvRow{{Conv: c, Row: update}}})
	page := func(after, upto int64, limit int) []int64 {
		t.Helper()
		return seqs(got[[]store.Row](t)(f.s.Timeline(t.Context(), "a", c.Conv, after, upto, limit, true)))
	}
	equal(t, "from the start", page(0, 11, 100), []int64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11})
	equal(t, "first page", page(0, 11, 4), []int64{1, 2, 3, 4})
	equal(t, "next page", page(4, 11, 4), []int64{5, 6, 7, 8})
	equal(t, "upto", page(8, 9, 4), []int64{9})
	equal(t, "at the end", page(11, 11, 4), []int64{})
	equal(t, "limit 0", page(0, 11, 0), []int64{})
	equal(t, "a stranger", len(got[[]store.Row](t)(f.s.Timeline(t.Context(), "x", c.Conv, 0, 11, 10, true))), 0)
	equal(t, "no conversation", len(got[[]store.Row](t)(f.s.Timeline(t.Context(), "a", "g:none", 0, 11, 10, true))), 0)
	full := got[[]store.Row](t)(f.s.Timeline(t.Context(), "a", c.Conv, 1, 3, 10, true))
	bare := got[[]store.Row](t)(f.s.Timeline(t.Context(), "a", c.Conv, 1, 3, 10, false))
	equal(t, "with bodies", full[0].Content, "message 2")
	for i := range full {
		full[i].Content = ""
	}
	equal(t, "without bodies", bare, full)
}

func testIntervals(f *fixture) {
	t := f.t
	c := f.group(t, "g", "a", "b")
	f.saying(t, c, "a", 11) // seqs 1..12
	f.member(t, c, store.Member{User: "b", JoinedSeq: 1, LeftSeq: 4})
	f.member(t, c, store.Member{User: "b", JoinedSeq: 7, LeftSeq: 9})
	f.member(t, c, store.Member{User: "b", JoinedSeq: 11})
	page := func(after, upto int64, limit int) []int64 {
		t.Helper()
		return seqs(got[[]store.Row](t)(f.s.Timeline(t.Context(), "b", c.Conv, after, upto, limit, true)))
	}
	equal(t, "all", page(0, 12, 100), []int64{1, 2, 3, 4, 7, 8, 9, 11, 12})
	equal(t, "across the gap", page(3, 12, 3), []int64{4, 7, 8})
	equal(t, "in the gap", page(4, 6, 100), []int64{})
	history := func(after, before int64, limit int) []int64 {
		t.Helper()
		return seqs(got[[]store.Row](t)(f.s.History(t.Context(), "b", c.Conv, after, before, limit)))
	}
	equal(t, "newest", history(0, 0, 4), []int64{8, 9, 11, 12})
	equal(t, "before", history(0, 11, 4), []int64{4, 7, 8, 9})
	equal(t, "after", history(3, 0, 3), []int64{4, 7, 8})
	equal(t, "oldest", history(-1, 0, 5), []int64{1, 2, 3, 4, 7})
	list := got[[]store.UserConv](t)(f.s.UserConversations(t.Context(), "b", "d", "", 10, true))
	equal(t, "listed once", len(list), 1)
	equal(t, "newest interval", [2]int64{list[0].JoinedSeq, list[0].LeftSeq}, [2]int64{11, 0})
	equal(t, "unread in all intervals", list[0].Unread, int64(8)) // but for the system message
}

func testTouching(f *fixture) {
	t := f.t
	c := f.group(t, "g", "a", "b")
	f.saying(t, c, "a", 5)
	f.member(t, c, store.Member{User: "b", JoinedSeq: 1, LeftSeq: 3})
	f.member(t, c, store.Member{User: "b", JoinedSeq: 3})
	rows := got[[]store.Row](t)(f.s.Timeline(t.Context(), "b", c.Conv, 0, 6, 100, true))
	equal(t, "timeline", seqs(rows), []int64{1, 2, 3, 4, 5, 6})
	equal(t, "history", seqs(got[[]store.Row](t)(f.s.History(t.Context(), "b", c.Conv, 0, 0, 4))), []int64{3, 4, 5, 6})
	equal(t, "unread", got[[]store.UserConv](t)(f.s.UserConversations(t.Context(), "b", "d", "", 10, true))[0].Unread, int64(5))
}

func testHistory(f *fixture) {
	t := f.t
	c := f.private(t, "a", "b", 4)
	update := f.row(5, "a", "", "")
	update.Kind, update.TargetSeq = store.KindUpdate, 2
	c.MaxSeq = 5
	f.commit(t, &store.Turn{Conversations: []*store.Conversation{c}, Rows: []store.ConvRow{{Conv: c, Row: update}}})
	f.saying(t, c, "b", 4) // 6..9
	page := func(u wire.UserID, after, before int64, limit int) []int64 {
		t.Helper()
		return seqs(got[[]store.Row](t)(f.s.History(t.Context(), u, c.Conv, after, before, limit)))
	}
	equal(t, "newest", page("b", 0, 0, 3), []int64{7, 8, 9})
	equal(t, "before", page("b", 0, 7, 3), []int64{3, 4, 6})
	equal(t, "to the start", page("a", 0, 3, 10), []int64{1, 2})
	equal(t, "after", page("a", 3, 0, 3), []int64{4, 6, 7})
	equal(t, "between", page("a", 2, 7, 100), []int64{3, 4, 6})
	equal(t, "nothing between", page("a", 2, 3, 100), []int64{})
	equal(t, "a stranger", page("x", 0, 0, 10), []int64{})
	equal(t, "after the greatest seq there is", page("a", math.MaxInt64, 0, 10), []int64{})
	equal(t, "before the greatest seq there is", page("a", 0, math.MaxInt64, 2), []int64{8, 9})
	equal(t, "a timeline after it", seqs(got[[]store.Row](t)(f.s.Timeline(t.Context(), "a", c.Conv, math.MaxInt64, 9, 10, true))), []int64{})
}

func testRecall(f *fixture) {
	t := f.t
	c := f.private(t, "a", "b", 3)
	update := f.row(4, "a", "", "")
	update.Kind, update.TargetSeq, update.Status = store.KindUpdate, 2, wire.StatusRecalled
	c.MaxSeq = 4
	f.commit(t, &store.Turn{
		Conversations: []*store.Conversation{c}, Rows: []store.ConvRow{{Conv: c, Row: update}},
		Updates: []store.RowUpdate{
			{Conv: c, TargetSeq: 2, Status: wire.StatusRecalled, Version: 88},
			{Conv: c, TargetSeq: 3, Status: wire.StatusEdited, Content: "edited", Version: 89},
			{Conv: c, TargetSeq: 77, Status: wire.StatusEdited, Content: "long gone"},
		},
	})
	rows := got[[]store.Row](t)(f.s.Timeline(t.Context(), "b", c.Conv, 1, 4, 10, true))
	equal(t, "rows", seqs(rows), []int64{2, 3, 4})
	equal(t, "recalled", [3]any{rows[0].Status, rows[0].Content, rows[0].Version}, [3]any{wire.StatusRecalled, "", int64(88)})
	equal(t, "edited", [3]any{rows[1].Status, rows[1].Content, rows[1].Version}, [3]any{wire.StatusEdited, "edited", int64(89)})
	list := got[[]store.UserConv](t)(f.s.UserConversations(t.Context(), "b", "d", "", 10, true))
	equal(t, "unread without the recalled", list[0].Unread, int64(2))
	equal(t, "last is a message", list[0].Last.Seq, int64(3))
}

func testContents(f *fixture) {
	t := f.t
	c := f.private(t, "a", "b", 3)
	update := f.row(4, "a", "", "x")
	update.Kind, update.TargetSeq = store.KindUpdate, 2
	changed := store.RowUpdate{Conv: c, TargetSeq: 2, Status: wire.StatusRecalled, Version: 7}
	f.commit(t, &store.Turn{Rows: []store.ConvRow{{Conv: c, Row: update}}, Updates: []store.RowUpdate{changed}})
	rows := got[[]store.Row](t)(f.s.Timeline(t.Context(), "a", c.Conv, 0, 4, 10, true))
	found := got[map[int64]store.Content](t)(f.s.Contents(t.Context(), c.Conv, []int64{1, 2, 3, 4, 99}))
	equal(t, "contents", found, map[int64]store.Content{
		1: {Text: "message 1", Version: rows[0].Version}, 2: {Status: wire.StatusRecalled, Version: 7}, 3: {Text: "message 3", Version: rows[2].Version},
	})
	equal(t, "no conversation", len(got[map[int64]store.Content](t)(f.s.Contents(t.Context(), "p:x:y", []int64{1}))), 0)
}
