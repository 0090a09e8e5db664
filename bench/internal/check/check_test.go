package check

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// tape is a record that a test writes by hand. Times go by 1 ms an event.
type tape struct {
	events []*trace.Event
	who    map[int64]deviceKey
}

func (p *tape) add(e trace.Event) *trace.Event {
	if k, ok := p.who[e.Conn]; ok {
		e.User, e.Device = k.user, k.device
	}
	p.events = append(p.events, &e)
	return &e
}

func (p *tape) open(conn int64, user wire.UserID, device wire.DeviceID) {
	p.who[conn] = deviceKey{user, device}
	p.add(trace.Event{Kind: trace.Open, Conn: conn, Server: "e"})
}

const group, private = wire.ConvID("g:team"), wire.ConvID("p:alice:bob")

// idOf gives messages ids that differ in all conversations.
func idOf(conv wire.ConvID, seq int64) wire.MsgID {
	if conv == group {
		return wire.MsgID(500 + seq)
	}
	return wire.MsgID(100 + seq)
}

func (p *tape) msg(conns []int64, conv wire.ConvID, seq int64, from wire.UserID, cid string) {
	for _, c := range conns {
		p.add(trace.Event{Kind: trace.Msg, Conn: c, Msg: &wire.Msg{ID: idOf(conv, seq), Conv: conv, Seq: seq, From: from, Type: wire.TypeText, Content: "text of " + cid, ClientID: cid}})
	}
}

func (p *tape) system(conns []int64, seq int64, ev wire.GroupEvent) {
	b, _ := json.Marshal(ev)
	for _, c := range conns {
		p.add(trace.Event{Kind: trace.Msg, Conn: c, Msg: &wire.Msg{ID: idOf(group, seq), Conv: group, Seq: seq, From: ev.By, Type: wire.TypeSystem, Content: string(b)}})
	}
}

// sent is a send with its send_ack, on alice's connection.
func (p *tape) sent(conv wire.ConvID, seq int64, cid string) {
	p.add(trace.Event{Kind: trace.Due, User: "alice", Conv: conv, ClientID: cid, Content: "text of " + cid})
	p.add(trace.Event{Kind: trace.Send, Conn: 1, Conv: conv, ClientID: cid, Content: "text of " + cid})
	p.add(trace.Event{Kind: trace.Ack, Conn: 1, Conv: conv, ClientID: cid, ID: idOf(conv, seq)})
}

// page is a whole answer to a sync after a cursor, with nothing new of the group.
func (p *tape) page(conn, call int64, conv wire.ConvID, from int64, page wire.SyncConv) {
	p.add(trace.Event{Kind: trace.Sync, Conn: conn, Call: call, Cursors: map[wire.ConvID]int64{group: 7, conv: from}})
	page.Conv = conv
	p.add(trace.Event{Kind: trace.Page, Conn: conn, Call: call, Page: &wire.SyncOK{Conversations: []wire.SyncConv{page}}})
	p.add(trace.Event{Kind: trace.Return, Call: call})
}

func text(seq int64, from wire.UserID, cid string) wire.Msg {
	return wire.Msg{ID: idOf(private, seq), Seq: seq, From: from, Type: wire.TypeText, Content: "text of " + cid, ClientID: cid}
}

