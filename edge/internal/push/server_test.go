package push

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
	"github.com/starling-im/starling/edge/internal/session"
	"github.com/starling-im/starling/edge/internal/ws"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// sock is a client that reads everything, or nothing.
type sock struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	full bool
}

func (s *sock) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		return 0, session.ErrFull
	}
	return s.buf.Write(b) //nolint:wrapcheck // a test
}

func (s *sock) Writev(bufs [][]byte) (int, error) { return s.Write(bytes.Join(bufs, nil)) }
func (s *sock) NotifyWritable()                   {}
func (s *sock) CloseWrite()                       {}
func (s *sock) Abort()                            {}

// got returns the contents of the messages read so far.
func (s *sock) got() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, part := range strings.Split(s.buf.String(), `"content":"`)[1:] {
		all = append(all, part[:strings.IndexByte(part, '"')])
	}
	return all
}

func (s *sock) has(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.buf.String(), what)
}

// hub lets in whoever the test opens.
type hub struct{}

func (hub) Authenticate(*session.Session, wire.Auth) {}
func (hub) Renew(*session.Session, wire.Auth) (wire.AuthOK, *wire.Error) {
	return wire.AuthOK{}, nil
}

func (hub) Ask(wire.ConnID, wire.Frame) (bool, *wire.Error) {
	return true, nil
}
func (hub) Pin() session.Peer       { return nil }
func (hub) Closed(*session.Session) {}

type rig struct {
	t      *testing.T
	srv    *Server
	roster *roster.Roster
	env    *session.Env
	addr   string
	next   wire.ConnID

	mu        sync.Mutex
	unlisted  bool
	unsettled bool
	named     []wire.GroupID // AddGroups
	recounted []wire.GroupID
	left      []roster.Left
	regrouped int
	deaf      map[wire.UserID]bool // whose groups cannot be read
}

func (r *rig) locked(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *rig) AddGroups(_ context.Context, gs []wire.GroupID) {
	r.locked(func() { r.named = append(r.named, gs...) })
}
func (r *rig) Recount(g wire.GroupID) { r.locked(func() { r.recounted = append(r.recounted, g) }) }
func (r *rig) GroupsLeft(l []roster.Left) {
	r.locked(func() { r.left = append(r.left, l...) })
}

func (r *rig) Unsettled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unsettled
}

func (r *rig) Regroup(_ context.Context, m *roster.Member) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.deaf[m.User] {
		return false
	}
	r.regrouped++
	r.roster.Regroup(m, nil, r.roster.Losses())
	return true
}

func start(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, roster: roster.New()}
	r.env = &session.Env{
		Limits: session.Limits{QueueBytes: 4096, AuthTimeout: time.Hour, AuthBytes: 1000, Heartbeat: time.Hour, WriteTimeout: time.Hour},
		Hub:    hub{}, Metrics: session.NewMetrics(prometheus.NewRegistry()), Log: zap.NewNop(), Now: func() int64 { return 1000 },
	}
	r.srv = New(r.roster, r, func() (wire.ServerID, uint64, bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return "e1", 7, r.unlisted
	}, prometheus.NewRegistry(), zap.NewNop())
	g := rpc.NewServer()
	rpcpb.RegisterEdgeServer(g, r.srv)
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(ln) })
	wg.Go(func() { r.srv.LagRun(ctx) })
	t.Cleanup(func() {
		cancel()
		g.Stop()
		r.srv.Wait()
		wg.Wait()
	})
	return r
}

// open adds an open session.
func (r *rig) open(user wire.UserID, groups ...wire.GroupID) (*session.Session, *sock) {
	r.t.Helper()
	k := &sock{}
	s := session.New(r.env, k)
	s.Upgraded(&ws.Upgrade{Token: "x", Device: "web"})
	r.next++
	id := session.Identity{User: user, Device: wire.DeviceID(fmt.Sprintf("d%d", r.next)), Conn: r.next}
	m, _ := r.roster.Connect(s, id, nil)
	var js []roster.Joined
	for _, g := range groups {
		js = append(js, roster.Joined{Group: g})
	}
	r.roster.Reserve(js)
	if !s.Identify(id, 1<<60) {
		r.t.Fatal("not identified")
	}
	r.roster.Open(m, js, r.roster.Losses())
	s.Open(wire.AuthOK{})
	return s, k
}

