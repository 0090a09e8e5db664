package rpcserver

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/message"
)

const retryAfterMS = message.RetryAfterMS

// batch handles frames in order. Sends gather until something comes that must
// not overtake them.
func (st *stream) batch(ctx context.Context, frames []*rpcpb.Up) {
	var sends []message.Request
	flush := func() {
		if len(sends) > 0 {
			st.s.d.Messages.Send(ctx, sends)
			sends = nil
		}
	}
	for _, up := range frames {
		op := wire.Op(up.GetOp())
		st.count(op)
		if !wire.ValidID(up.GetUser()) || !wire.ValidID(up.GetDevice()) {
			st.fail(up, wire.Errorf(wire.CodeInternal, "frame without a user"))
			continue
		}
		switch op {
		case wire.OpSend:
			if r, ok := st.request(up); ok {
				sends = append(sends, r)
			}
		case wire.OpAck, wire.OpRead:
			st.cursor(up)
		case wire.OpSync:
			st.sync(up)
		case wire.OpRecall, wire.OpEdit:
			flush() // keeps its place among the sends
			st.change(ctx, up)
		case wire.OpTyping:
			st.typing(up)
		case wire.OpRoomSend:
			st.roomSend(up)
		default:
			st.fail(up, wire.Errorf(wire.CodeUnsupported, "operation is not supported"))
		}
	}
	flush()
}

func (st *stream) count(op wire.Op) {
	name := op.String()
	if name == "" {
		name = "unknown"
	}
	st.s.d.Metrics.frames.WithLabelValues(name).Inc()
}

func (st *stream) origin(up *rpcpb.Up) *recordpb.Origin {
	return &recordpb.Origin{Server: st.server, Conn: up.GetConn(), Device: up.GetDevice()}
}

// request makes a send of a frame; false if it was answered.
func (st *stream) request(up *rpcpb.Up) (message.Request, bool) {
	r := message.Request{From: wire.UserID(up.GetUser()), Origin: st.origin(up)}
	if err := wire.Decode(up.GetBody(), &r.Body); err != nil {
		if wire.ValidClientID(r.Body.ClientID) {
			err.ClientID = r.Body.ClientID
		}
		st.fail(up, err)
		return r, false
	}
	r.Body.From = "" // only services name a sender, and only over HTTP
	if !st.begin() {
		e := st.overloaded()
		if wire.ValidClientID(r.Body.ClientID) {
			e.ClientID = r.Body.ClientID
		}
		st.fail(up, e)
		return r, false
	}
	r.Done = func(ack *wire.SendAck, err *wire.Error) {
		if err != nil {
			st.fail(up, err)
		} else {
			st.answer(up, wire.OpSendAck, ack)
		}
		st.end()
	}
	return r, true
}

func (st *stream) cursor(up *rpcpb.Up) {
	var c wire.Cursor
	err := wire.Decode(up.GetBody(), &c)
	if err == nil {
		err = c.Validate()
	}
	if parsed, _ := c.Conv.Parse(); err == nil && parsed.Group == "" && !parsed.Has(wire.UserID(up.GetUser())) {
		err = wire.Errorf(wire.CodeNotMember, "not your conversation")
	}
	if err != nil {
		st.fail(up, err)
		return
	}
	read := int64(0)
	if wire.Op(up.GetOp()) == wire.OpRead {
		read = c.Seq
	}
	st.s.d.Cursors.Add(wire.UserID(up.GetUser()), wire.DeviceID(up.GetDevice()), wire.ConnID(up.GetConn()), c.Conv, c.Seq, read)
}

func (st *stream) sync(up *rpcpb.Up) {
	var req wire.Sync
	if err := wire.Decode(up.GetBody(), &req); err != nil {
		st.fail(up, err)
		return
	}
	u, d := wire.UserID(up.GetUser()), wire.DeviceID(up.GetDevice())
	st.later(up, func(ctx context.Context) {
		st.s.d.Cursors.Flush(ctx, u) // a sync starts where the acks before it ended
		ok, err := st.s.d.Sync.Sync(ctx, u, d, req)
		if err != nil {
			st.failWith(up, err)
			return
		}
		st.answer(up, wire.OpSyncOK, ok)
	})
}

