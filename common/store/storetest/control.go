package storetest

import (
	"sync"
	"testing"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/wire"
)

func (f *fixture) decide(t *testing.T, es ...control.Entry) int64 {
	t.Helper()
	return got[int64](t)(f.s.AppendControl(t.Context(), es))
}

func (f *fixture) decided(t *testing.T, after int64) []control.Entry {
	t.Helper()
	return append([]control.Entry{}, got[[]control.Entry](t)(f.s.ControlSince(t.Context(), after, 100))...)
}

func testControl(f *fixture) {
	t := f.t
	equal(t, "none", f.decided(t, 0), []control.Entry{})
	ban := control.Entry{Kind: control.Ban, User: "a", At: 1, Until: 9}
	kick := control.Entry{Kind: control.Kick, User: "a", Device: "d", Conn: 1<<64 - 1, At: 2}
	set := control.Entry{Kind: control.Set, At: 3, Name: "limits.x", Value: "\x00ü\\"}
	equal(t, "versions", f.decide(t, ban, kick, set), int64(3))
	ban.Version, kick.Version, set.Version = 1, 2, 3
	equal(t, "all", f.decided(t, 0), []control.Entry{ban, kick, set})
	equal(t, "later", f.decided(t, 2), []control.Entry{set})
	equal(t, "a page", got[[]control.Entry](t)(f.s.ControlSince(t.Context(), 0, 2)), []control.Entry{ban, kick})

	// One about the same takes the place; another user's case and another connection's do not.
	again := control.Entry{Kind: control.Unban, User: "a", At: 4}
	other := control.Entry{Kind: control.Ban, User: "A", At: 4}
	kick2 := control.Entry{Kind: control.Kick, User: "a", Device: "d", At: 5}
	equal(t, "versions grow", f.decide(t, again, other, kick2), int64(6))
	again.Version, other.Version, kick2.Version = 4, 5, 6
	equal(t, "after it", f.decided(t, 0), []control.Entry{kick, set, again, other, kick2})

	// The newest is replaced: its version is not given again.
	equal(t, "the newest anew", f.decide(t, control.Entry{Kind: control.Ban, User: "A", At: 7}), int64(7))
	var all sync.WaitGroup
	for i := range wire.ConnID(8) {
		all.Go(func() {
			if _, err := f.s.AppendControl(t.Context(), []control.Entry{{Kind: control.Kick, User: "x", Conn: i, At: 1}, {Kind: control.Kick, User: "y", Conn: i, At: 1}}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	list := f.decided(t, 7)
	if len(list) != 16 || list[0].Version != 8 || list[15].Version != 23 {
		t.Errorf("%d entries of eight at once: %+v", len(list), list)
	}
}

func testControlPurge(f *fixture) {
	t := f.t
	kept := control.Kept.Milliseconds()
	f.decide(t,
		control.Entry{Kind: control.Ban, User: "good", At: 1},
		control.Entry{Kind: control.Ban, User: "ended", At: 1, Until: 5},
		control.Entry{Kind: control.Ban, User: "later", At: 1, Until: kept + 50},
		control.Entry{Kind: control.Unban, User: "u", At: 1},
		control.Entry{Kind: control.Unban, User: "v", At: 10},
		control.Entry{Kind: control.Revoke, User: "u", At: 1},
		control.Entry{Kind: control.Revoke, User: "v", At: 10},
		control.Entry{Kind: control.Kick, User: "u", At: 1},
		control.Entry{Kind: control.Set, Name: "kept", Value: "1", At: 1},
		control.Entry{Kind: control.Set, Name: "undone", At: 1},
	)
	before := f.decided(t, 0)
	if err := f.s.PurgeControl(t.Context(), kept+10); err != nil {
		t.Fatal(err)
	}
	var want []control.Entry
	for _, e := range before {
		if e.OverAt() >= kept+10 {
			want = append(want, e)
		}
	}
	equal(t, "what stays", f.decided(t, 0), want)
	equal(t, "of them", len(want), 5)
	equal(t, "the next version", f.decide(t, control.Entry{Kind: control.Kick, User: "z", At: 20}), int64(11))
}
