package rpc

import (
	"context"

	"google.golang.org/grpc/metadata"

	"github.com/starling-im/starling/common/wire"
)

// serverKey is the metadata key under which who opens a stream names itself.
const serverKey = "server"

// WithServer names the caller in the streams opened with the context.
func WithServer(ctx context.Context, id wire.ServerID) context.Context {
	return metadata.AppendToOutgoingContext(ctx, serverKey, string(id))
}

// ServerOf returns the name that the caller of a stream gave itself, "" for
// none or one that is no id.
func ServerOf(ctx context.Context) wire.ServerID {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(serverKey); len(v) > 0 && wire.ValidID(v[0]) {
		return wire.ServerID(v[0])
	}
	return ""
}