// change produces a recall or an edit now, and waits for its verdict later.
func (st *stream) change(ctx context.Context, up *rpcpb.Up) {
	var b wire.RecallBody
	if err := wire.Decode(up.GetBody(), &b); err != nil {
		st.fail(up, err)
		return
	}
	to := wire.StatusRecalled
	if wire.Op(up.GetOp()) == wire.OpEdit {
		to = wire.StatusEdited
	}
	p, err := st.s.d.Messages.Change(ctx, wire.UserID(up.GetUser()), st.origin(up), to, b)
	if err != nil {
		st.failWith(up, err)
		return
	}
	st.later(up, func(ctx context.Context) {
		if err := p.Wait(ctx); err != nil {
			st.failWith(up, err)
			return
		}
		st.answer(up, wire.OpOK, struct{}{})
	})
}

func (st *stream) typing(up *rpcpb.Up) {
	var b wire.Typing
	if err := wire.Decode(up.GetBody(), &b); err != nil {
		st.fail(up, err)
		return
	}
	st.later(up, func(ctx context.Context) {
		if err := st.s.d.Live.Typing(ctx, wire.UserID(up.GetUser()), wire.ConnID(up.GetConn()), b); err != nil {
			st.failWith(up, err)
		}
	})
}

func (st *stream) roomSend(up *rpcpb.Up) {
	var b wire.RoomSend
	if err := wire.Decode(up.GetBody(), &b); err != nil {
		st.fail(up, err)
		return
	}
	if !st.begin() {
		st.fail(up, st.overloaded())
		return
	}
	st.s.d.Live.RoomSend(wire.UserID(up.GetUser()), b, func(err *wire.Error) {
		if err != nil {
			st.fail(up, err)
		} else {
			st.answer(up, wire.OpOK, struct{}{})
		}
		st.end()
	})
}

// later hands f to the workers, or answers overloaded.
func (st *stream) later(up *rpcpb.Up, f func(ctx context.Context)) {
	if !st.begin() {
		st.fail(up, st.overloaded())
		return
	}
	select {
	case st.slow <- func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, slowWait)
		defer cancel()
		f(ctx)
	}:
		st.s.d.Metrics.slowDepth.Inc()
	default:
		st.fail(up, st.overloaded())
		st.end()
	}
}

func (st *stream) overloaded() *wire.Error {
	st.s.d.Metrics.overloaded.Inc()
	return &wire.Error{Code: wire.CodeOverloaded, Message: "too much at once", RetryAfterMS: retryAfterMS}
}

// failWith answers an error of a use case: as it stands if it is for clients,
// else unavailable, for what fails here is the store.
func (st *stream) failWith(up *rpcpb.Up, err error) {
	we := new(wire.Error)
	if !errors.As(err, &we) {
		if !errors.Is(err, context.Canceled) {
			st.s.d.Log.Warn("call failed", zap.String("op", wire.Op(up.GetOp()).String()), zap.Error(err))
		}
		we = &wire.Error{Code: wire.CodeUnavailable, Message: "no answer in time; try again", RetryAfterMS: retryAfterMS}
	}
	st.fail(up, we)
}

func (st *stream) fail(up *rpcpb.Up, e *wire.Error) { st.answer(up, wire.OpError, e) }

func (st *stream) answer(up *rpcpb.Up, op wire.Op, body any) {
	b, err := wire.Marshal(body)
	if err != nil {
		st.s.d.Log.Error("BUG: answer not encoded", zap.String("op", op.String()), zap.Error(err))
		return
	}
	st.out.put(&rpcpb.Down{Conn: up.GetConn(), Op: int32(op), Seq: up.GetSeq(), Body: b, Answers: up.GetOp()})
}
