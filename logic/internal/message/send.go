package message

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// repeatWindow is how long a client_id is one message's, by docs/protocol.md.
const repeatWindow = 7 * 24 * time.Hour

// Request is one send. Done is called exactly once with either an ack or an
// error, from the caller's or the producer's goroutine; it must not block.
type Request struct {
	Trusted bool // by a service: not counted against the sender's limits
	From    wire.UserID
	Origin  *recordpb.Origin // nil for HTTP
	Body    wire.Send
	Done    func(*wire.SendAck, *wire.Error)
}

// send is a Request on its way.
type send struct {
	*Request
	conv     wire.ConvID
	id       wire.MsgID
	hash     uint64
	reserved bool // the index holds id
	resend   bool
	over     bool // answered
}

func (w *send) reservation() registry.Reservation {
	return registry.Reservation{Conv: w.conv, From: w.From, ClientID: w.Body.ClientID, ID: w.id, Hash: w.hash}
}

// Send handles requests in order: those that may stand are produced in order,
// all others are answered before Send returns.
func (s *Service) Send(ctx context.Context, reqs []Request) {
	work := make([]*send, 0, len(reqs))
	for i := range reqs {
		if w := s.admit(&reqs[i]); w != nil {
			work = append(work, w)
		}
	}
	if len(work) == 0 {
		return
	}
	look, cancel := context.WithTimeout(ctx, s.cfg.LookBudget)
	defer cancel()
	reserved, members := s.look(look, work)
	for i, w := range work {
		if reserved != nil {
			s.judgeRepeat(look, w, reserved[i])
		}
	}
	s.judgeMembers(look, work, members)
	s.judgeBlocks(look, work)
	for _, w := range work {
		if !w.over {
			s.write(w)
		}
	}
}

// admit checks a request's form and gives it an id; nil if it was answered.
func (s *Service) admit(r *Request) *send {
	w := &send{Request: r}
	if err := r.Body.Validate(s.d.Limits.MaxContent()); err != nil {
		s.fail(w, err)
		return nil
	}
	if !r.Trusted {
		if wait := s.d.Limits.Take(r.From); wait > 0 {
			s.fail(w, tooFast(wait, r.Body.ClientID))
			return nil
		}
	}
	w.conv = r.Body.Conv(r.From)
	id, err := s.d.IDs.Next()
	if err != nil {
		s.d.Log.Warn("no message id", zap.Error(err))
		s.fail(w, unavailable(r.Body.ClientID))
		return nil
	}
	w.id = id
	w.hash = record.ContentHash(string(r.Body.Type), r.Body.Content)
	return w
}

// look asks for reservations and memberships at once; nil stands for no answer.
func (s *Service) look(ctx context.Context, work []*send) ([]registry.Reserved, map[registry.Membership]bool) {
	rs := make([]registry.Reservation, len(work))
	for i, w := range work {
		rs[i] = w.reservation()
	}
	pairs := memberships(work)
	var members map[registry.Membership]bool
	var wg sync.WaitGroup
	if len(pairs) > 0 {
		wg.Go(func() { members = s.lookMembers(ctx, pairs) })
	}
	reserved, err := s.d.Index.Reserve(ctx, rs)
	if err != nil || len(reserved) != len(rs) {
		s.d.Metrics.looks.WithLabelValues("reserve").Add(float64(len(rs)))
		reserved = nil
	}
	wg.Wait()
	return reserved, members
}

func (s *Service) lookMembers(ctx context.Context, pairs []registry.Membership) map[registry.Membership]bool {
	members := make(map[registry.Membership]bool, len(pairs))
	is, err := s.d.Index.AreMembers(ctx, pairs)
	if err != nil || len(is) != len(pairs) {
		s.d.Metrics.looks.WithLabelValues("members").Add(float64(len(pairs)))
		return members // all false: the store is asked
	}
	for i, p := range pairs {
		members[p] = is[i]
	}
	return members
}

func memberships(work []*send) []registry.Membership {
	var pairs []registry.Membership
	seen := map[registry.Membership]bool{}
	for _, w := range work {
		p := registry.Membership{Group: w.Body.Group, User: w.From}
		if p.Group == "" || seen[p] {
			continue
		}
		seen[p] = true
		pairs = append(pairs, p)
	}
	return pairs
}

