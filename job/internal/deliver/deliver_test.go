package deliver

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/machine"
	"github.com/starling-im/starling/job/internal/route"
)

var (
	part  = record.PartitionID{Topic: record.TopicMessages, Number: 2}
	other = record.PartitionID{Topic: record.TopicGroups, Number: 0}
)

// fakeProducer keeps what is produced to im_offline_messages.
type fakeProducer struct {
	partitions int32
	told       []string
	fail       error
}

func (p *fakeProducer) Partitions(string) int32 { return p.partitions }

func (p *fakeProducer) Produce(id record.PartitionID, _ int64, value []byte, done func(mq.Delivery)) error {
	var o recordpb.Offline
	if err := proto.Unmarshal(value, &o); err != nil {
		return err
	}
	p.told = append(p.told, fmt.Sprintf("%s %s:%d #%d %s", o.GetUser(), o.GetConv(), o.GetSeq(), o.GetId(), id.Topic))
	done(mq.Delivery{Err: p.fail})
	return nil
}

// failing fails chosen calls of a registry.
type failing struct {
	*memregistry.Registry
	addGroupEdge error
	filing       func() // called amid FileOffline
}

func (f *failing) FileOffline(ctx context.Context, es []registry.OfflineEntry) error {
	if f.filing != nil {
		f.filing()
	}
	return f.Registry.FileOffline(ctx, es)
}

func (f *failing) AddGroupEdge(ctx context.Context, s wire.ServerID, gs []wire.GroupID) ([]int64, error) {
	if f.addGroupEdge != nil {
		return nil, f.addGroupEdge
	}
	return f.Registry.AddGroupEdge(ctx, s, gs)
}

// bed is a Deliverer on a registry in memory.
type bed struct {
	*Deliverer
	t    *testing.T
	reg  *failing
	prod *fakeProducer

	conns wire.ConnID // the last one
}

