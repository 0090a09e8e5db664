package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

type deviceKey struct {
	user   wire.UserID
	device wire.DeviceID
}

// device is what one device has, over all its connections.
type device struct {
	key    deviceKey
	views  map[wire.ConvID]*view
	conn   *conn // that stands, or nil
	opens  int   // connections so far
	before map[wire.ConvID]seqset
	here   int64  // µs: since when it means to be connected; 0: it does not
	took   []took // deliveries to it while it meant to be connected
	stood  bool   // its connection stood when reading began
	said   bool   // a cursor of it surely arrived: the server knows it
}

// view is what a device has of a conversation.
type view struct {
	seen  seqset
	paged bool  // a page showed it something: what came before that may have been pushed
	from  int64 // the server chose to begin here; 0: everything is its own
}

// user is a user's posting, over all devices.
type user struct {
	sends   []*send
	devices int
	cursors map[wire.ConvID]*cursors // ack and read
}

type post struct {
	seq, conn int64
	t         int64 // µs
	read      bool
}

// conn is one connection.
type conn struct {
	no     int64
	dev    *device
	user   *user
	server wire.ServerID
	opened int64 // µs
	closed int64 // µs; 0: it stood to the end
	left   bool  // its client ended it by plan
	sent   map[wire.ConvID][]sendKey
	top    map[wire.ConvID]int64 // after which pushes have to go on; unknown until it was synced
	synced bool                  // what is not in top goes on from nothing
	pushed map[wire.ConvID]int64 // highest pushed
	lagged int64                 // event: when it was told so last
	blank  bool                  // it was told that anything may be missing, and no sync asked since is answered
	said   bool                  // it said a cursor
	read   map[wire.ConvID]post  // the highest that it said
	told   map[cursorOf]toldReceipt
}

// toldReceipt is one that was pushed at t, µs.
type toldReceipt struct {
	wire.Receipt
	t int64
}

type cursorOf struct {
	conv wire.ConvID
	user wire.UserID
}

// gap is a stretch that was passed over: whether it matters depends on whose it
// was.
type gap struct {
	conn     int64
	user     wire.UserID
	conv     wire.ConvID
	from, to int64 // not shown, both ends included
	event    int64
	t        int64 // µs, of a push past it
	told     bool  // lagged came soon after
}

func (c *Checker) user(u wire.UserID) *user {
	x := c.users[u]
	if x == nil {
		x = &user{cursors: make(map[wire.ConvID]*cursors)}
		c.users[u] = x
	}
	return x
}

func (c *Checker) open(e *trace.Event) {
	key := deviceKey{e.User, e.Device}
	u, d := c.user(e.User), c.devices[key]
	if d == nil {
		d = &device{key: key, views: make(map[wire.ConvID]*view)}
		c.devices[key] = d
		u.devices++
	}
	cn := &conn{
		no: e.Conn, dev: d, user: u, server: e.Server, opened: e.T, sent: make(map[wire.ConvID][]sendKey), top: make(map[wire.ConvID]int64), pushed: make(map[wire.ConvID]int64), read: make(map[wire.ConvID]post),
		told: make(map[cursorOf]toldReceipt),
	}
	c.conns[e.Conn] = cn
	if d.conn = cn; d.here == 0 {
		d.here = cmp.Or(e.At, e.T)
	}
	d.opens++
}

// ownEnd ends the reason of a connection that its client has ended, in client/go.
const ownEnd = "by this side"

func (c *Checker) closed(e *trace.Event) {
	cn := c.conns[e.Conn]
	if cn == nil {
		return
	}
	if !strings.HasSuffix(e.Text, ownEnd) && !strings.HasPrefix(string(cn.dev.key.device), SlowDevice) &&
		c.faults.at(e.T-settling, e.T) == nil {
		c.bad(Violation{Rule: Cut, Text: fmt.Sprintf("%s was ended by %d %q", cn, e.Close, e.Text), Conns: one(cn.no), Event: e.N})
	}
	if cn.closed = e.T; cn.dev.conn == cn {
		cn.dev.conn = nil
	}
	if cn.left = e.Op == trace.OpLeave; cn.left {
		cn.dev.here = 0
	}
}

