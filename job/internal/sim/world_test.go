package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/wire"
)

// startMS is the time at which every schedule begins.
const startMS = 1_700_000_000_000

var errFault = errors.New("planned fault")

// options are what a schedule is made of beside its seed.
type options struct {
	steps int
	bug   bug
}

// world is everything there is in one schedule.
type world struct {
	seed uint64
	rng  *rand.Rand
	bug  bug
	now  int64

	st  *memstore.Store
	reg *memregistry.Registry

	log       map[record.PartitionID][]record.Entry
	parts     []record.PartitionID
	counts    map[string]int32 // partitions of each topic
	committed map[record.PartitionID]int64
	acted     map[record.PartitionID]int64 // by whomever, up to here
	owner     map[record.PartitionID]*job

	jobs    []*job
	edges   []*edge
	devices []*device
	users   []wire.UserID
	groups  []wire.GroupID

	nextID, nextConn, nextClient int64
	sends                        []*send
	junk                         int64    // poison records in the log
	letters                      []letter // of those that say whose they are
	calm                         bool     // no more faults
	stale                        bool     // the index was stale in this schedule: pushes may be missing
	outbox                       int
	flight                       *store.Turn // a commit that has not arrived yet, though its answer was given up
	limits                       *recordpb.Limits
	story                        []string
	err                          error
}

func newWorld(seed uint64, o options) *world {
	w := &world{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 0x57a7)), bug: o.bug, now: startMS,
		st: memstore.New(), reg: memregistry.New(),
		log:       make(map[record.PartitionID][]record.Entry),
		committed: make(map[record.PartitionID]int64),
		acted:     make(map[record.PartitionID]int64),
		owner:     make(map[record.PartitionID]*job),
		counts:    map[string]int32{record.TopicMessages: 2, record.TopicGroups: 2},
		nextID:    1000, nextConn: 1,
		users:  []wire.UserID{"u0", "u1", "u2", "u3", "u4"},
		groups: []wire.GroupID{"g0", "g1"},
		outbox: 1 << 10,
		limits: &recordpb.Limits{LargeGroup: 500, MaxMembers: 1000, RecallWindowMs: 120_000},
	}
	w.reg.SetNow(w.now)
	if w.chance(30) {
		w.outbox = 4 + w.rng.IntN(12) // slow edges lose frames
	}
	if w.chance(20) {
		w.limits.LargeGroup = 3 // groups become large
	}
	for _, topic := range []string{record.TopicMessages, record.TopicGroups} {
		for n := range w.counts[topic] {
			p := record.PartitionID{Topic: topic, Number: n}
			w.parts = append(w.parts, p)
			w.committed[p], w.acted[p] = -1, -1
		}
	}
	for i := range 2 + w.rng.IntN(2) {
		e := &edge{w: w, server: wire.ServerID(fmt.Sprintf("e%d", i))}
		w.edges = append(w.edges, e)
		e.start()
	}
	for _, e := range w.edges {
		e.announce()
	}
	for i := range 3 {
		j := &job{w: w, name: fmt.Sprintf("j%d", i)}
		w.jobs = append(w.jobs, j)
		j.start()
	}
	for _, p := range w.parts {
		w.assign(p, w.jobs[w.rng.IntN(len(w.jobs))])
	}
	if w.chance(70) { // else they are made, if at all, in the course of it
		for i, g := range w.groups {
			w.nextClient++
			w.produce(&recordpb.Record{
				Id: w.newID(), Conv: string(wire.GroupConv(g)), From: "u0", ClientId: fmt.Sprintf("c%d", w.nextClient), Hash: 1,
				Body: &recordpb.Record_Command{Command: &recordpb.Command{
					Kind: recordpb.Command_CREATE, Name: (*string)(&g), Users: []string{"u1", string(w.users[2+i])},
				}},
			})
		}
	}
	for i, u := range w.users {
		for d := range 1 + (i % 2) {
			w.devices = append(w.devices, newDevice(w, u, wire.DeviceID(fmt.Sprintf("d%d", d))))
		}
	}
	return w
}

// chance is true in percent of 100 cases.
func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

func pick[T any](w *world, list []T) T { return list[w.rng.IntN(len(list))] }

func (w *world) tell(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf(format, args...))
}

// fail keeps the first broken promise; the schedule ends with it.
func (w *world) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
}

// run does one schedule and returns the first broken promise.
func run(seed uint64, o options) error {
	w := newWorld(seed, o)
	for i := 0; i < o.steps && w.err == nil; i++ {
		w.step()
	}
	if w.err == nil {
		w.settle()
	}
	if w.err == nil {
		w.check()
	}
	for _, j := range w.jobs {
		j.stop()
	}
	if w.err == nil {
		return nil
	}
	tail := w.story[max(0, len(w.story)-100):]
	return fmt.Errorf("seed %d: %w\n%s\nagain: STARLING_SIM_SEED=%d go test ./job/internal/sim -run TestSchedules",
		seed, w.err, strings.Join(tail, "\n"), seed)
}