func config(t *testing.T) Config {
	t.Helper()
	var c Config
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	c.RegisterFlags(fs, "job.")
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

func newBed(t *testing.T, edges ...wire.ServerID) *bed {
	t.Helper()
	b := &bed{t: t, reg: &failing{Registry: memregistry.New()}, prod: &fakeProducer{partitions: 4}}
	b.reg.SetKnown(true)
	d, err := New(config(t), Deps{Log: zap.NewNop(), Metrics: prometheus.NewRegistry(), Registry: b.reg, Producer: b.prod})
	if err != nil {
		t.Fatal(err)
	}
	b.Deliverer = d
	for _, e := range edges {
		b.lease(e)
		b.AddEdge(registry.Lease{Server: e})
		b.Hello(e, &rpcpb.EdgeHello{Server: string(e)})
	}
	return b
}

func (b *bed) lease(s wire.ServerID) {
	b.t.Helper()
	if _, err := b.reg.Renew(b.t.Context(), registry.Lease{Tier: registry.TierEdge, Server: s, Epoch: 1}, time.Minute); err != nil {
		b.t.Fatal(err)
	}
}

// Claim claims and has the edges say hello, without positions, where asked.
func (b *bed) Claim(p record.PartitionID, start int64) {
	for _, s := range b.Deliverer.Claim(p, start) {
		b.Hello(s, &rpcpb.EdgeHello{Server: string(s), Positions: at(p, start-1)})
	}
}

// online gives a user a session at an edge.
func (b *bed) online(u wire.UserID, s wire.ServerID) {
	b.t.Helper()
	b.conns++
	rt := registry.Route{Conn: b.conns, Server: s, Epoch: 1, Device: wire.DeviceID(s)}
	if _, err := b.reg.PutRoutes(b.t.Context(), map[wire.UserID][]registry.Route{u: {rt}}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) act(es ...machine.Effects) {
	b.t.Helper()
	if err := b.Act(b.t.Context(), es); err != nil {
		b.t.Fatal(err)
	}
}

// sent returns what goes to an edge now, one string a frame.
func (b *bed) sent(s wire.ServerID) []string {
	b.t.Helper()
	var out []string
	box := b.Outbox(s)
	if box == nil {
		return []string{"no outbox"}
	}
	for batch := box.Next(rpc.MaxBatchFrames); batch != nil; batch = box.Next(rpc.MaxBatchFrames) {
		for _, f := range batch.GetFrames() {
			out = append(out, showFrame(f))
		}
	}
	return out
}

func showFrame(f *rpcpb.PushFrame) string {
	w := []string{"-"}
	if f.GetAt() != nil {
		w[0] = fmt.Sprint(f.GetAt().GetOffset())
	}
	if once := f.GetOnce(); once != nil {
		w[0] = fmt.Sprintf("%s/%d@%d", once.GetTopic(), once.GetPartition(), once.GetOffset())
	}
	if f.GetLost() {
		w[0] += "!"
	}
	for _, it := range f.GetItems() {
		var to []string
		if it.GetGroup() != "" {
			to = append(to, "g="+it.GetGroup())
		}
		if len(it.GetUsers()) > 0 {
			to = append(to, strings.Join(it.GetUsers(), "+"))
		}
		if it.GetConn() != 0 {
			to = append(to, fmt.Sprintf("c=%d", it.GetConn()))
		}
		if it.GetAll() {
			to = append(to, "all")
		}
		verb := strings.ToLower(strings.TrimPrefix(it.GetAction().String(), "GROUP_"))
		w = append(w, fmt.Sprintf("%s(%s)%s", verb, strings.Join(to, " "), it.GetBody()))
	}
	return strings.Join(w, " ")
}

func (b *bed) want(s wire.ServerID, want ...string) {
	b.t.Helper()
	if d := cmp.Diff(want, b.sent(s)); d != "" {
		b.t.Errorf("edge %s (-want +got):\n%s", s, d)
	}
}

func (b *bed) wantOffline(u wire.UserID, want ...int64) {
	b.t.Helper()
	es, err := b.reg.Offline(b.t.Context(), u)
	if err != nil {
		b.t.Fatal(err)
	}
	var got []int64
	for _, e := range es {
		got = append(got, e.Seq)
	}
	if !slices.Equal(got, want) {
		b.t.Errorf("offline list of %s: %v, want %v", u, got, want)
	}
}

func effects(offset int64, items ...machine.Item) machine.Effects {
	return machine.Effects{At: part, Offset: offset, Items: items}
}

// private is a message of a to b.
func private(seq int64) machine.Item {
	us := []wire.UserID{"a", "b"}
	return machine.Item{
		Kind: machine.Deliver, Users: us, File: us, Op: wire.OpMsg, Body: fmt.Appendf(nil, "m%d", seq),
		Conv: "p:a:b", Seq: seq, ID: wire.MsgID(1000 + seq), From: "a", Type: wire.TypeText,
	}
}

func group(seq int64, members ...wire.UserID) machine.Item {
	return machine.Item{
		Kind: machine.Deliver, Group: "team", File: members, Op: wire.OpMsg, Body: fmt.Appendf(nil, "g%d", seq),
		Conv: "g:team", Seq: seq, ID: wire.MsgID(2000 + seq), From: "a", Type: wire.TypeText,
	}
}

func TestPrivateGoesWhereTheUsersAre(t *testing.T) {
	b := newBed(t, "e1", "e2", "e3")
	b.Claim(part, 0)
	b.online("a", "e1")
	b.online("b", "e1")
	b.online("b", "e2")
	b.act(effects(0, private(1)), effects(1), effects(2, private(2)))
	b.want("e1", "0 deliver(a+b)m1", "2 deliver(a+b)m2")
	b.want("e2", "0 deliver(b)m1", "2 deliver(b)m2")
	b.want("e3")
	b.wantOffline("a")
	b.wantOffline("b")
	// e3 got nothing, but its position moves with the next beat.
	b.Outbox("e3").Beat()
	b.want("e3", "2")
}

func TestOfflineIsFiledAndProvidersAreTold(t *testing.T) {
	b := newBed(t, "e1")
	b.Claim(part, 0)
	b.online("a", "e1")
	b.act(effects(0, private(1)), effects(1, private(2)))
	b.wantOffline("a")
	b.wantOffline("b", 1, 2)
	want := []string{"b p:a:b:1 #1001 im_offline_messages", "b p:a:b:2 #1002 im_offline_messages"}
	if d := cmp.Diff(want, b.prod.told); d != "" {
		t.Errorf("told (-want +got):\n%s", d)
	}
	b.act(effects(2, group(1, "a", "b", "c"))) // c was not looked up for the push
	b.wantOffline("b", 1, 2, 1)
	b.wantOffline("c", 1)
}

func TestAnIndexWithHolesMeansEveryEdge(t *testing.T) {
	for name, spoil := range map[string]func(*bed){
		"unknown": func(b *bed) { b.reg.SetKnown(false) },
		"away":    func(b *bed) { b.reg.SetAway(true) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, "e1", "e2")
			b.Claim(part, 0)
			b.online("a", "e1")
			spoil(b)
			b.act(effects(0, private(1), group(7)))
			b.want("e1", "0 deliver(a+b)m1 deliver(g=team)g7")
			b.want("e2", "0 deliver(a+b)m1 deliver(g=team)g7")
			if len(b.prod.told) > 0 {
				t.Errorf("providers were told of users who may be online: %v", b.prod.told)
			}
			b.reg.SetAway(false)
			if name == "unknown" { // nobody can say who is offline
				b.wantOffline("a", 1)
			}
			// Each edge answers for who is not there: b is nowhere, a is at e1.
			answer := func(s wire.ServerID, us ...string) {
				b.Reply(t.Context(), s, &rpcpb.PushReply{NotHere: []*rpcpb.NotHere{{Users: us, Conv: "p:a:b", Seq: 1}}})
			}
			answer("e1", "b")
			answer("e2", "a", "b")
			if d := cmp.Diff([]string{"b p:a:b:1 #1001 im_offline_messages"}, b.prod.told); d != "" {
				t.Errorf("told (-want +got):\n%s", d)
			}
			b.wantOffline("b", 1)
		})
	}
}

