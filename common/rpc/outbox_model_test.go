package rpc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/rpc/rpcpb"
)

// modelEdge is an edge as simple as it can be: it remembers every offset that
// was passed on to it since it started.
type modelEdge struct {
	pos  Positions
	born map[record.PartitionID]int64          // records up to here were applied before it started: its sessions sync them
	got  map[record.PartitionID]map[int64]bool // delivered
	lost map[record.PartitionID]int64          // told lost up to
	last map[record.PartitionID]int64
}

func (m *model) startEdge() {
	m.edge = &modelEdge{
		born: map[record.PartitionID]int64{}, got: map[record.PartitionID]map[int64]bool{},
		lost: map[record.PartitionID]int64{}, last: map[record.PartitionID]int64{},
	}
	for _, p := range m.parts {
		m.edge.born[p], m.edge.lost[p] = m.applied[p]-1, -1
		m.edge.got[p] = map[int64]bool{}
	}
}

func (e *modelEdge) take(f *rpcpb.PushFrame) error {
	if f.GetAt() == nil {
		return nil
	}
	p, offset := PartitionOf(f.GetAt()), f.GetAt().GetOffset()
	if !e.pos.Admit(f.GetAt(), f.GetLost()) {
		return nil
	}
	if l, ok := e.last[p]; ok && offset <= l {
		return fmt.Errorf("%v: %d passed on after %d", p, offset, l)
	}
	e.last[p] = offset
	if f.GetLost() {
		e.lost[p] = offset
	} else if len(f.GetItems()) > 0 {
		e.got[p][offset] = true
	}
	return nil
}

// owner is a job that owns (or believes it owns) the partitions.
type owner struct {
	box  *Outbox
	next map[record.PartitionID]int64 // to act
	wire []*rpcpb.PushFrame           // under way to the edge
	back [][]*rpcpb.Position          // under way to the job
	up   bool
}

// model is one run: a log of which some records bring this edge a frame, a
// present owner, a zombie before it, an edge.
type model struct {
	r         *rand.Rand
	parts     []record.PartitionID
	has       map[record.PartitionID][]bool // log: does the record bring a frame
	applied   map[record.PartitionID]int64  // next offset to apply
	committed map[record.PartitionID]int64
	edge      *modelEdge
	own, old  *owner
	small     bool
}

func newModel(seed uint64) *model {
	m := &model{
		r: rand.New(rand.NewPCG(seed, 1)), parts: []record.PartitionID{pA, pB},
		has: map[record.PartitionID][]bool{}, applied: map[record.PartitionID]int64{},
		committed: map[record.PartitionID]int64{},
	}
	m.small = m.r.IntN(2) == 0
	m.startEdge()
	m.takeOver()
	return m
}

func (m *model) box() *Outbox {
	if m.small {
		return NewOutbox(OutboxConfig{MaxFrames: 5, MaxBytes: 1 << 20})
	}
	return big()
}

// takeOver makes a new owner; the present one lives on as a zombie that acts
// on what it has applied, but commits nothing.
func (m *model) takeOver() {
	m.old = m.own
	m.own = &owner{box: m.box(), next: map[record.PartitionID]int64{}}
	for _, p := range m.parts {
		start := min(m.committed[p], m.applied[p])
		m.own.next[p] = start
		m.own.box.Claim(p, start-1)
	}
}

func (m *model) step() error {
	o := m.own
	if m.old != nil && m.r.IntN(3) == 0 {
		o = m.old
	}
	p := m.parts[m.r.IntN(len(m.parts))]
	switch k := m.r.IntN(100); {
	case k < 25: // a record is applied
		m.has[p] = append(m.has[p], m.r.IntN(3) > 0)
		m.applied[p]++
	case k < 50: // the owner acts; a zombie may still act on what it applied
		m.act(o, p)
	case k < 70:
		m.send(o)
	case k < 85:
		if o.up && len(o.wire) > 0 {
			return m.arrive(o, 1+m.r.IntN(len(o.wire)))
		}
	case k < 90:
		m.confirm(o)
	case k < 94:
		return m.cut(o)
	case k < 96:
		m.commit(p)
	case k < 97: // the partition goes and comes back to the same process
		m.commit(p)
		m.own.box.Release(p)
		start := min(m.committed[p], m.applied[p])
		m.own.next[p] = start
		if m.own.box.Claim(p, start-1) {
			return m.cut(m.own)
		}
	case k < 98:
		m.takeOver()
	case k < 99: // the edge restarts
		m.startEdge()
		for _, o := range []*owner{m.own, m.old} {
			if o != nil {
				o.box.Down()
				o.up, o.wire, o.back = false, nil, nil
			}
		}
	}
	return nil
}

