package check

import (
	"cmp"
	"fmt"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

type sendKey struct {
	conv wire.ConvID
	from wire.UserID
	cid  string
}

// send is a message that somebody wanted to send, over all attempts.
type send struct {
	content   uint64
	due       int64      // µs
	acked     int64      // µs of the first send_ack
	answered  int64      // µs of the first answer that settled it for its user
	id        wire.MsgID // of the last send_ack
	told      int64      // connection of the last send_ack
	first     wire.MsgID // of the first, if it answers the first attempt
	refused   wire.MsgID // of the last refusal after a send_ack
	began     int64      // event of the first attempt
	event     int64      // of the last answer
	refusal   int64      // event of the last refusal
	attempts  int        // begun
	asked     int64      // µs of the last attempt, 0 once it was answered
	on        int64      // connection of the last attempt
	unknown   int        // without an answer
	retry     int        // answered by an error after which the same may be tried again
	code      string     // of the last refusal, "" if none since the last send_ack
	conn      int64      // of the first attempt
	broken    bool       // its first attempt failed
	corrected bool       // id was told as the first one's
}

// mayReturn lists the codes after which the outcome of a client_id is open.
func mayReturn(code string) bool {
	switch wire.Code(code) {
	case wire.CodeUnavailable, wire.CodeOverloaded, wire.CodeRateLimited, "":
		return true
	default:
		return false
	}
}

func (c *Checker) sending(e *trace.Event) {
	key := sendKey{e.Conv, e.User, e.ClientID}
	s := c.sends[key]
	if s == nil {
		if e.Kind != trace.Due && e.Kind != trace.Send {
			c.bad(Violation{
				Rule: AckID, Text: fmt.Sprintf("%s is told %s of %s to %s, which it did not send", e.User, e.Kind, e.ClientID, e.Conv),
				Conv: e.Conv, From: e.User, ClientID: e.ClientID, Conns: one(e.Conn), Event: e.N,
			})
			return
		}
		s = &send{content: hashOf(e.Content), due: cmp.Or(e.At, e.T)}
		c.lastDue = max(c.lastDue, s.due)
		c.sends[key] = s
		c.counts.Due++
		c.user(e.User).sends = append(c.user(e.User).sends, s)
	}
	if e.Kind == trace.Ack || e.Kind == trace.Fail {
		c.answered(e, s)
	}
	switch e.Kind { //nolint:exhaustive // the caller has picked
	case trace.Send:
		c.attempt(e, key, s)
	case trace.Ack:
		if s.acked == 0 {
			s.acked = e.T
			c.counts.Acked++
			if s.attempts == 1 {
				s.first = e.ID
			}
		}
		// A send_ack that comes after the refusal that was to follow it changes nothing.
		if s.event = e.N; e.ID != s.refused {
			s.code = ""
		}
		s.ack(e)
	case trace.Fail:
		s.fail(e)
	case trace.Refused:
		if s.refused == 0 { // sync says it again
			c.counts.Refused++
		}
		s.code, s.event, s.refusal, s.refused = e.Code, e.N, e.N, e.ID
	}
}

// fail takes an answer that was none, or an error.
func (s *send) fail(e *trace.Event) {
	s.event = e.N
	if e.Conn == s.conn && s.acked == 0 {
		s.broken = true
	}
	switch {
	case e.Code == "":
		s.unknown++
	case mayReturn(e.Code):
		s.retry++
	default:
		if s.code, s.refusal = e.Code, e.N; wire.Code(e.Code) == wire.CodeNotMember {
			s.settled(e.T) // any other refusal is no service
		}
	}
}

// ack takes an id: the one that is told as the first one's counts, also where it
// overtakes the answer to a repeat.
func (s *send) ack(e *trace.Event) {
	if !s.corrected || e.Op == trace.OpFirst {
		s.id = e.ID
	}
	s.corrected = s.corrected || e.Op == trace.OpFirst
	s.told = e.Conn
	s.settled(e.T)
}

// open is how many attempts had no answer that settled them.
func (s *send) open() int { return s.unknown + s.retry }

// answered asks whether the answer to an attempt took too long: one that nobody
// answers ends when its sender gives up.
func (c *Checker) answered(e *trace.Event, s *send) {
	asked, late := s.asked, c.cfg.Late.Microseconds()
	s.asked = 0
	if late > 0 && asked > 0 && e.T-asked > late && c.faults.at(asked, e.T) == nil {
		c.bad(Violation{
			Rule: Late, Text: fmt.Sprintf("%s of %s to %s had no answer for %.1f s", e.ClientID, e.User, e.Conv, float64(e.T-asked)/1e6),
			Conv: e.Conv, From: e.User, ClientID: e.ClientID, Conns: one(e.Conn), Event: e.N,
		})
	}
}

func (s *send) settled(at int64) {
	if s.answered == 0 {
		s.answered = at
	}
}

func (c *Checker) attempt(e *trace.Event, key sendKey, s *send) {
	cn, before := c.conns[e.Conn], c.conns[s.on]
	if cn != nil && (s.attempts == 0 || before != nil && before.left) {
		s.due = max(s.due, cn.dev.here) // that its device was away by plan is no time without service
	}
	s.asked, s.on = e.T, e.Conn
	s.attempts++
	if s.attempts > 1 {
		c.counts.Resent++
		return
	}
	if s.conn, s.began = e.Conn, e.N; cn != nil { // over HTTP each call is by itself
		cn.sent[key.conv] = append(cn.sent[key.conv], key)
	}
}

// judgeSends looks at every message's fate.
func (c *Checker) judgeSends(spans map[wire.ConvID]map[wire.UserID][]span) {
	for key, s := range c.sends {
		var e *entry // nil: it stands nowhere
		v := Violation{Conv: key.conv, From: key.from, ClientID: key.cid, Conns: one(s.conn), Event: s.event}
		if t := c.convs[key.conv]; t != nil {
			if seq, ok := t.byName[name{key.from, key.cid}]; ok {
				v.Seq, e = seq, t.entries[seq]
			}
		}
		if v.Rule, v.Text = s.fate(key, e); v.Rule != "" && (v.Rule != AckID || !c.uncorrected(s, e)) {
			c.bad(v)
		}
		if s.code != "" && !c.mayRefuse(key, s, spans[key.conv][key.from]) {
			v.Rule, v.Event = Refusal, s.refusal
			v.Text = fmt.Sprintf("%s of %s to %s was refused as %s; its sender was a member all the while", key.cid, key.from, key.conv, s.code)
			c.bad(v)
		}
		if s.acked == 0 && s.code == "" {
			c.counts.Unknown++
		}
	}
	for _, cn := range c.conns {
		for conv, keys := range cn.sent {
			c.judgeFIFO(cn, conv, keys)
		}
	}
}

// mayRefuse says whether a message may be refused: in a group alone, and not if
// its sender was let in before the first attempt and nobody had asked yet to end
// that membership when it was refused.
func (c *Checker) mayRefuse(key sendKey, s *send, own []span) bool {
	t := c.convs[key.conv]
	if t == nil {
		t = newTimeline(key.conv)
	}
	if t.parsed.Group == "" || wire.Code(s.code) != wire.CodeNotMember {
		return false
	}
	goes := t.asked.endings(key.from, s.refusal)
	for i, m := range own {
		if x := t.entries[m.from]; x.first < s.began && goes <= i {
			return false
		}
	}
	return true
}

// uncorrected says whether a repeat's send_ack may be wrong: the one that puts it
// right, after the index was lost, cannot follow over HTTP, nor on a connection
// that ended.
func (c *Checker) uncorrected(s *send, e *entry) bool {
	if s.attempts == 1 || s.first > 0 && s.first != e.id {
		return false
	}
	cn := c.conns[s.told]
	return cn == nil || cn.closed > 0 && (!c.atRead || cn.closed < c.readAt)
}

// fate compares what a sender was told with what stands.
func (s *send) fate(key sendKey, e *entry) (Rule, string) {
	switch {
	case s.code != "":
		if e != nil && s.open() == 0 {
			return Ghost, fmt.Sprintf("%s of %s was refused as %s and stands in %s", key.cid, key.from, s.code, key.conv)
		}
	case s.acked == 0:
	case e == nil:
		return Lost, fmt.Sprintf("%s of %s to %s was acknowledged as %v and is nowhere", key.cid, key.from, key.conv, s.id)
	case e.id != s.id || s.first > 0 && e.id != s.first:
		return AckID, fmt.Sprintf("%s of %s was acknowledged as %v, last as %v, and is %v", key.cid, key.from, s.first, s.id, e.id)
	}
	return "", ""
}

// judgeFIFO compares the order of a connection's sends with that of the
// timeline, up to the first that failed.
func (c *Checker) judgeFIFO(cn *conn, conv wire.ConvID, keys []sendKey) {
	t := c.convs[conv]
	if t == nil {
		return
	}
	var last int64
	var before string
	for _, key := range keys {
		s := c.sends[key]
		if s.broken || s.acked == 0 {
			return
		}
		seq, ok := t.byName[name{key.from, key.cid}]
		if !ok {
			continue // refused, or lost, which is another matter
		}
		if seq < last {
			c.bad(Violation{
				Rule: FIFO, Text: fmt.Sprintf("%s sent %s before %s to %s; they stand under seq %d and %d", key.from, before, key.cid, conv, last, seq),
				Conv: conv, Seq: seq, From: key.from, ClientID: key.cid, Conns: one(cn.no), Event: s.event,
			})
			return
		}
		last, before = seq, key.cid
	}
}