func (d *device) view(conv wire.ConvID) *view {
	v := d.views[conv]
	if v == nil {
		v = new(view)
		d.views[conv] = v
	}
	return v
}

// beforeRead remembers what it has before it is asked to sync once more.
func (d *device) beforeRead() {
	d.before, d.stood = make(map[wire.ConvID]seqset, len(d.views)), d.conn != nil
	for conv, v := range d.views {
		d.before[conv] = v.seen.clone()
	}
}

func (c *Checker) pushed(e *trace.Event) {
	cn := c.conns[e.Conn]
	if cn == nil {
		return
	}
	switch {
	case e.Lagged != nil:
		c.counts.Lagged++
		c.toldLagged(cn, e)
		if cn.lagged = e.N; len(e.Lagged.Convs) == 0 {
			clear(cn.top)
			clear(cn.pushed)
			cn.synced, cn.blank = false, true
		}
		for conv, left := range e.Lagged.Convs {
			delete(cn.pushed, conv)
			c.goesOn(cn, conv, left[0], left[1], e)
		}
	case e.Msg != nil:
		t := c.timeline(e.Msg.Conv)
		if c.sawMsg(t, e.Msg, e.Conn, e.N) {
			c.sight(t, e.Msg, cn, -1, e.N)
			c.push(cn, t, e.Msg.Seq, e)
		}
	case e.Update != nil:
		t := c.timeline(e.Update.Conv)
		if c.sawUpdate(t, e.Update, cn, -1, e.N) {
			c.push(cn, t, e.Update.Seq, e)
		}
	}
}

// toldSoon is how long, µs, after a push past a seq lagged may still be told: what
// an edge was told lost concerns all its sessions, which it tells one after the
// other and once it has read their groups, while pushes go on. A fault puts that
// off, by gapsKept at most. A connection that ends within endsSoon could not be
// told.
const toldSoon, gapsKept, endsSoon = 10_000_000, 300_000_000, 500_000

// within says whether at is within a time after a gap, or after the fault that was
// at work then.
func (f *faults) within(g *gap, at, time int64) bool {
	if x := f.at(g.t, g.t+time); x != nil && x.healed > g.t {
		return x.healed == forever || at <= x.healed+time
	}
	return at <= g.t+time
}

// toldLagged takes back the gaps that lagged explains.
func (c *Checker) toldLagged(cn *conn, e *trace.Event) {
	for i, g := range slices.Backward(c.gaps) {
		if g.t < e.T-gapsKept {
			return
		}
		if _, named := e.Lagged.Convs[g.conv]; g.conn == cn.no && (named || len(e.Lagged.Convs) == 0) && c.faults.within(&g, e.T, toldSoon) {
			c.gaps[i].told = true
		}
	}
}

// push takes what was pushed: in order, but for what the device has already.
func (c *Checker) push(cn *conn, t *timeline, seq int64, e *trace.Event) {
	c.counts.Pushed++
	v := cn.dev.view(t.conv)
	fresh := v.seen.add(seq)
	if top := cn.pushed[t.conv]; seq < top && fresh {
		c.bad(Violation{
			Rule: Order, Text: fmt.Sprintf("%s was pushed seq %d of %s after %d", cn, seq, t.conv, top),
			Conv: t.conv, Seq: seq, Conns: one(cn.no), Event: e.N,
		})
	}
	c.goesOn(cn, t.conv, seq, seq, e)
	cn.pushed[t.conv] = max(cn.pushed[t.conv], seq)
	if fresh {
		c.delivered(cn, t, seq, e)
	}
}

// goesOn moves where pushes have to go on from, past a seq that came or a stretch
// that lagged named.
func (c *Checker) goesOn(cn *conn, conv wire.ConvID, from, to int64, e *trace.Event) {
	top, ok := cn.after(conv)
	if ok && from > top+1 && !cn.blank {
		c.gaps = append(c.gaps, gap{conn: cn.no, user: cn.dev.key.user, conv: conv, from: top + 1, to: from - 1, event: e.N, t: e.T})
	}
	cn.top[conv] = max(top, to)
}

// after is what a push has to follow without a hole; false: not known.
func (cn *conn) after(conv wire.ConvID) (int64, bool) {
	top, ok := cn.top[conv]
	return top, ok || cn.synced
}

