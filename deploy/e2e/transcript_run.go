package e2e

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/starling-im/starling/common/wire"
)

// generated is what of a body is made when it is sent.
var generated = regexp.MustCompile(`{{[^{}]+}}`)

// transcriptRun is one transcript on one system in one framing.
type transcriptRun struct {
	t       testing.TB
	s       *System
	framing string
	names   map[string]string
	vars    vars
	conns   map[string]*speaker
	waiting map[string][]wire.Frame // came, and is not said yet
	passed  map[string][]string     // operations passed over
	pushed  map[string]seqs         // seqs of messages that came, passed over or not
	asked   string                  // the last HTTP request
	answer  string                  // its answer: "STATUS BODY"
	line    transcriptLine
}

// runTranscript plays a transcript against a system.
func runTranscript(t testing.TB, s *System, tr *transcript, framing string) {
	t.Helper()
	r := &transcriptRun{
		t: t, s: s, framing: framing, names: map[string]string{}, vars: vars{}, conns: map[string]*speaker{},
		waiting: map[string][]wire.Frame{}, passed: map[string][]string{}, pushed: map[string]seqs{},
	}
	run := s.Name("t")
	for _, n := range tr.names {
		r.names[n] = n + "-" + run // one ending for all: their order stays
	}
	for i := 0; i < len(tr.lines); {
		l := tr.lines[i]
		if !l.expects() {
			r.do(l)
			i++
			continue
		}
		var block []transcriptLine
		for ; i < len(tr.lines) && tr.lines[i].expects() && tr.lines[i].who == l.who; i++ {
			block = append(block, tr.lines[i])
		}
		r.expect(l.who, block)
	}
	r.end()
}

// end: nothing has come on any connection that was not said.
func (r *transcriptRun) end() {
	r.t.Helper()
	for _, who := range slices.Sorted(maps.Keys(r.conns)) {
		r.line = transcriptLine{who: who, verb: "at the end"}
		r.conns[who].wake()
		r.quiet(who)
	}
}

func (r *transcriptRun) fatal(format string, args ...any) {
	r.t.Helper()
	r.t.Fatalf("line %d (%s %s): %s", r.line.no, r.line.who, r.line.verb, fmt.Sprintf(format, args...))
}

// text makes a line's rest what it is in this run.
func (r *transcriptRun) text(rest string) string { return r.vars.fill(localise(rest, r.names)) }

func (r *transcriptRun) do(l transcriptLine) {
	r.t.Helper()
	r.line = l
	switch l.who {
	case "as":
		r.asked = r.text(l.rest)
		r.http()
		return
	case "=":
		r.answered(l.rest)
		return
	case "settle":
		r.settle()
		return
	case "later":
		<-time.After(aMoment)
		return
	}
	switch verb, times, _ := strings.Cut(l.verb, ">"); {
	case l.verb == "connects":
		r.connect(l.who)
	case l.verb == "joins":
		r.join(l.who, strings.Fields(r.text(l.rest)))
	case verb == "" && strings.HasPrefix(l.verb, ">"):
		r.request(l.who, times, l.rest)
	case l.verb == "~":
		raw, err := strconv.Unquote(l.rest)
		if err != nil {
			r.fatal("no quoted bytes: %v", err)
		}
		r.conn(l.who).send([]byte(raw))
	case l.verb == ".":
		r.pass(l.who, strings.Fields(l.rest))
	case l.verb == "quiet":
		r.quiet(l.who)
	case l.verb == "ends":
		r.ends(l.who, l.rest)
	case l.verb == "sleeps":
		r.conn(l.who).sleep()
	case l.verb == "wakes":
		r.conn(l.who).wake()
	case l.verb == "leaves":
		r.conn(l.who).close()
		delete(r.conns, l.who)
	case l.verb == "syncs":
		r.syncs(l.who, strings.Fields(r.text(l.rest)))
	default:
		r.fatal("no such line")
	}
}

// pass has operations passed over from here on, also where they have come already.
func (r *transcriptRun) pass(who string, ops []string) {
	r.passed[who] = append(r.passed[who], ops...)
	r.waiting[who] = slices.DeleteFunc(r.waiting[who], func(f wire.Frame) bool { return slices.Contains(ops, f.Op.String()) })
}

func (r *transcriptRun) conn(who string) *speaker {
	r.t.Helper()
	c := r.conns[who]
	if c == nil {
		r.fatal("%s has not joined", who)
	}
	return c
}

