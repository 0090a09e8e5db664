package sim

import (
	"context"

	"github.com/starling-im/starling/common/record"
)

// assign is the group's decision: the partition is j's from here on. Whoever
// had it before may not know yet.
func (w *world) assign(p record.PartitionID, j *job) {
	if !j.alive {
		return
	}
	old := w.owner[p]
	if old == j {
		return
	}
	if old != nil && old.alive && w.chance(50) {
		old.revoke(p)
	} // else it goes on as a zombie
	if _, mine := j.next[p]; mine {
		j.revoke(p) // it was a zombie itself, and learns it before it gets it again
	}
	if j.alive {
		j.claim(p)
	}
}

// fault is one thing that goes wrong, or comes right again.
func (w *world) fault() {
	switch r := w.rng.IntN(26); {
	case r < 3:
		w.assign(pick(w, w.parts), pick(w, w.jobs))
	case r < 5:
		w.adopt()
	case r < 8:
		if j := pick(w, w.jobs); j.alive && j.ops == 0 {
			j.ops = 1 + w.rng.IntN(8) // dies in one of its next calls
		} else if !j.alive {
			j.start()
		}
	case r < 9:
		if j := pick(w, w.jobs); j.alive {
			w.tell("%s is killed", j.name)
			j.stop()
		}
	case r < 11:
		w.zombiesLearn()
	case r < 15:
		e, j := pick(w, w.edges), pick(w, w.jobs)
		if j.alive {
			w.tell("stream %s to %s is cut", j.name, e.server)
			e.cut(j)
		}
	case r < 18:
		w.edgeFault(pick(w, w.edges))
	case r < 20:
		w.reg.SetAway(w.chance(50))
	case r < 21:
		w.flush()
	case r < 22 && w.seed%4 == 0:
		w.tell("the index is stale")
		w.stale = true
		w.reg.Freeze()
	case r < 24:
		w.reg.Thaw()
	default:
		p := pick(w, w.parts)
		w.append(p, junk)
		w.junk++
	}
}

// adopt gives partitions without an owner to a job that lives.
func (w *world) adopt() {
	for _, p := range w.parts {
		if w.owner[p] == nil {
			w.assign(p, pick(w, w.jobs))
		}
	}
}

// zombiesLearn tells every job what it does not own any more.
func (w *world) zombiesLearn() {
	for _, j := range w.jobs {
		for _, p := range w.parts {
			if _, has := j.next[p]; has && j.alive && w.owner[p] != j {
				j.revoke(p)
			}
		}
	}
}

// edgeFault kills an edge, brings it back, or lets its lease lapse, and the
// jobs see that or not.
func (w *world) edgeFault(e *edge) {
	ctx := context.Background()
	switch {
	case !e.alive && w.chance(50):
		e.start()
		w.tell("%s starts again", e.server)
	case !e.alive:
		_ = w.reg.Release(ctx, e.lease())
		w.edgeGone(e)
	case w.chance(50):
		e.crash()
	case w.chance(50):
		w.tell("the lease of %s lapses", e.server)
		_ = w.reg.Release(ctx, e.lease())
		e.leased = false
		e.list(false)
		w.edgeGone(e)
	}
}

// edgeGone makes the jobs see that a lease ended.
func (w *world) edgeGone(e *edge) {
	for _, j := range w.jobs {
		if j.alive && w.chance(70) {
			e.cut(j)
			j.d.RemoveEdge(e.server)
		}
	}
}

// flush empties the index. Leases are renewed at once, everything else when
// each edge announces.
func (w *world) flush() {
	w.tell("the index is emptied")
	w.reg.SetAway(false)
	w.reg.Flush()
	w.reg.SetNow(w.now)
	for _, e := range w.edges {
		if e.alive && e.leased {
			e.renew()
		}
	}
}

// settle ends all faults and drives everything until nothing moves any more.
func (w *world) settle() {
	w.calm = true
	w.tell("faults end")
	w.reg.SetAway(false)
	w.reg.Thaw()
	for _, e := range w.edges {
		if !e.alive {
			e.start()
		}
	}
	for _, j := range w.jobs {
		j.ops = 0
		if !j.alive {
			j.start()
		}
	}
	w.zombiesLearn()
	w.adopt()
	for round := range 400 {
		if w.err != nil {
			return
		}
		if w.round() && round > 2 {
			return
		}
	}
	w.fail("nothing comes to rest: %s", w.unrest())
}

// round is everybody's turn once; true when all is done.
func (w *world) round() bool {
	for _, e := range w.edges {
		if e.unlisted || e.unknown || !e.leased {
			e.announce()
		}
	}
	for _, j := range w.jobs {
		j.d.Refresh(j.ctx)
		j.turn(100)
		j.act(len(j.pending))
		for _, e := range w.edges {
			if j.streams[e] == nil {
				j.open(e)
			}
			w.pump(j, e)
		}
		j.commit()
	}
	for _, d := range w.devices {
		d.calm()
	}
	return w.unrest() == ""
}

// pump moves everything of one stream.
func (w *world) pump(j *job, e *edge) {
	for range 50 {
		st := j.streams[e]
		if st == nil {
			return
		}
		j.receive(st)
		j.send(e)
		e.receive(st)
		e.reply(st)
	}
}

// calm is one round of a client that only wants to finish.
func (d *device) calm() {
	if d.sess != nil && d.sess.closed {
		d.lose()
	}
	s := d.sess
	if s == nil {
		if d.w.bug != noBug || len(d.retry) > 0 {
			d.sess = pick(d.w, d.w.edges).connect(d)
		}
		return // who is offline stays so until the check
	}
	for s.phase < phaseLive && !s.closed {
		s.login()
	}
	s.receive(1 << 20)
	if s.needSync {
		d.sync()
	}
	for _, again := range d.retry {
		again.retried, s.disorder = true, true
		s.up = append(s.up, again)
	}
	d.retry = nil
	for len(s.up) > 0 {
		d.logic()
	}
}

// unrest says what is not done yet, "" if all is.
func (w *world) unrest() string {
	for _, p := range w.parts {
		if w.committed[p] < int64(len(w.log[p])) {
			return "committed offset of " + p.String() + " stays below the end"
		}
	}
	for _, d := range w.devices {
		s := d.sess
		if len(d.retry) > 0 || s != nil && (s.closed || s.phase < phaseLive || len(s.up) > 0 || len(s.down) > 0 || s.needSync) {
			return d.String() + " has something to do"
		}
	}
	for _, e := range w.edges {
		if e.unlisted || e.unknown || !e.leased {
			return string(e.server) + " is not listed"
		}
	}
	return ""
}
