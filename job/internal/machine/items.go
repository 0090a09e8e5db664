package machine

import (
	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// event writes a change of a group as a system message and tells it.
func (t *turn) event(it *item, d *draft, ev wire.GroupEvent, file []wire.UserID) store.Row {
	ev.Group, ev.By = it.conv.Group, it.key.From
	ev.TS = max(it.TS, d.head.LastTS+1)
	row := t.take(it, d, store.Row{
		Kind: store.KindMessage, ID: it.eventID(), From: it.key.From,
		Type: wire.TypeSystem, Content: string(encode(ev)), ClientID: it.key.ClientID,
	})
	it.pushEvent(row, ev, file)
	return row
}

// eventID returns the id of the record's next event: the record's own for the
// first, then those that logic gave it.
func (it *item) eventID() wire.MsgID {
	more := it.rec.GetCommand().GetEventIds()
	n := it.events
	it.events++
	if n == 0 || n > len(more) {
		return wire.MsgID(it.rec.GetId())
	}
	return wire.MsgID(more[n-1])
}

// to addresses an item to all who see the conversation.
func (it *item) to(i Item) Item {
	i.Kind, i.Conv = Deliver, it.key.Conv
	switch {
	case it.conv.Group != "":
		i.Group = it.conv.Group
	case it.conv.A == it.conv.B:
		i.Users = []wire.UserID{it.conv.A}
	default:
		i.Users = []wire.UserID{it.conv.A, it.conv.B}
	}
	return i
}

// pushMessage delivers a message.
func (it *item) pushMessage(row store.Row, file []wire.UserID) {
	if row.Type == wire.TypeText && planted.Now(planted.JobPushesOtherText) {
		row.Content += "?"
	}
	i := it.to(Item{
		Op: wire.OpMsg, Seq: row.Seq, ID: row.ID, From: row.From, Type: row.Type, TS: row.TS, File: file,
		Body: encode(wire.Msg{
			ID: row.ID, Conv: it.key.Conv, Seq: row.Seq, From: row.From, Type: row.Type, Content: row.Content, TS: row.TS,
			ClientID: row.ClientID, Mention: row.Mention, ReplyTo: row.ReplyTo, Status: row.Status,
		}),
	})
	if row.Type != wire.TypeSystem { // these are rare
		i.Cache = &registry.CachedMsg{Conv: it.key.Conv, Seq: row.Seq, ID: row.ID, Version: row.Version, Content: row.Content}
		if planted.Now(planted.JobCachesOtherText) {
			i.Cache.Content += "?"
		}
	}
	it.pushed = append(it.pushed, i)
}

// pushUpdate delivers a recall or an edit.
func (it *item) pushUpdate(row store.Row) {
	it.pushed = append(it.pushed, it.to(Item{
		Op: wire.OpUpdate, Seq: row.Seq, ID: row.ID, From: row.From, TS: row.TS,
		Body: encode(wire.Update{
			Conv: it.key.Conv, Seq: row.Seq, ID: row.ID, TargetSeq: row.TargetSeq, Status: row.Status, Content: row.Content,
		}),
		Cache: &registry.CachedMsg{
			Conv: it.key.Conv, Seq: row.TargetSeq, ID: row.ID, Version: row.Version, Content: row.Content,
		},
	}))
}

// pushEvent delivers a system message and the same as op group. Who joins
// belongs to the group before its event, who leaves until after it.
func (it *item) pushEvent(row store.Row, ev wire.GroupEvent, file []wire.UserID) {
	g := it.conv.Group
	switch ev.Event {
	case wire.EventCreated:
		users := unique(it.key.From, userIDs(it.rec.GetCommand().GetUsers()))
		it.pushed = append(it.pushed, Item{Kind: Join, Users: users, Group: g, Conv: it.key.Conv, Seq: row.Seq, Members: users})
	case wire.EventJoined:
		it.pushed = append(it.pushed, Item{Kind: Join, Users: []wire.UserID{ev.User}, Group: g, Conv: it.key.Conv, Seq: row.Seq})
	}
	it.pushMessage(row, file)
	it.pushed = append(it.pushed, it.to(Item{Op: wire.OpGroup, Body: encode(ev), From: ev.By, TS: ev.TS}))
	switch ev.Event {
	case wire.EventLeft, wire.EventRemoved:
		it.pushed = append(it.pushed, Item{Kind: Leave, Users: []wire.UserID{ev.User}, Group: g, Conv: it.key.Conv, Seq: row.Seq})
	case wire.EventDismissed:
		it.pushed = append(it.pushed, Item{Kind: Drop, Group: g, Conv: it.key.Conv, Seq: row.Seq})
	}
}

// pushQuiet tells of a join or leave of a large group, which takes no seq:
// the person, the owner and who did it. joined is the first seq that the
// joiner sees.
func (it *item) pushQuiet(owner wire.UserID, users []wire.UserID, event string, joined int64) {
	g := it.conv.Group
	if event == wire.EventJoined && len(users) > 0 {
		it.pushed = append(it.pushed, Item{Kind: Join, Users: users, Group: g, Conv: it.key.Conv, Seq: joined})
	}
	for _, u := range users {
		ev := wire.GroupEvent{Group: g, Event: event, User: u, By: it.key.From, TS: it.TS}
		it.pushed = append(it.pushed, Item{
			Kind: Deliver, Users: unique(u, []wire.UserID{owner, it.key.From}), Op: wire.OpGroup, Body: encode(ev),
			Conv: it.key.Conv, From: ev.By, TS: ev.TS,
		})
	}
	if event != wire.EventJoined && len(users) > 0 {
		it.pushed = append(it.pushed, Item{Kind: Leave, Users: users, Group: g, Conv: it.key.Conv})
	}
}

// quiet says which event a command has when it took no seq, "" for none.
func (it *item) quiet(u wire.UserID) string {
	switch it.rec.GetCommand().GetKind() {
	case recordpb.Command_ADD:
		return wire.EventJoined
	case recordpb.Command_REMOVE:
		return leaveEvent(it, u)
	default:
		return ""
	}
}
