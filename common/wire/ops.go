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

// opNames is indexed by op-OpAuth: the push path asks for a name per frame.
//
//nolint:gochecknoglobals // a constant table
var opNames = [...]string{
	"auth", OpAuthOK - OpAuth: "auth_ok", OpPing - OpAuth: "ping",
	OpPong - OpAuth: "pong", OpSend - OpAuth: "send", OpSendAck - OpAuth: "send_ack",
	OpMsg - OpAuth: "msg", OpAck - OpAuth: "ack", OpRead - OpAuth: "read",
	OpReceipt - OpAuth: "receipt", OpSync - OpAuth: "sync", OpSyncOK - OpAuth: "sync_ok",
	OpRecall - OpAuth: "recall", OpEdit - OpAuth: "edit", OpUpdate - OpAuth: "update",
	OpTyping - OpAuth: "typing", OpPresenceSub - OpAuth: "presence_sub",
	OpPresenceUnsub - OpAuth: "presence_unsub", OpPresence - OpAuth: "presence",
	OpJoin - OpAuth: "join", OpLeave - OpAuth: "leave", OpRoomSend - OpAuth: "room_send",
	OpRoomMsg - OpAuth: "room_msg", OpGroup - OpAuth: "group", OpKick - OpAuth: "kick",
	OpReconnect - OpAuth: "reconnect", OpLagged - OpAuth: "lagged", OpOK - OpAuth: "ok",
	OpError - OpAuth: "error", OpRefused - OpAuth: "refused", OpBroadcast - OpAuth: "broadcast",
}

//nolint:gochecknoglobals // a constant table, the reverse of opNames
var opsByName = func() map[string]Op {
	m := make(map[string]Op, len(opNames))
	for i, name := range opNames {
		m[name] = OpAuth + Op(i)
	}
	return m
}()

// String returns the name used in JSON envelopes, or "" for an unknown one.
func (op Op) String() string {
	if op < OpAuth || int(op-OpAuth) >= len(opNames) {
		return ""
	}
	return opNames[op-OpAuth]
}

// OpByName returns the operation of a JSON envelope; ok is false for a name
// that the protocol does not have.
func OpByName(name string) (op Op, ok bool) {
	op, ok = opsByName[name]
	return op, ok
}

// ClientOp says whether a client may send op. It says nothing of whether this
// version answers it.
func ClientOp(op Op) bool {
	switch op { //nolint:exhaustive // the others are the server's
	case OpAuth, OpPing, OpSend, OpAck, OpRead, OpSync, OpRecall, OpEdit, OpTyping,
		OpPresenceSub, OpPresenceUnsub, OpJoin, OpLeave, OpRoomSend:
		return true
	}
	return false
}
