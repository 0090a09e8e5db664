package machine

import (
	"context"
	"errors"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
)

// TestLateCommit: a commit whose answer was lost arrives only with the next try.
// It is ours: nobody is fenced, and its records are redone.
func TestLateCommit(t *testing.T) {
	b := newBed(t)
	m := b.machine()
	b.claim(m, -1)
	b.turn(m, b.send("one"))
	late := &late{Machine: b.st}
	m.st = late
	es := b.send("two", "three")
	if _, err := m.Turn(t.Context(), es[:1]); !errors.Is(err, errPlanned) {
		t.Fatalf("the first try: %v", err)
	}
	res := b.turn(m, es)
	if len(res.Fenced) != 0 || !slices.Equal(m.Owned(), []record.PartitionID{b.p}) {
		t.Errorf("fenced %v, owned %v", res.Fenced, m.Owned())
	}
	if got := seqs(res.Effects); !slices.Equal(got, []int64{2, 3}) {
		t.Errorf("effects of seqs %v, want 2 and 3", got)
	}
	b.want("one", "two", "three")
}

// late holds one commit back and does it before the next.
type late struct {
	store.Machine
	held *store.Turn
	once bool
}

func (l *late) Commit(ctx context.Context, t *store.Turn) ([]record.PartitionID, error) {
	if !l.once {
		l.once, l.held = true, t
		return nil, errPlanned
	}
	if l.held != nil {
		if _, err := l.Machine.Commit(ctx, l.held); err != nil {
			return nil, err //nolint:wrapcheck // a test
		}
		l.held = nil
	}
	return l.Machine.Commit(ctx, t) //nolint:wrapcheck // a test
}

// TestGuardWithoutReason: a store that lets nothing pass is an error to try
// again after, not a loop.
func TestGuardWithoutReason(t *testing.T) {
	b := newBed(t)
	m := b.machine()
	b.claim(m, -1)
	m.st = stubborn{b.st, b.p}
	if res, err := m.Turn(t.Context(), b.send("one")); err == nil || len(res.Fenced) != 0 {
		t.Errorf("result %+v, error %v", res, err)
	}
}

type stubborn struct {
	store.Machine
	p record.PartitionID
}

func (s stubborn) Commit(context.Context, *store.Turn) ([]record.PartitionID, error) {
	return []record.PartitionID{s.p}, nil
}

// TestRedoneByAnOlderBinary: what a newer binary applied stands; one that cannot
// read it any more only builds its effects again, and sets nothing aside.
func TestRedoneByAnOlderBinary(t *testing.T) {
	b := newBed(t)
	m := b.machine()
	b.claim(m, -1)
	es := b.send("one")
	b.turn(m, es)
	var r recordpb.Record
	if err := proto.Unmarshal(es[0].Value, &r); err != nil {
		t.Fatal(err)
	}
	r.Version = record.Version + 1
	var err error
	if es[0].Value, err = proto.Marshal(&r); err != nil {
		t.Fatal(err)
	}
	older := b.machine()
	b.claim(older, -1)
	res := b.turn(older, es)
	if len(res.Poison) != 0 || !slices.Equal(seqs(res.Effects), []int64{1}) {
		t.Errorf("effects %+v, set aside %v", res.Effects, res.Poison)
	}
}