func TestNotHere(t *testing.T) {
	b := newBed(t, "e1", "e2")
	b.Claim(part, 0)
	b.online("b", "e1") // stale: the session is gone
	b.act(effects(0, private(1)))
	b.wantOffline("b")
	no := &rpcpb.PushReply{NotHere: []*rpcpb.NotHere{{Users: []string{"b", "stranger"}, Conv: "p:a:b", Seq: 1}}}
	b.Reply(t.Context(), "e1", no)
	b.wantOffline("b", 1)
	b.wantOffline("stranger")
	// With a session elsewhere the message is there.
	b.online("b", "e2")
	b.act(effects(1, private(2)))
	no.NotHere[0].Seq = 2
	b.Reply(t.Context(), "e1", no)
	b.wantOffline("b", 1)
	// Nothing is known of a message too old.
	no.NotHere[0].Seq = 99
	b.Reply(t.Context(), "e1", no)
	b.wantOffline("b", 1)
}

func TestRecentIsBounded(t *testing.T) {
	var r recent
	for i := range int64(recentLimit + 10) {
		r.put(filingKey{"p:a:b", i}, &filing{})
	}
	if len(r.by) != recentLimit {
		t.Errorf("%d kept, want %d", len(r.by), recentLimit)
	}
	if r.by[filingKey{"p:a:b", 9}] != nil || r.by[filingKey{"p:a:b", 10}] == nil {
		t.Error("not the oldest went")
	}
}

func TestJoinAndLeaveInOrder(t *testing.T) {
	b := newBed(t, "e1", "e2", "e3")
	b.Claim(part, 0)
	b.online("a", "e1")
	b.online("b", "e2")
	join := machine.Item{Kind: machine.Join, Group: "team", Users: []wire.UserID{"a", "b"}, Members: []wire.UserID{"a", "b"}}
	leave := machine.Item{Kind: machine.Leave, Group: "team", Users: []wire.UserID{"b"}}
	drop := machine.Item{Kind: machine.Drop, Group: "team"}
	// All in one batch: the look-up was made before the join stood in the index.
	b.act(effects(0, join, group(1)), effects(1, group(2)), effects(2, group(3), leave), effects(3, group(4)), effects(4, drop))
	b.want("e1", "0 add(g=team a+b) deliver(g=team)g1", "1 deliver(g=team)g2",
		"2 deliver(g=team)g3 remove(g=team b)", "3 deliver(g=team)g4", "4 drop(g=team)")
	b.want("e2", "0 add(g=team a+b) deliver(g=team)g1", "1 deliver(g=team)g2",
		"2 deliver(g=team)g3 remove(g=team b)", "3 deliver(g=team)g4", "4 drop(g=team)")
	// No member is here: changes of membership all the same, but no message.
	b.want("e3", "0 add(g=team a+b)", "2 remove(g=team b)", "4 drop(g=team)")
	r, err := b.reg.Lookup(t.Context(), nil, []wire.GroupID{"team"})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]wire.ServerID{"e1", "e2"}, r.Groups["team"]); d != "" {
		t.Errorf("edges in the index (-want +got):\n%s", d)
	}
}

