package check

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

// kindOf is a kind of fault: it takes an event where it can show, and spoils it
// (a copy that is its own) or what is around it. False: it cannot show there.
type kindOf struct {
	name  string
	at    func(e *trace.Event) bool
	spoil func(m *mutant, i int, e *trace.Event) bool
}

// mutant is a record in which one thing is changed.
type mutant struct {
	tape
	rng *rand.Rand
	top map[wire.ConvID]int64
}

// convs picks one of a page's conversations; nil: it has none.
func (m *mutant) pick(e *trace.Event) *wire.SyncConv {
	if len(e.Page.Conversations) == 0 {
		return nil
	}
	return &e.Page.Conversations[m.rng.IntN(len(e.Page.Conversations))]
}

// fresh says whether the device had not what event i shows it.
func (m *mutant) fresh(i int) bool {
	e := m.events[i]
	conv, seq := shown(e)
	for _, o := range m.events[:i] {
		if o.User != e.User || o.Device != e.Device {
			continue
		}
		if c, s := shown(o); c == conv && s == seq {
			return false
		}
		if o.Page != nil && shows(o.Page, conv, seq) {
			return false
		}
	}
	return true
}

func shown(e *trace.Event) (wire.ConvID, int64) {
	switch {
	case e.Msg != nil:
		return e.Msg.Conv, e.Msg.Seq
	case e.Update != nil:
		return e.Update.Conv, e.Update.Seq
	}
	return "", 0
}

func ofKind(k ...trace.Kind) func(*trace.Event) bool {
	return func(e *trace.Event) bool { return slices.Contains(k, e.Kind) }
}

func called(ops ...string) func(*trace.Event) bool {
	return func(e *trace.Event) bool { return e.Kind == trace.Call && slices.Contains(ops, e.Op) }
}

func isText(e *trace.Event) bool { return e.Msg != nil && e.Msg.Type == wire.TypeText }

// everywhere drops or changes what every sight of a seq shows.
func (m *mutant) everywhere(conv wire.ConvID, seq int64, msg func(*wire.Msg) bool, upd func(*wire.Update) bool) {
	var out []*trace.Event
	for _, e := range m.events {
		switch {
		case e.Msg != nil && e.Msg.Conv == conv && e.Msg.Seq == seq:
			if e = deep(e); !msg(e.Msg) {
				continue
			}
		case e.Update != nil && e.Update.Conv == conv && e.Update.Seq == seq:
			if e = deep(e); !upd(e.Update) {
				continue
			}
		case e.Kind == trace.History && e.Conv == conv:
			e = deep(e)
			e.Messages = slices.DeleteFunc(e.Messages, func(x wire.Msg) bool { return x.Seq == seq && !msg(&x) })
		case e.Page != nil && shows(e.Page, conv, seq):
			e = deep(e)
			for i := range e.Page.Conversations {
				if c := &e.Page.Conversations[i]; c.Conv == conv {
					c.Messages = slices.DeleteFunc(c.Messages, func(x wire.Msg) bool { return x.Seq == seq && !msg(&x) })
					c.Updates = slices.DeleteFunc(c.Updates, func(x wire.Update) bool { return x.Seq == seq && !upd(&x) })
				}
			}
		}
		out = append(out, e)
	}
	m.events = out
}

func deep(e *trace.Event) *trace.Event {
	b, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	x := new(trace.Event)
	if err := json.Unmarshal(b, x); err != nil {
		panic(err)
	}
	return x
}

// lose takes a message that was acknowledged out of the record, the seqs after it
// moved down; refused: and says that it was refused.
func (m *mutant) lose(e *trace.Event, refused bool) bool {
	var seq int64
	for _, o := range m.events {
		if isText(o) && o.Msg.Conv == e.Conv && o.Msg.From == e.User && o.Msg.ClientID == e.ClientID {
			seq = o.Msg.Seq
		}
		if o.Update != nil && o.Update.ID == e.ID {
			return false // changes of it would tell
		}
	}
	if seq == 0 {
		return false
	}
	m.shift(e.Conv, seq)
	for i, o := range m.events {
		if refused && o.Kind == trace.Ack && o.Conv == e.Conv && o.User == e.User && o.ClientID == e.ClientID {
			m.events[i] = deep(o)
			m.events[i].Kind, m.events[i].Code = trace.Fail, string(wire.CodeNotMember)
		}
	}
	return true
}

func (m *mutant) loseChange(e *trace.Event) bool {
	for _, o := range m.events {
		if o.Update != nil && o.Update.ID == e.ID && (o.Update.Content == e.Content) {
			m.shift(o.Update.Conv, o.Update.Seq)
			return true
		}
	}
	return false
}

