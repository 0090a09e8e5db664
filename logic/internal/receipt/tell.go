package receipt

import (
	"context"
	"sync"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

type userConv struct {
	user wire.UserID
	conv wire.ConvID
}

// clearers is how many offline lists are cleared at once.
const clearers = 8

// tell clears the offline lists of what was moved and sends receipts of what
// grew.
func (b *Buffer) tell(ctx context.Context, states []store.CursorState, conns map[userConv][]wire.ConnID) {
	for i := range states {
		if st := &states[i]; st.Grew {
			b.push(st, conns[userConv{st.User, st.Conv}])
		}
	}
	ctx, cancel := context.WithTimeout(ctx, indexWait)
	defer cancel()
	todo := make(chan *store.CursorState)
	var wg sync.WaitGroup
	for range min(clearers, len(states)) {
		wg.Go(func() {
			for st := range todo {
				if err := b.d.Index.ClearOffline(ctx, st.User, st.Conv, st.Delivered); err != nil {
					b.d.Metrics.uncleared.Inc()
				}
			}
		})
	}
	for i := range states {
		todo <- &states[i]
	}
	close(todo)
	wg.Wait()
}

// push produces the receipt of one user: to the peer or the members of a small
// group, and to the user's other devices.
func (b *Buffer) push(st *store.CursorState, conns []wire.ConnID) {
	c, err := st.Conv.Parse()
	if err != nil {
		return
	}
	now := b.d.Now().UnixMilli()
	told := &wire.Receipt{Conv: st.Conv, User: st.User, Delivered: st.Delivered, Read: st.Read, TS: now}
	if planted.Now(planted.LogicReceiptTooHigh) {
		told.Read = told.Delivered + 1
	}
	if planted.Now(planted.LogicReceiptTooLow) {
		told.Delivered, told.Read = told.Delivered/2, told.Read/2
	}
	body, err := wire.Marshal(told)
	if err != nil {
		b.d.Log.Error("BUG: receipt not encoded", zap.Error(err))
		return
	}
	p := &recordpb.Push{Op: int32(wire.OpReceipt), Body: body}
	if len(conns) == 1 {
		p.ExceptConn = uint64(conns[0])
	}
	switch {
	case planted.Now(planted.LogicReceiptAstray):
		p.All = true
	case c.Group == "" && c.A != c.B:
		p.Users = []string{string(c.A), string(c.B)}
	case c.Group != "" && st.Members <= b.d.LargeGroup:
		p.Group = string(c.Group)
	default:
		p.Users = []string{string(st.User)}
	}
	_ = b.d.Push.Push(string(st.Conv), p, nil) // counted there; the next one says it, too
}
