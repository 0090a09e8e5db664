package memstore_test

import (
	"errors"
	"testing"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/store/storetest"
	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func TestContract(t *testing.T) {
	storetest.Run(t, func(testing.TB) store.Store { return memstore.New() })
}

func TestSeed(t *testing.T) {
	s := memstore.New()
	storetest.Seed(t, s)
	storetest.Verify(t, s)
}

// hooked returns a store with a partition at epoch 1, and the hook's log.
func hooked(t *testing.T) (*memstore.Store, record.PartitionID) {
	t.Helper()
	s, p := memstore.New(), record.PartitionID{Topic: "t", Number: 1}
	if _, err := s.Claim(t.Context(), p, "", 0); err != nil {
		t.Fatal(err)
	}
	return s, p
}

var errCut = errors.New("cut")

func TestHookFailsBefore(t *testing.T) {
	s, p := hooked(t)
	s.Hook = func(op string, before bool) error {
		if op == "Commit" && before {
			return errCut
		}
		return nil
	}
	c := &store.Conversation{ID: 1, New: true, Conv: "g:g"}
	turn := &store.Turn{Partitions: []store.PartitionMove{{PartitionID: p, Epoch: 1, From: -1, To: 0}}, Conversations: []*store.Conversation{c}}
	if _, err := s.Commit(t.Context(), turn); !errors.Is(err, errCut) {
		t.Fatalf("got %v", err)
	}
	if st, err := s.State(t.Context(), p); err != nil || st.Applied != -1 {
		t.Errorf("state %+v, %v: the turn was applied", st, err)
	}
	if !c.New {
		t.Error("it is called stored")
	}
}

func TestHookFailsAfter(t *testing.T) {
	s, p := hooked(t)
	s.Hook = func(op string, before bool) error {
		if op == "Commit" && !before {
			return errCut
		}
		return nil
	}
	c := &store.Conversation{ID: 1, New: true, Conv: "g:g"}
	turn := &store.Turn{Partitions: []store.PartitionMove{{PartitionID: p, Epoch: 1, From: -1, To: 0}}, Conversations: []*store.Conversation{c}}
	if _, err := s.Commit(t.Context(), turn); !errors.Is(err, errCut) {
		t.Fatalf("got %v", err)
	}
	if st, err := s.State(t.Context(), p); err != nil || st.Applied != 0 {
		t.Errorf("state %+v, %v: the turn was not applied", st, err)
	}
	if !c.New {
		t.Error("it is called stored in spite of the error")
	}
	if _, err := s.Conversation(t.Context(), "g:g"); err != nil {
		t.Errorf("the conversation is missing: %v", err)
	}
}

func TestHookMayUseTheStore(t *testing.T) {
	s, p := hooked(t)
	s.Hook = func(op string, before bool) error {
		if op != "Commit" || !before {
			return nil
		}
		_, err := s.Claim(t.Context(), p, "", 0) // a takeover in between
		return err
	}
	fenced, err := s.Commit(t.Context(), &store.Turn{Partitions: []store.PartitionMove{{PartitionID: p, Epoch: 1, From: -1, To: 0}}})
	if err != nil || len(fenced) != 1 {
		t.Errorf("fenced %v, %v", fenced, err)
	}
}

func TestTwoOpenIntervals(t *testing.T) {
	s, _ := hooked(t)
	c := &store.Conversation{ID: 1, New: true, Conv: "g:g"}
	_, err := s.Commit(t.Context(), &store.Turn{
		Conversations: []*store.Conversation{c},
		Members:       []store.MemberChange{{Conv: c, Member: store.Member{User: "a", JoinedSeq: 1}}, {Conv: c, Member: store.Member{User: "a", JoinedSeq: 2}}},
	})
	if _, ok := errors.AsType[*store.DeterministicError](err); !ok {
		t.Errorf("got %v", err)
	}
}