// judgeRepeat answers a repeat that was acknowledged and a conflict; a repeat
// of unknown fate is written again under the first id.
func (s *Service) judgeRepeat(ctx context.Context, w *send, r registry.Reserved) {
	if planted.Now(planted.NobodyChecksRepeats) {
		return
	}
	var refused wire.Code
	if w.Origin == nil || !r.First && (r.Hash != w.hash || r.Acked > 0) {
		r, refused = s.confirm(ctx, w, r)
	}
	w.reserved = true
	switch {
	case r.First:
	case r.Hash != w.hash:
		s.fail(w, refuse(wire.CodeConflict, "this client_id was used for another message", w.Body.ClientID))
	case refused != "":
		s.fail(w, refuse(refused, "the first send under this client_id was acknowledged, then refused", w.Body.ClientID))
	case r.Acked > 0:
		w.over = true
		s.d.Metrics.sends.WithLabelValues("repeat").Inc()
		w.Done(&wire.SendAck{ClientID: w.Body.ClientID, ID: r.ID, Conv: w.conv, TS: r.Acked}, nil)
	default:
		w.id, w.resend = r.ID, r.Acked != refusedHere
	}
}

// confirm puts what the store knows of the first attempt before what the index
// says: one that was emptied between two attempts, or has forgotten the first,
// holds the later one's id and content. While the store knows nothing, or is away,
// the fate is unknown, so that the repeat is written again and the machine can tell
// this connection the first one's id. Over HTTP no second answer can follow.
func (s *Service) confirm(ctx context.Context, w *send, r registry.Reserved) (registry.Reserved, wire.Code) {
	o, err := s.d.Store.Outcome(ctx, store.OutcomeKey{Conv: w.conv, From: w.From, ClientID: w.Body.ClientID})
	if err == nil && s.d.Now().UnixMilli()-o.TS < repeatWindow.Milliseconds() {
		return registry.Reserved{ID: o.ID, Hash: o.Hash, Acked: o.TS}, o.Code
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		s.d.Metrics.looks.WithLabelValues("store").Inc()
	}
	r.Acked = min(r.Acked, 0)
	return r, ""
}

// judgeMembers refuses who is certainly not a member. A negative answer of the
// index is checked in the store; no answer there lets the send pass.
func (s *Service) judgeMembers(ctx context.Context, work []*send, members map[registry.Membership]bool) {
	type finding struct {
		err *wire.Error
		was bool
	}
	verdicts, refused := map[registry.Membership]finding{}, map[wire.MsgID]bool{}
	var out []*send
	var marks []ackedMark // else a repeat would be of unknown fate
	for _, w := range work {
		p := registry.Membership{Group: w.Body.Group, User: w.From}
		if w.over || p.Group == "" || members[p] || planted.Now(planted.NobodyChecksMembers) {
			continue
		}
		verdict, asked := verdicts[p]
		if !asked {
			verdict.err, verdict.was = s.checkMember(ctx, w.conv, w.From)
			verdicts[p] = verdict
		}
		if verdict.err != nil && (!verdict.was || refused[w.id] || !s.mayStand(ctx, w)) {
			if w.reserved && !refused[w.id] {
				marks = append(marks, ackedMark{w.reservation(), refusedHere})
			}
			refused[w.id], out = true, append(out, w)
		}
	}
	s.markBatch(ctx, marks)
	for _, w := range out {
		err := verdicts[registry.Membership{Group: w.Body.Group, User: w.From}].err
		s.fail(w, refuse(err.Code, err.Message, w.Body.ClientID))
	}
}

// mayStand says whether the send of a former member may be the repeat of one that
// stands: the machine, which looks at repeats first, decides then. Without the
// index that is anybody's guess; where no second answer can follow (HTTP), what
// the store knows decides.
func (s *Service) mayStand(ctx context.Context, w *send) bool {
	if w.resend || !w.reserved && w.Origin != nil {
		return true
	}
	_, err := s.d.Store.Outcome(ctx, store.OutcomeKey{Conv: w.conv, From: w.From, ClientID: w.Body.ClientID})
	return !errors.Is(err, store.ErrNotFound)
}

