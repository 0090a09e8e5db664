package scenario

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/starling-im/starling/common/wire"
)

// tracker follows every send from its due time to the receiver's socket. It is
// safe for concurrent use.
type tracker struct {
	run   string // prefix of this run's client ids
	start time.Time
	warm  time.Duration // sends due before this are not in the histograms
	sends []send
	convs []sync.Map // per user: ConvID -> *convState

	mu        sync.Mutex
	delivery  *hdrhistogram.Histogram // µs from due time to the receiver
	ack       *hdrhistogram.Histogram // µs from due time to send_ack
	lastFIFO  map[fifoKey]int64
	repeats   atomic.Int64
	holes     atomic.Int64
	reordered atomic.Int64
	fifo      atomic.Int64
	foreign   atomic.Int64
	frames    atomic.Int64
	lagged    atomic.Int64
	refused   atomic.Int64
}

// send is one message of the plan. Its fields are set once each.
type send struct {
	from, to  int
	due       time.Duration // since start
	acked     atomic.Bool
	failed    atomic.Pointer[string]
	delivered atomic.Int32 // to the receiver's connection
}

type convState struct{ seq int64 } // only that user's reader touches it

type fifoKey struct {
	at   int
	conv wire.ConvID
	from wire.UserID
}

// maxLatency bounds the histograms; what is slower counts as this.
const maxLatency = 60 * time.Second

func newTracker(run string, users, planned int, warm time.Duration) *tracker {
	hist := func() *hdrhistogram.Histogram { return hdrhistogram.New(1, maxLatency.Microseconds(), 3) }
	return &tracker{
		run: run, warm: warm, sends: make([]send, planned), convs: make([]sync.Map, users),
		delivery: hist(), ack: hist(), lastFIFO: make(map[fifoKey]int64),
	}
}

func (t *tracker) clientID(i int) string { return t.run + "-" + strconv.Itoa(i) }

// index returns the number of the send that a client id names.
func (t *tracker) index(clientID string) (int, bool) {
	rest, ok := strings.CutPrefix(clientID, t.run+"-")
	if !ok {
		return 0, false
	}
	i, err := strconv.Atoi(rest)
	return i, err == nil && i >= 0 && i < len(t.sends)
}

func (t *tracker) record(h *hdrhistogram.Histogram, due time.Duration) {
	if due < t.warm {
		return
	}
	us := min(time.Since(t.start)-due, maxLatency).Microseconds()
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = h.RecordValue(max(us, 1)) // within bounds by construction
}

// acked takes the answer to send i.
func (t *tracker) acked(i int, err error) {
	s := &t.sends[i]
	if err != nil {
		text := err.Error()
		s.failed.Store(&text)
		return
	}
	s.acked.Store(true)
	t.record(t.ack, s.due)
}

// push takes a frame that user at received, in order of arrival.
func (t *tracker) push(at int, f wire.Frame) {
	t.frames.Add(1)
	switch f.Op {
	case wire.OpMsg:
		var m wire.Msg
		if err := wire.Unmarshal(f.Body, &m); err != nil {
			t.foreign.Add(1)
			return
		}
		t.msg(at, &m)
	case wire.OpLagged:
		t.lagged.Add(1)
	case wire.OpRefused:
		t.refused.Add(1)
	default:
	}
}

func (t *tracker) msg(at int, m *wire.Msg) {
	v, _ := t.convs[at].LoadOrStore(m.Conv, &convState{})
	c, _ := v.(*convState)
	switch {
	case c.seq == 0 || m.Seq == c.seq+1:
		c.seq = m.Seq
	case m.Seq > c.seq+1:
		t.holes.Add(1)
		c.seq = m.Seq
	default:
		t.reordered.Add(1) // a repeat, or late: the next lines tell which
	}
	i, ok := t.index(m.ClientID)
	if !ok {
		t.foreign.Add(1)
		return
	}
	s := &t.sends[i]
	t.order(at, m, int64(i))
	if at != s.to {
		return // the sender's own copy
	}
	if s.delivered.Add(1) > 1 {
		t.repeats.Add(1)
		return
	}
	t.record(t.delivery, s.due)
}

// order checks that the sends of one connection arrive in the order of the
// plan, which is the order they were written in.
func (t *tracker) order(at int, m *wire.Msg, i int64) {
	k := fifoKey{at, m.Conv, m.From}
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.lastFIFO[k]; ok && i < last {
		t.fifo.Add(1)
	}
	t.lastFIFO[k] = max(i, t.lastFIFO[k])
}

// missing counts acknowledged sends that have not reached their receiver.
func (t *tracker) missing() (acked, failed, missing int64) {
	for i := range t.sends {
		s := &t.sends[i]
		switch {
		case s.acked.Load():
			acked++
			if s.delivered.Load() == 0 {
				missing++
			}
		case s.failed.Load() != nil:
			failed++
		}
	}
	return acked, failed, missing
}
