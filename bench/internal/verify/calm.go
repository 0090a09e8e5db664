package verify

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

// stillFor is how long nothing may have come until all counts as calm: longer
// than a retry, than a turn of a job, and than cursors take to be said and stored.
const stillFor = 3 * time.Second

// calm waits until all is settled and everybody has everything; it returns what
// is missing when time is up.
func (r *run) calm(ctx context.Context) (missing string) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Settle)
	defer cancel()
	for _, t := range r.teams {
		if err := t.learn(ctx); err != nil {
			return err.Error()
		}
	}
	var last int64
	since := time.Now()
	looked := since
	for n := 1; ; n++ {
		var got int64
		for _, p := range r.people {
			for _, d := range p.devices {
				got += d.inbox.count()
			}
		}
		// Where the machine stood still, the system did too.
		if now := time.Now(); got != last || r.steps.Load() > 0 || now.Sub(looked) > 5*retryPause {
			last, since = got, now
		}
		looked = time.Now()
		if missing = r.missing(); missing == "" && time.Since(since) > stillFor {
			return ""
		}
		if ctx.Err() != nil {
			return missing
		}
		if pause(ctx, retryPause); n%remindEvery == 0 {
			r.remind()
		}
	}
}

// missing names one thing that is not yet as it must be.
func (r *run) missing() string {
	r.mu.Lock()
	for m := range r.open {
		if !m.done {
			r.mu.Unlock()
			return fmt.Sprintf("%s of %s to %s has no answer", m.send.ClientID, m.from.id, m.conv)
		}
		if m.somebody && len(m.seen) == 0 {
			r.mu.Unlock()
			return fmt.Sprintf("%s of %s was acknowledged, and nobody in %s has it", m.send.ClientID, m.from.id, m.conv)
		}
	}
	r.mu.Unlock()
	if n := r.steps.Load(); n > 0 {
		return fmt.Sprintf("%d changes, repeats or departures are not done", n)
	}
	for _, p := range r.people {
		for _, d := range p.devices {
			if !d.quiet() {
				return fmt.Sprintf("%s/%s is not connected and in sync", p.id, d.id)
			}
		}
		for _, q := range p.peers {
			if text := behind(wire.PrivateConv(p.id, q.id), []*person{p, q}); text != "" {
				return text
			}
		}
	}
	for _, t := range r.teams {
		if text := behind(wire.GroupConv(t.id), t.who()); text != "" {
			return text
		}
	}
	return ""
}

// behind names a device that has not what another member has.
func behind(conv wire.ConvID, members []*person) string {
	var top int64
	for _, p := range members {
		for _, d := range p.devices {
			top = max(top, d.inbox.top(conv))
		}
	}
	for _, p := range members {
		for _, d := range p.devices {
			if at := d.inbox.at(conv); at < top && (!d.late || d.inbox.top(conv) > 0) { // a new one begins where its user was
				return fmt.Sprintf("%s/%s has %s up to %d, another %d", p.id, d.id, conv, at, top)
			}
		}
	}
	return ""
}

// readAll lets every device sync from its cursors, one of each user from the
// start, reads all history, and has everybody ask for what is none of theirs.
func (r *run) readAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 4*r.cfg.Settle)
	defer cancel()
	for _, p := range r.people {
		convs := r.convsOf(p)
		for i, d := range p.devices {
			cursors := d.inbox.all()
			if err := d.syncOnce(ctx, cursors); err != nil {
				return err
			}
			if i > 0 {
				continue
			}
			all := make(map[wire.ConvID]int64, len(convs))
			for _, conv := range convs {
				all[conv] = 0
			}
			if err := d.syncOnce(ctx, all); err != nil {
				return err
			}
		}
		for _, conv := range convs {
			if err := r.readHistory(ctx, p, conv); err != nil {
				return err
			}
		}
		if err := r.pry(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// pry asks for the history of a conversation of two others, and of a group that
// the user was never shown anything of: a refusal is the answer that is due.
func (r *run) pry(ctx context.Context, p *person) error {
	var foreign []wire.ConvID
	for _, q := range r.people {
		if q != p && q.peers[0] != p {
			foreign = append(foreign, wire.PrivateConv(q.id, q.peers[0].id))
			break
		}
	}
	for _, t := range r.teams {
		if conv := wire.GroupConv(t.id); p.devices[0].inbox.at(conv) == 0 && !t.has(p) {
			foreign = append(foreign, conv)
			break
		}
	}
	for _, conv := range foreign {
		if err := r.readHistory(ctx, p, conv); err != nil {
			return err
		}
	}
	return nil
}

// convsOf are the conversations that a user may have had part in.
func (r *run) convsOf(p *person) []wire.ConvID {
	var convs []wire.ConvID
	for conv, at := range p.devices[0].inbox.all() {
		if at > 0 {
			convs = append(convs, conv)
		}
	}
	return convs
}

func (d *device) syncOnce(ctx context.Context, cursors map[wire.ConvID]int64) error {
	for {
		l := d.standing(ctx)
		if l == nil {
			return fmt.Errorf("%s/%s is not connected at the end: %w", d.p.id, d.id, ctx.Err())
		}
		err := d.sync(ctx, l, cursors, 500)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("sync of %s/%s: %w", d.p.id, d.id, err)
		}
		pause(ctx, retryPause)
	}
}

// readHistory reads a conversation from its beginning, as its user is shown it,
// or notes that it is refused.
func (r *run) readHistory(ctx context.Context, p *person, conv wire.ConvID) error {
	call := r.calls.Add(1)
	r.trace.Add(&trace.Event{Kind: trace.Call, Call: call, User: p.id, Op: trace.OpHistory, Conv: conv})
	var all []wire.Msg
	for after := int64(0); ; {
		var page struct{ Messages []wire.Msg }
		path := fmt.Sprintf("/v1/conversations/%s/messages?after=%d&limit=%d", url.PathEscape(string(conv)), after, historyPage)
		if err := r.api.insist(ctx, http.MethodGet, path, p.devices[0].token, nil, &page); err != nil {
			r.trace.Add(&trace.Event{Kind: trace.Return, Call: call, Code: codeOf(err)})
			if codeOf(err) != trace.NoAnswer {
				return nil
			}
			return fmt.Errorf("history of %s for %s: %w", conv, p.id, err)
		}
		all = append(all, page.Messages...)
		if len(page.Messages) < historyPage {
			break
		}
		after = all[len(all)-1].Seq
	}
	r.trace.Add(&trace.Event{Kind: trace.History, Call: call, User: p.id, Conv: conv, Messages: all})
	return nil
}

// historyPage is the longest page that the API gives.
const historyPage = 500
