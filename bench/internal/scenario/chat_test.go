package scenario

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/starling-im/starling/bench/internal/report"
	"github.com/starling-im/starling/bench/internal/swarm"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) {
	testkit.VerifyMain(m, goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

// faulty is the smallest server that a chat load can run against, with a hook
// that may drop, repeat or swap what it delivers.
type faulty struct {
	t       *testing.T
	deliver func(n int, m wire.Msg, push func(wire.Msg))

	mu    sync.Mutex
	conns map[wire.UserID]*websocket.Conn
	seqs  map[wire.ConvID]int64
	n     int
}

func newFaulty(t *testing.T, deliver func(int, wire.Msg, func(wire.Msg))) *httptest.Server {
	t.Helper()
	f := &faulty{t: t, deliver: deliver, conns: make(map[wire.UserID]*websocket.Conn), seqs: make(map[wire.ConvID]int64)}
	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	mux.HandleFunc("POST /v1/login", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ User string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		_, _ = fmt.Fprintf(w, `{"token":%q}`, in.User)
	})
	mux.HandleFunc("GET /v1/edges", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `[{"url":"ws%s/ws"}]`, strings.TrimPrefix(srv.URL, "http"))
	})
	mux.HandleFunc("/ws", f.serve)
	t.Cleanup(srv.Close)
	return srv
}

func (f *faulty) serve(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"starling"}})
	if err != nil {
		return
	}
	defer func() { _ = c.CloseNow() }()
	var user wire.UserID
	for {
		_, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		fr, bad := wire.DecodeText(b)
		if bad != nil {
			f.t.Errorf("client sent %s: %v", b, bad)
			return
		}
		switch fr.Op {
		case wire.OpAuth:
			var a wire.Auth
			_ = wire.Unmarshal(fr.Body, &a)
			user = wire.UserID(a.Token)
			f.mu.Lock()
			f.conns[user] = c
			f.write(c, wire.OpAuthOK, fr.Seq, wire.AuthOK{User: user, HeartbeatMS: 60000})
			f.mu.Unlock()
		case wire.OpSend:
			var s wire.Send
			_ = wire.Unmarshal(fr.Body, &s)
			f.send(c, user, fr.Seq, s)
		default:
		}
	}
}

func (f *faulty) send(c *websocket.Conn, from wire.UserID, seq int32, s wire.Send) {
	f.mu.Lock()
	defer f.mu.Unlock()
	conv := s.Conv(from)
	f.seqs[conv]++
	f.n++
	m := wire.Msg{ID: wire.MsgID(f.n), Conv: conv, Seq: f.seqs[conv], From: from, ClientID: s.ClientID, Type: s.Type, Content: s.Content}
	f.write(c, wire.OpSendAck, seq, wire.SendAck{ClientID: s.ClientID, ID: m.ID, Conv: conv, TS: 1})
	f.write(c, wire.OpMsg, 0, m) // the sender's own copy
	f.deliver(f.n, m, func(m wire.Msg) {
		cv, _ := m.Conv.Parse()
		f.write(f.conns[cv.Peer(m.From)], wire.OpMsg, 0, m)
	})
}

func (f *faulty) write(c *websocket.Conn, op wire.Op, seq int32, body any) {
	b, err := wire.Marshal(body)
	if err != nil {
		f.t.Error(err)
		return
	}
	_ = c.Write(f.t.Context(), websocket.MessageText, wire.AppendText(nil, wire.Frame{Op: op, Seq: seq, Body: b}))
}

func runFaulty(t *testing.T, deliver func(int, wire.Msg, func(wire.Msg)), settle time.Duration) *report.Report {
	t.Helper()
	chat := Chat{
		Swarm: swarm.Config{API: newFaulty(t, deliver).URL, Users: 2, Prefix: "u"}, Rate: 400, Duration: 250 * time.Millisecond,
		Settle: settle, Size: 10, Seed: 3,
	}
	if err := chat.Validate(); err != nil {
		t.Fatal(err)
	}
	r, err := chat.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Each planted fault is counted as what it is, to the message.
func TestChatCountsFaults(t *testing.T) {
	var held *wire.Msg
	for _, c := range []struct {
		name                                    string
		deliver                                 func(n int, m wire.Msg, push func(wire.Msg))
		lost, repeated, reordered, holes, fifos int64
	}{
		{name: "none", deliver: func(_ int, m wire.Msg, push func(wire.Msg)) { push(m) }},
		{name: "lost", lost: 1, holes: 1, deliver: func(n int, m wire.Msg, push func(wire.Msg)) {
			if n != 20 {
				push(m)
			}
		}},
		{name: "repeated", repeated: 1, deliver: func(n int, m wire.Msg, push func(wire.Msg)) {
			push(m)
			if n == 20 {
				push(m)
			}
		}},
		{name: "swapped", reordered: 1, holes: 1, fifos: 1, deliver: func(n int, m wire.Msg, push func(wire.Msg)) {
			switch {
			case n == 20:
				held = &m
			case held != nil && held.From == m.From:
				push(m)
				push(*held)
				held = nil
			default:
				push(m)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			held = nil
			settle := 30 * time.Second // ends when all is there
			if c.lost > 0 {
				settle = 300 * time.Millisecond // what is lost never is
			}
			r := runFaulty(t, c.deliver, settle)
			for ; c.lost > 0 && r.Lost+r.Unanswered > c.lost && settle < 30*time.Second; settle *= 5 {
				r = runFaulty(t, c.deliver, 5*settle) // the machine was too slow
			}
			if r.Sent != 100 || r.Acked != 100 || r.Failed+r.Unanswered != 0 {
				t.Errorf("sent %d, acked %d, failed %d, unanswered %d", r.Sent, r.Acked, r.Failed, r.Unanswered)
			}
			if r.Lost != c.lost || r.Repeated != c.repeated || r.Reordered != c.reordered || r.FIFO != c.fifos {
				t.Errorf("lost %d, repeated %d, reordered %d, FIFO %d", r.Lost, r.Repeated, r.Reordered, r.FIFO)
			}
			if (r.Holes > 0) != (c.holes > 0) || r.Clean() != (c.name == "none") {
				t.Errorf("holes %d, clean %v", r.Holes, r.Clean())
			}
			if r.Delivery.Count != 100-c.lost || r.Delivery.Max <= 0 {
				t.Errorf("deliveries %+v", r.Delivery)
			}
		})
	}
}

// A load that can't run says why, in words that help.
func TestChatRefuses(t *testing.T) {
	bad := Chat{Swarm: swarm.Config{Users: 1, Prefix: "a:b"}, Rate: -1, Size: 1 << 20}
	err := bad.Validate()
	for _, key := range []string{"-connections", "-rate", "-duration", "-size", "-prefix"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("no word of %s in: %v", key, err)
		}
	}
	chat := Chat{Swarm: swarm.Config{API: "http://127.0.0.1:1", Users: 2, Prefix: "u"}, Rate: 1, Duration: time.Second}
	if _, err := chat.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "make run") {
		t.Errorf("unreachable system: %v", err)
	}
}