// job is one stream.
type job struct {
	t      *testing.T
	st     rpcpb.Edge_PushClient
	cancel context.CancelFunc
	hello  *rpcpb.EdgeHello

	mu      sync.Mutex
	at      map[int32]int64
	away    []string
	early   bool // a position came before who was not there
	ended   bool
	replies int
}

func (r *rig) job() *job { return r.jobNamed("job") }

func (r *rig) jobNamed(name wire.ServerID) *job {
	r.t.Helper()
	cc, err := rpc.Dial(r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(rpc.WithServer(context.WithoutCancel(r.t.Context()), name))
	j := &job{t: r.t, cancel: cancel, at: map[int32]int64{}}
	if j.st, err = rpcpb.NewEdgeClient(cc).Push(ctx); err != nil {
		r.t.Fatal(err)
	}
	first, err := j.st.Recv()
	if err != nil {
		r.t.Fatal(err)
	}
	j.hello = first.GetHello()
	var wg sync.WaitGroup
	wg.Go(j.receive)
	r.t.Cleanup(func() {
		cancel()
		wg.Wait()
		_ = cc.Close()
	})
	return j
}

func (j *job) receive() {
	for {
		m, err := j.st.Recv()
		j.mu.Lock()
		if err != nil {
			j.ended = true
			j.mu.Unlock()
			return
		}
		j.replies++
		for _, n := range m.GetNotHere() {
			if n.GetAt() != nil && j.at[n.GetAt().GetPartition()] >= n.GetAt().GetOffset() {
				j.early = true
			}
			j.away = append(j.away, n.GetUsers()...)
		}
		for _, p := range m.GetPositions() {
			j.at[p.GetPartition()] = p.GetOffset()
		}
		j.mu.Unlock()
	}
}

func (j *job) position(partition int32) int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.at[partition]
}

// told counts the replies.
func (j *job) told() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.replies
}

func (j *job) absent() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.away)
}

func (j *job) over() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.ended
}

func (j *job) push(fs ...*rpcpb.PushFrame) {
	j.t.Helper()
	if err := j.st.Send(&rpcpb.PushBatch{Frames: fs}); err != nil {
		j.t.Fatal(err)
	}
}

func frame(partition int32, offset int64, items ...*rpcpb.PushItem) *rpcpb.PushFrame {
	return &rpcpb.PushFrame{At: &rpcpb.Position{Topic: "t", Partition: partition, Offset: offset}, Items: items}
}

func msg(content string, users ...string) *rpcpb.PushItem {
	return &rpcpb.PushItem{Op: int32(wire.OpMsg), Body: fmt.Appendf(nil, `{"content":"%s"}`, content), Users: users, Conv: "p:a:b", Seq: 1}
}

func TestHelloAndPositions(t *testing.T) {
	r := start(t)
	j := r.job()
	if h := j.hello; h.GetServer() != "e1" || h.GetEpoch() != 7 || h.GetUnlisted() || len(h.GetPositions()) != 0 {
		t.Errorf("hello %+v", h)
	}
	j.push(frame(1, 5), frame(2, 9), frame(1, 6))
	eventually(t, "both positions are told", func() bool { return j.position(1) == 6 && j.position(2) == 9 })
	before := j.told()
	time.Sleep(3 * replyEvery)
	if after := j.told(); after != before {
		t.Errorf("%d replies though nothing moves", after-before)
	}
	var got []string
	for _, p := range r.job().hello.GetPositions() {
		got = append(got, fmt.Sprint(p.GetTopic(), p.GetPartition(), "@", p.GetOffset()))
	}
	if diff := cmp.Diff([]string{"t1@6", "t2@9"}, got); diff != "" {
		t.Errorf("the next hello (-want +got):\n%s", diff)
	}
}

