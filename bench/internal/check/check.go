package check

import (
	"fmt"
	"iter"
	"time"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

// Config says what is judged beyond the promises themselves.
type Config struct {
	// Late is how long a message may take from its acknowledgement to whoever is
	// there while no fault is at work; 0: any time.
	Late time.Duration
	// Slow is how long a send may take to its acknowledgement, and a message to
	// whoever is there, and still count as service. 0: 1 s.
	Slow time.Duration
	// Exclusive says that nobody else used the system: the ledger must count
	// exactly what was shown.
	Exclusive bool
}

// Checker judges one record. Make it with New, give it every event in order,
// then ask for the Verdict once.
type Checker struct {
	cfg Config
	findings

	events, finish int64
	phase          string
	convs          map[wire.ConvID]*timeline
	conns          map[int64]*conn
	devices        map[deviceKey]*device
	users          map[wire.UserID]*user
	sends          map[sendKey]*send
	calls          map[int64]*call
	ids            map[wire.MsgID]place
	wishes         map[wire.MsgID]*wished
	faults         faults
	counts         Counts
	ledgers        ledgers
	run            *trace.Run
	from, to       int64 // µs: of the work
	lastDue        int64 // µs
	late           bool  // it never became calm
	atRead         bool  // the last phase but one has begun
	readAt         int64 // µs: when

	pending  []sight // states that nothing explains yet
	gaps     []gap   // of pushes
	holes    []gap   // of pages
	short    []gap   // that syncs ended before
	begins   []gap   // from: where a page says that membership begins
	denied   []denial
	reads    []reading  // histories
	heads    []headSaid // of pages
	receipts receipts
}

// Counts is what the record holds.
type Counts struct {
	Users, Devices, Connections, Conversations      int
	Due, Acked, Refused, Pushed, Synced, Histories  int64
	Changes, Commands, Faults, Lagged, Resent, Seqs int64
	Unknown                                         int64 // sends whose outcome nobody was told
	Seconds                                         float64
}

// New makes a Checker.
func New(cfg Config) *Checker {
	if cfg.Slow == 0 {
		cfg.Slow = time.Second
	}
	return &Checker{
		cfg: cfg, convs: make(map[wire.ConvID]*timeline), conns: make(map[int64]*conn), devices: make(map[deviceKey]*device),
		users: make(map[wire.UserID]*user), sends: make(map[sendKey]*send), calls: make(map[int64]*call), ids: make(map[wire.MsgID]place),
		wishes:   make(map[wire.MsgID]*wished),
		receipts: receipts{said: make(map[saidOf][]saidCursor), top: make(map[cursorOf]wire.Receipt)},
	}
}

// File checks a record that was kept.
func File(path string, cfg Config) (*Verdict, error) {
	c := New(cfg)
	if err := c.all(trace.Read(path)); err != nil {
		return nil, err
	}
	v := c.Verdict()
	return v, v.tell(trace.Read(path))
}

func (c *Checker) all(events iter.Seq2[*trace.Event, error]) error {
	for e, err := range events {
		if err != nil {
			return err
		}
		c.Add(e)
	}
	return nil
}

func (c *Checker) bad(v Violation) { c.add(v) }

// Add judges the next event. It keeps nothing of the event but its strings.
func (c *Checker) Add(e *trace.Event) {
	c.events = e.N
	switch e.Kind {
	case trace.Begin:
		c.run = e.Run
	case trace.Phase:
		c.phaseBegins(e)
	case trace.Fault:
		c.fault(e)
	case trace.Ledger:
		c.ledger(e)
	case trace.Open:
		c.open(e)
	case trace.Close:
		c.closed(e)
	case trace.Due, trace.Send, trace.Ack, trace.Fail, trace.Refused:
		c.sending(e)
	case trace.Msg, trace.Update, trace.Lagged:
		c.pushed(e)
	case trace.Receipt, trace.Cursor:
		c.receipt(e)
	case trace.Sync, trace.Page, trace.Call, trace.Return, trace.History:
		c.calling(e)
	case trace.Note:
		if e.Conn != 0 {
			c.bad(Violation{Rule: Corrupt, Text: fmt.Sprintf("%v was told what %s", c.conns[e.Conn], e.Text), Conns: one(e.Conn), Event: e.N})
		}
	}
}

func (c *Checker) phaseBegins(e *trace.Event) {
	c.phase = e.Text
	switch e.Text {
	case trace.PhaseWork:
		c.from = e.T
	case trace.PhaseRest:
		c.to = e.T
	case trace.PhaseLate:
		c.late = true
		c.bad(Violation{Rule: Late, Text: "not everything was with everybody in time: " + e.Content, Event: e.N})
	case trace.PhaseRead:
		c.atRead, c.readAt = true, e.T
		for _, d := range c.devices {
			d.beforeRead()
		}
	case trace.PhaseFinish:
		c.finish = e.N
	}
}

func (c *Checker) timeline(conv wire.ConvID) *timeline {
	t := c.convs[conv]
	if t == nil {
		t = newTimeline(conv)
		c.convs[conv] = t
	}
	return t
}

// Verdict ends the judging: what had to wait is decided now.
func (c *Checker) Verdict() *Verdict {
	if c.finish == 0 || !c.atRead || c.counts.Acked == 0 {
		c.bad(Violation{Rule: Truncated, Text: fmt.Sprintf("the last of %d events is in phase %q; %d messages were acknowledged; everything was read: %t", c.events, c.phase, c.counts.Acked, c.atRead)})
	}
	spans := make(map[wire.ConvID]map[wire.UserID][]span, len(c.convs))
	for conv, t := range c.convs {
		spans[conv] = t.spans()
	}
	c.judgeTimelines(spans)
	c.judgeSends(spans)
	c.judgeCommands()
	c.judgeChanges()
	c.judgeStates(spans)
	c.judgeDevices(spans)
	c.judgePages(spans)
	c.judgeHistories(spans)
	c.judgeHeads(spans)
	c.judgeReceipts()
	c.judgeTold(spans)
	c.judgeFaults()
	c.judgeLedgers()
	v := &Verdict{Counts: c.count(), Violations: c.kept, Broken: c.broken, Run: c.run, Ledgers: c.ledgers.balanced, Ledger: c.ledgers.text}
	v.Service, v.Availability = c.service()
	return v
}

func (c *Checker) count() Counts {
	n := c.counts
	n.Users, n.Devices, n.Connections, n.Conversations = len(c.users), len(c.devices), len(c.conns), len(c.convs)
	n.Seconds = float64(c.to-c.from) / 1e6
	for _, t := range c.convs {
		n.Seqs += int64(t.known.n)
	}
	return n
}

// judgeTimelines looks for what nobody saw, for what nobody sent, and for what
// one said who is no member.
func (c *Checker) judgeTimelines(spans map[wire.ConvID]map[wire.UserID][]span) {
	for conv, t := range c.convs {
		if missing := t.known.missing(1, t.known.max()); missing > 0 {
			c.bad(Violation{Rule: Hole, Text: fmt.Sprintf("seq %d of %s was shown to nobody, and %d was", missing, conv, t.known.max()), Conv: conv, Seq: missing})
		}
		var clock int64
		t.known.each(func(seq int64) bool {
			e := t.entries[seq]
			if e.target == 0 && e.ts < clock {
				c.bad(Violation{
					Rule: Order, Text: fmt.Sprintf("%s under seq %d of %s is %d ms older than one before it", e, seq, conv, clock-e.ts),
					Conv: conv, Seq: seq, From: e.from, ClientID: e.cid, Event: e.first,
				})
			}
			if clock = max(clock, e.ts); e.target > 0 || e.typ == wire.TypeSystem {
				return true
			}
			v := Violation{Conv: conv, Seq: seq, From: e.from, ClientID: e.cid, Event: e.first}
			if c.sends[sendKey{conv, e.from, e.cid}] == nil {
				v.Rule, v.Text = Phantom, fmt.Sprintf("%s under seq %d of %s: nobody sent it", e, seq, conv)
				c.bad(v)
			} else if !within(spans[conv][e.from], seq) {
				v.Rule, v.Text = Leak, fmt.Sprintf("%s under seq %d of %s, where its sender is no member", e, seq, conv)
				c.bad(v)
			}
			return true
		})
	}
}
