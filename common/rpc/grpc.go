// Package rpc is how tiers talk: gRPC streams between edge and logic (frames
// of clients) and from job to edge (pushes with positions). rpcpb holds the
// generated messages; this package the options all sides share and the pure
// state of both ends of a push stream. Everything is safe for concurrent use
// unless its comment says otherwise.
package rpc

import (
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// MaxMessage bounds one gRPC message, in bytes: a batch is cut well before it.
const MaxMessage = 16 << 20

// keepaliveTime is how soon a silent peer is asked, keepaliveTimeout how long
// it may take: a frozen peer is noticed within a lease.
const (
	keepaliveTime    = 5 * time.Second
	keepaliveTimeout = 3 * time.Second
)

// NewServer returns a gRPC server with the limits both tiers use. Its Stop waits
// for all handlers: none begins anything that somebody waits for already.
func NewServer() *grpc.Server {
	return grpc.NewServer(
		grpc.WaitForHandlers(true),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.InitialWindowSize(1<<20),
		grpc.InitialConnWindowSize(4<<20),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
}

// Dial returns a client connection; it connects in the background and
// reconnects by itself. The caller closes it.
func Dial(addr string) (*grpc.ClientConn, error) {
	cc, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(1<<20),
		grpc.WithInitialConnWindowSize(4<<20),
		grpc.WithConnectParams(grpc.ConnectParams{
			// grpc's own starts at a second and ends at two minutes.
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: keepaliveTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return cc, nil
}
