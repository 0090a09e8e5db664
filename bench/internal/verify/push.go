package verify

import (
	"strings"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

// push takes what the server says by itself.
func (d *device) push(l *link, f wire.Frame) {
	if <-l.opened; l.failed {
		return
	}
	var e trace.Event
	var body any
	switch f.Op {
	case wire.OpMsg:
		e.Kind, e.Msg = trace.Msg, new(wire.Msg)
		body = e.Msg
	case wire.OpUpdate:
		e.Kind, e.Update = trace.Update, new(wire.Update)
		body = e.Update
	case wire.OpLagged:
		e.Kind, e.Lagged = trace.Lagged, new(wire.Lagged)
		body = e.Lagged
	case wire.OpReceipt:
		e.Kind, e.Receipt = trace.Receipt, new(wire.Receipt)
		body = e.Receipt
	case wire.OpReconnect:
		d.r.lives.Go(l.client.Close) // and comes back, elsewhere
		return
	case wire.OpSendAck, wire.OpRefused:
		d.answered(l, f)
		return
	default:
		return
	}
	if !d.read(l, f, body) {
		return
	}
	d.event(l, e)
	switch {
	case e.Msg != nil:
		d.r.shown(d.p.id, e.Msg.Conv, e.Msg)
		d.pushed(e.Msg.Conv, e.Msg.Seq)
	case e.Update != nil:
		d.pushed(e.Update.Conv, e.Update.Seq)
	case e.Lagged != nil:
		d.syncSoon()
	}
}

// read decodes a frame's body; one that cannot be read is noted.
func (d *device) read(l *link, f wire.Frame, into any) bool {
	if wire.Unmarshal(f.Body, into) == nil {
		return true
	}
	d.event(l, trace.Event{Kind: trace.Note, Text: "cannot be read: " + f.Op.String() + " " + strings.ToValidUTF8(string(f.Body), "?")})
	return false
}

func (d *device) pushed(conv wire.ConvID, seq int64) {
	if d.inbox.take(conv, seq) {
		d.syncSoon()
	}
}

// answered takes what is said of a send apart from its own answer: a refusal
// afterwards, another id, an answer that came too late.
func (d *device) answered(l *link, f wire.Frame) {
	if f.Op == wire.OpRefused {
		var x wire.Refused
		if d.read(l, f, &x) {
			d.event(l, trace.Event{Kind: trace.Refused, Conv: x.Conv, ClientID: x.ClientID, ID: x.ID, Code: string(x.Code)})
			d.r.refused(d.p.id, x.Conv, x.ClientID)
		}
		return
	}
	var a wire.SendAck
	if d.read(l, f, &a) {
		e := trace.Event{Kind: trace.Ack, Conv: a.Conv, ClientID: a.ClientID, ID: a.ID}
		if f.Seq == 0 {
			e.Op = trace.OpFirst
		}
		d.event(l, e)
	}
}