// What is at most once is passed on once, also if a later owner of its partition
// of im_push brings it again; its positions are nobody else's.
func TestOnce(t *testing.T) {
	r := start(t)
	_, bob := r.open("bob")
	a, b := r.job(), r.job()
	once := func(partition int32, offset int64, content string) *rpcpb.PushFrame {
		return &rpcpb.PushFrame{Once: &rpcpb.Position{Topic: "im_push", Partition: partition, Offset: offset}, Items: []*rpcpb.PushItem{msg(content, "bob")}}
	}
	a.push(once(1, 7, "one"), once(1, 8, "two"), once(2, 1, "other partition"))
	eventually(t, "the first owner's arrive", func() bool { return len(bob.got()) == 3 })
	b.push(once(1, 7, "one"), once(1, 8, "two"), once(1, 9, "three"), frame(1, 1, msg("stored", "bob")))
	eventually(t, "and what is new of the second's", func() bool { return b.position(1) == 1 })
	if got := bob.got(); len(got) != 5 {
		t.Errorf("%d arrive: %v", len(got), got)
	}
	if ps := r.job().hello.GetPositions(); len(ps) != 1 {
		t.Errorf("a job is told of %v", ps)
	}
}

func TestRepeatsAreDroppedWhoeverSendsThem(t *testing.T) {
	r := start(t)
	_, bob := r.open("bob")
	a, b := r.job(), r.job()
	a.push(frame(1, 1, msg("one", "bob")), frame(1, 2, msg("two", "bob")))
	eventually(t, "both streams are told", func() bool { return a.position(1) == 2 && b.position(1) == 2 })
	b.push(frame(1, 1, msg("one", "bob")), frame(1, 2, msg("two", "bob")), frame(1, 3, msg("three", "bob")))
	a.push(&rpcpb.PushFrame{Items: []*rpcpb.PushItem{msg("no position", "bob")}})
	eventually(t, "all arrive", func() bool { return len(bob.got()) == 4 })
	got := bob.got()
	slices.Sort(got[2:])
	if diff := cmp.Diff([]string{"one", "two", "no position", "three"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Two jobs send the same partition at once: what arrives is in its order,
// without a repeat or a hole.
func TestTwoStreamsOfOnePartition(t *testing.T) {
	r := start(t)
	r.env.Limits.QueueBytes = 1 << 20 // one stream may queue all while the other one's write is held up
	_, bob := r.open("bob")
	const n = 500
	var wg sync.WaitGroup
	for range 2 {
		j := r.job()
		wg.Go(func() {
			for o := range int64(n) {
				j.push(frame(1, o+1, msg(fmt.Sprint(o+1), "bob")))
			}
		})
	}
	wg.Wait()
	eventually(t, "all arrive", func() bool { return len(bob.got()) >= n })
	for i, c := range bob.got() {
		if c != fmt.Sprint(i+1) {
			t.Fatalf("place %d has %s", i+1, c)
		}
	}
}

func TestNotHereIsToldBeforeThePosition(t *testing.T) {
	r := start(t)
	r.open("bob")
	s, _ := r.open("closing")
	s.Close(session.Drained)
	j := r.job()
	for o := range int64(200) {
		j.push(frame(1, o+1, msg("x", "bob", fmt.Sprintf("nobody%d", o), "closing")))
	}
	eventually(t, "the last position is told", func() bool { return j.position(1) == 200 })
	if got := len(j.absent()); got != 400 {
		t.Errorf("%d are told absent, want 400", got)
	}
	if j.early {
		t.Error("a position was told before who was not there")
	}
}

// More absent users than may wait: the job waits, nobody is left out, the
// stream stays.
func TestManyAbsentUsers(t *testing.T) {
	r := start(t)
	j := r.job()
	const frames, users = 60, 500
	names := make([]string, users)
	for i := range names {
		names[i] = fmt.Sprintf("u%d", i)
	}
	for o := range int64(frames) {
		j.push(frame(1, o+1, msg("x", names...)))
	}
	eventually(t, "the last position is told", func() bool { return j.position(1) == frames || j.over() })
	if got := len(j.absent()); got != frames*users {
		t.Errorf("%d are told absent, want %d", got, frames*users)
	}
}

// What a stream could not tell any more is told on the next one.
func TestAbsentUsersOfAStreamThatEnded(t *testing.T) {
	r := start(t)
	st := &stream{job: "j", tell: make(chan struct{}, 1), told: make(chan struct{}, 1)}
	st.cancel = func(error) {}
	r.srv.streams[st] = struct{}{}
	var p pass
	r.srv.frame(t.Context(), st, frame(1, 1, msg("x", "before")), &p)
	r.srv.end(st)
	r.srv.frame(t.Context(), st, frame(1, 2, msg("x", "after")), &p)
	other := r.jobNamed("other")
	other.push(frame(2, 1))
	eventually(t, "another job is told a position", func() bool { return other.position(2) == 1 })
	j := r.jobNamed("j")
	eventually(t, "both are told", func() bool { return len(j.absent()) == 2 })
	if got := other.absent(); len(got) > 0 {
		t.Errorf("a job that knows nothing of it is told %v", got)
	}
	if diff := cmp.Diff([]string{"before", "after"}, j.absent()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	r.srv.mu.Lock()
	for range 3 * maxOrphans {
		r.srv.orphanLocked("gone", []*rpcpb.NotHere{{Users: []string{"x"}}})
	}
	if got := len(r.srv.orphans); got > maxOrphans || got < maxOrphans/4 {
		t.Errorf("%d are kept for a job that never comes", got)
	}
	r.srv.mu.Unlock()
}

func TestChangedHelloEndsTheStreams(t *testing.T) {
	r := start(t)
	a, b := r.job(), r.job()
	r.locked(func() { r.unlisted = true })
	r.srv.HelloChanged()
	eventually(t, "both streams end", func() bool { return a.over() && b.over() })
	if !r.job().hello.GetUnlisted() {
		t.Error("the next hello does not say unlisted")
	}
}

func TestGroupChanges(t *testing.T) {
	r := start(t)
	_, a := r.open("bob", "old")
	_, b := r.open("bob") // another device
	j := r.job()
	change := func(action rpcpb.PushItem_Action, g string, users ...string) *rpcpb.PushItem {
		return &rpcpb.PushItem{Action: action, Group: g, Users: users}
	}
	toGroup := func(content, g string) *rpcpb.PushItem {
		it := msg(content)
		it.Group = g
		return it
	}
	j.push(frame(1, 1, change(rpcpb.PushItem_GROUP_ADD, "new", "bob", "nobody"), toGroup("joined", "new")),
		frame(1, 2, change(rpcpb.PushItem_GROUP_ADD, "new", "bob")),
		frame(1, 3, change(rpcpb.PushItem_GROUP_REMOVE, "old", "bob"), toGroup("unseen", "old")),
		frame(1, 4, change(rpcpb.PushItem_GROUP_DROP, "new"), toGroup("unseen", "new")),
		frame(1, 5, change(rpcpb.PushItem_GROUP_ADD, "none", "nobody")))
	eventually(t, "all is passed on", func() bool { return j.position(1) == 5 })
	for i, k := range []*sock{a, b} {
		if diff := cmp.Diff([]string{"joined"}, k.got()); diff != "" {
			t.Errorf("device %d (-want +got):\n%s", i, diff)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff([]wire.GroupID{"new"}, slices.Compact(r.named)); diff != "" {
		t.Errorf("named (-want +got):\n%s", diff)
	}
	if got := len(r.named) + len(r.recounted); got != 2 {
		t.Errorf("%d named and recounted, want one for each join", got)
	}
	var left []wire.GroupID
	for _, l := range r.left {
		left = append(left, l.Group)
	}
	if diff := cmp.Diff([]wire.GroupID{"old", "new"}, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

// After a loss everybody is told once, paced, and only once their groups are
// read again.
func TestLostIsToldToAllPaced(t *testing.T) {
	r := start(t)
	const n, told = 300, `{"op":"lagged","body":{}}`
	socks := map[wire.UserID]*sock{}
	r.deaf = map[wire.UserID]bool{}
	for i := range n {
		user := wire.UserID(fmt.Sprintf("u%d", i))
		_, socks[user] = r.open(user, "g")
		r.deaf[user] = i%2 == 0
	}
	lost := frame(1, 9)
	lost.Lost = true
	began := time.Now()
	r.job().push(lost)
	for user, k := range socks {
		if !r.deaf[user] {
			eventually(t, "who can be told is told", func() bool { return k.has(told) > 0 })
		}
	}
	if took := time.Since(began); took < time.Duration(n/lagWave/2-1)*lagStep {
		t.Errorf("%d sessions are told within %v", n/2, took)
	}
	for user, k := range socks {
		if r.deaf[user] && k.has("lagged") > 0 {
			t.Fatal("a session is told before its groups could be read")
		}
	}
	r.locked(func() { r.deaf = nil })
	for _, k := range socks {
		eventually(t, "everybody is told", func() bool { return k.has(told) > 0 })
	}
	for user, k := range socks {
		if got := k.has("lagged"); got != 1 {
			t.Errorf("%s is told %d times", user, got)
		}
	}
	r.locked(func() {
		if r.regrouped != n {
			t.Errorf("groups are read again %d times for %d sessions", r.regrouped, n)
		}
	})
}

// Nothing is left out silently: what a slow session does not get is named.
func TestWhatIsLeftOutIsNamed(t *testing.T) {
	r := start(t)
	s, slow := r.open("bob")
	slow.full = true
	j := r.job()
	const n = 100
	for o := range int64(n) {
		it := msg(strings.Repeat("x", 100), "bob")
		it.Seq = o + 1
		j.push(frame(1, o+1, it))
	}
	eventually(t, "all is passed on", func() bool { return j.position(1) == n })
	slow.mu.Lock()
	slow.full = false
	slow.mu.Unlock()
	s.Writable()
	got := len(slow.got())
	if got == 0 || got == n {
		t.Fatalf("%d messages arrive: the test shows nothing", got)
	}
	if want := fmt.Sprintf(`"convs":{"p:a:b":[%d,%d]}`, got+1, n); slow.has(want) != 1 {
		t.Errorf("after %d messages there is no %s", got, want)
	}
	if len(j.absent()) != 0 {
		t.Errorf("a slow session is told absent: %v", j.absent())
	}
}

// TestPushAllocations: what a push costs must not grow with its receivers.
func TestPushAllocations(t *testing.T) {
	r := start(t)
	users := []string{}
	for i := range 50 {
		users = append(users, fmt.Sprintf("u%d", i))
		_, k := r.open(wire.UserID(users[i]))
		k.full = false
		k.buf.Grow(1 << 20)
	}
	st, p, offset := &stream{}, &pass{}, int64(0)
	run := func(n int) float64 {
		f := frame(1, 0, msg("x", users[:n]...))
		return testing.AllocsPerRun(200, func() {
			offset++
			f.At.Offset = offset
			r.srv.frame(t.Context(), st, f, p)
			p.flush()
		})
	}
	one, many := run(1), run(50)
	t.Logf("%v allocations for one receiver, %v for 50", one, many)
	if !raceEnabled && many > one+1 {
		t.Errorf("%v allocations for one receiver, %v for 50: some for each", one, many)
	}
}