// story is a run in which nothing is wrong: alice, bob and carl in a group, of
// which carl is removed; alice and bob apart; an edit, a retry, a refusal, a slow
// connection and a cursor.
func story() *tape {
	p := &tape{who: make(map[int64]deviceKey)}
	p.add(trace.Event{Kind: trace.Begin, Text: trace.Version, Run: &trace.Run{Seed: 1}})
	p.add(trace.Event{Kind: trace.Phase, Text: trace.PhaseWork})
	p.open(1, "alice", "a")
	p.open(2, "bob", "b")
	p.open(3, "carl", "c")
	p.add(trace.Event{Kind: trace.Call, Call: 1, User: "alice", Op: trace.OpCreate, Conv: group, Users: []wire.UserID{"bob", "carl"}})
	p.system([]int64{1, 2, 3}, 1, wire.GroupEvent{Group: "team", Event: wire.EventCreated, User: "alice", By: "alice"})
	p.add(trace.Event{Kind: trace.Return, Call: 1})
	for seq := int64(2); seq <= 5; seq++ {
		cid := fmt.Sprintf("m%d", seq)
		p.sent(group, seq, cid)
		p.msg([]int64{1, 2, 3}, group, seq, "alice", cid)
	}
	p.add(trace.Event{Kind: trace.Call, Call: 6, User: "alice", Op: trace.OpRemove, Conv: group, Users: []wire.UserID{"carl"}})
	p.system([]int64{1, 2, 3}, 6, wire.GroupEvent{Group: "team", Event: wire.EventRemoved, User: "carl", By: "alice"})
	p.add(trace.Event{Kind: trace.Return, Call: 6})
	p.sent(group, 7, "m7")
	p.msg([]int64{1, 2}, group, 7, "alice", "m7")
	// Sent, no answer, sent again: the same.
	p.add(trace.Event{Kind: trace.Due, User: "alice", Conv: private, ClientID: "r", Content: "text of r"})
	p.add(trace.Event{Kind: trace.Send, Conn: 1, Conv: private, ClientID: "r"})
	p.add(trace.Event{Kind: trace.Fail, Conn: 1, Conv: private, ClientID: "r"})
	p.add(trace.Event{Kind: trace.Send, Conn: 1, Conv: private, ClientID: "r"})
	p.add(trace.Event{Kind: trace.Ack, Conn: 1, Conv: private, ClientID: "r", ID: 101})
	p.msg([]int64{1, 2}, private, 1, "alice", "r")
	p.add(trace.Event{Kind: trace.Cursor, Conn: 2, Conv: private, Seq: 1, Op: trace.OpRead})
	p.add(trace.Event{Kind: trace.Receipt, Conn: 1, Receipt: &wire.Receipt{Conv: private, User: "bob", Delivered: 1, Read: 1}})
	// An edit.
	p.add(trace.Event{Kind: trace.Call, Call: 2, Conn: 1, Op: trace.OpEdit, Conv: private, ID: 101, Content: "new"})
	for _, c := range []int64{1, 2} {
		p.add(trace.Event{Kind: trace.Update, Conn: c, Update: &wire.Update{Conv: private, Seq: 2, ID: 101, TargetSeq: 1, Status: wire.StatusEdited, Content: "new"}})
	}
	p.add(trace.Event{Kind: trace.Return, Call: 2})
	// Carl, who is no member any more, is refused.
	p.add(trace.Event{Kind: trace.Due, User: "carl", Conv: group, ClientID: "no", Content: "x"})
	p.add(trace.Event{Kind: trace.Send, Conn: 3, Conv: group, ClientID: "no", Content: "x"})
	p.add(trace.Event{Kind: trace.Fail, Conn: 3, Conv: group, ClientID: "no", Code: string(wire.CodeNotMember)})
	// Bob is slow, and catches up.
	p.sent(private, 3, "m3")
	p.sent(private, 4, "m4")
	p.msg([]int64{1}, private, 3, "alice", "m3")
	p.msg([]int64{1}, private, 4, "alice", "m4")
	p.add(trace.Event{Kind: trace.Lagged, Conn: 2, Lagged: &wire.Lagged{Convs: map[wire.ConvID][2]int64{private: {3, 3}}}})
	p.msg([]int64{2}, private, 4, "alice", "m4")
	p.page(2, 3, private, 2, wire.SyncConv{Upto: 4, MaxSeq: 4, ReadSeq: 1, Unread: 2, Messages: []wire.Msg{text(3, "alice", "m3"), text(4, "alice", "m4")}})
	p.add(trace.Event{Kind: trace.Phase, Text: trace.PhaseRest})
	p.add(trace.Event{Kind: trace.Phase, Text: trace.PhaseCalm})
	p.add(trace.Event{Kind: trace.Phase, Text: trace.PhaseRead})
	edited := text(1, "alice", "r")
	edited.Content, edited.Status = "new", wire.StatusEdited
	p.page(2, 4, private, 0, wire.SyncConv{
		Upto: 4, MaxSeq: 4, ReadSeq: 1, Unread: 2, Messages: []wire.Msg{edited, text(3, "alice", "m3"), text(4, "alice", "m4")},
		Updates: []wire.Update{{Conv: private, Seq: 2, ID: 101, TargetSeq: 1, Status: wire.StatusEdited, Content: "new"}},
	})
	p.add(trace.Event{Kind: trace.Call, Call: 5, User: "alice", Op: trace.OpHistory, Conv: private})
	p.add(trace.Event{Kind: trace.History, Call: 5, User: "alice", Conv: private, Messages: []wire.Msg{edited, text(3, "alice", "m3"), text(4, "alice", "m4")}})
	p.add(trace.Event{Kind: trace.Ledger, Ledger: json.RawMessage(`{"balanced":true}`)})
	p.add(trace.Event{Kind: trace.Phase, Text: trace.PhaseFinish})
	return p
}

func (p *tape) check(t *testing.T, cfg Config) *Verdict {
	t.Helper()
	c := New(cfg)
	for i, e := range p.events {
		e.N, e.T = int64(i)+1, int64(i)*1000
		c.Add(e)
	}
	return c.Verdict()
}

func TestNothingIsWrong(t *testing.T) {
	v := story().check(t, Config{Late: time.Second})
	var out strings.Builder
	if err := v.Text(&out); err != nil {
		t.Fatal(err)
	}
	if !v.Clean() || !strings.Contains(out.String(), "CLEAN") {
		t.Errorf("%s", out.String())
	}
	if v.Counts.Acked != 8 || v.Counts.Resent != 1 || v.Counts.Unknown != 0 || v.Ledgers != 1 || v.Availability != 1 {
		t.Errorf("counts %+v", v)
	}
	if err := v.JSON(&out); err != nil {
		t.Error(err)
	}
}

// push finds the first push of a seq to a connection.
func (p *tape) push(conn int64, conv wire.ConvID, seq int64) int {
	return slices.IndexFunc(p.events, func(e *trace.Event) bool {
		return e.Conn == conn && (e.Msg != nil && e.Msg.Conv == conv && e.Msg.Seq == seq || e.Update != nil && e.Update.Conv == conv && e.Update.Seq == seq)
	})
}

func (p *tape) find(f func(e *trace.Event) bool) *trace.Event {
	return p.events[slices.IndexFunc(p.events, f)]
}

func (p *tape) drop(i int) { p.events = slices.Delete(p.events, i, i+1) }

func (p *tape) insert(i int, e trace.Event) {
	if k, ok := p.who[e.Conn]; ok {
		e.User, e.Device = k.user, k.device
	}
	p.events = slices.Insert(p.events, i, &e)
}

// without takes every sight of a seq out of the record.
func (p *tape) without(conv wire.ConvID, seq int64) {
	p.events = slices.DeleteFunc(p.events, func(e *trace.Event) bool { return e.Msg != nil && e.Msg.Conv == conv && e.Msg.Seq == seq })
	for _, e := range p.events {
		keep := func(ms []wire.Msg) []wire.Msg {
			return slices.DeleteFunc(slices.Clone(ms), func(m wire.Msg) bool { return m.Seq == seq })
		}
		if e.Page != nil && e.Page.Conversations[0].Conv == conv {
			e.Page.Conversations[0].Messages = keep(e.Page.Conversations[0].Messages)
		}
		if e.Kind == trace.History && e.Conv == conv {
			e.Messages = keep(e.Messages)
		}
	}
}

