package history

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/logictest"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

type fixture struct {
	*Service
	t     *testing.T
	store *memstore.Store
	reg   *memregistry.Registry
	log   *logictest.Log
	id    int64
}

func setup(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, store: memstore.New(), reg: memregistry.New(), id: 1000}
	f.log = logictest.New(t.Context(), f.store)
	t.Cleanup(f.log.Close)
	var err error
	if f.Service, err = New(Deps{Store: f.store, Index: f.reg}); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) put(conv wire.ConvID, from string, r *recordpb.Record) wire.MsgID {
	f.t.Helper()
	f.id++
	r.Id, r.Conv, r.From, r.ClientId, r.Ts = f.id, string(conv), from, fmt.Sprintf("c%d", f.id), f.id
	b, err := record.Encode(r)
	if err != nil {
		f.t.Fatal(err)
	}
	p := record.PartitionID{Topic: record.Topic(conv), Number: record.PartitionOf(string(conv), logictest.Partitions)}
	if err := f.log.Produce(p, r.GetTs(), b, func(mqDelivery) {}); err != nil {
		f.t.Fatal(err)
	}
	_ = f.log.Flush(f.t.Context())
	return wire.MsgID(f.id)
}

func (f *fixture) say(conv wire.ConvID, from, text string) wire.MsgID {
	f.t.Helper()
	return f.put(conv, from, &recordpb.Record{Body: &recordpb.Record_Send{Send: &recordpb.Send{Type: "text", Content: text}}})
}

func (f *fixture) change(conv wire.ConvID, from string, id wire.MsgID, status, content string) {
	f.t.Helper()
	f.put(conv, from, &recordpb.Record{Body: &recordpb.Record_Update{Update: &recordpb.Update{TargetId: int64(id), Status: status, Content: content}}})
}

func (f *fixture) command(conv wire.ConvID, from string, kind recordpb.Command_Kind, users ...string) {
	f.t.Helper()
	f.put(conv, from, &recordpb.Record{Body: &recordpb.Record_Command{Command: &recordpb.Command{Kind: kind, Users: users, Name: new("n")}}})
}

func (f *fixture) sync(u, d string, req wire.Sync) *wire.SyncOK {
	f.t.Helper()
	ok, err := f.Sync(f.t.Context(), wire.UserID(u), wire.DeviceID(d), req)
	if err != nil {
		f.t.Fatalf("sync: %v", err)
	}
	return ok
}

func (f *fixture) ack(u, d string, conv wire.ConvID, seq int64) {
	f.t.Helper()
	_, err := f.store.MoveCursors(f.t.Context(), []store.CursorMove{{User: wire.UserID(u), Device: wire.DeviceID(d), Conv: conv, Delivered: seq}})
	if err != nil {
		f.t.Fatal(err)
	}
}

// row is one seq as a client sees it.
type row struct {
	Seq     int64
	Kind    string
	Target  int64
	Content string
}

// timeline merges messages and updates by seq and checks that they rise.
func timeline(t *testing.T, sc *wire.SyncConv) []row {
	t.Helper()
	var out []row
	m, u := sc.Messages, sc.Updates
	for len(m) > 0 || len(u) > 0 {
		if len(u) == 0 || len(m) > 0 && m[0].Seq < u[0].Seq {
			out = append(out, row{m[0].Seq, "msg " + m[0].Status, 0, m[0].Content})
			m = m[1:]
			continue
		}
		out = append(out, row{u[0].Seq, "update " + u[0].Status, u[0].TargetSeq, u[0].Content})
		u = u[1:]
	}
	for i := 1; i < len(out); i++ {
		if out[i].Seq <= out[i-1].Seq {
			t.Fatalf("%s is not in order: %v", sc.Conv, out)
		}
	}
	return out
}

