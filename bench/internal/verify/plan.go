package verify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

// Of a thousand steps of the plan, this many are not new messages.
const (
	changes    = 40 // recalls and edits
	repeats    = 10 // a send that was acknowledged, again, by another device
	departures = 4  // of a device
	commands   = 15 // of groups
	byHTTP     = 50 // of a thousand messages
	bursts     = 50 // of a thousand messages: two more follow at once
	toGroups   = 250
	toFormer   = 100 // of those to groups: to one that the sender need not be in
)

// plan begins a step at each tick until working ends, whatever became of those
// before; they go on until life ends.
func (r *run) plan(life, working context.Context) {
	rng := rand.New(rand.NewPCG(r.cfg.Seed, 2)) //nolint:gosec // a load, not a secret
	begin := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := 0; ; n++ {
		due := begin.Add(time.Duration(float64(n) / r.cfg.Rate * float64(time.Second)))
		timer.Reset(time.Until(due))
		select {
		case <-working.Done():
			return
		case <-timer.C:
		}
		if n == int(r.cfg.Rate*r.cfg.Duration.Seconds()/2) {
			r.lateOnes()
		}
		r.step(life, rng, n, due)
	}
}

// step draws everything from rng before it does anything, so that a seed draws
// the same whatever the system does.
func (r *run) step(ctx context.Context, rng *rand.Rand, n int, due time.Time) {
	kind, who, pick, odds := rng.IntN(1000), rng.IntN(len(r.people)), rng.Uint64(), rng.IntN(1000)
	size := rng.IntN(r.cfg.Size)
	switch {
	case kind < changes:
		r.do(func() { r.change(ctx, pick, n) })
		return
	case kind < changes+repeats:
		r.do(func() { r.again(ctx, pick) })
		return
	case kind < changes+repeats+departures:
		p := r.people[who]
		d := p.devices[pick%uint64(len(p.devices))]
		r.do(func() { d.leave(ctx, odds%2 == 0, time.Duration(odds)*time.Millisecond) })
		return
	case kind < changes+repeats+departures+commands && len(r.teams) > 0:
		t := r.teams[pick%uint64(len(r.teams))]
		r.do(func() { t.command(ctx, r.people[who], odds) })
		return
	}
	p := r.people[who]
	steady := p.steady()
	d := steady[p.turn%len(steady)]
	p.turn++
	say := func(cid string, byHTTP bool) {
		m := p.message(r.teamFor(p, pick, odds), pick, byHTTP)
		m.due = due
		m.send.ClientID, m.send.Type, m.send.Content = cid, wire.TypeText, fmt.Sprintf("%d-%s ", r.cfg.Seed, cid)
		m.send.Content += strings.Repeat("x", max(0, size-len(m.send.Content)))
		r.begun(m)
		r.do(func() { r.insist(ctx, m, d, byHTTP) })
	}
	say(fmt.Sprintf("m%d", n), odds < byHTTP)
	if odds >= byHTTP && odds < byHTTP+bursts {
		say(fmt.Sprintf("m%d-2", n), false)
		say(fmt.Sprintf("m%d-3", n), false)
	}
}

// message is a new one to a team, or where there is none to one of p's peers.
func (p *person) message(t *team, pick uint64, byHTTP bool) *message {
	m := &message{from: p, seen: make(map[wire.UserID]bool, 2)}
	if t != nil {
		// Over HTTP nobody is told of a refusal after the answer.
		m.send.Group, m.conv, m.somebody = t.id, wire.GroupConv(t.id), !byHTTP
		return m
	}
	peer := p.peers[pick%uint64(len(p.peers))]
	m.send.To, m.conv, m.to = peer.id, wire.PrivateConv(p.id, peer.id), []*person{p, peer}
	return m
}

// teamFor is the group that a step writes to; nil: it is no group's.
func (r *run) teamFor(p *person, pick uint64, odds int) *team {
	if odds%1000 < 1000-toGroups || len(r.teams) == 0 {
		return nil
	}
	t := r.teams[pick%uint64(len(r.teams))]
	if t.has(p) || pick>>32%1000 < toFormer {
		return t
	}
	return nil
}

// message picks one of those acknowledged lately.
func (r *run) message(pick uint64) *message {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.recent) == 0 {
		return nil
	}
	return r.recent[pick%uint64(len(r.recent))]
}

// lateOnes lets those devices come that nobody had before.
func (r *run) lateOnes() {
	for _, p := range r.people {
		for _, d := range p.devices {
			if d.late {
				d.mu.Lock()
				d.away = false
				d.mu.Unlock()
			}
		}
	}
}

// changer is who changes a message: mostly its sender; of a group's sometimes the
// owner, who may recall, and whose edits are to be refused.
func (r *run) changer(m *message, pick uint64) *person {
	for _, t := range r.teams {
		if wire.GroupConv(t.id) == m.conv && pick>>44%4 == 0 {
			return t.owner
		}
	}
	return m.from
}

// change recalls or edits a message.
func (r *run) change(ctx context.Context, pick uint64, n int) {
	m := r.message(pick)
	if m == nil {
		return
	}
	steady := r.changer(m, pick).steady()
	l := steady[0].standing(ctx)
	if l == nil {
		return
	}
	op, name, body := wire.OpRecall, trace.OpRecall, wire.RecallBody{Conv: m.conv, ID: m.id}
	if pick>>40%3 > 0 {
		op, name, body.Content = wire.OpEdit, trace.OpEdit, fmt.Sprintf("edit %d-%d", r.cfg.Seed, n)
	}
	call := r.calls.Add(1)
	steady[0].event(l, trace.Event{Kind: trace.Call, Call: call, Op: name, Conv: m.conv, ID: m.id, Content: body.Content})
	asking, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	_, err := l.client.Call(asking, op, body)
	steady[0].event(l, trace.Event{Kind: trace.Return, Call: call, Code: codeOf(err)})
}

// again sends once more what was acknowledged, as a client does that missed the
// answer, from another device where there is one.
func (r *run) again(ctx context.Context, pick uint64) {
	m := r.message(pick)
	if m == nil {
		return
	}
	steady := m.from.steady()
	_, _ = steady[pick%uint64(len(steady))].send(ctx, m)
}