// judgeBlocks refuses what the peer has blocked where no second answer can follow
// (HTTP); else the machine does, which costs no look.
func (s *Service) judgeBlocks(ctx context.Context, work []*send) {
	for _, w := range work {
		if w.over || w.Origin != nil || w.Body.To == "" {
			continue
		}
		if c, err := s.d.Store.Conversation(ctx, w.conv); err == nil && c.Blocked(w.From) {
			s.fail(w, refuse(wire.CodeBlocked, "the receiver has blocked the sender", w.Body.ClientID))
		}
	}
}

// checkMember asks the primary whether u may write to a group: nil for yes and
// for no answer. Else it also says whether u ever was a member.
func (s *Service) checkMember(ctx context.Context, conv wire.ConvID, u wire.UserID) (verdict *wire.Error, was bool) {
	m, err := s.d.Store.MemberOf(ctx, conv, u)
	switch {
	case err == nil && m.LeftSeq == 0:
		return nil, true
	case err != nil && !errors.Is(err, store.ErrNotFound):
		s.d.Metrics.looks.WithLabelValues("store").Inc()
		return nil, false
	}
	was = err == nil
	c, err := s.d.Store.Conversation(ctx, conv)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return wire.Errorf(wire.CodeNotFound, "there is no such group"), was
	case err != nil:
		s.d.Metrics.looks.WithLabelValues("store").Inc()
		return nil, was //nolint:nilerr // advisory: the machine decides
	case c.Group == nil || c.Group.Dismissed:
		return wire.Errorf(wire.CodeNotFound, "the group was dismissed"), was
	}
	return wire.Errorf(wire.CodeNotMember, "not a member of the group"), was
}

// write produces one send and answers it when the log has.
func (s *Service) write(w *send) {
	start := s.d.Now()
	if planted.Now(planted.LogicAcksEarly) {
		s.delivered(w, mq.Delivery{TS: start.UnixMilli()}, start)
		return
	}
	if planted.Now(planted.LogicReordersSends) {
		planted.After(500*time.Millisecond, func() { s.write(w) })
		return
	}
	b := &w.Body
	mention := make([]string, len(b.Mention))
	for i, u := range b.Mention {
		mention[i] = string(u)
	}
	r := &recordpb.Record{
		Id: int64(w.id), Conv: string(w.conv), From: string(w.From), ClientId: b.ClientID,
		Ts: start.UnixMilli(), Hash: w.hash, Origin: w.Origin, Limits: s.limits(), Resend: w.resend,
		Body: &recordpb.Record_Send{Send: &recordpb.Send{
			Type: string(b.Type), Content: b.Content, Mention: mention, ReplyTo: int64(b.ReplyTo),
		}},
	}
	err := s.produce(r, func(d mq.Delivery) { s.delivered(w, d, start) })
	if err != nil {
		s.fail(w, unavailable(b.ClientID))
	}
	if planted.Now(planted.LogicRepeatsRenamed) {
		r.Id, r.ClientId = r.GetId()+1, r.GetClientId()+"~"
		_ = s.produce(r, func(mq.Delivery) {})
	}
}

func (s *Service) delivered(w *send, d mq.Delivery, start time.Time) {
	if d.Err != nil {
		s.fail(w, unavailable(w.Body.ClientID))
		return
	}
	if planted.Now(planted.LogicRefusesWritten) {
		s.fail(w, refuse(wire.CodeMuted, "planted", w.Body.ClientID))
		return
	}
	if planted.Now(planted.LogicAcksWrongID) {
		w.id++
	}
	s.d.Metrics.produce.Observe(s.d.Now().Sub(start).Seconds())
	s.d.Metrics.sends.WithLabelValues("acked").Inc()
	w.Done(&wire.SendAck{ClientID: w.Body.ClientID, ID: w.id, Conv: w.conv, TS: d.TS}, nil)
	if w.reserved { // else the index may hold the id of another attempt
		s.mark(w.reservation(), d.TS)
	}
}

func (s *Service) fail(w *send, err *wire.Error) {
	w.over = true
	s.d.Metrics.sends.WithLabelValues(string(err.Code)).Inc()
	w.Done(nil, err)
}