func TestSyncShowsThePresentState(t *testing.T) {
	f := setup(t)
	const c = wire.ConvID("p:alice:bob")
	a := f.say(c, "alice", "one")
	b := f.say(c, "alice", "two")
	f.say(c, "bob", "three")
	f.change(c, "alice", a, wire.StatusEdited, "ONE")
	f.change(c, "alice", b, wire.StatusEdited, "secret")
	f.change(c, "alice", b, wire.StatusRecalled, "")
	got := f.sync("bob", "d", wire.Sync{})
	if len(got.Conversations) != 1 || got.More || got.Token != "" {
		t.Fatalf("%+v", got)
	}
	sc := got.Conversations[0]
	want := []row{
		{1, "msg edited", 0, "ONE"},
		{2, "msg recalled", 0, ""},
		{3, "msg ", 0, "three"},
		{4, "update edited", 1, "ONE"},
		{5, "update edited", 2, ""},
		{6, "update recalled", 2, ""},
	}
	if diff := cmp.Diff(want, timeline(t, &sc)); diff != "" {
		t.Error(diff)
	}
	if sc.MaxSeq != 6 || sc.Upto != 6 || sc.MinSeq != 1 || sc.Unread != 1 || sc.More {
		t.Errorf("%+v", sc)
	}
}

func TestWhereASyncStarts(t *testing.T) {
	f := setup(t)
	const c, g = wire.ConvID("p:alice:bob"), wire.ConvID("g:team")
	for range 10 {
		f.say(c, "alice", "x")
	}
	f.command(g, "alice", recordpb.Command_CREATE, "bob")
	f.say(g, "alice", "x")
	upto := func(req wire.Sync, dev string) string {
		var s []string
		for _, sc := range f.sync("bob", dev, req).Conversations {
			s = append(s, fmt.Sprintf("%s:%d", sc.Conv, timeline(t, &sc)[0].Seq))
		}
		return strings.Join(s, " ")
	}
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	check("nothing acknowledged", upto(wire.Sync{}, "d1"), "g:team:1 p:alice:bob:1")
	f.ack("bob", "d1", c, 7)
	check("own ack", upto(wire.Sync{}, "d1"), "g:team:1 p:alice:bob:8")
	check("a new device: the highest of any", upto(wire.Sync{}, "d2"), "g:team:1 p:alice:bob:8")
	f.ack("bob", "d2", g, 1)
	check("no new device any more: from the start where it acknowledged nothing", upto(wire.Sync{}, "d2"), "g:team:2 p:alice:bob:1")
	check("cursors win", upto(wire.Sync{Cursors: map[wire.ConvID]int64{c: 3, g: 2}}, "d1"), "p:alice:bob:4")
	check("clamped", upto(wire.Sync{Cursors: map[wire.ConvID]int64{c: 1 << 40, g: 1 << 40}}, "d1"), "")
	check("not mine", upto(wire.Sync{Cursors: map[wire.ConvID]int64{c: 10, g: 2, "p:carl:dora": 0}}, "d1"), "")
}

// A device that is new at the first page stays so to the last, whatever it
// acknowledges in between.
func TestNewDeviceOverPages(t *testing.T) {
	f := setup(t)
	for i := range 4 {
		c := wire.PrivateConv("bob", wire.UserID(fmt.Sprintf("u%d", i)))
		for range 4 {
			f.say(c, "bob", "x")
		}
		f.ack("bob", "old", c, 2)
	}
	got := f.sync("bob", "new", wire.Sync{Limit: 2})
	n := 0
	for {
		for _, sc := range got.Conversations {
			for _, r := range timeline(t, &sc) {
				n++
				if r.Seq <= 2 {
					t.Errorf("%s/%d was acknowledged by another device", sc.Conv, r.Seq)
				}
			}
			f.ack("bob", "new", sc.Conv, sc.Upto)
		}
		if !got.More {
			break
		}
		got = f.sync("bob", "new", wire.Sync{Token: got.Token})
	}
	if n != 8 {
		t.Errorf("%d rows", n)
	}
}

func TestRefusedComeOnTheFirstPage(t *testing.T) {
	f := setup(t)
	f.d.Now = nowAt(1000)
	f.command("g:team", "alice", recordpb.Command_CREATE, "bob")
	f.say("g:team", "eve", "let me in")
	for range 3 {
		f.say("p:bob:eve", "eve", "x")
	}
	got := f.sync("eve", "d", wire.Sync{Limit: 2})
	if len(got.Refused) != 1 || got.Refused[0].Code != wire.CodeNotMember || got.Refused[0].Conv != "g:team" || !got.More {
		t.Fatalf("%+v", got)
	}
	if got := f.sync("eve", "d", wire.Sync{Token: got.Token}); len(got.Refused) != 0 || got.More {
		t.Errorf("%+v", got)
	}
}