func isPage(call int64) func(e *trace.Event) bool {
	return func(e *trace.Event) bool { return e.Kind == trace.Page && e.Call == call }
}

// Each thing that is wrong is called by its name.
func TestEachRule(t *testing.T) {
	for name, c := range map[string]struct {
		want  []Rule
		spoil func(p *tape)
	}{
		"lost at the end":  {[]Rule{Lost, Unread, Sync}, func(p *tape) { p.without(private, 4) }},
		"nobody has a seq": {[]Rule{Hole, Lost, Gap}, func(p *tape) { p.without(group, 3) }},
		"one client_id twice": {[]Rule{Repeated, AckID, FIFO, Sync, NotTold}, func(p *tape) {
			p.insert(p.push(2, group, 7)+1, trace.Event{Kind: trace.Msg, Conn: 1, Msg: &wire.Msg{ID: 300, Conv: group, Seq: 8, From: "alice", Type: wire.TypeText, Content: "text of m5", ClientID: "m5"}})
		}},
		"two orders": {[]Rule{Order}, func(p *tape) {
			m := *p.events[p.push(2, group, 3)].Msg
			m.ID, m.ClientID, m.Content = idOf(group, 2), "m2", "text of m2"
			p.events[p.push(2, group, 3)].Msg = &m
		}},
		"pushed out of order": {[]Rule{Order, Gap}, func(p *tape) {
			i, j := p.push(2, group, 3), p.push(2, group, 4)
			p.events[i], p.events[j] = p.events[j], p.events[i]
		}},
		"a push is left out":        {[]Rule{Gap, NotTold, Sync}, func(p *tape) { p.drop(p.push(2, group, 4)) }},
		"the last push is left out": {[]Rule{NotTold, Sync}, func(p *tape) { p.drop(p.push(2, group, 7)) }},
		"to one who was removed": {[]Rule{Leak}, func(p *tape) {
			p.insert(p.push(2, group, 7), trace.Event{Kind: trace.Msg, Conn: 3, Msg: p.events[p.push(2, group, 7)].Msg})
		}},
		"to a stranger": {[]Rule{Leak}, func(p *tape) {
			p.insert(p.push(2, private, 1), trace.Event{Kind: trace.Msg, Conn: 3, Msg: p.events[p.push(2, private, 1)].Msg})
		}},
		"history to a stranger": {[]Rule{Leak}, func(p *tape) {
			p.find(func(e *trace.Event) bool { return e.Call == 5 && e.Kind == trace.Call }).User = "carl"
		}},
		"another text": {[]Rule{Corrupt}, func(p *tape) {
			m := *p.events[p.push(2, group, 3)].Msg
			m.Content += "?"
			p.events[p.push(2, group, 3)].Msg = &m
		}},
		"an impossible seq": {[]Rule{Corrupt}, func(p *tape) {
			p.insert(p.push(2, group, 7), trace.Event{Kind: trace.Msg, Conn: 2, Msg: &wire.Msg{Conv: group, Seq: 1 << 60}})
		}},
		"sent by nobody": {[]Rule{Phantom}, func(p *tape) {
			p.events = slices.DeleteFunc(p.events, func(e *trace.Event) bool { return e.ClientID == "m7" })
		}},
		"refused and there": {[]Rule{Ghost, Refusal}, func(p *tape) {
			p.find(func(e *trace.Event) bool { return e.Kind == trace.Ack && e.ClientID == "m7" }).Kind = trace.Refused
			p.find(func(e *trace.Event) bool { return e.Kind == trace.Refused }).Code = "muted"
		}},
		"acknowledged under another id": {[]Rule{AckID}, func(p *tape) {
			p.find(func(e *trace.Event) bool { return e.Kind == trace.Ack && e.ClientID == "m7" }).ID = 999
		}},
		"sends swapped": {[]Rule{FIFO}, func(p *tape) {
			i := slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Kind == trace.Send && e.ClientID == "m2" })
			p.insert(i, trace.Event{Kind: trace.Send, Conn: 1, Conv: group, ClientID: "m4", Content: "text of m4"})
		}},
		"a page with a hole": {[]Rule{Sync}, func(p *tape) {
			page := &p.find(isPage(4)).Page.Conversations[0]
			page.Messages = slices.Delete(page.Messages, 1, 2)
		}},
		"a page that goes too far": {[]Rule{Sync, NotTold}, func(p *tape) {
			p.drop(p.push(2, private, 4))
			page := &p.find(isPage(3)).Page.Conversations[0]
			page.Messages = page.Messages[:1]
		}},
		"history with a hole": {[]Rule{History}, func(p *tape) {
			h := p.find(func(e *trace.Event) bool { return e.Kind == trace.History })
			h.Messages = h.Messages[:2]
		}},
		"an edit is not in history": {[]Rule{Stale}, func(p *tape) {
			h := p.find(func(e *trace.Event) bool { return e.Kind == trace.History })
			h.Messages = append([]wire.Msg{text(1, "alice", "r")}, h.Messages[1:]...)
		}},
		"a receipt of what nobody said": {[]Rule{Receipt}, func(p *tape) {
			p.find(func(e *trace.Event) bool { return e.Kind == trace.Receipt }).Receipt.Read = 2
		}},
		"a receipt that goes back": {[]Rule{Receipt}, func(p *tape) {
			i := slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Kind == trace.Lagged })
			p.insert(i, trace.Event{Kind: trace.Receipt, Conn: 1, Receipt: &wire.Receipt{Conv: private, User: "bob", Delivered: 1, Read: 1}})
			p.insert(i, trace.Event{Kind: trace.Receipt, Conn: 1, Receipt: &wire.Receipt{Conv: private, User: "bob", Delivered: 2, Read: 2}})
			p.insert(i, trace.Event{Kind: trace.Cursor, Conn: 2, Conv: private, Seq: 2, Op: trace.OpRead})
		}},
		"read_seq goes back": {[]Rule{Receipt, Unread}, func(p *tape) {
			page := &p.find(isPage(4)).Page.Conversations[0]
			page.ReadSeq = 0
		}},
		"a cursor that is forgotten": {[]Rule{Receipt}, func(p *tape) {
			p.find(func(e *trace.Event) bool { return e.Kind == trace.Receipt }).Receipt.Read = 0
			for _, call := range []int64{3, 4} {
				page := &p.find(isPage(call)).Page.Conversations[0]
				page.ReadSeq, page.Unread = 0, 3
			}
			i := slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Text == trace.PhaseCalm })
			for range settling / 1000 {
				p.insert(i, trace.Event{Kind: trace.Note})
			}
		}},
		"sync tells of a peer's cursor that nobody said": {[]Rule{Receipt}, func(p *tape) {
			p.find(isPage(3)).Page.Conversations[0].Delivered = 1
		}},
		"history is refused to a member": {[]Rule{History}, func(p *tape) {
			h := p.find(func(e *trace.Event) bool { return e.Kind == trace.History })
			*h = trace.Event{Kind: trace.Return, Call: h.Call, Code: string(wire.CodeNotMember)}
		}},
		"times that go back": {[]Rule{Order}, func(p *tape) {
			for _, e := range p.events {
				if e.Msg != nil && e.Msg.Conv == group && e.Msg.Seq < 5 {
					e.Msg.TS = 1000
				}
			}
		}},
		"a connection is cut": {[]Rule{Cut}, func(p *tape) {
			i := slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Text == trace.PhaseRest })
			p.insert(i, trace.Event{Kind: trace.Close, Conn: 3, Close: 1013, Text: "overloaded"})
			p.insert(i, trace.Event{Kind: trace.Close, Conn: 3, Close: 1000, Text: "closed by this side"})
		}},
		"unread is wrong": {[]Rule{Unread}, func(p *tape) { p.find(isPage(4)).Page.Conversations[0].Unread = 3 }},
		"not calm in time": {[]Rule{Late}, func(p *tape) {
			p.find(func(e *trace.Event) bool { return e.Text == trace.PhaseCalm }).Text = trace.PhaseLate
		}},
		"refused though a member": {[]Rule{Refusal, Gap, Hole}, func(p *tape) {
			p.without(group, 3)
			e := p.find(func(e *trace.Event) bool { return e.Kind == trace.Ack && e.ClientID == "m3" })
			e.Kind, e.Code = trace.Fail, string(wire.CodeNotMember)
		}},
		"an answer to nobody's send": {[]Rule{AckID}, func(p *tape) {
			p.insert(9, trace.Event{Kind: trace.Ack, Conn: 1, Conv: group, ClientID: "none", ID: 9})
		}},
		"an edit that was applied is nowhere": {[]Rule{Lost, Corrupt}, func(p *tape) {
			e := p.find(func(e *trace.Event) bool { return e.Op == trace.OpEdit })
			e.Content = "newer"
		}},
		"a recall that was applied is nowhere": {[]Rule{Lost}, func(p *tape) {
			i := p.push(1, private, 3)
			p.insert(i, trace.Event{Kind: trace.Return, Call: 9})
			p.insert(i, trace.Event{Kind: trace.Call, Conn: 1, Call: 9, Op: trace.OpRecall, Conv: private, ID: 101})
		}},
		"an edit that was refused": {[]Rule{Ghost}, func(p *tape) {
			p.find(func(e *trace.Event) bool { return e.Kind == trace.Return && e.Call == 2 }).Code = string(wire.CodeForbidden)
		}},
		"an edit by somebody else": {[]Rule{Corrupt}, func(p *tape) {
			e := p.find(func(e *trace.Event) bool { return e.Op == trace.OpEdit })
			e.User, e.Conn = "bob", 2
		}},
		"an edit that nobody asked for": {[]Rule{Phantom}, func(p *tape) {
			p.find(func(e *trace.Event) bool { return e.Op == trace.OpEdit }).ID = 9
			p.find(func(e *trace.Event) bool { return e.Kind == trace.Return && e.Call == 2 }).Code = trace.NoAnswer
		}},
		"a recalled text": {[]Rule{Corrupt, Stale}, func(p *tape) {
			p.find(isPage(4)).Page.Conversations[0].Messages[0].Status = wire.StatusRecalled
		}},
		"a removal that nobody asked for": {[]Rule{Phantom, Refusal}, func(p *tape) {
			p.find(func(e *trace.Event) bool { return e.Op == trace.OpRemove }).Users = nil
		}},
		"a member who was let in and is not": {[]Rule{Lost}, func(p *tape) {
			i := p.push(2, group, 7)
			p.insert(i, trace.Event{Kind: trace.Return, Call: 9})
			p.insert(i, trace.Event{Kind: trace.Call, User: "alice", Call: 9, Op: trace.OpAdd, Conv: group, Users: []wire.UserID{"dora"}})
		}},
		"one id in two conversations": {[]Rule{Repeated, AckID}, func(p *tape) {
			for _, conn := range []int64{1, 2} {
				m := *p.events[p.push(conn, group, 7)].Msg
				m.ID = 103
				p.events[p.push(conn, group, 7)].Msg = &m
			}
		}},
		"another time to another":    {[]Rule{Order}, func(p *tape) { p.events[p.push(2, group, 3)].Msg.TS = 1 }},
		"another event to another":   {[]Rule{Order}, func(p *tape) { p.events[p.push(2, group, 6)].Msg.Content += " " }},
		"a message that answers one": {[]Rule{Corrupt}, func(p *tape) { p.events[p.push(2, group, 3)].Msg.ReplyTo = 1 }},
		"what cannot be read": {[]Rule{Corrupt}, func(p *tape) {
			p.insert(9, trace.Event{Kind: trace.Note, Conn: 1, Text: "cannot be read: msg"})
		}},
		"the first push after a sync leaves one out": {[]Rule{Gap, NotTold, Sync}, func(p *tape) {
			i := p.push(2, group, 1)
			p.drop(i)
			p.insert(i, trace.Event{Kind: trace.Return, Call: 9})
			p.insert(i, trace.Event{Kind: trace.Sync, Conn: 2, Call: 9})
		}},
		"lagged names less than was left out": {[]Rule{Gap}, func(p *tape) {
			p.find(func(e *trace.Event) bool { return e.Kind == trace.Lagged }).Lagged.Convs[private] = [2]int64{4, 4}
		}},
		"sync ends before what was known": {[]Rule{Sync}, func(p *tape) {
			page := &p.find(isPage(4)).Page.Conversations[0]
			page.Messages, page.Upto = page.Messages[:2], 3
		}},
		"sync forgets a conversation":                {[]Rule{Sync}, func(p *tape) { p.find(isPage(4)).Page.Conversations = nil }},
		"sync shows what is after upto":              {[]Rule{Sync}, func(p *tape) { p.find(isPage(4)).Page.Conversations[0].Upto = 3 }},
		"sync begins membership too late":            {[]Rule{Sync}, func(p *tape) { p.find(isPage(4)).Page.Conversations[0].MinSeq = 2 }},
		"sync says that there is more than there is": {[]Rule{Sync}, func(p *tape) { p.find(isPage(4)).Page.Conversations[0].MaxSeq = 5 }},
		"sync names a stranger's conversation": {[]Rule{Leak}, func(p *tape) {
			page := p.find(isPage(4)).Page
			page.Conversations = append(page.Conversations, wire.SyncConv{Conv: "p:carl:dora"})
		}},
		"a receipt to a stranger": {[]Rule{Receipt}, func(p *tape) {
			p.find(func(e *trace.Event) bool { return e.Kind == trace.Receipt }).Conn = 3
		}},
		"a sync forgets what its connection said": {[]Rule{Receipt, Unread}, func(p *tape) {
			p.find(func(e *trace.Event) bool { return e.Kind == trace.Receipt }).Receipt.Read = 0
			page := &p.find(isPage(3)).Page.Conversations[0]
			page.ReadSeq = 0
		}},
		"nothing was acknowledged": {[]Rule{Truncated, Ghost, Lost}, func(p *tape) {
			p.events = slices.DeleteFunc(p.events, func(e *trace.Event) bool { return e.Kind == trace.Ack })
		}},
		"nothing was read": {[]Rule{Truncated, Lost}, func(p *tape) {
			p.find(func(e *trace.Event) bool { return e.Text == trace.PhaseRead }).Text = trace.PhaseCalm
		}},
		"no end": {[]Rule{Truncated}, func(p *tape) { p.drop(len(p.events) - 1) }},
		"the ledger": {[]Rule{Ledger}, func(p *tape) {
			p.find(func(e *trace.Event) bool { return e.Kind == trace.Ledger }).Ledger = json.RawMessage(`{"balanced":false,"differences":["im_messages/0: 1"]}`)
		}},
		"no ledger": {[]Rule{Ledger}, func(p *tape) {
			p.find(func(e *trace.Event) bool { return e.Kind == trace.Ledger }).Ledger = json.RawMessage(`{}`)
		}},
		"a fault that stays": {[]Rule{Unhealed}, func(p *tape) {
			p.insert(5, trace.Event{Kind: trace.Fault, Fault: &trace.FaultEvent{No: 1, Kind: "kill", Target: "edge-1", Step: trace.StepBegin}})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := story()
			c.spoil(p)
			v := p.check(t, Config{})
			for r := range v.Broken {
				if !slices.Contains(c.want, r) {
					t.Errorf("also says %s", r)
				}
			}
			if v.Broken[c.want[0]] == 0 {
				t.Errorf("does not say %s", c.want[0])
			}
			if t.Failed() {
				for _, x := range v.Violations {
					t.Logf("%s: %s", x.Rule, x.Text)
				}
			}
		})
	}
}