func TestMembersAreCached(t *testing.T) {
	b := newBed(t)
	b.Claim(part, 0)
	join := machine.Item{Kind: machine.Join, Group: "team", Users: []wire.UserID{"a", "b"}, Members: []wire.UserID{"a", "b"}}
	b.act(effects(0, join),
		effects(1, machine.Item{Kind: machine.Join, Group: "team", Users: []wire.UserID{"c"}}),
		effects(2, machine.Item{Kind: machine.Leave, Group: "team", Users: []wire.UserID{"a"}}))
	ask := func() []bool {
		t.Helper()
		got, err := b.reg.AreMembers(t.Context(), []registry.Membership{{Group: "team", User: "a"}, {Group: "team", User: "b"}, {Group: "team", User: "c"}})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := ask(); !slices.Equal(got, []bool{false, true, true}) {
		t.Errorf("members a, b, c: %v", got)
	}
	b.act(effects(3, machine.Item{Kind: machine.Drop, Group: "team"}))
	if got := ask(); !slices.Equal(got, []bool{false, false, false}) {
		t.Errorf("members a, b, c after the drop: %v", got)
	}
	it := private(1)
	it.Cache = &registry.CachedMsg{Conv: it.Conv, Seq: 1, ID: it.ID, Version: 4, Content: "hello"}
	b.act(effects(4, it))
	got, err := b.reg.GetMessages(t.Context(), []wire.MsgID{it.ID})
	if err != nil || got[it.ID] != *it.Cache {
		t.Errorf("cached %+v, %v", got, err)
	}
}

// An index that does not take the joiner's edge must not cost messages while
// it says that it is whole.
func TestJoinThatTheIndexDidNotTake(t *testing.T) {
	b := newBed(t, "e1")
	b.Claim(part, 0)
	b.online("a", "e1")
	b.reg.addGroupEdge = errors.New("no")
	b.act(effects(0, machine.Item{Kind: machine.Join, Group: "team", Users: []wire.UserID{"a"}}))
	b.act(effects(1, group(1)))
	b.want("e1", "0 add(g=team a)", "1 deliver(g=team)g1")
	b.reg.addGroupEdge = nil
	b.act(effects(2, group(2)))
	b.act(effects(3, group(3))) // by the index alone
	b.want("e1", "2 deliver(g=team)g2", "3 deliver(g=team)g3")
	if len(b.owed) > 0 {
		t.Errorf("still owed: %v", b.owed)
	}
}

func TestJoinWhileTheIndexIsAway(t *testing.T) {
	b := newBed(t, "e1", "e2")
	b.Claim(part, 0)
	b.online("a", "e1")
	b.reg.SetAway(true)
	b.act(effects(0, machine.Item{Kind: machine.Join, Group: "team", Users: []wire.UserID{"a"}}), effects(1, group(1)))
	b.want("e1", "0 add(g=team a)", "1 deliver(g=team)g1")
	b.want("e2", "0 add(g=team a)", "1 deliver(g=team)g1")
	b.reg.SetAway(false)
	b.act(effects(2, group(2)))
	b.want("e1", "2 deliver(g=team)g2")
	b.want("e2")
}

func TestReply(t *testing.T) {
	b := newBed(t, "e1", "e2")
	b.Claim(part, 0)
	say := func(o *recordpb.Origin) machine.Item {
		return machine.Item{Kind: machine.Reply, Users: []wire.UserID{"a"}, Origin: o, Op: wire.OpRefused, Body: []byte("no")}
	}
	b.act(effects(0, say(&recordpb.Origin{Server: "e2", Conn: 77})),
		effects(1, say(nil)), // HTTP: nobody to tell
		effects(2, say(&recordpb.Origin{Server: "gone", Conn: 1})))
	b.want("e1")
	b.want("e2", "0 deliver(a c=77)no")
}

func TestUnlistedEdgesGetEverything(t *testing.T) {
	b := newBed(t, "e1", "e2")
	b.Claim(part, 0)
	b.online("b", "e1")
	b.Hello("e2", &rpcpb.EdgeHello{Server: "e2", Unlisted: true})
	b.act(effects(0, private(1), group(1)))
	b.want("e1", "0 deliver(b)m1")
	b.want("e2", "0 deliver(a+b)m1 deliver(g=team)g1")
	b.Reply(t.Context(), "e2", &rpcpb.PushReply{Hello: &rpcpb.EdgeHello{Server: "e2"}})
	b.act(effects(1, private(2)))
	b.want("e2")
}

func TestARouteToAnUnknownEdgeIsHeldForIt(t *testing.T) {
	b := newBed(t, "e1")
	b.Claim(part, 5)
	b.lease("e9")
	b.online("b", "e9")
	b.act(effects(5, private(1)))
	if got := b.Committable()[part]; got != 5 {
		t.Errorf("committable %d, want 5: nobody has it yet", got)
	}
	b.Hello("e9", &rpcpb.EdgeHello{Server: "e9"})
	b.want("e9", "4!", "5 deliver(b)m1")
	b.Reply(t.Context(), "e9", &rpcpb.PushReply{Positions: at(part, 5)})
	b.Reply(t.Context(), "e1", &rpcpb.PushReply{Positions: at(part, 5)})
	if got := b.Committable()[part]; got != 6 {
		t.Errorf("committable %d, want 6", got)
	}
}

func at(p record.PartitionID, offset int64) []*rpcpb.Position {
	return []*rpcpb.Position{{Topic: p.Topic, Partition: p.Number, Offset: offset}}
}

// An edge that is dropped and found again while a batch is pushed to the others
// was passed by: it is told so, also if it stands right before the batch.
func TestAnEdgeFoundAmidABatchIsToldLost(t *testing.T) {
	b := newBed(t, "e1")
	b.Claim(part, 5)
	b.Hello("e1", &rpcpb.EdgeHello{Server: "e1", Positions: at(part, 4)})
	b.online("a", "e1")
	b.reg.filing = func() {
		b.RemoveEdge("e1")
		b.AddEdge(registry.Lease{Server: "e1"})
		b.Hello("e1", &rpcpb.EdgeHello{Server: "e1", Positions: at(part, 4)})
	}
	b.act(effects(5, private(1)))
	b.reg.filing = nil
	b.Outbox("e1").Beat()
	b.want("e1", "5!")
	b.act(effects(6, private(2)))
	b.want("e1", "6 deliver(a)m2")
}

func TestCommittableIsTheSlowestEdge(t *testing.T) {
	b := newBed(t, "e1", "e2")
	b.Claim(part, 10)
	b.Claim(other, 3)
	want := func(p, o int64) {
		t.Helper()
		if d := cmp.Diff(map[record.PartitionID]int64{part: p, other: o}, b.Committable()); d != "" {
			t.Errorf("committable (-want +got):\n%s", d)
		}
	}
	want(10, 3)
	b.act(effects(10), effects(11), effects(12))
	want(10, 3) // no edge has confirmed
	b.Reply(t.Context(), "e1", &rpcpb.PushReply{Positions: at(part, 12)})
	b.Reply(t.Context(), "e2", &rpcpb.PushReply{Positions: at(part, 10)})
	want(11, 3)
	b.RemoveEdge("e2")
	want(13, 3)
	// Edges that come now are not asked for what is done.
	b.AddEdge(registry.Lease{Server: "e3"})
	want(13, 3)
}

func TestReleaseEndsAPartition(t *testing.T) {
	b := newBed(t, "e1")
	b.Claim(part, 5)
	b.online("b", "e1")
	b.Hello("e1", &rpcpb.EdgeHello{Server: "e1"})
	b.want("e1", "4!")
	b.act(effects(5, private(1)))
	b.Release(part)
	b.want("e1")
	b.act(effects(6, private(2))) // of the former ownership: a hole would hide 5
	b.want("e1")
	if got := b.Committable(); len(got) > 0 {
		t.Errorf("committable %v of a partition not owned", got)
	}
	reopen := b.Deliverer.Claim(part, 5) // it comes back
	if !slices.Equal(reopen, []wire.ServerID{"e1"}) {
		t.Errorf("to reopen: %v", reopen)
	}
	b.act(effects(5, private(1)), effects(6, private(2)))
	b.want("e1")
	b.Hello("e1", &rpcpb.EdgeHello{Positions: at(part, 5)})
	b.want("e1", "6 deliver(b)m2")
	b.act(effects(5, private(1)), effects(6, private(2))) // acted before
	b.want("e1")
}

func TestEphemeral(t *testing.T) {
	b := newBed(t, "e1", "e2")
	b.online("a", "e1")
	if _, err := b.reg.AddGroupEdge(t.Context(), "e2", []wire.GroupID{"team"}); err != nil {
		t.Fatal(err)
	}
	at := record.PartitionID{Topic: "im_push", Number: 1}
	err := b.Ephemeral(t.Context(), []route.Push{
		{Push: &recordpb.Push{Users: []string{"a", "nobody"}, Op: int32(wire.OpTyping), Body: []byte("t")}, At: at, Offset: 7},
		{Push: &recordpb.Push{Group: "team", Op: int32(wire.OpReceipt), Body: []byte("r")}, At: at, Offset: 8},
		{Push: &recordpb.Push{All: true, Op: int32(wire.OpBroadcast), Body: []byte("b")}, At: at, Offset: 9},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.want("e1", "im_push/1@7 deliver(a)t", "im_push/1@9 deliver(all)b")
	b.want("e2", "im_push/1@8 deliver(g=team)r", "im_push/1@9 deliver(all)b")
}

func TestActEndsWithItsContext(t *testing.T) {
	b := newBed(t, "e1")
	b.Claim(part, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Act(ctx, []machine.Effects{effects(0, private(1))}); !errors.Is(err, context.Canceled) {
		t.Errorf("act: %v", err)
	}
	if got := b.Committable()[part]; got != 0 {
		t.Errorf("committable %d: what was not acted must be done again", got)
	}
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	c := Config{EdgeGrace: -1}
	err := c.Validate()
	for _, key := range []string{"job.outbox-frames", "job.outbox-bytes", "job.edge-poll", "job.edge-grace"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("error does not name %s: %v", key, err)
		}
	}
}

// What an edge held when its lease ended is unknown, and everything else is
// somewhere: the ledger balances whatever happens.
func TestLedgerOfPushes(t *testing.T) {
	b := newBed(t, "e1", "e2")
	b.Claim(part, 0)
	b.online("a", "e1")
	b.online("b", "e2")
	account := func(what string, want map[string]int64) {
		t.Helper()
		for _, p := range b.Ledger("job j") {
			if p.Difference != 0 {
				t.Errorf("%s: %+v", what, p)
			}
			if p.What == what {
				for c, n := range want {
					if p.Columns[c] != n {
						t.Errorf("%s: %s is %d, want %d", what, c, p.Columns[c], n)
					}
				}
				return
			}
		}
		t.Errorf("nothing is told of %q", what)
	}
	b.act(effects(0, private(1)), effects(1, private(2)))
	account("to edge e1", map[string]int64{"held": 2})
	b.sent("e1")
	b.Reply(t.Context(), "e1", &rpcpb.PushReply{Positions: at(part, 0), NotHere: []*rpcpb.NotHere{
		{Conv: "p:a:b", Seq: 1, Users: []string{"b", "carl"}},
	}})
	account("to edge e1", map[string]int64{"held": 1, "confirmed": 1})
	account("users not here", map[string]int64{"nobody to file for": 1, "elsewhere": 1})
	if err := b.Ephemeral(t.Context(), []route.Push{{Push: &recordpb.Push{Users: []string{"b"}}}}); err != nil {
		t.Fatal(err)
	}
	account("to edge e2, not stored", map[string]int64{"held": 1})
	b.RemoveEdge("e2")
	account("to edges that are gone", map[string]int64{"unknown (edge gone)": 2})
	account("to edges that are gone, not stored", map[string]int64{"unknown (edge gone)": 1})
	b.Release(part)
	account("to edge e1", map[string]int64{"held": 0, "released": 1})
}