// changing has a message changed between a look at its row and one at its body.
type changing struct {
	*memstore.Store
	change func()
}

func (c *changing) Contents(ctx context.Context, conv wire.ConvID, seqs []int64) (map[int64]store.Content, error) {
	c.change()
	return c.Store.Contents(ctx, conv, seqs)
}

// A message that is changed while it is read is shown before or after that: text
// and status belong together.
func TestChangedWhileRead(t *testing.T) {
	for status, content := range map[string]string{wire.StatusEdited: "two", wire.StatusRecalled: ""} {
		f := setup(t)
		c := wire.PrivateConv("alice", "bob")
		id := f.say(c, "alice", "one")
		if err := f.reg.FileOffline(t.Context(), []registry.OfflineEntry{{User: "bob", Conv: c, Seq: 1, ID: id}}); err != nil {
			t.Fatal(err) // so that the body is read by itself
		}
		f.d.Store = &changing{f.store, sync.OnceFunc(func() { f.change(c, "alice", id, status, content) })}
		m := f.sync("bob", "phone", wire.Sync{Limit: 10}).Conversations[0].Messages[0]
		if m.Status != status || m.Content != content {
			t.Errorf("%s: shown as %q %q", status, m.Content, m.Status)
		}
	}
}

func TestBodiesOfCacheAndStore(t *testing.T) {
	f := setup(t)
	const c = wire.ConvID("p:alice:bob")
	cached, stale, absent, gone := f.say(c, "alice", "1"), f.say(c, "alice", "2"), f.say(c, "alice", "3"), f.say(c, "alice", "4")
	f.say(c, "alice", "5") // not waiting
	f.change(c, "alice", stale, wire.StatusEdited, "2b")
	f.change(c, "alice", gone, wire.StatusRecalled, "")
	rows, err := f.store.Timeline(t.Context(), "bob", c, 0, 9, 9, false)
	if err != nil {
		t.Fatal(err)
	}
	var es []registry.OfflineEntry
	for i, id := range []wire.MsgID{cached, stale, absent, gone} {
		es = append(es, registry.OfflineEntry{User: "bob", Conv: c, Seq: int64(i + 1), ID: id})
	}
	err = errors.Join(f.reg.FileOffline(t.Context(), es), f.reg.PutMessages(t.Context(), []registry.CachedMsg{
		{Conv: c, Seq: 1, ID: cached, Version: rows[0].Version, Content: "1 from the cache"},
		{Conv: c, Seq: 2, ID: stale, Version: rows[0].Version, Content: "of an older version"},
		{Conv: c, Seq: 4, ID: gone, Version: rows[3].Version, Content: "recalled"},
	}))
	if err != nil {
		t.Fatal(err)
	}
	contents := func() (s []string) {
		for _, m := range f.sync("bob", "d", wire.Sync{}).Conversations[0].Messages {
			s = append(s, m.Content)
		}
		return s
	}
	if diff := cmp.Diff([]string{"1 from the cache", "2b", "3", "", "5"}, contents()); diff != "" {
		t.Error(diff)
	}
	f.reg.SetAway(true)
	if diff := cmp.Diff([]string{"1", "2b", "3", "", "5"}, contents()); diff != "" {
		t.Errorf("with the index away:\n%s", diff)
	}
}

// An edit must not show what its target, from before the user joined, says.
func TestEditOfWhatOneMayNotSee(t *testing.T) {
	f := setup(t)
	const g = wire.ConvID("g:team")
	f.command(g, "alice", recordpb.Command_CREATE)
	early := f.say(g, "alice", "before bob")
	f.command(g, "alice", recordpb.Command_ADD, "bob")
	f.change(g, "alice", early, wire.StatusEdited, "still not for bob")
	sc := f.sync("bob", "d", wire.Sync{}).Conversations[0]
	want := []row{{4, "update edited", 2, ""}}
	if got := timeline(t, &sc); len(got) != 2 || got[1] != want[0] || sc.MinSeq != 3 {
		t.Errorf("%v %+v", got, sc)
	}
	if sc := f.sync("alice", "d", wire.Sync{}).Conversations[0]; timeline(t, &sc)[3].Content != "still not for bob" {
		t.Errorf("alice sees %v", sc)
	}
}

