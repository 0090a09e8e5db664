package sim

import (
	"context"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/machine"
)

// check looks at the promises of docs/protocol.md, section 3, after all has
// come to rest.
func (w *world) check() {
	for _, f := range []func(){w.checkLedger, w.checkTimelines, w.checkSends, w.checkBlocks, w.checkOrder, w.checkReplays, w.checkReplay, w.checkLive, w.checkSync} {
		if f(); w.err != nil {
			return
		}
	}
}

// checkLedger: log end = stored + updates + commands + repeats + refused + set
// aside, and only what cannot be judged was set aside.
func (w *world) checkLedger() {
	var aside int64
	for _, p := range w.parts {
		st, err := w.st.State(context.Background(), p)
		if err != nil {
			w.fail("state of %v: %w", p, err)
			return
		}
		end := int64(len(w.log[p]))
		sum := st.First + st.Stored + st.Updates + st.Commands + st.Repeats + st.Refused + st.SetAside
		if st.Applied != end-1 || sum != end {
			w.fail("ledger of %v: log end %d, applied %d, sum %d: %+v", p, end, st.Applied, sum, st.Counts)
		}
		aside += st.SetAside
	}
	if aside != w.junk {
		w.fail("%d records were set aside, %d of the log cannot be judged", aside, w.junk)
	}
}

func (w *world) convs() []wire.ConvID {
	var out []wire.ConvID
	for _, g := range w.groups {
		out = append(out, wire.GroupConv(g))
	}
	for i, a := range w.users {
		for _, b := range w.users[i:] {
			out = append(out, wire.PrivateConv(a, b))
		}
	}
	return out
}

func rowsOf(st *memstore.Store, conv wire.ConvID) (*store.Conversation, []store.Row) {
	c, err := st.Conversation(context.Background(), conv)
	if err != nil {
		return nil, nil
	}
	rows, _ := st.Rows(context.Background(), c.ID, 1, 1<<40)
	return c, rows
}

// checkTimelines: every seq and every message id once, and each sender a member
// at its seq.
func (w *world) checkTimelines() {
	ids := make(map[wire.MsgID]bool)
	for _, conv := range w.convs() {
		c, rows := rowsOf(w.st, conv)
		if c == nil {
			continue
		}
		if int64(len(rows)) != c.MaxSeq {
			w.fail("%s has %d rows and max_seq %d", conv, len(rows), c.MaxSeq)
		}
		last := int64(0)
		for i, r := range rows {
			if r.Seq != int64(i)+1 || r.TS <= last {
				w.fail("%s: row %d has seq %d, ts %d after %d", conv, i, r.Seq, r.TS, last)
			}
			last = r.TS
			if r.Kind == store.KindMessage {
				if ids[r.ID] {
					w.fail("%s/%d has the id %d of another message", conv, r.Seq, r.ID)
				}
				ids[r.ID] = true
			}
			d := &device{w: w, user: r.From}
			if !d.sees(conv, r.Seq) {
				w.fail("%s/%d is from %s, who is no member there", conv, r.Seq, r.From)
			}
		}
	}
}

// checkSends: what was acknowledged stands once, as it was sent, or its
// sender was refused; what was not acknowledged stands at most once.
func (w *world) checkSends() {
	type key struct {
		conv     wire.ConvID
		from     wire.UserID
		clientID string
	}
	stands := make(map[key][]store.Row)
	for _, conv := range w.convs() {
		_, rows := rowsOf(w.st, conv)
		for _, r := range rows {
			if r.Type != wire.TypeSystem {
				k := key{conv, r.From, r.ClientID}
				stands[k] = append(stands[k], r)
			}
		}
	}
	for _, s := range w.sends {
		rows := stands[key{s.conv, s.from, s.clientID}]
		if len(rows) > 1 {
			w.fail("%s of %s stands %d times in %s", s.clientID, s.from, len(rows), s.conv)
		}
		if len(rows) == 1 && rows[0].Status == "" && rows[0].Content != s.content {
			w.fail("%s of %s was changed in %s", s.clientID, s.from, s.conv)
		}
		if len(rows) > 0 && w.wasRefused(s) {
			w.fail("%s of %s to %s is stored, and its sender is told that it was refused", s.clientID, s.from, s.conv)
		}
		if s.acked && len(rows) == 0 && !w.wasRefused(s) {
			w.fail("%s of %s to %s was acknowledged, and is neither stored nor refused", s.clientID, s.from, s.conv)
		}
	}
}

func (w *world) wasRefused(s *send) bool {
	list, err := w.st.Refusals(context.Background(), s.from, 0, 100_000)
	if err != nil {
		return false
	}
	for _, r := range list {
		if r.Conv == s.conv && r.ClientID == s.clientID {
			return true
		}
	}
	return false
}