func (r *transcriptRun) connect(who string) *speaker {
	r.t.Helper()
	c := r.s.speak(r.t, r.framing)
	r.conns[who], r.waiting[who], r.pushed[who] = c, nil, seqs{}
	return c
}

// join connects who (alice, or alice.ios) on a device.
func (r *transcriptRun) join(who string, args []string) {
	r.t.Helper()
	user, _, _ := strings.Cut(who, ".")
	device, platform := args[0], "test"
	if len(args) > 1 {
		platform = args[1]
	}
	c := r.connect(who)
	tok := r.s.Mint(r.t, localise(user, r.names), "", device)
	c.send(c.request("auth", fmt.Sprintf(`{"token":%q,"device":%q,"platform":%q}`, tok, device, platform)))
	r.expect(who, []transcriptLine{{no: r.line.no, who: who, verb: "<=", rest: `auth_ok {"user":"` + user +
		`","device":"` + device + `","conn":"*","server":"*","heartbeat_ms":"*","ts":"*","v":1,"history_epoch":"*"}`}})
}

func (r *transcriptRun) request(who, times, rest string) {
	r.t.Helper()
	n := 1
	if times != "" {
		var err error
		if n, err = strconv.Atoi(times); err != nil {
			r.fatal("how often: %v", err)
		}
	}
	op, body, _ := strings.Cut(rest, " ")
	c := r.conn(who)
	var all []byte
	for i := range n {
		one := generated.ReplaceAllStringFunc(strings.ReplaceAll(r.text(body), "#", strconv.Itoa(i+1)), r.generate)
		b := c.request(op, one)
		if len(all) > 0 && (c.framing == framingText || len(all)+len(b) > 64<<10) { // 128 KiB is the most
			c.send(all)
			all = nil
		}
		all = append(all, b...)
	}
	if len(all) > 0 {
		c.send(all)
	}
}

// generate is what stands for {{…}}.
func (r *transcriptRun) generate(s string) string {
	r.t.Helper()
	f := strings.Fields(strings.Trim(s, "{}"))
	n, err := strconv.Atoi(f[len(f)-1])
	switch {
	case len(f) == 1 && err == nil:
		return strings.Repeat("x", n)
	case len(f) == 2 && f[0] == "deep" && err == nil:
		return nested(n)
	case len(f) == 2 && f[0] == "users" && err == nil:
		users := make([]string, n)
		for i := range users {
			users[i] = fmt.Sprintf("%q", fmt.Sprint("u", i))
		}
		return strings.Join(users, ",")
	case len(f) == 3 && f[0] == "token":
		return r.s.Mint(r.t, f[1], "", f[2])
	}
	r.fatal("what is %s?", s)
	return ""
}

// take keeps what came, unless it is passed over.
func (r *transcriptRun) take(who string, f wire.Frame) {
	r.t.Helper()
	if f.Op == wire.OpMsg {
		var m wire.Msg
		if err := wire.Unmarshal(f.Body, &m); err != nil {
			r.fatal("msg %s: %v", f.Body, err)
		}
		r.pushed[who].add(m.Conv, m.Seq)
	}
	if !slices.Contains(r.passed[who], f.Op.String()) {
		r.waiting[who] = append(r.waiting[who], f)
	}
}

// expect takes a block of lines of one connection, in whatever order they come.
func (r *transcriptRun) expect(who string, block []transcriptLine) {
	r.t.Helper()
	deadline := time.After(wait)
	for _, l := range block {
		if l.verb == "<*" {
			defer r.drop(who, l)
		}
	}
	for len(block) > 0 {
		r.line = block[0]
		if i, got := r.find(who, block); i >= 0 {
			r.vars, block = got, slices.Delete(slices.Clone(block), i, i+1)
			continue
		}
		select {
		case f, ok := <-r.conn(who).in:
			if !ok {
				r.fatal("the connection has ended (%v); came, but is not said: %s", r.conn(who).ended, r.left(who))
			}
			r.take(who, f)
		case <-deadline:
			r.fatal("%s does not come; what came: %s", block[0].rest, r.left(who))
		}
	}
}

// find returns the line of a block that something which came is, and takes that.
func (r *transcriptRun) find(who string, block []transcriptLine) (int, vars) {
	c := r.conn(who)
	for i, l := range block {
		op, body, _ := strings.Cut(l.rest, " ")
		for j, f := range r.waiting[who] {
			wantSeq := int32(0)
			if l.verb == "<=" {
				wantSeq = c.last
			}
			if f.Op.String() != op || l.verb != "<*" && f.Seq != wantSeq {
				continue
			}
			got, err := r.vars.match(localise(body, r.names), string(f.Body), op)
			if err != nil {
				continue
			}
			r.waiting[who] = slices.Delete(r.waiting[who], j, j+1)
			return i, got
		}
	}
	return -1, nil
}

