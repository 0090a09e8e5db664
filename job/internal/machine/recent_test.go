package machine

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

// A verdict comes out of the memory as it was put in, and only by its own key.
func TestRecentKeepsVerdictsWhole(t *testing.T) {
	p := record.PartitionID{Topic: "t", Number: 3}
	r := newRecent(p)
	key := func(from wire.UserID, id string) store.OutcomeKey {
		return store.OutcomeKey{Conv: "p:a:b", From: from, ClientID: id}
	}
	list := []store.Outcome{
		{OutcomeKey: key("a", "1"), Partition: p, ID: 11, Hash: 1<<63 + 5, Seq: 7, N: 2, TS: 99, Offset: 40},
		{OutcomeKey: key("a", "2"), Partition: p, ID: 12, Hash: 6, Code: wire.CodeForbidden, TS: 100, Offset: 41},
		{OutcomeKey: key("b", "1"), Partition: p, ID: 13, Hash: 7, Code: wire.CodeTooLarge, TS: 101, Offset: 42},
		{OutcomeKey: key("b", "2"), Partition: p, ID: 14, Hash: 8, Code: wire.CodeForbidden, TS: 102, Offset: 43},
	}
	for i := range list {
		r.put(&list[i], 100)
	}
	for _, want := range list {
		if got, ok := r.get(want.OutcomeKey); !ok || got != want {
			t.Errorf("%v: %s", ok, cmp.Diff(want, got))
		}
	}
	for _, k := range []store.OutcomeKey{key("a", "3"), key("ab", "1"), {Conv: "p:a:b2", From: "a", ClientID: "1"}} {
		if got, ok := r.get(k); ok {
			t.Errorf("%v, which nobody sent, has the verdict %v", k, got)
		}
	}
}