func (cn *conn) String() string {
	return fmt.Sprintf("%s/%s (connection %d at %s)", cn.dev.key.user, cn.dev.key.device, cn.no, cn.server)
}

// judgeDevices asks whether everybody was shown what is theirs, and nothing else.
func (c *Checker) judgeDevices(spans map[wire.ConvID]map[wire.UserID][]span) {
	for _, g := range c.gaps {
		if end := c.conns[g.conn].closed; g.told || end > 0 && end < c.readAt && c.faults.within(&g, end, endsSoon) {
			continue
		}
		if seq := firstOf(spans[g.conv][g.user], g.from, g.to, nil); seq > 0 {
			c.bad(Violation{
				Rule: Gap, Text: fmt.Sprintf("%s was pushed seq %d of %s, and %d neither before it nor was it told lagged of that", c.conns[g.conn], g.to+1, g.conv, seq),
				Conv: g.conv, Seq: seq, Conns: one(g.conn), Event: g.event,
			})
		}
	}
	for key, d := range c.devices {
		for conv, v := range d.views {
			own := spans[conv][key.user]
			if len(own) == 0 && v.seen.n == 0 {
				c.bad(Violation{
					Rule: Leak, Text: fmt.Sprintf("%s/%s was told of %s, which is not theirs", key.user, key.device, conv),
					Conv: conv, Conns: c.connsOf(d),
				})
			}
			v.seen.each(func(seq int64) bool {
				if within(own, seq) {
					return true
				}
				c.bad(Violation{
					Rule: Leak, Text: fmt.Sprintf("%s/%s was shown seq %d of %s, which is not theirs (member %s)", key.user, key.device, seq, conv, show(own)),
					Conv: conv, Seq: seq, Conns: c.connsOf(d), Event: 0,
				})
				return false
			})
		}
		for conv, t := range c.convs {
			if own := spans[conv][key.user]; len(own) > 0 {
				c.judgeComplete(d, t, own)
			}
		}
	}
}

// judgeComplete compares what a device has at the end with what is its user's.
func (c *Checker) judgeComplete(d *device, t *timeline, own []span) {
	v := d.views[t.conv]
	if v == nil {
		v = new(view)
	}
	from := max(v.from, 1)
	if seq := firstOf(own, from, t.known.max(), func(seq int64) bool { return v.seen.has(seq) || !t.known.has(seq) }); seq > 0 {
		c.bad(Violation{
			Rule: Sync, Text: fmt.Sprintf("%s/%s has not seq %d of %s after its last sync", d.key.user, d.key.device, seq, t.conv),
			Conv: t.conv, Seq: seq, Conns: c.connsOf(d),
		})
	}
	if !d.stood {
		return
	}
	had := d.before[t.conv]
	if seq := firstOf(own, from, t.known.max(), func(seq int64) bool { return had.has(seq) || !t.known.has(seq) }); seq > 0 {
		c.bad(Violation{
			Rule: NotTold, Text: fmt.Sprintf("%s/%s stood, and was not given seq %d of %s", d.key.user, d.key.device, seq, t.conv),
			Conv: t.conv, Seq: seq, Conns: c.connsOf(d),
		})
	}
}

// connsOf is the last connection of a device.
func (c *Checker) connsOf(d *device) []int64 {
	var last int64
	for no, cn := range c.conns {
		if cn.dev == d {
			last = max(last, no)
		}
	}
	return one(last)
}

// firstOf returns the first seq of [from, to] that is in spans and not done; 0:
// none.
func firstOf(spans []span, from, to int64, done func(int64) bool) int64 {
	var first int64
	for _, s := range spans {
		for seq := max(from, s.from); seq <= min(to, s.to); seq++ {
			if done == nil || !done(seq) {
				if first == 0 || seq < first {
					first = seq
				}
				break
			}
		}
	}
	return first
}

func show(spans []span) string {
	if len(spans) == 0 {
		return "of nothing"
	}
	texts := make([]string, len(spans))
	for i, s := range spans {
		if texts[i] = fmt.Sprintf("%d to %d", s.from, s.to); s.to == forever {
			texts[i] = fmt.Sprintf("%d and on", s.from)
		}
	}
	return "of " + strings.Join(texts, ", ")
}