// What is late is told where nothing explains it.
func TestLate(t *testing.T) {
	for _, c := range []struct {
		fault bool
		want  int
	}{{false, 1}, {true, 0}} {
		p := story()
		i := p.push(2, group, 7)
		late := p.events[i]
		p.drop(i)
		for range 2000 {
			p.insert(i, trace.Event{Kind: trace.Note})
		}
		if c.fault {
			for _, step := range []string{trace.StepHealed, trace.StepBegin} {
				p.insert(i, trace.Event{Kind: trace.Fault, Fault: &trace.FaultEvent{No: 1, Kind: "kill", Target: "job-1", Step: step}})
			}
		}
		p.insert(i+2000, *late)
		v := p.check(t, Config{Late: time.Second})
		if v.Broken[Late] != c.want {
			t.Errorf("fault %t: %v", c.fault, v.Violations)
		}
		if len(v.Service) == 0 || v.Service[len(v.Service)-1].Deliveries.Longest < 2 {
			t.Errorf("service %+v", v.Service)
		}
	}
}

// A refusal of what was acknowledged stands, also if it overtakes the send_ack.
func TestRefusalFirst(t *testing.T) {
	for _, order := range [][]trace.Kind{{trace.Ack, trace.Refused}, {trace.Refused, trace.Ack}} {
		p := story()
		i := slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Kind == trace.Fail && e.ClientID == "no" })
		p.drop(i)
		for _, k := range slices.Backward(order) {
			p.insert(i, trace.Event{Kind: k, Conn: 3, Conv: group, ClientID: "no", ID: 77, Code: string(wire.CodeNotMember)})
		}
		if v := p.check(t, Config{}); !v.Clean() || v.Counts.Refused != 1 {
			t.Errorf("%v: %v", order, v.Violations)
		}
	}
}