// shift takes a seq out of every sight and cursor, and moves what is above down.
func (m *mutant) shift(conv wire.ConvID, gone int64) {
	down := func(seq *int64) {
		if *seq >= gone && *seq > 0 {
			*seq--
		}
	}
	var out []*trace.Event
	for _, e := range m.events {
		e = deep(e)
		if c, seq := shown(e); c == conv && seq == gone {
			continue
		}
		if e.Msg != nil && e.Msg.Conv == conv {
			down(&e.Msg.Seq)
		}
		if e.Update != nil && e.Update.Conv == conv {
			down(&e.Update.Seq)
			down(&e.Update.TargetSeq)
		}
		if e.Receipt != nil && e.Receipt.Conv == conv {
			down(&e.Receipt.Delivered)
			down(&e.Receipt.Read)
		}
		if e.Kind == trace.Cursor && e.Conv == conv {
			down(&e.Seq)
		}
		if at, ok := e.Cursors[conv]; ok {
			down(&at)
			e.Cursors[conv] = at
		}
		if e.Kind == trace.History && e.Conv == conv {
			e.Messages = without(e.Messages, gone)
		}
		if e.Page != nil {
			shiftPage(e.Page, conv, gone, down)
		}
		out = append(out, e)
	}
	m.events = out
}

func without(ms []wire.Msg, gone int64) (out []wire.Msg) {
	for _, x := range ms {
		if x.Seq == gone {
			continue
		}
		if x.Seq > gone {
			x.Seq--
		}
		out = append(out, x)
	}
	return out
}

func shiftPage(p *wire.SyncOK, conv wire.ConvID, gone int64, down func(*int64)) {
	for i := range p.Conversations {
		c := &p.Conversations[i]
		if c.Conv != conv {
			continue
		}
		c.Messages = without(c.Messages, gone)
		c.Updates = slices.DeleteFunc(c.Updates, func(u wire.Update) bool { return u.Seq == gone })
		for j := range c.Updates {
			down(&c.Updates[j].Seq)
			down(&c.Updates[j].TargetSeq)
		}
		for _, x := range []*int64{&c.Upto, &c.MaxSeq, &c.ReadSeq, &c.Read, &c.Delivered} {
			down(x)
		}
		if c.MinSeq > gone {
			c.MinSeq--
		}
	}
}

// mutate makes one mutant of a kind; nil: there is none here.
func mutate(p *tape, k *kindOf, rng *rand.Rand) *mutant {
	tried := 0
	for _, i := range rng.Perm(len(p.events)) {
		if !k.at(p.events[i]) {
			continue
		}
		if tried++; tried > 50 {
			return nil
		}
		m := &mutant{tape: tape{events: slices.Clone(p.events), who: p.who}, rng: rng, top: make(map[wire.ConvID]int64)}
		for _, e := range p.events {
			if c, s := shown(e); s > 0 {
				m.top[c] = max(m.top[c], s)
			}
		}
		m.events[i] = deep(p.events[i])
		if k.spoil(m, i, m.events[i]) {
			return m
		}
	}
	return nil
}

func (p *tape) judge() *Verdict {
	c := New(Config{})
	for _, e := range p.events {
		c.Add(e)
	}
	return c.Verdict()
}

// Whatever a system that errs may show somebody is told from one that does not.
// With STARLING_RECORD, a record of a real run is changed instead of made ones.
func TestMutants(t *testing.T) {
	var records []*tape
	each := 8 // mutants of a kind
	if path := os.Getenv("STARLING_RECORD"); path != "" {
		p := &tape{who: make(map[int64]deviceKey)}
		for e, err := range trace.Read(path) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind == trace.Open {
				p.who[e.Conn] = deviceKey{e.User, e.Device}
			}
			p.events = append(p.events, e)
		}
		records, each = append(records, p), 20
	} else {
		for seed := range uint64(4) {
			records = append(records, newWorld(seed).live(120))
			for i, e := range records[seed].events {
				e.N, e.T = int64(i)+1, int64(i)*200_000
			}
		}
	}
	for _, p := range records {
		if v := p.judge(); !v.Clean() {
			t.Fatalf("nothing is wrong, and it says %v", v.Violations)
		}
	}
	for _, k := range kinds() {
		made := 0
		for n := range each {
			m := mutate(records[n%len(records)], &k, rand.New(rand.NewPCG(uint64(n), 5)))
			if m == nil {
				continue
			}
			made++
			if m.judge().Clean() {
				t.Errorf("%s (%d): nothing is said of it", k.name, n)
			}
		}
		t.Logf("%-50s %d", k.name, made)
	}
}
