package history

import (
	"context"
	"fmt"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// page is one answer in the making.
type page struct {
	s     *Service
	user  wire.UserID
	dev   wire.DeviceID
	tok   *token
	left  int // rows that may still be added
	bytes int // content and mentions that may still be added
	out   wire.SyncOK

	offline map[wire.ConvID]map[wire.MsgID]bool
	asked   bool // offline was read
}

// Sync answers one page. Errors are *wire.Error where the request is at fault.
func (s *Service) Sync(ctx context.Context, u wire.UserID, d wire.DeviceID, req wire.Sync) (*wire.SyncOK, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	p := &page{
		s: s, user: u, dev: d, bytes: pageBytes,
		tok: &token{user: u, limit: req.Limit, cursors: req.Cursors},
		out: wire.SyncOK{Conversations: []wire.SyncConv{}},
	}
	if err := p.begin(ctx, req.Token); err != nil {
		return nil, err
	}
	p.left = p.tok.limit
	if err := p.fill(ctx); err != nil {
		return nil, err
	}
	if p.out.More {
		t, err := p.tok.encode()
		if err != nil {
			return nil, fmt.Errorf("encode token: %w", err)
		}
		p.out.Token = t
	}
	s.d.Metrics.rows.Add(float64(p.tok.limit - p.left))
	return &p.out, nil
}

// begin takes up a token, or starts: refusals come first, and whether the
// device is a new one is settled now, because its acks of the first page would
// change the answer.
func (p *page) begin(ctx context.Context, tok string) error {
	if tok != "" {
		t, err := decodeToken(tok)
		if err != nil || t.user != p.user {
			return wire.Errorf(wire.CodeBadRequest, errToken.Error())
		}
		p.tok = t
		return nil
	}
	since := p.s.d.Now().Add(-refusalsBack).UnixMilli()
	refused, err := p.s.d.Store.Refusals(ctx, p.user, since, maxRefusals)
	if err != nil {
		return fmt.Errorf("read refusals: %w", err)
	}
	p.out.Refused = refused
	p.tok.newDevice, err = p.isNew(ctx)
	return err
}

// isNew says whether the device has never acknowledged anything.
func (p *page) isNew(ctx context.Context) (bool, error) {
	for after := wire.ConvID(""); ; {
		list, err := p.list(ctx, after)
		if err != nil {
			return false, err
		}
		for i := range list {
			if list[i].DeviceDelivered >= 0 {
				return false, nil
			}
		}
		if len(list) < listChunk {
			return true, nil
		}
		after = list[len(list)-1].Conv
	}
}

func (p *page) list(ctx context.Context, after wire.ConvID) ([]store.UserConv, error) {
	list, err := p.s.d.Store.UserConversations(ctx, p.user, p.dev, after, listChunk, false)
	if err != nil {
		return nil, fmt.Errorf("list conversations: %w", err)
	}
	return list, nil
}

// fill goes through the conversations in order until the page is full.
func (p *page) fill(ctx context.Context) error {
	for {
		list, err := p.list(ctx, p.tok.after)
		if err != nil {
			return err
		}
		full, err := p.addAll(ctx, list)
		if err != nil {
			return err
		}
		if full || len(list) < listChunk {
			p.out.More = full
			return nil
		}
	}
}

// addAll adds what changed of a chunk; full: the page ended before the chunk
// did, and the token stands at the conversation to go on with.
func (p *page) addAll(ctx context.Context, list []store.UserConv) (full bool, err error) {
	from := p.tok.after
	var added []int
	for i := range list {
		uc := &list[i]
		cursor, max := p.start(uc), visibleMax(uc)
		if cursor >= max {
			p.tok.after = uc.Conv
			continue
		}
		if p.left <= 0 || p.bytes <= 0 || len(p.out.Conversations) >= wire.MaxSyncLimit {
			full = true
			break
		}
		more, err := p.add(ctx, uc, cursor, max)
		if err != nil {
			return false, err
		}
		added = append(added, i)
		if more {
			full = true
			break
		}
		p.tok.after = uc.Conv
	}
	return full, p.counts(ctx, from, list, added)
}

// start is the cursor that a conversation is read from.
func (p *page) start(uc *store.UserConv) int64 {
	if c, ok := p.tok.cursors[uc.Conv]; ok {
		return c
	}
	if p.tok.newDevice {
		return uc.Delivered
	}
	return max(uc.DeviceDelivered, 0)
}

// visibleMax is the end of the timeline for the user.
func visibleMax(uc *store.UserConv) int64 {
	if uc.LeftSeq > 0 && !planted.Now(planted.LogicSyncTellsMax) {
		return min(uc.LeftSeq, uc.MaxSeq)
	}
	return uc.MaxSeq
}

// add reads one conversation; more: it goes on in a later page.
func (p *page) add(ctx context.Context, uc *store.UserConv, cursor, maxSeq int64) (more bool, err error) {
	waiting := p.waiting(ctx, uc.Conv)
	direct := len(waiting) == 0
	rows, err := p.s.d.Store.Timeline(ctx, p.user, uc.Conv, cursor, maxSeq, p.left+1, direct)
	if err != nil {
		return false, fmt.Errorf("read timeline: %w", err)
	}
	upto := maxSeq
	if len(rows) > p.left {
		rows, more = rows[:p.left], true
	}
	if err := p.bodies(ctx, uc, rows, waiting, direct); err != nil {
		return false, err
	}
	if n := p.fit(rows); n < len(rows) {
		rows, more = rows[:n], true
	}
	if more {
		upto = rows[len(rows)-1].Seq
		if p.tok.cursors == nil {
			p.tok.cursors = map[wire.ConvID]int64{}
		}
		p.tok.cursors[uc.Conv] = upto
	}
	p.left -= len(rows)
	if len(rows) > 1 && planted.Now(planted.LogicSyncSkips) {
		rows = rows[1:]
	}
	if planted.Now(planted.LogicSyncGoesTooFar) {
		upto++
	}
	sc := wire.SyncConv{
		Conv: uc.Conv, MaxSeq: maxSeq, MinSeq: max(uc.MinSeq, uc.JoinedSeq), Upto: upto, More: more,
		Messages: []wire.Msg{}, Updates: []wire.Update{},
	}
	for i := range rows {
		if r := &rows[i]; r.Kind == store.KindUpdate {
			sc.Updates = append(sc.Updates, wire.Update{
				Conv: uc.Conv, Seq: r.Seq, ID: r.ID, TargetSeq: r.TargetSeq, Status: r.Status, Content: r.Content,
			})
		} else {
			sc.Messages = append(sc.Messages, message(uc.Conv, r))
		}
	}
	p.out.Conversations = append(p.out.Conversations, sc)
	return more, nil
}

// fit says how many rows the page's bytes allow, at least one, and takes them.
func (p *page) fit(rows []store.Row) int {
	for i := range rows {
		cost := rowCost(&rows[i])
		if i > 0 && p.bytes < cost {
			p.bytes = 0
			return i
		}
		p.bytes -= cost
	}
	return len(rows)
}

// rowCost is what of a row's bytes its sender chose.
func rowCost(r *store.Row) int {
	n := len(r.Content) + len(r.ClientID)
	for _, u := range r.Mention {
		n += len(u)
	}
	return n
}

// runGap is how many unchanged conversations are counted along to spare a query.
const runGap = 8

// counts fills in read_seq, unread and the peer's cursors of the conversations
// added from a chunk, a run of neighbours at a time.
func (p *page) counts(ctx context.Context, from wire.ConvID, list []store.UserConv, added []int) error {
	heads := make(map[wire.ConvID]*store.UserConv, len(added))
	for len(added) > 0 {
		n := 1
		for n < len(added) && added[n]-added[n-1] <= runGap {
			n++
		}
		first, last := added[0], added[n-1]
		after := from
		if first > 0 {
			after = list[first-1].Conv
		}
		run, err := p.s.d.Store.UserConversations(ctx, p.user, p.dev, after, last-first+1, true)
		if err != nil {
			return fmt.Errorf("count unread: %w", err)
		}
		for i := range run {
			heads[run[i].Conv] = &run[i]
		}
		for _, i := range added[:n] { // a new conversation between may have pushed it out of the run
			if heads[list[i].Conv] == nil {
				heads[list[i].Conv] = &list[i]
			}
		}
		added = added[n:]
	}
	for i := range p.out.Conversations {
		sc := &p.out.Conversations[i]
		if uc := heads[sc.Conv]; uc != nil {
			sc.ReadSeq, sc.Unread = uc.Read, uc.Unread
			sc.Delivered, sc.Read = uc.PeerDelivered, uc.PeerRead
			if planted.Now(planted.LogicWrongUnread) {
				sc.Unread++
			}
			if planted.Now(planted.LogicWrongReadSeq) {
				sc.ReadSeq /= 2
			}
			if planted.Now(planted.LogicWrongPeerCursor) {
				sc.Delivered, sc.Read = sc.MaxSeq, sc.MaxSeq
			}
		}
	}
	return nil
}