// step does one thing that can happen next.
func (w *world) step() {
	w.now += int64(w.rng.IntN(20))
	w.reg.SetNow(w.now)
	switch r := w.rng.IntN(100); {
	case r < 30:
		pick(w, w.devices).step()
	case r < 62:
		if j := pick(w, w.jobs); j.alive {
			j.step()
		}
	case r < 92:
		pick(w, w.edges).step()
	case r < 94:
		w.command()
	case r < 95 && w.chance(50):
		w.update()
	case r < 95:
		w.replay()
	default:
		w.fault()
	}
}

// produce appends a record to the log.
func (w *world) produce(r *recordpb.Record) record.Entry {
	r.Limits = w.limits
	b, err := record.Encode(r)
	if err != nil {
		w.fail("encode: %w", err)
	}
	p := w.place(r)
	e := w.append(p, b)
	if w.chance(3) {
		w.append(p, b)
	}
	return e
}

// place is the partition of a record's conversation.
func (w *world) place(r *recordpb.Record) record.PartitionID {
	p := record.PartitionID{Topic: record.Topic(wire.ConvID(r.GetConv()))}
	p.Number = record.PartitionOf(r.GetConv(), w.counts[p.Topic])
	return p
}

func (w *world) append(p record.PartitionID, b []byte) record.Entry {
	e := record.Entry{PartitionID: p, Offset: int64(len(w.log[p])), TS: w.now, Value: b}
	w.log[p] = append(w.log[p], e)
	return e
}

func (w *world) newID() int64 { w.nextID++; return w.nextID }

// block has a user block another, or end that, as logic produces it for HTTP.
func (w *world) block() {
	from, kind := pick(w, w.users), recordpb.Command_BLOCK
	if w.chance(50) {
		kind = recordpb.Command_UNBLOCK
	}
	conv := wire.PrivateConv(from, pick(w, w.users))
	w.nextClient++
	e := w.produce(&recordpb.Record{
		Id: w.newID(), Conv: string(conv), From: string(from), ClientId: fmt.Sprintf("b%d", w.nextClient), Hash: uint64(w.nextClient),
		Body: &recordpb.Record_Command{Command: &recordpb.Command{Kind: kind}},
	})
	w.tell("%v@%d %s %v in %s", e.PartitionID, e.Offset, from, kind, conv)
}

// command changes a group, as logic produces it for HTTP.
func (w *world) command() {
	if w.chance(25) {
		w.block()
		return
	}
	g := pick(w, w.groups)
	w.nextClient++
	r := &recordpb.Record{
		Id: w.newID(), Conv: string(wire.GroupConv(g)), From: "u0", ClientId: fmt.Sprintf("c%d", w.nextClient),
		Hash: uint64(w.nextClient),
	}
	c := &recordpb.Command{}
	some := func() []string {
		out := []string{string(pick(w, w.users[1:]))}
		if w.chance(30) {
			out = append(out, string(pick(w, w.users[1:])))
		}
		return out
	}
	switch n := w.rng.IntN(20); {
	case n < 3:
		c.Kind, c.Name, c.Users = recordpb.Command_CREATE, (*string)(&g), some()
	case n < 9:
		c.Kind, c.Users = recordpb.Command_ADD, some()
	case n < 15:
		c.Kind, c.Users = recordpb.Command_REMOVE, some()
	case n < 17:
		c.Kind, c.Users = recordpb.Command_REMOVE, some()[:1]
		r.From = c.Users[0]
	case n < 18:
		c.Kind, c.Users, c.Role = recordpb.Command_ROLE, some()[:1], "admin"
	case n < 19:
		c.Kind, c.Name = recordpb.Command_RENAME, new("other")
	default:
		c.Kind, c.Users, c.Until = recordpb.Command_MUTE, some()[:1], w.now+200
	}
	for range len(c.GetUsers()) - 1 {
		c.EventIds = append(c.EventIds, w.newID())
	}
	r.Body = &recordpb.Record_Command{Command: c}
	e := w.produce(r)
	w.tell("%v@%d %s %v %v in %s", e.PartitionID, e.Offset, r.From, c.GetKind(), c.GetUsers(), g)
}

// update recalls or edits a message that stands, as logic produces it.
func (w *world) update() {
	if len(w.sends) == 0 {
		return
	}
	s := pick(w, w.sends)
	key := store.OutcomeKey{Conv: s.conv, From: s.from, ClientID: s.clientID}
	o, err := w.st.Outcome(context.Background(), key)
	if err != nil || o.Code != "" {
		return
	}
	u := &recordpb.Update{TargetId: int64(o.ID), Status: wire.StatusRecalled}
	if w.chance(60) {
		u.Status, u.Content = wire.StatusEdited, s.content+" edited"
	}
	w.nextClient++
	e := w.produce(&recordpb.Record{
		Id: w.newID(), Conv: string(s.conv), From: string(s.from), ClientId: fmt.Sprintf("u%d", w.nextClient),
		Hash: uint64(w.nextClient), Body: &recordpb.Record_Update{Update: u},
	})
	w.tell("%v@%d %s %s %s in %s", e.PartitionID, e.Offset, s.from, u.GetStatus(), s.clientID, s.conv)
}
