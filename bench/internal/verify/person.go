package verify

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

// person is a user with devices.
type person struct {
	id      wire.UserID
	devices []*device
	peers   []*person // whom they write to
	turn    int       // whose device sends next
}

// steady are the devices that are there all the while and not slow.
func (p *person) steady() []*device {
	var out []*device
	for _, d := range p.devices {
		if !d.slow && !d.late {
			out = append(out, d)
		}
	}
	return out
}

// message is one that somebody wants to send.
type message struct {
	conv     wire.ConvID
	from     *person
	to       []*person // of a private one: both
	somebody bool      // of a group: it is for somebody at least, if it is not refused
	send     wire.Send
	due      time.Time
	done     bool       // acknowledged, or refused for good
	refused  bool       // it will not come
	id       wire.MsgID // once acknowledged
	seen     map[wire.UserID]bool
}

// insist sends a message until an answer settles it.
func (r *run) insist(ctx context.Context, m *message, d *device, byHTTP bool) {
	r.trace.Add(&trace.Event{Kind: trace.Due, At: r.trace.At(m.due), User: m.from.id, Conv: m.conv, ClientID: m.send.ClientID, Content: m.send.Content})
	for ctx.Err() == nil {
		var err error
		var ack wire.SendAck
		if byHTTP {
			ack, err = r.post(ctx, m, d)
		} else if ack, err = d.send(ctx, m); errors.Is(err, errNoLink) {
			continue
		}
		if err == nil {
			r.settle(m, ack.ID, false)
			return
		}
		if !mayReturn(codeOf(err)) {
			r.settle(m, 0, true)
			return
		}
		pause(ctx, retryPause)
	}
}

// mayReturn lists the codes after which the same is tried again.
func mayReturn(code string) bool {
	switch code {
	case trace.NoAnswer, string(wire.CodeUnavailable), string(wire.CodeOverloaded), string(wire.CodeRateLimited):
		return true
	}
	return false
}

var errNoLink = errors.New("the connection ended before it could be sent")

// send is one attempt over a connection.
func (d *device) send(ctx context.Context, m *message) (wire.SendAck, error) {
	l := d.standing(ctx)
	if l == nil {
		return wire.SendAck{}, errNoLink
	}
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-l.client.Done():
		return wire.SendAck{}, errNoLink
	case <-ctx.Done():
		return wire.SendAck{}, errNoLink
	}
	type result struct {
		ack wire.SendAck
		err error
	}
	got := make(chan result, 1)
	note := func(ack wire.SendAck, err error) {
		e := trace.Event{Kind: trace.Ack, Conv: ack.Conv, ClientID: ack.ClientID, ID: ack.ID}
		if err != nil {
			e.Kind, e.Conv, e.ClientID = trace.Fail, m.conv, m.send.ClientID
			if e.Code = codeOf(err); e.Code == trace.NoAnswer {
				e.Code, e.Text = "", err.Error()
			}
		}
		d.event(l, e)
		got <- result{ack, err}
	}
	l.write.Lock()
	d.event(l, trace.Event{Kind: trace.Send, Conv: m.conv, ClientID: m.send.ClientID})
	err := l.client.SendAsync(m.send, note)
	l.write.Unlock()
	if err != nil {
		note(wire.SendAck{}, err)
	}
	t := time.NewTimer(answerTime)
	defer t.Stop()
	select {
	case x := <-got:
		return x.ack, x.err
	case <-t.C:
		// Nobody answers on this connection: an application would give it up.
		l.client.Abort()
		x := <-got
		return x.ack, x.err
	}
}

// post is one attempt over HTTP.
func (r *run) post(ctx context.Context, m *message, d *device) (ack wire.SendAck, err error) {
	e := trace.Event{Kind: trace.Send, User: m.from.id, Conv: m.conv, ClientID: m.send.ClientID}
	r.trace.Add(&e)
	err = r.api.ask(ctx, http.MethodPost, "/v1/messages", d.token, m.send, &ack)
	e = trace.Event{Kind: trace.Ack, User: m.from.id, Conv: ack.Conv, ClientID: ack.ClientID, ID: ack.ID}
	if err != nil {
		e.Kind, e.Conv, e.ClientID = trace.Fail, m.conv, m.send.ClientID
		if e.Code = codeOf(err); e.Code == trace.NoAnswer {
			e.Code, e.Text = "", err.Error()
		}
	}
	r.trace.Add(&e)
	return ack, err
}
