package session

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/ws"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

var update = flag.Bool("update", false, "rewrite the transcripts")

// world is a session with a socket, a hub and a clock that a transcript moves.
type world struct {
	t   *testing.T
	s   *Session
	now int64
	out strings.Builder

	mu   sync.Mutex
	room int // bytes the socket still takes; -1: any
	buf  bytes.Buffer

	noLogic bool
	full    bool
	broken  bool
	renewal *wire.Error
	done    bool        // the hub does at once what it is asked
	refusal *wire.Error // or refuses it
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: 1000, room: -1}
	w.s = New(&Env{
		Limits: Limits{
			QueueBytes: 1000, AuthTimeout: 5 * time.Second, AuthBytes: 2000,
			Heartbeat: time.Minute, WriteTimeout: 10 * time.Second, CloseGrace: 3 * time.Second,
		},
		Hub: w, Metrics: NewMetrics(prometheus.NewRegistry()), Log: zap.NewNop(), Now: func() int64 { return w.now },
	}, w)
	w.s.Upgraded(&ws.Upgrade{})
	return w
}

func (w *world) say(format string, args ...any) { fmt.Fprintf(&w.out, format+"\n", args...) }

// Socket.

func (w *world) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(b)
	if w.room >= 0 {
		n = min(n, w.room)
		w.room -= n
	}
	w.buf.Write(b[:n])
	if n < len(b) {
		return n, ErrFull
	}
	return n, nil
}

func (w *world) Writev(bufs [][]byte) (int, error) { return w.Write(bytes.Join(bufs, nil)) }

func (w *world) NotifyWritable() { w.say("waits for the socket") }
func (w *world) CloseWrite()     { w.say("ends its side") }
func (w *world) Abort()          { w.say("aborts") }

// Hub and Peer.

func (w *world) Authenticate(_ *Session, a wire.Auth) { w.say("authenticates %s", a.Token) }

func (w *world) Renew(*Session, wire.Auth) (wire.AuthOK, *wire.Error) {
	return wire.AuthOK{User: "bob"}, w.renewal
}

func (w *world) Ask(_ wire.ConnID, f wire.Frame) (bool, *wire.Error) {
	w.say("asks %v %d %s", f.Op, f.Seq, f.Body)
	return w.done, w.refusal
}

func (w *world) Pin() Peer {
	if w.noLogic {
		return nil
	}
	return w
}
func (w *world) Closed(s *Session) { w.say("closed: %s", s.Reason()) }
func (w *world) Send(up *rpcpb.Up) error {
	switch {
	case w.broken:
		w.broken = false
		return ErrPeerBroken
	case w.full:
		return ErrPeerFull
	}
	w.say("up %v %d %s", wire.Op(up.GetOp()), up.GetSeq(), up.GetBody())
	return nil
}

// frames says what whole frames the client can see by now.
func (w *world) frames() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for b := w.buf.Bytes(); len(b) >= 2; b = w.buf.Bytes() {
		n, at := int(b[1]), 2
		if n == 126 {
			if len(b) < 4 {
				return
			}
			n, at = int(binary.BigEndian.Uint16(b[2:])), 4
		}
		if len(b) < at+n {
			return
		}
		w.frame(b[0]&0x0f, b[at:at+n])
		w.buf.Next(at + n)
	}
}

func (w *world) frame(opcode byte, p []byte) {
	switch opcode {
	case ws.OpText:
		w.say("< %s", short(p))
	case ws.OpBinary:
		f, _, err := wire.DecodeServerBinary(p)
		w.say("< binary %v %d %s %v", f.Op, f.Seq, short(f.Body), err)
	case ws.OpPong:
		w.say("< pong %q", p)
	case ws.OpClose:
		w.say("< close %d %s", binary.BigEndian.Uint16(p), p[2:])
	}
}

func short(p []byte) string {
	if len(p) > 160 {
		return fmt.Sprintf("%s… (%d bytes)", p[:60], len(p))
	}
	return string(p)
}