// The send_ack of a repeat may name another id for want of an index, and stays so
// where what puts it right cannot follow.
func TestRepeatAcknowledgedWrongly(t *testing.T) {
	for _, c := range []struct{ closed, clean bool }{{true, true}, {false, false}} {
		p := story()
		i := slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Text == trace.PhaseRest })
		if c.closed {
			p.insert(i, trace.Event{Kind: trace.Close, Conn: 4, Text: "aborted by this side"})
		}
		p.insert(i, trace.Event{Kind: trace.Ack, Conn: 4, Conv: private, ClientID: "m4", ID: 999})
		p.insert(i, trace.Event{Kind: trace.Send, Conn: 4, Conv: private, ClientID: "m4"})
		p.who[4] = deviceKey{"alice", "a"}
		for _, e := range p.events[i : i+2] {
			e.User, e.Device = "alice", "a"
		}
		p.insert(i, trace.Event{Kind: trace.Open, Conn: 4})
		if v := p.check(t, Config{}); v.Clean() != c.clean || !c.clean && v.Broken[AckID] != 1 {
			t.Errorf("%+v: %v", c, v.Violations)
		}
	}
}

// A device that names no cursor begins where its user's others are: what lies
// before is not missing, and what lies after is.
func TestNewDevice(t *testing.T) {
	for _, c := range []struct {
		low   int64 // of the first answer
		clean bool
	}{{3, true}, {4, false}} {
		p := story()
		i := slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Text == trace.PhaseRest })
		late := &tape{who: p.who}
		late.add(trace.Event{Kind: trace.Cursor, Conn: 2, Conv: private, Seq: 2, Op: trace.OpAck})
		late.open(4, "bob", "new")
		late.add(trace.Event{Kind: trace.Sync, Conn: 4, Call: 9})
		page := wire.SyncConv{Conv: private, Upto: 4, MaxSeq: 4, ReadSeq: 1, Unread: 2}
		for seq := c.low; seq <= 4; seq++ {
			page.Messages = append(page.Messages, text(seq, "alice", fmt.Sprintf("m%d", seq)))
		}
		late.add(trace.Event{Kind: trace.Page, Conn: 4, Call: 9, Page: &wire.SyncOK{Conversations: []wire.SyncConv{page}}})
		for seq := int64(1); seq <= 7; seq++ { // and of the group it is pushed everything again
			late.insert(len(late.events), trace.Event{Kind: trace.Msg, Conn: 4, Msg: p.events[p.push(2, group, seq)].Msg})
		}
		p.events = slices.Insert(p.events, i, late.events...)
		if v := p.check(t, Config{}); v.Clean() != c.clean {
			t.Errorf("from %d: %v", c.low, v.Violations)
		}
	}
}

