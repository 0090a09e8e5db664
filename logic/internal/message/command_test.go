package message

import (
	"errors"
	"testing"

	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/wire"
)

func TestHashCoversTheCommand(t *testing.T) {
	base := &recordpb.Command{Kind: recordpb.Command_ADD, Users: []string{"a", "b"}}
	for _, other := range []*recordpb.Command{
		{Kind: recordpb.Command_REMOVE, Users: []string{"a", "b"}},
		{Kind: recordpb.Command_ADD, Users: []string{"ab"}},
		{Kind: recordpb.Command_ADD, Users: []string{"a", "b"}, Name: new("n")},
		{Kind: recordpb.Command_ADD, Users: []string{"a", "b"}, Until: 1},
		{Kind: recordpb.Command_ADD, Users: []string{"a", "b"}, Role: "admin"},
		{Kind: recordpb.Command_ADD, Users: []string{"a", "b"}, Description: new("d")},
	} {
		if hash(other) == hash(base) {
			t.Errorf("%v has the same hash", other)
		}
	}
}

// TestVerdictTells: an outcome keeps a code alone, and whoever is refused is told
// more than that.
func TestVerdictTells(t *testing.T) {
	said := map[string]wire.Code{}
	for _, c := range []wire.Code{
		wire.CodeBadRequest, wire.CodeForbidden, wire.CodeNotMember, wire.CodeBlocked,
		wire.CodeMuted, wire.CodeNotFound, wire.CodeConflict, wire.CodeTooLarge, wire.CodeUnsupported,
	} {
		we := new(wire.Error)
		if err := Verdict(store.Outcome{Code: c}); !errors.As(err, &we) || we.Code != c {
			t.Errorf("%s: %v", c, err)
		}
		if other, ok := said[we.Message]; ok {
			t.Errorf("%s and %s say the same: %s", c, other, we.Message)
		}
		said[we.Message] = c
	}
	if err := Verdict(store.Outcome{}); err != nil {
		t.Errorf("applied: %v", err)
	}
}
