package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/wire"
)

// TestTranscripts plays the contract against the embedded default, in every
// framing.
func TestTranscripts(t *testing.T) {
	playTranscripts(t, func(t *testing.T, settings ...string) *System {
		t.Helper()
		return Start(t, binary, settings...)
	})
}

// awaitListening waits until every edge takes connections: a process may be alive
// before that.
func (s *System) awaitListening(t *testing.T) {
	t.Helper()
	Eventually(t, wait, "the edges listen", func() error {
		for ws, tcp := range s.TCPs {
			for _, addr := range []string{ws, tcp} {
				c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
				if err != nil {
					return fmt.Errorf("connect: %w", err)
				}
				_ = c.Close()
			}
		}
		return nil
	})
}

// playTranscripts plays those that leave the system as it was on one system, and
// each other on one of its own, in all framings. One system ends before the next
// begins: on the same servers they would be one.
func playTranscripts(t *testing.T, start func(t *testing.T, settings ...string) *System) {
	t.Helper()
	framings := []string{framingText, framingBinary, framingTCP}
	var shared []*transcript
	for _, tr := range loadTranscripts(t) {
		begin := func(t *testing.T) *System {
			t.Helper()
			s := start(t, tr.settings...)
			if slices.Contains(tr.settings, unready) {
				s.awaitListening(t)
			} else {
				s.AwaitCalm(t)
			}
			return s
		}
		switch {
		case !tr.alone:
			shared = append(shared, tr)
		case slices.Contains(tr.settings, "EACH=yes"):
			for _, framing := range framings {
				t.Run(tr.name+"/"+framing, func(t *testing.T) { runTranscript(t, begin(t), tr, framing) })
			}
		default:
			t.Run(tr.name, func(t *testing.T) {
				s := begin(t)
				for _, framing := range framings {
					t.Run(framing, func(t *testing.T) { runTranscript(t, s, tr, framing) })
				}
			})
		}
	}
	t.Run("together", func(t *testing.T) {
		s := start(t)
		s.AwaitCalm(t)
		for _, tr := range shared {
			for _, framing := range framings {
				t.Run(tr.name+"/"+framing, func(t *testing.T) { runTranscript(t, s, tr, framing) })
			}
		}
	})
}

// silent are codes that no transcript can bring about on a connection, and why.
var silent = map[wire.Code]string{
	wire.CodeInternal: "nothing that a client sends does; job/internal/machine (poison) tests the refusal by it",
}

// silentHTTP are those by HTTP.
var silentHTTP = map[wire.Code]string{
	wire.CodeInternal:    "nothing that a client sends does; logic/internal/api (a panic) tests it",
	wire.CodeOverloaded:  "is for what waits on a connection",
	wire.CodeUnsupported: "is for operations; a route that is not there is not_found",
	wire.CodeUnavailable: "needs a store or a log that is away; logic/internal/api tests it",
}

// shown is what transcripts show of the contract. An operation of a client
// counts where it is sent, one of the server where it is expected.
type shown struct {
	ops, http, conn map[string]bool
}

func (s *shown) line(l *transcriptLine) {
	op, body, _ := strings.Cut(l.rest, " ")
	switch {
	case l.verb == "joins":
		s.ops["auth"], s.ops["auth_ok"] = true, true
	case l.verb == "quiet":
		s.ops["ping"], s.ops["pong"] = true, true
	case strings.HasPrefix(l.verb, ">"):
		if n, ok := wire.OpByName(op); ok && wire.ClientOp(n) {
			s.ops[op] = true
		}
	case l.expects():
		if n, ok := wire.OpByName(op); ok && !wire.ClientOp(n) {
			s.ops[op] = true
		}
		if op == "typing" { // both say it
			s.ops["typing given"] = true
		}
		if op == "error" || op == "refused" {
			s.conn[codeIn(body)] = true
		}
	case l.who == "=":
		s.http[codeIn(body)] = true
	}
}

// codeIn is the code that a body has.
func codeIn(body string) string {
	var b struct {
		Code  string
		Error struct{ Code string }
	}
	if json.Unmarshal([]byte(body), &b) != nil {
		return ""
	}
	return cmp.Or(b.Code, b.Error.Code)
}

// TestTranscriptsShowEverything lists what of the contract no transcript shows.
func TestTranscriptsShowEverything(t *testing.T) {
	s := shown{ops: map[string]bool{}, http: map[string]bool{}, conn: map[string]bool{}}
	for _, tr := range loadTranscripts(t) {
		for i := range tr.lines {
			s.line(&tr.lines[i])
		}
	}
	var missing []string
	for op := wire.OpAuth; op.String() != ""; op++ {
		if !s.ops[op.String()] {
			missing = append(missing, op.String())
		}
	}
	if !s.ops["typing given"] {
		missing = append(missing, "typing given")
	}
	for _, c := range wire.Codes() {
		if s.conn[string(c)] == (silent[c] != "") {
			missing = append(missing, "on a connection: "+string(c))
		}
		if s.http[string(c)] == (silentHTTP[c] != "") {
			missing = append(missing, "by HTTP: "+string(c))
		}
	}
	if len(missing) > 0 {
		t.Errorf("shown by no transcript, or by one though it is an exception:\n%s", strings.Join(missing, "\n"))
	}
}