func (m *model) act(o *owner, p record.PartitionID) {
	if o.next[p] >= m.applied[p] {
		return
	}
	offset := o.next[p]
	o.next[p]++
	if m.has[p][offset] {
		o.box.Push(frame(p, offset))
	}
	o.box.Advance(p, offset)
}

func (m *model) send(o *owner) {
	if !o.up {
		o.up = true
		o.box.Resume(m.edge.pos.Snapshot())
	}
	if m.r.IntN(3) == 0 {
		o.box.Beat()
	}
	o.wire = append(o.wire, o.box.Next(1+m.r.IntN(4)).GetFrames()...)
}

func (m *model) arrive(o *owner, n int) error {
	for _, f := range o.wire[:n] {
		if err := m.edge.take(f); err != nil {
			return err
		}
	}
	o.wire = o.wire[n:]
	o.back = append(o.back, m.edge.pos.Snapshot())
	return nil
}

func (m *model) confirm(o *owner) {
	if len(o.back) > 0 {
		o.box.Confirm(o.back[0])
		o.back = o.back[1:]
	}
}

// cut ends a stream: of what is under way a part arrives, no reply does.
func (m *model) cut(o *owner) error {
	if !o.up {
		return nil
	}
	err := m.arrive(o, m.r.IntN(len(o.wire)+1))
	o.up, o.wire, o.back = false, nil, nil
	o.box.Down()
	return err
}

func (m *model) commit(p record.PartitionID) {
	next := m.own.next[p]
	if u, ok := m.own.box.Unconfirmed(p); ok {
		next = min(next, u)
	}
	m.committed[p] = max(m.committed[p], next)
}

// balance checks that every frame taken in is somewhere.
func (m *model) balance() error {
	for _, o := range []*owner{m.own, m.old} {
		if o == nil {
			continue
		}
		if m.r.IntN(10) == 0 {
			o.box.Push(&rpcpb.PushFrame{})
		}
		s := o.box.Stats()
		if s.Pushed != s.Confirmed+s.Lost+s.Released+uint64(s.Held) || s.Ephemeral != s.EphemeralSent+s.EphemeralDropped+uint64(s.Frames-s.Held) {
			return fmt.Errorf("does not balance: %+v", s)
		}
	}
	return nil
}

// settle lets everything that is under way arrive and checks the promise: what
// an edge did not get it was told lost.
func (m *model) settle() error {
	m.old = nil
	for _, p := range m.parts {
		for m.own.next[p] < m.applied[p] {
			m.act(m.own, p)
		}
	}
	for range 1000 {
		m.send(m.own)
		m.own.box.Beat()
		if err := m.arrive(m.own, len(m.own.wire)); err != nil {
			return err
		}
		for len(m.own.back) > 0 {
			m.confirm(m.own)
		}
	}
	for _, p := range m.parts {
		if u, ok := m.own.box.Unconfirmed(p); ok {
			return fmt.Errorf("%v: %d is never confirmed", p, u)
		}
		born := m.edge.born[p]
		for offset, has := range m.has[p] {
			o := int64(offset)
			if has && o > born && o > m.edge.lost[p] && !m.edge.got[p][o] {
				return fmt.Errorf("%v: %d never came and was not told lost (born %d, lost %d)", p, o, born, m.edge.lost[p])
			}
		}
	}
	if st := m.own.box.Stats(); st.Frames != 0 || st.Bytes != 0 {
		return fmt.Errorf("confirmed box holds %+v", st)
	}
	return nil
}

// TestOutboxModel runs random schedules of acting, cuts, confirmations, commits,
// takeovers with zombies, and restarts of the edge, against a naive edge.
func TestOutboxModel(t *testing.T) {
	for seed := range uint64(1500) {
		m := newModel(seed)
		steps := 20 + m.r.IntN(300)
		for i := range steps {
			if err := errors.Join(m.step(), m.balance()); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, i, err)
			}
		}
		if err := m.settle(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