// Nor is it where a push overtakes the first answer, whether that shows anything of
// the conversation or not.
func TestNewDevicePushedFirst(t *testing.T) {
	for _, said := range []int64{3, 4} {
		p := story()
		i := slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Text == trace.PhaseRest })
		late := &tape{who: p.who}
		late.add(trace.Event{Kind: trace.Cursor, Conn: 2, Conv: private, Seq: said, Op: trace.OpAck})
		late.open(4, "bob", "new")
		late.add(trace.Event{Kind: trace.Sync, Conn: 4, Call: 9, Cursors: map[wire.ConvID]int64{group: 7}})
		late.msg([]int64{4}, private, said, "alice", fmt.Sprintf("m%d", said))
		var page wire.SyncOK
		if said == 3 {
			page.Conversations = []wire.SyncConv{{Conv: private, Upto: 4, MaxSeq: 4, ReadSeq: 1, Unread: 2, Messages: []wire.Msg{text(4, "alice", "m4")}}}
		}
		late.add(trace.Event{Kind: trace.Page, Conn: 4, Call: 9, Page: &page})
		for seq := int64(1); seq <= 7; seq++ { // of the group it is pushed everything again
			late.insert(len(late.events), trace.Event{Kind: trace.Msg, Conn: 4, Msg: p.events[p.push(2, group, seq)].Msg})
		}
		late.add(trace.Event{Kind: trace.Return, Conn: 4, Call: 9})
		p.events = slices.Insert(p.events, i, late.events...)
		if v := p.check(t, Config{}); !v.Clean() {
			t.Errorf("begun after %d: %v", said, v.Violations)
		}
	}
}

