package message

import (
	"testing"

	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/wire"
)

// Who is refused here stays refused: what was not written is no send of unknown
// fate when it is repeated.
func TestRefusedTwiceAfterLeaving(t *testing.T) {
	socket := &recordpb.Origin{Server: "e1", Epoch: 1, Conn: 1}
	for name, tc := range map[string]struct {
		origin *recordpb.Origin
		away   bool
	}{"socket": {origin: socket}, "http": {}, "http without the index": {away: true}} {
		t.Run(name, func(t *testing.T) {
			f := setup(t)
			f.command(t, "alice", "team", &recordpb.Command{Kind: recordpb.Command_CREATE, Users: []string{"bob"}})
			f.command(t, "alice", "team", &recordpb.Command{Kind: recordpb.Command_REMOVE, Users: []string{"bob"}})
			f.reg.SetAway(tc.away)
			n := len(f.log.Records())
			for range 2 { // two in one batch, and once more
				for _, a := range f.sendOver(t, tc.origin, "bob", toGroup("team", "c9"), toGroup("team", "c9")) {
					if a.Err == nil || a.Err.Code != wire.CodeNotMember {
						t.Errorf("answered %+v", a)
					}
				}
			}
			if more := len(f.log.Records()) - n; more != 0 {
				t.Errorf("%d records were written", more)
			}
			f.command(t, "alice", "team", &recordpb.Command{Kind: recordpb.Command_ADD, Users: []string{"bob"}})
			if a := f.sendOver(t, tc.origin, "bob", toGroup("team", "c9"))[0]; a.Err != nil {
				t.Errorf("a member again: %v", a.Err)
			}
		})
	}
}
