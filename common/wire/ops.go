package wire

// Op is an operation: the `op` of an envelope by name, bytes 8–11 of a binary
// header by number.
type Op int32

// Operations of docs/protocol.md section 2.
const (
	OpAuth          Op = 100
	OpAuthOK        Op = 101
	OpPing          Op = 102
	OpPong          Op = 103
	OpSend          Op = 104
	OpSendAck       Op = 105
	OpMsg           Op = 106
	OpAck           Op = 107
	OpRead          Op = 108
	OpReceipt       Op = 109
	OpSync          Op = 110
	OpSyncOK        Op = 111
	OpRecall        Op = 112
	OpEdit          Op = 113
	OpUpdate        Op = 114
	OpTyping        Op = 115
	OpPresenceSub   Op = 116
	OpPresenceUnsub Op = 117
	OpPresence      Op = 118
	OpJoin          Op = 119
	OpLeave         Op = 120
	OpRoomSend      Op = 121
	OpRoomMsg       Op = 122
	OpGroup         Op = 123
	OpKick          Op = 124
	OpReconnect     Op = 125
	OpLagged        Op = 126
	OpOK            Op = 127
	OpError         Op = 128
	OpRefused       Op = 129
	OpBroadcast     Op = 130
)

var opNames = map[Op]string{
	OpAuth: "auth", OpAuthOK: "auth_ok", OpPing: "ping", OpPong: "pong",
	OpSend: "send", OpSendAck: "send_ack", OpMsg: "msg", OpAck: "ack", OpRead: "read",
	OpReceipt: "receipt", OpSync: "sync", OpSyncOK: "sync_ok", OpRecall: "recall",
	OpEdit: "edit", OpUpdate: "update", OpTyping: "typing", OpPresenceSub: "presence_sub",
	OpPresenceUnsub: "presence_unsub", OpPresence: "presence", OpJoin: "join",
	OpLeave: "leave", OpRoomSend: "room_send", OpRoomMsg: "room_msg", OpGroup: "group",
	OpKick: "kick", OpReconnect: "reconnect", OpLagged: "lagged", OpOK: "ok",
	OpError: "error", OpRefused: "refused", OpBroadcast: "broadcast",
}

var opsByName = func() map[string]Op {
	m := make(map[string]Op, len(opNames))
	for op, name := range opNames {
		m[name] = op
	}
	return m
}()

// String returns the name used in JSON envelopes, or "" for an unknown one.
func (op Op) String() string { return opNames[op] }

// OpByName returns the operation of a JSON envelope; ok is false for a name
// that the protocol does not have.
func OpByName(name string) (op Op, ok bool) {
	op, ok = opsByName[name]
	return op, ok
}
