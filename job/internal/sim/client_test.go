package sim

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// device is one client: what it keeps over connections.
type device struct {
	w     *world
	user  wire.UserID
	name  wire.DeviceID
	sess  *session
	held  map[wire.ConvID]map[int64]string // seq -> what it is
	upto  map[wire.ConvID]int64            // all that it may see up to here is held
	retry []*send                          // without an answer
}

// send is one message that a client wants to have sent.
type send struct {
	conv     wire.ConvID
	from     wire.UserID
	clientID string
	content  string
	sess     *session // the first connection it went out on
	n        int      // its place there
	retried  bool
	acked    bool
	again    int // replays of it
}

func newDevice(w *world, u wire.UserID, name wire.DeviceID) *device {
	return &device{
		w: w, user: u, name: name,
		held: make(map[wire.ConvID]map[int64]string), upto: make(map[wire.ConvID]int64),
	}
}

func (d *device) String() string { return fmt.Sprintf("%s/%s", d.user, d.name) }

// step is one thing that a client does.
func (d *device) step() {
	w := d.w
	if d.sess != nil && d.sess.closed {
		d.lose()
	}
	if d.sess == nil {
		if e := pick(w, w.edges); e.alive && w.chance(50) {
			d.sess = e.connect(d)
		}
		return
	}
	s := d.sess
	switch {
	case s.phase < phaseLive:
		s.login()
	case s.needSync && w.chance(50):
		d.sync()
	case len(s.up) > 0 && w.chance(50):
		d.logic()
	case len(d.retry) > 0 && w.chance(30):
		again := d.retry[0]
		d.retry = d.retry[1:]
		again.retried, s.disorder = true, true
		s.up = append(s.up, again)
	case w.chance(45):
		d.write()
	case w.chance(4) && !w.calm:
		d.disconnect()
	default:
		s.receive(1 + w.rng.IntN(4))
	}
}

// write puts a new message on its way.
func (d *device) write() {
	w := d.w
	conv := wire.PrivateConv(d.user, pick(w, w.users))
	if w.chance(60) {
		conv = wire.GroupConv(pick(w, w.groups))
	}
	w.nextClient++
	s := &send{
		conv: conv, from: d.user, clientID: fmt.Sprintf("m%d", w.nextClient), content: fmt.Sprintf("text %d", w.nextClient),
		sess: d.sess, n: d.sess.sent,
	}
	d.sess.sent++
	w.sends = append(w.sends, s)
	d.sess.up = append(d.sess.up, s)
}

// logic takes the connection's oldest frame: reserves the id, produces, and
// answers; or fails before or after.
func (d *device) logic() {
	w, s := d.w, d.sess.up[0]
	d.sess.up = d.sess.up[1:]
	q := registry.Reservation{
		Conv: s.conv, From: s.from, ClientID: s.clientID, ID: wire.MsgID(w.newID()), Hash: record.ContentHash("text", s.content),
	}
	id := q.ID
	if got, err := w.reg.Reserve(context.Background(), []registry.Reservation{q}); err == nil {
		id = got[0].ID
		if got[0].Acked > 0 {
			s.acked = true
			return
		}
	}
	unsent := !w.calm && w.chance(4)
	if !unsent && (w.bug != bugAckBeforeLog || !w.chance(5)) {
		r := &recordpb.Record{
			Id: int64(id), Conv: string(s.conv), From: string(s.from), ClientId: s.clientID, Hash: q.Hash, Resend: s.retried,
			Origin: &recordpb.Origin{Server: string(d.sess.edge.server), Epoch: d.sess.edge.epoch, Conn: d.sess.conn},
			Body:   &recordpb.Record_Send{Send: &recordpb.Send{Type: "text", Content: s.content}},
		}
		if w.chance(4) {
			w.poison(r, s)
		}
		e := w.produce(r)
		w.tell("%v@%d %s sends %s to %s as %d", e.PartitionID, e.Offset, d, s.clientID, s.conv, id)
	}
	if unsent || !w.calm && w.chance(4) { // unavailable: the client does not know
		d.sess.disorder = true
		d.retry = append(d.retry, s)
		return
	}
	q.ID = id
	_ = w.reg.MarkAcked(context.Background(), []registry.Reservation{q}, []int64{w.now})
	s.acked = true
}