func TestPagesEndByBytes(t *testing.T) {
	f := setup(t)
	const c = wire.ConvID("p:alice:bob")
	big := strings.Repeat("x", 100<<10)
	for range 7 {
		f.say(c, "alice", big)
	}
	got := f.sync("bob", "d", wire.Sync{Limit: 500})
	if n := len(got.Conversations[0].Messages); n != 2 || !got.More || !got.Conversations[0].More || got.Conversations[0].Upto != 2 {
		t.Fatalf("%d messages in the first page, more %v", n, got.More)
	}
	n := 2
	for got.More {
		got = f.sync("bob", "d", wire.Sync{Token: got.Token})
		n += len(got.Conversations[0].Messages)
	}
	if n != 7 {
		t.Errorf("%d messages", n)
	}
}

// Mentions are bytes, too: 500 messages of 100 long ones each are 3 MB.
func TestPagesEndByMentions(t *testing.T) {
	f := setup(t)
	const c = wire.ConvID("p:alice:bob")
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("%064d", i))
	}
	for range 60 {
		f.put(c, "alice", &recordpb.Record{Body: &recordpb.Record_Send{Send: &recordpb.Send{Type: "text", Content: "x", Mention: many}}})
	}
	got := f.sync("bob", "d", wire.Sync{Limit: 500})
	if n := len(got.Conversations[0].Messages); n == 0 || n > 45 || !got.More {
		t.Fatalf("%d messages in the first page, more %v", n, got.More)
	}
	if got.Conversations[0].Messages[0].Mention == nil {
		t.Fatal("the log of the test keeps no mentions")
	}
}

func TestWhoHasLeftSeesNoMembers(t *testing.T) {
	f := setup(t)
	f.command("g:team", "alice", recordpb.Command_CREATE, "bob", "carl")
	f.command("g:team", "bob", recordpb.Command_REMOVE, "bob")
	of := func(u wire.UserID) ConvInfo {
		t.Helper()
		list, err := f.Conversations(t.Context(), u, "d", "", 10)
		if err != nil || len(list.Conversations) != 1 {
			t.Fatal(list, err)
		}
		return list.Conversations[0]
	}
	if c := of("bob"); !c.Left || c.Members != 0 || c.Name != "n" {
		t.Errorf("who has left sees %+v", c)
	}
	f.say("g:team", "alice", "afterwards")
	if c := of("bob"); c.Name != "n" {
		t.Errorf("who has left sees the name %q", c.Name)
	}
	f.command("g:team", "alice", recordpb.Command_RENAME)
	if c := of("bob"); c.Name != "" {
		t.Errorf("who has left sees the new name %q", c.Name)
	}
	if c := of("alice"); c.Left || c.Members != 2 {
		t.Errorf("a member sees %+v", c)
	}
}

// Who joined later has not read what was before.
func TestReceiptsOfALateJoiner(t *testing.T) {
	f := setup(t)
	f.command("g:team", "alice", recordpb.Command_CREATE, "bob") // 1
	f.say("g:team", "alice", "before")                           // 2
	f.command("g:team", "alice", recordpb.Command_ADD, "carl")   // 3
	moves := []store.CursorMove{
		{User: "bob", Device: "d", Conv: "g:team", Delivered: 3, Read: 3},
		{User: "carl", Device: "d", Conv: "g:team", Delivered: 3, Read: 3},
	}
	if _, err := f.store.MoveCursors(t.Context(), moves); err != nil {
		t.Fatal(err)
	}
	for seq, want := range map[int64][]wire.UserID{2: {"bob"}, 3: {"bob", "carl"}} {
		got, err := f.Receipts(t.Context(), "alice", "g:team", seq, "", 10)
		if err != nil || !slices.Equal(got.HaveIt, want) || !slices.Equal(got.ReadIt, want) {
			t.Errorf("seq %d: %+v %v, want %v", seq, got, err, want)
		}
	}
}

