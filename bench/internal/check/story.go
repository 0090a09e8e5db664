package check

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

// maxLines is the length of a story.
const maxLines = 10

// plot collects the lines of one violation's story.
type plot struct {
	v     *Violation
	lines []line
}

type line struct {
	event  int64
	weight int // the more, the sooner it is left out
	text   string
}

// tell reads the record once more and writes the story of each violation.
func (v *Verdict) tell(events iter.Seq2[*trace.Event, error]) error {
	sortViolations(v.Violations)
	if len(v.Violations) == 0 {
		return nil
	}
	plots := make([]plot, len(v.Violations))
	for i := range plots {
		plots[i].v = &v.Violations[i]
	}
	for e, err := range events {
		if err != nil {
			return err
		}
		for i := range plots {
			plots[i].take(e)
		}
	}
	for i := range plots {
		v.Stories = append(v.Stories, plots[i].text())
	}
	return nil
}

// take keeps an event that has to do with the violation.
func (p *plot) take(e *trace.Event) {
	v := p.v
	mine := e.Conn != 0 && slices.Contains(v.Conns, e.Conn)
	weight := v.ofMessage(e)
	if weight == 0 && mine {
		weight = v.ofConnection(e)
	}
	switch {
	case e.N == v.Event:
		weight = 1
	case weight == 0 && e.Kind == trace.Fault:
		weight = 9
	case weight == 0:
		return
	case mine:
		weight--
	}
	p.lines = append(p.lines, line{e.N, weight, tell(e, v)})
	if len(p.lines) > 64*maxLines {
		p.trim()
	}
}

// ofMessage weighs an event of the message or the seq; 0: it is of others.
func (v *Violation) ofMessage(e *trace.Event) int {
	switch {
	case e.Msg != nil:
		if e.Msg.Conv == v.Conv && (e.Msg.Seq == v.Seq || v.names(e.Msg.From, e.Msg.ClientID)) {
			return 4
		}
	case e.Update != nil:
		if e.Update.Conv == v.Conv && (e.Update.Seq == v.Seq || e.Update.TargetSeq == v.Seq) {
			return 4
		}
	case e.Page != nil:
		if shows(e.Page, v.Conv, v.Seq) {
			return 5
		}
	case e.Conv != v.Conv:
	case v.names(e.User, e.ClientID):
		return 2
	case e.Kind == trace.Call && e.Op != trace.OpHistory:
		return 8
	}
	return 0
}

func (v *Violation) names(from wire.UserID, cid string) bool {
	return v.ClientID != "" && v.ClientID == cid && v.From == from
}

// ofConnection weighs an event of a connection that matters: what opened, ended
// or warned it.
func (v *Violation) ofConnection(e *trace.Event) int {
	switch e.Kind {
	case trace.Open, trace.Close:
		return 3
	case trace.Lagged, trace.Sync:
		return 7
	case trace.Cursor:
		if e.Conv == v.Conv {
			return 8
		}
	default:
	}
	return 0
}

// trim leaves the lines that matter most, the first of equals.
func (p *plot) trim() {
	slices.SortStableFunc(p.lines, func(a, b line) int { return a.weight - b.weight })
	p.lines = p.lines[:min(len(p.lines), maxLines)]
	slices.SortFunc(p.lines, func(a, b line) int { return int(a.event - b.event) })
}

func (p *plot) text() string {
	p.trim()
	var out strings.Builder
	for _, l := range p.lines {
		out.WriteString("    " + l.text + "\n")
	}
	return out.String()
}

func shows(p *wire.SyncOK, conv wire.ConvID, seq int64) bool {
	return slices.ContainsFunc(p.Conversations, func(sc wire.SyncConv) bool {
		return sc.Conv == conv && (slices.ContainsFunc(sc.Messages, func(m wire.Msg) bool { return m.Seq == seq }) ||
			slices.ContainsFunc(sc.Updates, func(u wire.Update) bool { return u.Seq == seq || u.TargetSeq == seq }))
	})
}