// A new device that comes twice before it is shown anything begins where the others
// are the second time.
func TestNewDeviceComesTwice(t *testing.T) {
	p := story()
	i := slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Text == trace.PhaseRest })
	late := &tape{who: p.who}
	come := func(conn, call, said int64) {
		late.add(trace.Event{Kind: trace.Cursor, Conn: 2, Conv: private, Seq: said, Op: trace.OpAck})
		late.open(conn, "bob", "new")
		late.add(trace.Event{Kind: trace.Sync, Conn: conn, Call: call, Cursors: map[wire.ConvID]int64{group: 7}})
		late.add(trace.Event{Kind: trace.Page, Conn: conn, Call: call, Page: &wire.SyncOK{}})
		late.add(trace.Event{Kind: trace.Return, Conn: conn, Call: call})
	}
	come(4, 9, 4)
	for seq := int64(1); seq <= 7; seq++ { // of the group it is pushed everything again
		late.insert(len(late.events), trace.Event{Kind: trace.Msg, Conn: 4, Msg: p.events[p.push(2, group, seq)].Msg})
	}
	late.add(trace.Event{Kind: trace.Close, Conn: 4, Op: trace.OpLeave, Text: "aborted by this side"})
	late.sent(private, 5, "m5")
	late.msg([]int64{1, 2}, private, 5, "alice", "m5")
	come(5, 10, 5)
	p.events = slices.Insert(p.events, i, late.events...)
	for _, v := range p.check(t, Config{}).Violations { // the story's end knows nothing of m5
		if strings.Contains(v.Text, "bob/new") {
			t.Errorf("%s: %s", v.Rule, v.Text)
		}
	}
}

// Time without service is that of the fault at work.
func TestService(t *testing.T) {
	p := story()
	i := slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Kind == trace.Ack && e.ClientID == "m4" })
	for range 3000 {
		p.insert(i, trace.Event{Kind: trace.Note})
	}
	p.insert(i-2, trace.Event{Kind: trace.Fault, Fault: &trace.FaultEvent{No: 1, Kind: "kill", Target: "edge-1", Step: trace.StepBegin}})
	i = slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Text == trace.PhaseRest })
	p.insert(i, trace.Event{Kind: trace.Fault, Fault: &trace.FaultEvent{No: 1, Kind: "kill", Target: "edge-1", Step: trace.StepHealed}})
	v := p.check(t, Config{})
	if !v.Clean() || len(v.Service) != 1 || v.Service[0].Kind != "kill edge" {
		t.Fatalf("%+v %+v", v.Violations, v.Service)
	}
	if s := v.Service[0]; s.Sends.Who != 1 || s.Sends.Longest < 2.9 || s.Sends.Longest > 3.1 || s.Deliveries.Who != 3 {
		t.Errorf("%+v", s)
	}
	if v.Availability > 0.7 || v.Availability < 0.6 { // one of three users, most of the time
		t.Errorf("available %v", v.Availability)
	}
}

// What was due to a device, or from it, while it had lost its connection was
// without service until it was back; not so if it had gone by plan.
func TestServiceAcrossConnections(t *testing.T) {
	for _, op := range []string{"", trace.OpLeave} {
		p := story()
		i := slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Text == trace.PhaseRest })
		out := &tape{who: p.who}
		out.add(trace.Event{Kind: trace.Close, Conn: 2, Op: op})
		out.sent(private, 5, "m5")
		out.add(trace.Event{Kind: trace.Due, User: "bob", Conv: private, ClientID: "b1"})
		for range 2000 {
			out.add(trace.Event{Kind: trace.Note})
		}
		out.open(5, "bob", "b")
		out.add(trace.Event{Kind: trace.Send, Conn: 5, Conv: private, ClientID: "b1"})
		out.add(trace.Event{Kind: trace.Ack, Conn: 5, Conv: private, ClientID: "b1", ID: 900})
		out.page(5, 9, private, 4, wire.SyncConv{Upto: 5, MaxSeq: 5, ReadSeq: 1, Unread: 3, Messages: []wire.Msg{text(5, "alice", "m5")}})
		p.events = slices.Insert(p.events, i, out.events...)
		v := p.check(t, Config{})
		without := len(v.Service) == 1 && v.Service[0].Deliveries.Longest >= 2 && v.Service[0].Sends.Longest >= 2
		if without != (op == "") || op != "" && len(v.Service) > 0 {
			t.Errorf("closed by %q: %+v", op, v.Service)
		}
	}
}

// A kept record is judged as the run was, and each violation has its story.
func TestFile(t *testing.T) {
	p := story()
	p.drop(p.push(2, group, 4))
	path := filepath.Join(t.TempDir(), "r.jsonl.gz")
	w, err := trace.Create(path, &trace.Run{Seed: 9})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range p.events[1:] {
		w.Add(e)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	v, err := File(path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := v.Text(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"BROKEN gap", "bob/b on connection 2", "is pushed seq 4 of g:team", "connected to e"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
	if n := strings.Count(v.Stories[0], "\n"); n > maxLines {
		t.Errorf("the story has %d lines", n)
	}
	if _, err := File(filepath.Join(t.TempDir(), "none"), Config{}); err == nil {
		t.Error("no error for no file")
	}
}

func TestRulesHaveMeanings(t *testing.T) {
	if len(Meaning()) != 23 {
		t.Errorf("%d rules", len(Meaning()))
	}
}

// Who repeats a message is answered with the id of the repeat where the index was
// lost, and told the first one's beside it, in either order. Nobody can be told
// over HTTP or on a connection that ended.
func TestFirstID(t *testing.T) {
	answer := func(conn int64, op string, id wire.MsgID) trace.Event {
		return trace.Event{Kind: trace.Ack, Conn: conn, User: "alice", Conv: private, ClientID: "r", ID: id, Op: op}
	}
	for name, c := range map[string]struct {
		acks  []trace.Event
		close bool
		clean bool
	}{
		"then the first":    {[]trace.Event{answer(1, "", 999), answer(1, trace.OpFirst, 101)}, false, true},
		"the first before":  {[]trace.Event{answer(1, trace.OpFirst, 101), answer(1, "", 999)}, false, true},
		"never the first":   {[]trace.Event{answer(1, "", 999)}, false, false},
		"another as first":  {[]trace.Event{answer(1, "", 101), answer(1, trace.OpFirst, 999)}, false, false},
		"over HTTP":         {[]trace.Event{answer(0, "", 999)}, false, true},
		"a connection ends": {[]trace.Event{answer(1, "", 999)}, true, true},
	} {
		p := story()
		i := slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Kind == trace.Ack && e.ClientID == "r" })
		p.drop(i)
		for _, e := range slices.Backward(c.acks) {
			p.insert(i, e)
		}
		if c.close {
			p.insert(slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Text == trace.PhaseRest }), trace.Event{Kind: trace.Close, Conn: 1, Text: "aborted by this side"})
		}
		if v := p.check(t, Config{}); v.Clean() != c.clean || !c.clean && v.Broken[AckID] != 1 {
			t.Errorf("%s: %v", name, v.Violations)
		}
	}
}