func TestTokenOfAnotherUser(t *testing.T) {
	f := setup(t)
	for range 3 {
		f.say("p:alice:bob", "alice", "x")
	}
	got := f.sync("bob", "d", wire.Sync{Limit: 1})
	for _, tok := range []string{"nonsense", got.Token[:len(got.Token)-2], got.Token + "AA", strings.ToUpper(got.Token)} {
		_, err := f.Sync(t.Context(), "bob", "d", wire.Sync{Token: tok})
		we := new(wire.Error)
		if !errors.As(err, &we) || we.Code != wire.CodeBadRequest {
			t.Errorf("token %q: %v", tok, err)
		}
	}
	if _, err := f.Sync(t.Context(), "alice", "d", wire.Sync{Token: got.Token}); err == nil {
		t.Error("another user's token was taken")
	}
}

func TestStoreAway(t *testing.T) {
	f := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Sync(ctx, "bob", "d", wire.Sync{}); err == nil {
		t.Error("an answer without the store")
	}
}

// Random timelines with joins, leaves, recalls, edits, caches and cursors: the
// pages put together are what one page would be, and what the model says.
func TestPagesAreTheWhole(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			f := setup(t)
			model := f.grow(r)
			cursors := map[wire.ConvID]int64{}
			for conv, rows := range model {
				if r.IntN(2) == 0 {
					cursors[conv] = r.Int64N(int64(len(rows)) + 8)
				}
			}
			want := map[wire.ConvID][]row{}
			for conv, rows := range model {
				for _, w := range rows {
					if w.Seq > cursors[conv] {
						want[conv] = append(want[conv], w)
					}
				}
			}
			got := f.paged(r, cursors)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("pages differ from the timeline:\n%s", diff)
			}
		})
	}
}

// grow makes conversations of bob and returns what he may see of each.
func (f *fixture) grow(r *rand.Rand) map[wire.ConvID][]row {
	model := map[wire.ConvID][]row{}
	for i := range 1 + r.IntN(6) {
		conv := wire.PrivateConv("bob", wire.UserID(fmt.Sprintf("u%d", i)))
		other := fmt.Sprintf("u%d", i)
		in := true
		if r.IntN(2) == 0 {
			conv, other = wire.GroupConv(wire.GroupID(fmt.Sprintf("g%d", i))), "alice"
			in = r.IntN(2) == 0
			if in {
				f.command(conv, other, recordpb.Command_CREATE, "bob")
			} else {
				f.command(conv, other, recordpb.Command_CREATE)
			}
		}
		var ids []wire.MsgID
		for range r.IntN(25) {
			switch k := r.IntN(10); {
			case k == 0 && conv.IsGroup() && in:
				f.command(conv, other, recordpb.Command_REMOVE, "bob")
				in = false
			case k <= 2 && conv.IsGroup() && !in:
				f.command(conv, other, recordpb.Command_ADD, "bob")
				in = true
			case k == 3 && len(ids) > 0:
				f.change(conv, other, ids[r.IntN(len(ids))], wire.StatusRecalled, "")
			case k == 4 && len(ids) > 0:
				f.change(conv, other, ids[r.IntN(len(ids))], wire.StatusEdited, fmt.Sprint("edit ", r.IntN(99)))
			default:
				ids = append(ids, f.say(conv, other, fmt.Sprint("text ", r.IntN(99))))
			}
		}
		f.cacheSome(r, conv)
		if rows := f.visible(conv); len(rows) > 0 {
			model[conv] = rows
		}
	}
	return model
}

