package rpc

import (
	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
)

// ControlBatch makes the message that carries decisions.
func ControlBatch(es []control.Entry, more bool) *rpcpb.ControlBatch {
	b := &rpcpb.ControlBatch{More: more, Entries: make([]*rpcpb.ControlEntry, len(es))}
	for i := range es {
		e := &es[i]
		b.Entries[i] = &rpcpb.ControlEntry{
			Version: e.Version, Kind: string(e.Kind), User: string(e.User), Device: string(e.Device), Conn: uint64(e.Conn),
			At: e.At, Until: e.Until, Name: e.Name, Value: e.Value,
		}
	}
	return b
}

// ControlEntries is the reverse of ControlBatch.
func ControlEntries(b *rpcpb.ControlBatch) []control.Entry {
	es := make([]control.Entry, len(b.GetEntries()))
	for i, e := range b.GetEntries() {
		es[i] = control.Entry{
			Version: e.GetVersion(), Kind: control.Kind(e.GetKind()), User: wire.UserID(e.GetUser()), Device: wire.DeviceID(e.GetDevice()),
			Conn: wire.ConnID(e.GetConn()), At: e.GetAt(), Until: e.GetUntil(), Name: e.GetName(), Value: e.GetValue(),
		}
	}
	return es
}