// tell is an event as one line.
func tell(e *trace.Event, v *Violation) string {
	who := ""
	if e.User != "" {
		who = string(e.User)
		if e.Device != "" {
			who += "/" + string(e.Device)
		}
	}
	if e.Conn != 0 {
		who += fmt.Sprintf(" on connection %d", e.Conn)
	}
	return fmt.Sprintf("%10.4f s  %-34s %s", float64(e.T)/1e6, who, what(e, v))
}

func what(e *trace.Event, v *Violation) string {
	switch e.Kind {
	case trace.Open:
		return "connected to " + string(e.Server)
	case trace.Close:
		return fmt.Sprintf("its connection ended: %d %s", e.Close, e.Text)
	case trace.Due:
		return fmt.Sprintf("wants to send %s to %s", e.ClientID, e.Conv)
	case trace.Send:
		return fmt.Sprintf("sends %s to %s", e.ClientID, e.Conv)
	case trace.Ack:
		if e.Op == trace.OpFirst {
			return fmt.Sprintf("is told that the first %s has id %v", e.ClientID, e.ID)
		}
		return fmt.Sprintf("is told send_ack of %s: id %v", e.ClientID, e.ID)
	case trace.Fail:
		return fmt.Sprintf("has no send_ack of %s: %q %s", e.ClientID, e.Code, e.Text)
	case trace.Refused:
		return fmt.Sprintf("is told refused of %s: %s", e.ClientID, e.Code)
	case trace.Cursor:
		return fmt.Sprintf("says %s up to %d of %s", e.Op, e.Seq, e.Conv)
	case trace.Call:
		return fmt.Sprintf("asks: %s %v in %s %v", e.Op, e.Users, e.Conv, e.ID)
	case trace.Fault:
		return fmt.Sprintf("-- fault %d: %s %s, %s %s", e.Fault.No, e.Fault.Kind, e.Fault.Target, e.Fault.Step, e.Fault.Text)
	default:
		return told(e, v)
	}
}

// told is what somebody was shown, as a line.
func told(e *trace.Event, v *Violation) string {
	switch e.Kind {
	case trace.Msg:
		return fmt.Sprintf("is pushed seq %d of %s: %s of %s, %q %s", e.Msg.Seq, e.Msg.Conv, e.Msg.ClientID, e.Msg.From, short(e.Msg.Content), e.Msg.Status)
	case trace.Update:
		return fmt.Sprintf("is pushed seq %d of %s: seq %d is %s %q", e.Update.Seq, e.Update.Conv, e.Update.TargetSeq, e.Update.Status, short(e.Update.Content))
	case trace.Receipt:
		return fmt.Sprintf("is told that %s has %d of %s and read %d", e.Receipt.User, e.Receipt.Delivered, e.Receipt.Conv, e.Receipt.Read)
	case trace.Lagged:
		return fmt.Sprintf("is told lagged %v", e.Lagged.Convs)
	case trace.Sync:
		return fmt.Sprintf("asks to sync after %d of %s", e.Cursors[v.Conv], v.Conv)
	case trace.Page:
		return page(e.Page, v)
	case trace.History:
		return fmt.Sprintf("reads %d messages in history of %s", len(e.Messages), v.Conv)
	default:
		return string(e.Kind) + " " + e.Text
	}
}

func page(p *wire.SyncOK, v *Violation) string {
	for i := range p.Conversations {
		sc := &p.Conversations[i]
		if sc.Conv != v.Conv {
			continue
		}
		for j := range sc.Messages {
			if m := &sc.Messages[j]; m.Seq == v.Seq {
				return fmt.Sprintf("syncs seq %d of %s: %s of %s, %q %s", m.Seq, v.Conv, m.ClientID, m.From, short(m.Content), m.Status)
			}
		}
		return fmt.Sprintf("syncs %s up to %d, read_seq %d, unread %d", v.Conv, sc.Upto, sc.ReadSeq, sc.Unread)
	}
	return "syncs other conversations"
}

func short(text string) string {
	if len(text) > 24 {
		return text[:24] + "…"
	}
	return text
}