// disconnect ends the connection on the client's side; the edge may notice
// later or never.
func (d *device) disconnect() {
	s := d.sess
	d.w.tell("%s disconnects from %s", d, s.edge.server)
	if d.w.chance(60) {
		s.edge.drop(s)
	}
	d.lose()
}

// lose forgets the connection; what had no answer is to be sent again.
func (d *device) lose() {
	d.retry = append(d.retry, d.sess.up...)
	d.sess.up = nil
	d.sess = nil
}

// receive takes pushes that have arrived.
func (s *session) receive(n int) {
	for ; n > 0 && len(s.down) > 0; n-- {
		p := s.down[0]
		s.down = s.down[1:]
		if p.lagged {
			s.solid, s.needSync = false, true
			continue
		}
		s.dev.got(s, p)
	}
}

// got is a message or update by push.
func (d *device) got(s *session, p push) {
	w := d.w
	if !d.sees(p.conv, p.seq) {
		if w.stale {
			return // a stale index may not have known where to push the removal
		}
		w.fail("%s was pushed %s/%d, which is outside of its membership", d, p.conv, p.seq)
		return
	}
	next := d.nextVisible(p.conv, d.upto[p.conv])
	if s.solid && !w.stale && p.seq > d.upto[p.conv] && next != p.seq {
		w.fail("%s on %s was pushed %s/%d, but %d comes next, and it was not told lagged", d, s.edge.server, p.conv, p.seq, next)
		return
	}
	d.keep(p.conv, p.seq, p.what)
	if next == p.seq {
		d.upto[p.conv] = p.seq
	} else if p.seq > d.upto[p.conv] {
		s.needSync = true // a gap
	}
}

func (d *device) keep(conv wire.ConvID, seq int64, what string) {
	m := d.held[conv]
	if m == nil {
		m = make(map[int64]string)
		d.held[conv] = m
	}
	if old, ok := m[seq]; ok && old != what {
		d.w.fail("%s has two things under %s/%d: %s and %s", d, conv, seq, old, what)
	}
	m[seq] = what
}

// sync asks for all that came after the cursors.
func (d *device) sync() {
	ctx := context.Background()
	convs, err := d.w.st.UserConversations(ctx, d.user, d.name, "", 1000, false)
	if err != nil {
		return // unavailable: again later
	}
	for i := range convs {
		c := &convs[i]
		rows, err := d.w.st.Timeline(ctx, d.user, c.Conv, d.upto[c.Conv], c.MaxSeq, 100_000, true)
		if err != nil {
			return
		}
		for _, r := range rows {
			d.keep(c.Conv, r.Seq, whatOf(r))
			d.upto[c.Conv] = max(d.upto[c.Conv], r.Seq)
		}
		if d.w.bug == bugCursorBeyond && len(rows) > 0 {
			d.upto[c.Conv]++
		}
	}
	s := d.sess
	s.needSync = false
	// Before the first sync after being told, or unlisted, gaps are no surprise.
	s.solid = !s.edge.unlisted && !slices.ContainsFunc(s.down, func(p push) bool { return p.lagged })
}

// whatOf names a row by what never changes of it.
func whatOf(r store.Row) string {
	if r.Kind == store.KindUpdate {
		return fmt.Sprintf("update %d %s", r.ID, r.Status)
	}
	return fmt.Sprintf("%s %d", r.Type, r.ID)
}

// intervals are those of the device's user, by JoinedSeq.
func (d *device) intervals(conv wire.ConvID) []store.Member {
	c, err := d.w.st.Conversation(context.Background(), conv)
	if err != nil {
		return nil
	}
	ms, _ := d.w.st.Intervals(context.Background(), c.ID, []wire.UserID{d.user})
	return ms
}

func (d *device) sees(conv wire.ConvID, seq int64) bool {
	return slices.ContainsFunc(d.intervals(conv), func(m store.Member) bool {
		return seq >= m.JoinedSeq && (m.LeftSeq == 0 || seq <= m.LeftSeq)
	})
}

// nextVisible is the next seq after one that the user may see, stored or not.
func (d *device) nextVisible(conv wire.ConvID, after int64) int64 {
	for _, m := range d.intervals(conv) {
		next := max(after+1, m.JoinedSeq)
		if m.LeftSeq == 0 || next <= m.LeftSeq {
			return next
		}
	}
	return 0
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
