package history

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/sqlstore"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/logictest"
)

// onSQL is a fixture over SQLite, where a sync is many reads and not one.
func onSQL(t *testing.T) (*fixture, store.Store) {
	t.Helper()
	f := setup(t)
	cfg := sqlstore.Config{Driver: sqlstore.DriverSQLite, DSN: config.NewSecret(filepath.Join(t.TempDir(), "db"))}
	if err := sqlstore.Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	st, err := sqlstore.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.log = logictest.New(t.Context(), st)
	t.Cleanup(func() {
		f.log.Close()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	if f.Service, err = New(Deps{Store: st, Index: f.reg}); err != nil {
		t.Fatal(err)
	}
	return f, st
}

// While others write, recall and edit, every page holds each seq from the
// cursor to upto once.
func TestSyncWhileOthersWrite(t *testing.T) {
	f, _ := onSQL(t)
	r := rand.New(rand.NewPCG(1, 2))
	convs := []wire.ConvID{"p:alice:bob", "p:bob:carl", "g:team"}
	f.command("g:team", "alice", recordpb.Command_CREATE, "bob")
	const rounds = 80
	written := make(chan struct{})
	go func() {
		defer close(written)
		last := map[wire.ConvID]wire.MsgID{}
		for i := range rounds {
			for _, c := range convs {
				from := map[wire.ConvID]string{"p:bob:carl": "carl"}[c]
				if from == "" {
					from = "alice"
				}
				if id := last[c]; id != 0 && i%5 == 0 {
					f.change(c, from, id, []string{wire.StatusRecalled, wire.StatusEdited}[i/5%2], []string{"", "new"}[i/5%2])
					continue
				}
				last[c] = f.say(c, from, fmt.Sprint(i))
			}
		}
	}()
	cursors, end := map[wire.ConvID]int64{}, false
	take := func(ok *wire.SyncOK) {
		for i := range ok.Conversations {
			sc := &ok.Conversations[i]
			for _, row := range timeline(t, sc) {
				if row.Seq != cursors[sc.Conv]+1 {
					t.Fatalf("%s: seq %d after %d", sc.Conv, row.Seq, cursors[sc.Conv])
				}
				cursors[sc.Conv]++
			}
			if cursors[sc.Conv] != sc.Upto {
				t.Fatalf("%s: ends at %d, upto %d", sc.Conv, cursors[sc.Conv], sc.Upto)
			}
		}
	}
	for !end {
		select {
		case <-written:
			end = true // one more round sees all
		default:
		}
		given := map[wire.ConvID]int64{"p:alice:bob": 0, "p:bob:carl": 0, "g:team": 0}
		maps.Copy(given, cursors)
		ok := f.sync("bob", "d", wire.Sync{Cursors: given, Limit: 1 + r.IntN(9)})
		for take(ok); ok.More; take(ok) {
			ok = f.sync("bob", "d", wire.Sync{Token: ok.Token})
		}
	}
	for _, c := range convs {
		if cursors[c] < rounds {
			t.Errorf("%s ends at %d", c, cursors[c])
		}
	}
}

// Cursors beyond the conversation's, of conversations one is not in, and of
// none, neither fail nor show anything.
func TestOddCursors(t *testing.T) {
	f, st := onSQL(t)
	f.say("p:alice:bob", "alice", "one")
	f.say("p:carl:dora", "carl", "not yours")
	ok := f.sync("bob", "d", wire.Sync{Cursors: map[wire.ConvID]int64{
		"p:alice:bob": 1<<63 - 1, "p:carl:dora": 0, "g:none": 0, "p:bob:zoe": 5,
	}})
	if len(ok.Conversations) != 0 || ok.More {
		t.Errorf("%+v", ok)
	}
	moved, err := st.MoveCursors(t.Context(), []store.CursorMove{
		{User: "bob", Device: "d", Conv: "p:alice:bob", Delivered: 1<<63 - 1, Read: 1<<63 - 1},
		{User: "bob", Device: "d", Conv: "p:carl:dora", Delivered: 1},
		{User: "bob", Device: "d", Conv: "g:none", Delivered: 1},
	})
	if err != nil || len(moved) != 1 || moved[0].Delivered != 1 || moved[0].Read != 1 {
		t.Errorf("moved %+v, %v", moved, err)
	}
	f.say("p:alice:bob", "alice", "two")
	ok = f.sync("bob", "d", wire.Sync{})
	if len(ok.Conversations) != 1 || ok.Conversations[0].Upto != 2 || len(ok.Conversations[0].Messages) != 1 || ok.Conversations[0].Unread != 1 {
		t.Errorf("%+v", ok)
	}
}