// do runs one line of a transcript.
func (w *world) do(line string) {
	cmd, rest, _ := strings.Cut(line, " ")
	arg := strings.Fields(rest)
	num := func(i int) int {
		n, err := strconv.Atoi(arg[i])
		if err != nil {
			w.t.Fatalf("%s: %v", line, err)
		}
		return n
	}
	switch cmd {
	case "text":
		w.say("reads on: %v", w.s.Message(true, []byte(rest)))
		w.s.Flush()
	case "binary": // op seq body
		f := wire.Frame{Op: wire.Op(num(0)), Seq: int32(num(1)), Body: []byte(strings.Join(arg[2:], " "))}
		w.say("reads on: %v", w.s.Message(false, wire.AppendBinary(nil, f)))
		w.s.Flush()
	case "sends": // n
		for i := range num(0) {
			w.s.Message(true, fmt.Appendf(nil, `{"op":"send","seq":%d,"body":{"client_id":"c%d"}}`, i+1, i+1))
		}
		w.s.Flush()
	case "ping":
		w.s.Ping([]byte(rest))
		w.s.Flush()
	case "peerclose":
		w.s.PeerClose(num(0))
	case "framing":
		w.s.Broken(num(0))
	case "received":
		w.say("within the budget: %v", w.s.Received(num(0)))
	case "upgraded":
		w.s.Upgraded(&ws.Upgrade{Token: rest})
	default:
		w.doServer(cmd, rest, arg, num, line)
	}
}

// doServer runs the lines that are not the client's.
func (w *world) doServer(cmd, rest string, arg []string, num func(int) int, line string) {
	switch cmd {
	case "identify":
		w.say("goes on: %v", w.s.Identify(Identity{User: "bob", Device: "web", Conn: 7}, w.now+int64(num(0))))
	case "open":
		w.say("opens: %v", w.s.Open(wire.AuthOK{User: "bob", Conn: "7"}))
	case "refuse":
		w.s.Refuse(wire.Errorf(wire.Code(rest), "no"), AuthFailed)
	case "answer": // seq
		w.s.Answer(wire.Frame{Op: wire.OpOK, Seq: int32(num(0))}, wire.Frame{Op: wire.OpOK, Seq: int32(num(0))})
	case "error": // seq
		w.s.Error(int32(num(0)), wire.Errorf(wire.CodeUnavailable, "no"))
	case "kick":
		w.s.Kick("replaced", Replaced)
	case "push": // conv seq size [op]
		f := &Shared{Op: wire.OpMsg, Conv: wire.ConvID(arg[0]), Seq: int64(num(1)), Body: []byte(`"` + strings.Repeat("x", num(2)) + `"`)}
		if len(arg) > 3 {
			f.Op, _ = wire.OpByName(arg[3])
		}
		w.say("%s", [...]string{"not here", "queued", "lagged", "dropped"}[w.s.Push(f)])
	case "pushmany": // conversations size
		for i := range num(0) {
			w.s.Push(&Shared{Op: wire.OpMsg, Conv: wire.ConvID(fmt.Sprintf("g:%d", i)), Seq: 1, Body: make([]byte, num(1))})
		}
	case "flush":
		w.s.Flush()
	case "lag":
		w.s.Lag()
	case "down": // op seq answers body
		op, _ := wire.OpByName(arg[0])
		answers, _ := wire.OpByName(arg[2])
		w.say("taken: %v", w.s.Down(&rpcpb.Down{Op: int32(op), Seq: int32(num(1)), Answers: int32(answers), Body: []byte(arg[3])}))
		w.s.Flush()
	case "peerbroken":
		w.s.PeerBroken(w)
	case "set":
		w.set(arg)
	case "room":
		w.room = num(0)
	case "writable":
		w.s.Writable()
	case "after":
		w.now += int64(num(0))
		w.s.Tick(w.now)
	case "gone":
		w.s.Gone()
	default:
		w.t.Fatalf("unknown line %q", line)
	}
}

func (w *world) set(arg []string) {
	for _, a := range arg {
		switch a {
		case "nologic":
			w.noLogic = true
		case "full":
			w.full = true
		case "broken":
			w.broken = true
		case "norenewal":
			w.renewal = wire.Errorf(wire.CodeForbidden, "another user")
		case "done":
			w.done = true
		case "refusal":
			w.refusal = wire.Errorf(wire.CodeNotMember, "join the room first")
		case "later":
			w.done, w.refusal = false, nil
		case "well":
			w.noLogic, w.full, w.broken = false, false, false
		}
	}
}

