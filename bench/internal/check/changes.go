package check

import (
	"fmt"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

// tally counts the answers to what was asked.
type tally struct {
	asked, applied, refused int
	conn, event             int64 // of the last answer
}

// answer counts one, and says whether it refuses. A code that says nothing of the
// outcome counts as none.
func (t *tally) answer(code string, conn *conn, at int64) bool {
	if t.event = at; conn != nil {
		t.conn = conn.no
	}
	switch {
	case code == "":
		t.applied++
	case code != trace.NoAnswer && code != string(wire.CodeInternal) && !mayReturn(code):
		t.refused++
		return true
	}
	return false
}

// wish is a state that somebody wanted a message to have.
type wish struct {
	tally
	by []wire.UserID
}

// wished is what was asked of one message.
type wished struct {
	conv   wire.ConvID
	recall wish
	edits  map[uint64]*wish
}

func (w *wished) edit(text uint64) *wish {
	if w == nil {
		return nil
	}
	return w.edits[text]
}

// wish enters a recall or an edit that is asked for.
func (c *Checker) wish(e *trace.Event) *wish {
	w := c.wishes[e.ID]
	if w == nil {
		w = &wished{conv: e.Conv, edits: make(map[uint64]*wish)}
		c.wishes[e.ID] = w
	}
	x := &w.recall
	if e.Op == trace.OpEdit {
		h := hashOf(e.Content)
		if w.edits[h] == nil {
			w.edits[h] = new(wish)
		}
		x = w.edits[h]
	}
	x.asked++
	x.by = append(x.by, e.User)
	return x
}

// judgeChanges asks of each recall and edit whether somebody wanted it who may,
// and of each that was applied whether it stands.
func (c *Checker) judgeChanges() {
	for id, w := range c.wishes {
		t := c.timeline(w.conv)
		var recalls, edits []int64 // of it
		texts := make(map[uint64]int)
		at := c.ids[id]
		if at.conv != w.conv {
			at.seq = 0
		}
		for _, seq := range t.changes[at.seq] {
			e := t.entries[seq]
			if e.state.status == wire.StatusRecalled {
				recalls = append(recalls, seq)
				continue
			}
			edits = append(edits, seq)
			if e.own {
				texts[e.state.text]++
			}
		}
		c.judgeTally(t, "a recall of "+id.String(), &w.recall.tally, len(recalls), 0)
		unknown := len(edits)
		for _, n := range texts {
			unknown -= n
		}
		for text, x := range w.edits {
			c.judgeTally(t, "an edit of "+id.String(), &x.tally, texts[text], unknown)
		}
	}
	for _, t := range c.convs {
		for target, changes := range t.changes {
			for _, seq := range changes {
				c.judgeChange(t, t.entries[target], target, seq)
			}
		}
	}
}

// judgeTally compares how often something stands with how often it was asked for:
// at least once if it was applied, at most as often as it was not refused. Maybe
// are those that stand and may be this.
func (c *Checker) judgeTally(t *timeline, what string, x *tally, stands, maybe int) {
	v := Violation{Conv: t.conv, Conns: one(x.conn), Event: x.event}
	switch {
	case x.applied > 0 && stands+maybe == 0:
		v.Rule, v.Text = Lost, fmt.Sprintf("%s in %s was applied and stands nowhere", what, t.conv)
	case stands > 0 && x.asked == x.refused:
		v.Rule, v.Text = Ghost, fmt.Sprintf("%s in %s was refused and stands", what, t.conv)
	case stands > x.asked-x.refused:
		v.Rule, v.Text = Repeated, fmt.Sprintf("%s in %s stands %d times and was asked for %d times", what, t.conv, stands, x.asked-x.refused)
	default:
		return
	}
	c.bad(v)
}

// judgeChange looks at one change and what it changes; nil: it is not known.
func (c *Checker) judgeChange(t *timeline, of *entry, target, seq int64) {
	e := t.entries[seq]
	v := Violation{Conv: t.conv, Seq: seq, Event: e.first}
	x, asked := c.wishes[e.id].state(e)
	switch {
	case !asked:
		v.Rule, v.Text = Phantom, fmt.Sprintf("seq %d of %s, %s: nobody asked for it", seq, t.conv, e)
	case x == nil && e.own:
		v.Rule, v.Text = Corrupt, fmt.Sprintf("the text of seq %d of %s, %s, is nobody's", seq, t.conv, e)
	case of == nil:
		return // nobody was shown it: a hole
	case of.target > 0 || of.id != e.id || target >= seq:
		v.Rule, v.Text = Corrupt, fmt.Sprintf("seq %d of %s changes %v under seq %d, where %s is", seq, t.conv, e.id, target, of)
	case x != nil && !t.mayChange(of, x, e.state.status):
		v.Rule, v.Text = Corrupt, fmt.Sprintf("seq %d of %s, %s: it was not theirs to change who asked (%v)", seq, t.conv, e, x.by)
	case t.recalledBefore(target, seq):
		v.Rule, v.Text = Corrupt, fmt.Sprintf("seq %d of %s, %s, which had been recalled before", seq, t.conv, e)
	default:
		return
	}
	c.bad(v)
}

// state is the wish that a change fulfils, nil if it is not known which; false:
// nobody had one.
func (w *wished) state(e *entry) (*wish, bool) {
	switch {
	case w == nil:
		return nil, false
	case e.state.status == wire.StatusRecalled:
		return &w.recall, w.recall.asked > 0
	default:
		return w.edits[e.state.text], e.state.status == wire.StatusEdited && len(w.edits) > 0
	}
}

// mayChange says whether one of those who asked and were not refused may: the
// sender, and for a recall whoever has ever been an admin of the group.
func (t *timeline) mayChange(of *entry, x *wish, status string) bool {
	if len(x.by) == 0 {
		return true // all were refused, which is told already
	}
	for _, u := range x.by {
		if u == of.from || status == wire.StatusRecalled && t.admins[u] {
			return true
		}
	}
	return false
}

func (t *timeline) recalledBefore(target, seq int64) bool {
	for _, change := range t.changes[target] {
		if change < seq && t.entries[change].state.status == wire.StatusRecalled {
			return true
		}
	}
	return false
}