// checkBlocks: in private, what came to its place in the log while the receiver
// blocked the sender is refused, and nothing else is.
func (w *world) checkBlocks() {
	blocked := make(map[wire.ConvID]map[wire.UserID]bool) // by whom
	judged := make(map[store.OutcomeKey]bool)
	for _, p := range w.parts {
		for _, e := range w.log[p] {
			r, err := record.Decode(e.Value)
			if err != nil {
				continue
			}
			k := store.OutcomeKey{Conv: wire.ConvID(r.GetConv()), From: wire.UserID(r.GetFrom()), ClientID: r.GetClientId()}
			conv, err := k.Conv.Parse()
			if err != nil || conv.Group != "" {
				continue
			}
			if c := r.GetCommand(); c != nil && conv.A != conv.B && !judged[k] {
				judged[k] = true
				if blocked[k.Conv] == nil {
					blocked[k.Conv] = make(map[wire.UserID]bool)
				}
				blocked[k.Conv][k.From] = c.GetKind() == recordpb.Command_BLOCK
			}
			if r.GetSend() == nil {
				continue
			}
			o, err := w.st.Outcome(context.Background(), k)
			if err == nil && o.Offset != e.Offset {
				continue // a repeat of what stands, or set aside and judged later
			}
			if want := blocked[k.Conv][conv.Peer(k.From)]; err != nil || (o.Code == wire.CodeBlocked) != want {
				w.fail("%s of %s in %s came to %q (%v); blocked by the receiver at its place: %v", k.ClientID, k.From, k.Conv, o.Code, err, want)
				return
			}
		}
	}
}

// checkOrder: the acknowledged sends of one connection keep their order in a
// conversation, while none failed.
func (w *world) checkOrder() {
	type key struct {
		sess *session
		conv wire.ConvID
	}
	last := make(map[key]int64)
	for _, s := range w.sends { // in the order of sending
		if s.sess.disorder || s.retried || s.again > 0 || !s.acked {
			continue
		}
		o, err := w.st.Outcome(context.Background(), store.OutcomeKey{Conv: s.conv, From: s.from, ClientID: s.clientID})
		if err != nil || o.Code != "" {
			continue
		}
		k := key{s.sess, s.conv}
		if o.Seq <= last[k] {
			w.fail("%s of %s took seq %d in %s after %d of the same connection", s.clientID, s.from, o.Seq, s.conv, last[k])
		}
		last[k] = o.Seq
	}
}

// checkReplay: the store is what one owner without any fault makes of the log.
func (w *world) checkReplay() {
	ctx := context.Background()
	st := memstore.New()
	m := machine.New(st, machine.Config{Partitions: w.counts}, zap.NewNop(), nil)
	for _, p := range w.parts {
		if _, err := m.Claim(ctx, p, "topic", 0, int64(len(w.log[p])), -1); err != nil {
			w.fail("replay: %w", err)
			return
		}
		if _, err := m.Turn(ctx, w.log[p]); err != nil {
			w.fail("replay: %w", err)
			return
		}
	}
	for _, conv := range w.convs() {
		c1, r1 := rowsOf(w.st, conv)
		c2, r2 := rowsOf(st, conv)
		if d := cmp.Diff(r2, r1); d != "" {
			w.fail("%s is not what the log says (-replayed +stored):\n%s", conv, d)
			return
		}
		if c1 == nil || c2 == nil {
			continue
		}
		m1, _ := w.st.Intervals(ctx, c1.ID, w.users)
		m2, _ := st.Intervals(ctx, c2.ID, w.users)
		c1.ID, c2.ID = 0, 0
		if d := cmp.Diff(c2, c1) + cmp.Diff(m2, m1); d != "" {
			w.fail("head or members of %s are not what the log says (-replayed +stored):\n%s", conv, d)
			return
		}
	}
}

// visible lists what a device must hold of a conversation.
func (d *device) visible(conv wire.ConvID) map[int64]string {
	out := make(map[int64]string)
	_, rows := rowsOf(d.w.st, conv)
	for _, r := range rows {
		if d.sees(conv, r.Seq) {
			out[r.Seq] = whatOf(r)
		}
	}
	return out
}

// checkLive: a client that is told of nothing has all there is, by pushes
// alone since its last sync.
func (w *world) checkLive() {
	if w.stale {
		return
	}
	for _, d := range w.devices {
		if d.sess != nil && d.sess.solid {
			w.complete(d, "live, never told lagged,")
		}
	}
}

// checkSync: after a last log-in and sync every client has exactly what its
// user may see.
func (w *world) checkSync() {
	for _, d := range w.devices {
		if d.sess == nil {
			d.sess = w.edges[0].connect(d)
		}
		for d.sess.phase < phaseLive && !d.sess.closed {
			d.sess.login()
		}
		d.sync()
		w.complete(d, "after its last sync")
	}
}

func (w *world) complete(d *device, when string) {
	for _, conv := range w.convs() {
		want := d.visible(conv)
		got := d.held[conv]
		if len(want) == 0 && len(got) == 0 {
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			w.fail("%s %s does not hold what it should of %s (-want +got):\n%s", d, when, conv, diff)
			return
		}
	}
}