// Who is told that anything may be missing, syncs; what is pushed until the answer
// may have been on its way since before, and what was missed comes with the answer.
func TestLaggedOfAll(t *testing.T) {
	for _, told := range []bool{true, false} {
		p := story()
		three, four := p.push(2, group, 3), p.push(2, group, 4)
		missed := *p.events[four]
		p.drop(four)
		if told {
			p.insert(three, trace.Event{Kind: trace.Lagged, Conn: 2, Lagged: &wire.Lagged{}})
		}
		i := p.push(2, group, 5) + 1
		five := *p.events[i-1].Msg
		p.insert(i, trace.Event{Kind: trace.Sync, Conn: 2, Call: 9, Cursors: map[wire.ConvID]int64{group: 3}})
		p.insert(i+1, trace.Event{Kind: trace.Page, Conn: 2, Call: 9, Page: &wire.SyncOK{Conversations: []wire.SyncConv{
			{Conv: group, Upto: 5, MaxSeq: 5, Unread: 4, Messages: []wire.Msg{*missed.Msg, five}},
		}}})
		if v := p.check(t, Config{}); (v.Broken[Gap] == 0) != told || told && !v.Clean() {
			t.Errorf("told %t: %v", told, v.Violations)
		}
	}
}

// What was said on a connection that ended may be told after what was said on the
// next one: another logic took it.
func TestReceiptsOvertake(t *testing.T) {
	for _, c := range []struct {
		conn  int64 // on which the last cursor was said
		clean bool
	}{{5, true}, {2, false}} {
		p := story()
		said := func(conn, seq int64, op string) trace.Event {
			return trace.Event{Kind: trace.Cursor, Conn: conn, Conv: private, Seq: seq, Op: op}
		}
		told := func(delivered, read int64) trace.Event {
			return trace.Event{Kind: trace.Receipt, Conn: 1, Receipt: &wire.Receipt{Conv: private, User: "bob", Delivered: delivered, Read: read}}
		}
		more := &tape{who: p.who}
		more.add(said(2, 2, trace.OpRead))
		if c.conn == 5 {
			more.open(5, "bob", "b")
		}
		more.add(said(c.conn, 4, trace.OpAck))
		more.add(told(4, 2))
		more.add(told(1, 1))
		i := slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Text == trace.PhaseRest })
		p.events = slices.Insert(p.events, i, more.events...)
		p.find(isPage(4)).Page.Conversations[0].ReadSeq = 2
		if v := p.check(t, Config{}); (v.Broken[Receipt] == 0) != c.clean {
			t.Errorf("on connection %d: %v", c.conn, v.Violations)
		}
	}
}

// A session may be pushed on before it is told lagged, but not long before.
func TestLaggedSoon(t *testing.T) {
	for _, c := range []struct {
		events int // between the gap and lagged: 1 ms each
		gap    bool
	}{{100, false}, {11_000, true}} {
		p := story()
		p.drop(p.push(2, group, 4))
		i := p.push(2, group, 5) + 1
		p.insert(i, trace.Event{Kind: trace.Lagged, Conn: 2, Lagged: &wire.Lagged{}})
		p.insert(i, trace.Event{Kind: trace.Lagged, Conn: 2, Lagged: &wire.Lagged{Convs: map[wire.ConvID][2]int64{private: {1, 1}}}})
		for range c.events {
			p.insert(i, trace.Event{Kind: trace.Note})
		}
		if v := p.check(t, Config{}); (v.Broken[Gap] > 0) != c.gap {
			t.Errorf("%d ms: %v", c.events, v.Violations)
		}
	}
}

// A send that nobody answers is late, however it ends.
func TestNoAnswer(t *testing.T) {
	for _, kind := range []trace.Kind{trace.Ack, trace.Fail} {
		p := story()
		i := slices.IndexFunc(p.events, func(e *trace.Event) bool { return e.Kind == trace.Fail && e.ClientID == "r" })
		p.events[i].Kind = kind
		for range 2000 {
			p.insert(i, trace.Event{Kind: trace.Note})
		}
		if v := p.check(t, Config{Late: time.Second}); v.Broken[Late] == 0 || !strings.Contains(v.Violations[0].Text, "no answer") {
			t.Errorf("%s: %v", kind, v.Violations)
		}
	}
}

// Each rule is broken on purpose by a bug of common/planted, but for those that are
// of the run itself.
func TestRulesPlanted(t *testing.T) {
	named := make(map[string]bool)
	for _, in := range planted.All() {
		for _, rule := range in.Rules {
			named[rule] = true
			if Meaning()[Rule(rule)] == "" {
				t.Errorf("%s is to break %s, which is no rule", in.Bug, rule)
			}
		}
	}
	for rule := range Meaning() {
		if of := rule == Unhealed || rule == Truncated; named[string(rule)] == of {
			t.Errorf("%s: planted is %t", rule, !of)
		}
	}
}