// drop passes over the other answers to what a "<*" line is about.
func (r *transcriptRun) drop(who string, l transcriptLine) {
	op, _, _ := strings.Cut(l.rest, " ")
	r.waiting[who] = slices.DeleteFunc(r.waiting[who], func(f wire.Frame) bool { return f.Seq != 0 && f.Op.String() == op })
}

func (r *transcriptRun) left(who string) string {
	var out []string
	for _, f := range r.waiting[who] {
		out = append(out, fmt.Sprintf("%s %d %s", f.Op, f.Seq, f.Body))
	}
	return strings.Join(out, "\n")
}

// quiet asks for a pong: what this connection's edge had to say before has come
// by then. What others cause comes by a job, maybe later: say something by the
// same way first that does come.
func (r *transcriptRun) quiet(who string) {
	r.t.Helper()
	c := r.conn(who)
	last := c.last
	c.send(c.request("ping", "{}"))
	r.expect(who, []transcriptLine{{no: r.line.no, who: who, verb: "<=", rest: `pong {"ts":"*"}`}})
	c.last = last
	if len(r.waiting[who]) > 0 {
		r.fatal("came, but is not said: %s", r.left(who))
	}
}

// syncs asks for what came after a seq, over all pages: it must be every message
// from the next seq to the last, and with what was pushed it must be all.
func (r *transcriptRun) syncs(who string, args []string) {
	r.t.Helper()
	conv := wire.ConvID(args[0])
	from, err1 := strconv.ParseInt(args[1], 10, 64)
	last, err2 := strconv.ParseInt(args[2], 10, 64)
	if err1 != nil || err2 != nil {
		r.fatal("want CONV SEQ SEQ, not %v", args)
	}
	c, cursor := r.conn(who), from-1
	// An answer may not exceed four times the queue, which is small here.
	c.send(c.request("sync", fmt.Sprintf(`{"cursors":{%q:%d},"limit":2}`, conv, cursor)))
	for more := true; more; {
		var page wire.SyncOK
		if err := wire.Unmarshal(r.answerTo(who, wire.OpSyncOK), &page); err != nil || len(page.Conversations) != 1 {
			r.fatal("a page of %d conversations: %v", len(page.Conversations), err)
		}
		for _, m := range page.Conversations[0].Messages {
			if cursor++; m.Seq != cursor {
				r.fatal("sync gives seq %d, want %d", m.Seq, cursor)
			}
			r.pushed[who].add(conv, m.Seq)
		}
		if more = page.More; more {
			c.send(c.request("sync", fmt.Sprintf(`{"token":%q}`, page.Token)))
		}
	}
	if cursor != last {
		r.fatal("sync ends with seq %d, want %d", cursor, last)
	}
	for seq := range last {
		if !r.pushed[who][conv][seq+1] {
			r.fatal("seq %d was neither pushed nor synced", seq+1)
		}
	}
}

// answerTo waits for the answer to the last request and returns its body.
func (r *transcriptRun) answerTo(who string, op wire.Op) []byte {
	r.t.Helper()
	c := r.conn(who)
	for deadline := time.After(wait); ; {
		if i := slices.IndexFunc(r.waiting[who], func(f wire.Frame) bool { return f.Seq == c.last && f.Op == op }); i >= 0 {
			body := r.waiting[who][i].Body
			r.waiting[who] = slices.Delete(r.waiting[who], i, i+1)
			return body
		}
		select {
		case f, ok := <-c.in:
			if !ok {
				r.fatal("the connection has ended (%v)", c.ended)
			}
			r.take(who, f)
		case <-deadline:
			r.fatal("no %s; what came: %s", op, r.left(who))
		}
	}
}

func (r *transcriptRun) ends(who, code string) {
	r.t.Helper()
	c := r.conn(who)
	deadline := time.After(wait)
	for {
		select {
		case f, ok := <-c.in:
			if ok {
				r.take(who, f)
				continue
			}
		case <-deadline:
			r.fatal("it does not end; what came: %s", r.left(who))
		}
		break
	}
	if len(r.waiting[who]) > 0 {
		r.fatal("came before the end, but is not said: %s", r.left(who))
	}
	if got := websocket.CloseStatus(c.ended); c.ws != nil && strconv.Itoa(int(got)) != code {
		r.fatal("ended with %d (%v), want %s", got, c.ended, code)
	}
	delete(r.conns, who)
}