// A write that is taken whole is progress, also where the next one finds the
// socket full again.
func TestAWholeWriteIsProgress(t *testing.T) {
	w := newWorld(t)
	w.s.env.Limits.QueueBytes = 1 << 20
	for _, line := range []string{"text " + `{"op":"auth","body":{"token":"T","device":"web"}}`, "identify 600000", "open", "room 0"} {
		w.do(line)
	}
	const n = 2 * maxIovecs
	for i := range n {
		w.s.Push(&Shared{Op: wire.OpMsg, Conv: "p:a:b", Seq: int64(i + 1), Body: []byte(`"x"`)})
	}
	w.s.Flush()
	w.now += 9_900
	w.room = w.s.queued / n * maxIovecs
	w.s.Writable()
	w.now += 200
	w.s.Tick(w.now)
	if r := w.s.Reason(); r != None {
		t.Errorf("closed with %v though half of it left", r)
	}
	w.now += 10_000
	w.s.Tick(w.now)
	if r := w.s.Reason(); r != TooSlow {
		t.Errorf("reason %v after 10 s without progress", r)
	}
}

// TestTranscripts plays testdata/*.txt: a line is an input, what follows it
// indented is what comes of it. A paragraph starts a new session.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("run with -update if this is right (-want +got):\n%s", diff)
			}
		})
	}
}

func play(t *testing.T, script string) string {
	t.Helper()
	w := newWorld(t)
	var out strings.Builder
	for line := range strings.SplitSeq(strings.TrimRight(script, "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, "    "):
			continue
		case line == "":
			w = newWorld(t)
		case !strings.HasPrefix(line, "#"):
			w.do(line)
			w.frames()
		}
		out.WriteString(line + "\n")
		for l := range strings.Lines(w.out.String()) {
			out.WriteString("    " + l)
		}
		w.out.Reset()
	}
	return out.String()
}

func TestReasonTableIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for r := range numReasons {
		if r.String() == "" || seen[r.String()] {
			t.Errorf("reason %d has no name of its own: %q", r, r)
		}
		seen[r.String()] = true
		if c := r.Code(); c != 0 && wire.CloseInfoOf(c).Name == "unknown" {
			t.Errorf("%v closes with %d, which the protocol does not have", r, c)
		}
	}
	if numReasons.String() != "unknown" || numReasons.Code() != 0 {
		t.Error("a reason out of range must be harmless")
	}
}

// TestConcurrentPushesArriveInOrder has pushers, flushers and a socket that is
// full now and then.
func TestConcurrentPushesArriveInOrder(t *testing.T) {
	w := newWorld(t)
	w.s.env.Limits.QueueBytes = 1 << 20
	w.s.Upgraded(&ws.Upgrade{Token: "x", Device: "web"})
	w.s.Identify(Identity{User: "bob", Device: "web", Conn: 7}, 0)
	w.s.Open(wire.AuthOK{})
	w.buf.Reset()
	const n = 2000
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			w.s.Push(&Shared{Op: wire.OpMsg, Seq: int64(i), Body: strconv.AppendInt(nil, int64(i), 10)})
			if i%7 == 0 {
				w.s.Flush()
			}
		}
	})
	wg.Go(func() {
		for range n {
			w.s.Flush()
		}
	})
	wg.Go(func() {
		for i := range n {
			w.mu.Lock()
			w.room = -1
			if i%3 == 0 && i < n-1 {
				w.room = 100
			}
			w.mu.Unlock()
			w.s.Tick(w.now)
		}
	})
	wg.Wait()
	w.room = -1
	w.s.Writable()
	w.out.Reset()
	w.frames()
	want := 0
	for l := range strings.Lines(w.out.String()) {
		if exp := fmt.Sprintf("< {\"op\":\"msg\",\"body\":%d}\n", want); l != exp {
			t.Fatalf("frame %d is %s", want, l)
		}
		want++
	}
	if want != n {
		t.Fatalf("%d frames of %d", want, n)
	}
}

func BenchmarkPush(b *testing.B) {
	w := newWorld(&testing.T{})
	w.s.state = Open
	f := &Shared{Op: wire.OpMsg, Body: []byte(`{"content":"hello"}`)}
	b.ReportAllocs()
	for b.Loop() {
		w.s.Push(f)
		w.s.Flush()
		w.buf.Reset()
	}
}
