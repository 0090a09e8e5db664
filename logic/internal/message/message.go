// Package message takes what users send: it numbers a message, looks at
// repeats and membership, writes the record to the log and answers when the
// log has acknowledged it. Recalls, edits and group commands go the same way
// (Submit) and then wait for the machine's verdict (Pending.Wait).
//
// A Service is safe for concurrent use. Sends given in one call of Send are
// produced in their order by the calling goroutine, so a caller that wants the
// order of a connection kept calls Send from one goroutine.
//
// The looks at repeats and membership are advisory: without an answer within
// Config.LookBudget the record is produced and the machine decides. What is
// refused here is certain: it was read from the primary.
package message

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// RetryAfterMS is what a client is told to wait before it sends again.
const RetryAfterMS = 500

// Log is where records go.
type Log interface {
	Produce(p record.PartitionID, ts int64, value []byte, done func(mq.Delivery)) error
	Partitions(topic string) int32
}

// Store is what is read of the primary.
type Store interface {
	Conversation(ctx context.Context, conv wire.ConvID) (*store.Conversation, error)
	MemberOf(ctx context.Context, conv wire.ConvID, u wire.UserID) (store.Member, error)
	Outcome(ctx context.Context, key store.OutcomeKey) (store.Outcome, error)
	OutcomeByID(ctx context.Context, u wire.UserID, id wire.MsgID) (store.Outcome, error)
}

// Index is what is asked of Redis.
type Index interface {
	Reserve(ctx context.Context, rs []registry.Reservation) ([]registry.Reserved, error)
	MarkAcked(ctx context.Context, rs []registry.Reservation, ts []int64) error
	AreMembers(ctx context.Context, pairs []registry.Membership) ([]bool, error)
}

// IDs numbers records; an error while this instance may not number.
type IDs interface {
	Next() (wire.MsgID, error)
}

// Limits are what senders may do.
type Limits interface {
	// MaxContent is the largest content, in bytes.
	MaxContent() int
	// Take counts a message of a user; over the limit it says how long to wait.
	Take(u wire.UserID) (wait time.Duration)
}

// Deps is what a Service works with. Now is the clock.
type Deps struct {
	Log     *zap.Logger
	Produce Log
	Store   Store
	Index   Index
	IDs     IDs
	Limits  Limits
	Metrics *Metrics
	Now     func() time.Time
}

// Service is the use case. Run must be running for reservations to be marked
// acknowledged.
type Service struct {
	cfg   Config
	d     Deps
	acked chan ackedMark
}

// New returns a Service.
func New(cfg Config, d Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if d.Produce == nil || d.Store == nil || d.Index == nil || d.IDs == nil || d.Limits == nil {
		return nil, errors.New("message: log, store, index, ids and limits are needed")
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = zap.NewNop()
	}
	if d.Metrics == nil {
		d.Metrics = NewMetrics(nil)
	}
	return &Service{cfg: cfg, d: d, acked: make(chan ackedMark, ackedQueue)}, nil
}

// limits are stamped into each record, so that every owner of its partition
// decides alike.
func (s *Service) limits() *recordpb.Limits {
	return &recordpb.Limits{
		LargeGroup:     uint32(s.cfg.LargeGroup),
		MaxMembers:     uint32(s.cfg.MaxMembers),
		RecallWindowMs: s.cfg.RecallWindow.Milliseconds(),
	}
}

// produce queues one record on the partition of its conversation.
func (s *Service) produce(r *recordpb.Record, done func(mq.Delivery)) error {
	conv := wire.ConvID(r.GetConv())
	topic := record.Topic(conv)
	n := s.d.Produce.Partitions(topic)
	if n <= 0 {
		return mq.ErrUnavailable
	}
	value, err := record.Encode(r)
	if err != nil {
		return err //nolint:wrapcheck // says what it was
	}
	p := record.PartitionID{Topic: topic, Number: record.PartitionOf(string(conv), n)}
	return s.d.Produce.Produce(p, r.GetTs(), value, done) //nolint:wrapcheck // judged by the caller, not shown
}

func unavailable(clientID string) *wire.Error {
	return &wire.Error{
		Code: wire.CodeUnavailable, Message: "the message could not be written now; send it again with the same client_id",
		RetryAfterMS: RetryAfterMS, ClientID: clientID,
	}
}

func tooFast(wait time.Duration, clientID string) *wire.Error {
	e := wire.RateLimited(wait, "too many messages of this user")
	e.ClientID = clientID
	return e
}

func refuse(code wire.Code, text, clientID string) *wire.Error {
	return &wire.Error{Code: code, Message: text, ClientID: clientID}
}

// ErrNoAnswer is returned by Await when the verdict did not come in time.
var ErrNoAnswer = errors.New("no verdict within the time allowed")