// cacheSome files offline entries and caches bodies, some of them stale.
func (f *fixture) cacheSome(r *rand.Rand, conv wire.ConvID) {
	rows, err := f.store.Timeline(f.t.Context(), "bob", conv, 0, 1<<40, 1000, true)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, w := range rows {
		if w.Kind != store.KindMessage || r.IntN(3) == 0 {
			continue
		}
		m := registry.CachedMsg{Conv: conv, Seq: w.Seq, ID: w.ID, Version: w.Version, Content: w.Content}
		if r.IntN(3) == 0 {
			m.Version--
			m.Content = "stale"
		}
		err := errors.Join(
			f.reg.FileOffline(f.t.Context(), []registry.OfflineEntry{{User: "bob", Conv: conv, Seq: w.Seq, ID: w.ID}}),
			f.reg.PutMessages(f.t.Context(), []registry.CachedMsg{m}))
		if err != nil {
			f.t.Fatal(err)
		}
	}
}

// visible is the model: bob's intervals over the raw rows, edits with the
// present content of targets that he sees.
func (f *fixture) visible(conv wire.ConvID) []row {
	found, err := f.store.Lookup(f.t.Context(), nil, []wire.ConvID{conv})
	if err != nil {
		f.t.Fatal(err)
	}
	h := found.Conversations[conv]
	if h == nil {
		return nil
	}
	intervals, err1 := f.store.Intervals(f.t.Context(), h.ID, []wire.UserID{"bob"})
	rows, err2 := f.store.Rows(f.t.Context(), h.ID, 1, h.MaxSeq)
	if err := errors.Join(err1, err2); err != nil {
		f.t.Fatal(err)
	}
	sees := func(seq int64) bool {
		for _, iv := range intervals {
			if seq >= iv.JoinedSeq && (iv.LeftSeq == 0 || seq <= iv.LeftSeq) {
				return true
			}
		}
		return false
	}
	var out []row
	for _, w := range rows {
		switch {
		case !sees(w.Seq):
		case w.Kind == store.KindMessage:
			out = append(out, row{w.Seq, "msg " + w.Status, 0, w.Content})
		case w.Status == wire.StatusEdited && sees(w.TargetSeq):
			out = append(out, row{w.Seq, "update edited", w.TargetSeq, rows[w.TargetSeq-1].Content})
		default:
			out = append(out, row{w.Seq, "update " + w.Status, w.TargetSeq, ""})
		}
	}
	return out
}

// paged syncs page by page and checks what each page says of itself.
func (f *fixture) paged(r *rand.Rand, cursors map[wire.ConvID]int64) map[wire.ConvID][]row {
	limit := 1 + r.IntN(12)
	req := wire.Sync{Cursors: map[wire.ConvID]int64{}, Limit: limit}
	at := map[wire.ConvID]int64{}
	for c, s := range cursors {
		req.Cursors[c], at[c] = s, s
	}
	got := map[wire.ConvID][]row{}
	more := map[wire.ConvID]bool{}
	for page := 0; ; page++ {
		ok := f.sync("bob", "d", req)
		n := 0
		for _, sc := range ok.Conversations {
			rows := timeline(f.t, &sc)
			n += len(rows)
			if sc.Upto <= at[sc.Conv] || sc.Upto > sc.MaxSeq || !sc.More && sc.Upto != sc.MaxSeq {
				f.t.Errorf("%s: upto %d of %d after %d, more %v", sc.Conv, sc.Upto, sc.MaxSeq, at[sc.Conv], sc.More)
			}
			for _, w := range rows {
				if w.Seq <= at[sc.Conv] || w.Seq > sc.Upto {
					f.t.Errorf("%s: seq %d is outside (%d, %d]", sc.Conv, w.Seq, at[sc.Conv], sc.Upto)
				}
			}
			if page > 0 && at[sc.Conv] > cursors[sc.Conv] && !more[sc.Conv] {
				f.t.Errorf("%s was said to be complete", sc.Conv)
			}
			at[sc.Conv], more[sc.Conv] = sc.Upto, sc.More
			got[sc.Conv] = append(got[sc.Conv], rows...)
		}
		if n > limit {
			f.t.Errorf("%d rows in a page of %d", n, limit)
		}
		if ok.More != (ok.Token != "") || ok.More && n == 0 {
			f.t.Errorf("more %v, token %q, %d rows", ok.More, ok.Token, n)
		}
		if !ok.More {
			return got
		}
		if page > 1000 {
			f.t.Fatal("no end")
		}
		req = wire.Sync{Token: ok.Token}
	}
}
