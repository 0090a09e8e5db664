package message

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// Polling for a verdict: at first about as often as turns commit.
const (
	pollFirst = 5 * time.Millisecond
	pollMost  = 50 * time.Millisecond
)

// Pending is a record on its way through the log to a verdict.
type Pending struct {
	ID   wire.MsgID // names the operation
	Key  store.OutcomeKey
	Hash uint64

	s         *Service
	delivered chan error
}

// Submit fills in ids, limits and time of a record and produces it at once.
// With retried set its client_id is the client's own: the id of the first
// attempt is kept. Errors are *wire.Error.
func (s *Service) Submit(ctx context.Context, r *recordpb.Record, retried bool) (*Pending, error) {
	id, err := s.d.IDs.Next()
	if err != nil {
		return nil, unavailable("")
	}
	if r.GetClientId() == "" {
		r.ClientId = "op-" + id.String()
	}
	p := &Pending{
		ID: id, Hash: r.GetHash(), s: s, delivered: make(chan error, 1),
		Key: store.OutcomeKey{Conv: wire.ConvID(r.GetConv()), From: wire.UserID(r.GetFrom()), ClientID: r.GetClientId()},
	}
	if retried {
		if err := s.firstID(ctx, p, r); err != nil {
			return nil, err
		}
	}
	if err := s.nameEvents(r.GetCommand()); err != nil {
		return nil, unavailable("")
	}
	r.Id, r.Ts, r.Limits = int64(p.ID), s.d.Now().UnixMilli(), s.limits()
	if err := s.produce(r, func(d mq.Delivery) { p.delivered <- d.Err }); err != nil {
		return nil, unavailable("")
	}
	return p, nil
}

// nameEvents gives ids to the system messages that a command on several users
// may make, beside the first.
func (s *Service) nameEvents(c *recordpb.Command) error {
	if c.GetKind() == recordpb.Command_CREATE {
		return nil // one event, whoever the members are
	}
	for range max(0, len(c.GetUsers())-1) {
		id, err := s.d.IDs.Next()
		if err != nil {
			return fmt.Errorf("name events: %w", err)
		}
		c.EventIds = append(c.EventIds, int64(id))
	}
	return nil
}

// firstID gives a retry the id of its first attempt.
func (s *Service) firstID(ctx context.Context, p *Pending, r *recordpb.Record) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.LookBudget)
	defer cancel()
	got, err := s.d.Index.Reserve(ctx, []registry.Reservation{{
		Conv: p.Key.Conv, From: p.Key.From, ClientID: p.Key.ClientID, ID: p.ID, Hash: p.Hash,
	}})
	if err != nil || len(got) != 1 || got[0].First {
		return nil // advisory: the machine drops the repeat
	}
	if got[0].Hash != p.Hash {
		return wire.Errorf(wire.CodeConflict, "this key was used for another command")
	}
	p.ID, r.Resend = got[0].ID, true
	return nil
}

// Wait returns the verdict as an error: nil when the record was applied, a
// *wire.Error when it was refused or could not be written, ErrNoAnswer when
// the verdict takes longer than the budget.
func (p *Pending) Wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.s.cfg.WaitBudget)
	defer cancel()
	select {
	case err := <-p.delivered:
		if err != nil {
			return unavailable("")
		}
	case <-ctx.Done():
		return ErrNoAnswer
	}
	o, err := p.s.Await(ctx, p.Key)
	if err != nil {
		return err
	}
	return p.Judge(o)
}

// Judge maps the verdict under the record's key to an answer: another hash
// means that the key was used before for something else.
func (p *Pending) Judge(o store.Outcome) error {
	if o.Hash != p.Hash {
		return wire.Errorf(wire.CodeConflict, "this key was used for another command")
	}
	return Verdict(o)
}

// Verdict maps an outcome to an error, nil for ok.
func Verdict(o store.Outcome) error {
	if o.Code == "" {
		return nil
	}
	return wire.Errorf(o.Code, refusal(o.Code))
}

// refusal says what a code of the machine means to who asked: the outcome keeps
// the code alone.
func refusal(code wire.Code) string {
	switch code {
	case wire.CodeBadRequest:
		return "this cannot be done in this conversation"
	case wire.CodeForbidden:
		return "your role does not allow this, or the time for it has passed; an owner hands the group over, or dismisses it, before leaving"
	case wire.CodeNotMember:
		return "you are not a member of this group"
	case wire.CodeBlocked:
		return "the other user has blocked you"
	case wire.CodeMuted:
		return "you, or all members, are muted in this group"
	case wire.CodeNotFound:
		return "there is no such group, member or message, or you may not see it"
	case wire.CodeConflict:
		return "there is a group with this id already; choose another"
	case wire.CodeTooLarge:
		return "the group would have more members than it may: remove some, or make another"
	default:
		return "refused when its turn came"
	}
}

// Await polls for the verdict under key until ctx ends (ErrNoAnswer). Errors of
// the store are waited out: the verdict may come later.
func (s *Service) Await(ctx context.Context, key store.OutcomeKey) (store.Outcome, error) {
	pause := pollFirst
	t := time.NewTimer(pause)
	defer t.Stop()
	for {
		o, err := s.d.Store.Outcome(ctx, key)
		if err == nil {
			return o, nil
		}
		select {
		case <-ctx.Done():
			return store.Outcome{}, ErrNoAnswer
		case <-t.C:
			pause = min(2*pause, pollMost)
			t.Reset(pause)
		}
	}
}

// Operation is the state of a record: Done with Code "" is ok.
type Operation struct {
	ID   wire.MsgID  `json:"operation"`
	Done bool        `json:"done"`
	Conv wire.ConvID `json:"conv,omitempty"`
	Code wire.Code   `json:"code,omitempty"`
	Seq  int64       `json:"seq,omitempty"`
}

// OperationByID returns the state of a record of u; store.ErrNotFound while
// there is no verdict.
func (s *Service) OperationByID(ctx context.Context, u wire.UserID, id wire.MsgID) (Operation, error) {
	o, err := s.d.Store.OutcomeByID(ctx, u, id)
	return operation(o, err)
}

// OperationByKey returns the fate of a send of u.
func (s *Service) OperationByKey(ctx context.Context, u wire.UserID, conv wire.ConvID, clientID string) (Operation, error) {
	o, err := s.d.Store.Outcome(ctx, store.OutcomeKey{Conv: conv, From: u, ClientID: clientID})
	return operation(o, err)
}

func operation(o store.Outcome, err error) (Operation, error) {
	if errors.Is(err, store.ErrNotFound) {
		return Operation{}, wire.Errorf(wire.CodeNotFound, "no outcome is known (yet)")
	}
	if err != nil {
		return Operation{}, fmt.Errorf("read outcome: %w", err)
	}
	return Operation{ID: o.ID, Done: true, Conv: o.Conv, Code: o.Code, Seq: o.Seq}, nil
}
