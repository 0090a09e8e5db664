// Package rpcserver serves edges: Login, and the uplink streams that carry the
// frames of clients.
//
// What is ordered: the sends of a stream, and recalls and edits among them, are
// produced in the order in which they came, by the one goroutine that handles
// the stream. Answers come as they are ready: a sync, and the verdict on a
// recall or an edit, do not hold up what came after them; they run in a pool of
// at most Config.Workers a stream, with a bounded queue, beyond which the answer
// is overloaded.
//
// A stream that ends takes its answers with it: what the log still acknowledges
// for it goes nowhere, and the edge tells its clients unavailable. An edge that
// does not take its answers is cut off when the bound of its queue is reached.
package rpcserver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/message"
)

// Bounds of one stream.
const (
	defaultWorkers = 64
	slowQueue      = 4096            // syncs, recalls and edits that wait for a worker
	outQueue       = 1 << 16         // answers
	outBytes       = 64 << 20        // of answers
	maxInFlight    = 1 << 16         // sends without an answer
	batchBytes     = 1 << 20         // of one DownBatch
	drainWait      = 8 * time.Second // for what is in hand when a stream is drained
	loginWait      = 5 * time.Second
	slowWait       = 15 * time.Second // for a sync, or the verdict of a recall or an edit
	epochKept      = 10 * time.Second // a history epoch changes only by a restore
)

// Messages is the use case of sends and changes.
type Messages interface {
	Send(ctx context.Context, reqs []message.Request)
	Change(ctx context.Context, from wire.UserID, origin *recordpb.Origin, status string, b wire.RecallBody) (*message.Pending, error)
}

// Syncer answers sync.
type Syncer interface {
	Sync(ctx context.Context, u wire.UserID, d wire.DeviceID, req wire.Sync) (*wire.SyncOK, error)
}

// Cursors takes acks and reads.
type Cursors interface {
	Add(u wire.UserID, d wire.DeviceID, conn wire.ConnID, conv wire.ConvID, delivered, read int64) bool
	Flush(ctx context.Context, u wire.UserID)
}

// Live takes what is stored nowhere.
type Live interface {
	Typing(ctx context.Context, from wire.UserID, conn wire.ConnID, b wire.Typing) error
	RoomSend(from wire.UserID, b wire.RoomSend, done func(*wire.Error))
}

// Decisions passes on what has been decided (controller.Service).
type Decisions interface {
	Follow(ctx context.Context, f func(es []control.Entry, more bool) error) error
}

// Store is what a log-in reads.
type Store interface {
	GroupsOf(ctx context.Context, u wire.UserID) ([]store.Joined, error)
	HistoryEpoch(ctx context.Context) (string, error)
}

// Deps is what a Server works with. Workers 0 is the default.
type Deps struct {
	Log      *zap.Logger
	Messages Messages
	Sync     Syncer
	Cursors  Cursors
	Live     Live
	Control  Decisions
	Store    Store
	Metrics  *Metrics
	Workers  int
	Now      func() time.Time
}

// Server implements rpcpb.LogicServer.
type Server struct {
	rpcpb.UnimplementedLogicServer
	d        Deps
	draining chan struct{}
	once     sync.Once
	wg       sync.WaitGroup

	mu      sync.Mutex
	epoch   string
	epochAt time.Time
}

// New returns a Server, to be registered with a gRPC server.
func New(d Deps) (*Server, error) {
	if d.Messages == nil || d.Sync == nil || d.Cursors == nil || d.Live == nil || d.Control == nil || d.Store == nil {
		return nil, errors.New("rpcserver: messages, sync, cursors, live, control and store are needed")
	}
	if d.Log == nil {
		d.Log = zap.NewNop()
	}
	if d.Metrics == nil {
		d.Metrics = NewMetrics(nil)
	}
	if d.Workers <= 0 {
		d.Workers = defaultWorkers
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	return &Server{d: d, draining: make(chan struct{})}, nil
}

// Drain makes every stream take no more frames, answer what is in hand and end.
func (s *Server) Drain() { s.once.Do(func() { close(s.draining) }) }

// Wait returns when no goroutine of a stream is left. Call it after the gRPC
// server has stopped.
func (s *Server) Wait() { s.wg.Wait() }

// Login reads what an edge must know of a user.
func (s *Server) Login(ctx context.Context, r *rpcpb.LoginRequest) (*rpcpb.LoginReply, error) {
	ctx, cancel := context.WithTimeout(ctx, loginWait)
	defer cancel()
	if !wire.ValidID(r.GetUser()) {
		return nil, status.Error(codes.InvalidArgument, "user is not an id")
	}
	epoch, err := s.historyEpoch(ctx)
	if err != nil {
		return nil, s.storeAway("read history epoch", err)
	}
	groups, err := s.d.Store.GroupsOf(ctx, wire.UserID(r.GetUser()))
	if err != nil {
		return nil, s.storeAway("read groups", err)
	}
	reply := &rpcpb.LoginReply{HistoryEpoch: epoch, Groups: make([]string, len(groups)), JoinedSeqs: make([]int64, len(groups))}
	for i, g := range groups {
		reply.Groups[i], reply.JoinedSeqs[i] = string(g.Group), g.Seq
	}
	s.d.Metrics.logins.Inc()
	return reply, nil
}

func (s *Server) storeAway(what string, err error) error {
	s.d.Log.Warn("call failed", zap.String("what", what), zap.Error(err))
	return status.Error(codes.Unavailable, what+": the store does not answer")
}

func (s *Server) historyEpoch(ctx context.Context) (string, error) {
	s.mu.Lock()
	epoch, at := s.epoch, s.epochAt
	s.mu.Unlock()
	if epoch != "" && s.d.Now().Sub(at) < epochKept {
		return epoch, nil
	}
	epoch, err := s.d.Store.HistoryEpoch(ctx)
	if err != nil {
		return "", fmt.Errorf("read history epoch: %w", err)
	}
	s.mu.Lock()
	s.epoch, s.epochAt = epoch, s.d.Now()
	s.mu.Unlock()
	return epoch, nil
}

// Control passes decisions on until the edge has gone or the server drains.
func (s *Server) Control(_ *rpcpb.ControlRequest, st rpcpb.Logic_ControlServer) error {
	ctx, cancel := context.WithCancel(st.Context())
	defer cancel()
	s.wg.Go(func() {
		select {
		case <-s.draining:
			cancel()
		case <-ctx.Done():
		}
	})
	err := s.d.Control.Follow(ctx, func(es []control.Entry, more bool) error {
		return st.Send(rpc.ControlBatch(es, more)) //nolint:wrapcheck // the stream's own end
	})
	select {
	case <-s.draining:
		return status.Error(codes.Unavailable, "draining")
	case <-st.Context().Done():
		return st.Context().Err() //nolint:wrapcheck // the edge has gone
	default:
		return s.storeAway("follow decisions", err)
	}
}

// Uplink handles one stream until it ends or the server drains.
func (s *Server) Uplink(raw rpcpb.Logic_UplinkServer) error {
	server := rpc.ServerOf(raw.Context())
	if server == "" {
		return status.Error(codes.InvalidArgument, "metadata server does not name an edge")
	}
	s.d.Metrics.streams.Inc()
	defer s.d.Metrics.streams.Dec()
	return newStream(s, raw, string(server)).run()
}
