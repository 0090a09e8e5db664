package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

// msgKey names a message.
type msgKey struct {
	conv wire.ConvID
	from wire.UserID
	cid  string
}

// run is one run under way.
type run struct {
	cfg   Config
	trace *trace.Writer
	api   *api
	life  context.Context //nolint:containedctx // that of the run: ends all clients

	people []*person
	teams  []*team
	conns  atomic.Int64
	calls  atomic.Int64
	work   sync.WaitGroup // what the plan began
	steps  atomic.Int64   // of that, what is not done
	lives  sync.WaitGroup // clients
	rest   atomic.Bool    // nothing new is begun

	mu       sync.Mutex
	slowRand *rand.Rand
	msgs     map[msgKey]*message
	open     map[*message]bool // not settled, or not yet with everybody it is surely for
	recent   []*message        // acknowledged, for who changes or repeats one
}

// Faults breaks the system while a run lasts; nil does nothing.
type Faults interface {
	// Run makes faults until ctx ends and puts right what it broke. inSync waits
	// until everything begun by now is with everybody; false: it was not in time.
	Run(ctx context.Context, note func(trace.FaultEvent), inSync func(ctx context.Context) bool)
}

// ErrBroken says that a run could not be finished: what was seen can be judged.
var ErrBroken = errors.New("the run was broken off")

// Run connects everybody, lets them talk, waits until all is calm, and reads
// everything once more. It writes to w, which stays open. An error means that
// nothing can be said of the system.
func Run(ctx context.Context, cfg Config, w *trace.Writer, faults Faults) error {
	life, stop := context.WithCancel(ctx)
	r := &run{
		cfg: cfg, trace: w, api: newAPI(cfg.apis()), life: life, msgs: make(map[msgKey]*message), open: make(map[*message]bool),
		slowRand: rand.New(rand.NewPCG(cfg.Seed, 3)), //nolint:gosec // a load, not a secret
	}
	defer r.api.client.CloseIdleConnections()
	defer r.lives.Wait()
	defer stop()
	if err := r.begin(life); err != nil {
		return err
	}
	r.phase(trace.PhaseWork, "")
	working, enough := context.WithTimeout(life, cfg.Duration)
	defer enough()
	var breaking sync.WaitGroup
	if faults != nil {
		breaking.Go(func() {
			faults.Run(working, func(f trace.FaultEvent) { r.trace.Add(&trace.Event{Kind: trace.Fault, Fault: &f}) }, r.inSync)
		})
	}
	r.plan(life, working)
	breaking.Wait() // what is broken is whole again
	r.rest.Store(true)
	r.phase(trace.PhaseRest, "")
	if missing := r.calm(life); missing == "" {
		r.phase(trace.PhaseCalm, "")
	} else {
		r.phase(trace.PhaseLate, missing)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: it was ended: %w", ErrBroken, err)
	}
	r.phase(trace.PhaseRead, "")
	if err := r.readAll(life); err != nil {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	stop()
	r.work.Wait()
	r.lives.Wait()
	return nil
}

func (r *run) phase(name, text string) {
	r.trace.Add(&trace.Event{Kind: trace.Phase, Text: name, Content: text})
}

// do begins a step.
func (r *run) do(step func()) {
	r.steps.Add(1)
	r.work.Go(func() {
		defer r.steps.Add(-1)
		step()
	})
}

func (r *run) working() bool { return !r.rest.Load() }

// slowFor is how long a slow device reads, or does not.
func (r *run) slowFor() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Second + time.Duration(r.slowRand.Int64N(int64(6*time.Second)))
}

// begin makes everybody, connects them, and makes the groups.
func (r *run) begin(ctx context.Context) error {
	if err := r.api.answers(ctx); err != nil {
		return err
	}
	minting, minted := context.WithTimeout(ctx, r.cfg.Settle)
	defer minted()
	if err := r.makePeople(minting); err != nil {
		return err
	}
	for _, p := range r.people {
		for _, d := range p.devices {
			r.lives.Go(func() { d.live(ctx) })
		}
	}
	waiting, cancel := context.WithTimeout(ctx, r.cfg.Settle)
	defer cancel()
	for _, p := range r.people {
		for _, d := range p.devices {
			if !d.late && d.standing(waiting) == nil {
				return fmt.Errorf("%s could not connect within %v; is an edge up (GET /v1/edges)?", p.id, r.cfg.Settle)
			}
		}
	}
	return r.makeTeams(waiting)
}

func (r *run) makePeople(ctx context.Context) error {
	rng := rand.New(rand.NewPCG(r.cfg.Seed, 1)) //nolint:gosec // a load, not a secret
	for i := range r.cfg.Users {
		p := &person{id: wire.UserID(fmt.Sprintf("%su%d", r.cfg.Prefix, i))}
		ids := []string{"phone"}
		if i%2 == 0 {
			ids = append(ids, "web")
		}
		if i%8 == 1 {
			ids = append(ids, "slow")
		}
		if i%8 == 3 {
			ids = append(ids, "late")
		}
		for j, id := range ids {
			d := &device{
				r: r, p: p, id: wire.DeviceID(id), slow: id == "slow", late: id == "late", away: id == "late", binary: (i+j)%3 == 0,
				inbox: newInbox(), due: make(chan struct{}, 1), up: make(chan struct{}),
			}
			var err error
			if d.token, err = r.api.mint(ctx, r.cfg.AdminToken, p.id, d.id); err != nil {
				return err
			}
			p.devices = append(p.devices, d)
		}
		r.people = append(r.people, p)
	}
	for i, p := range r.people { // a ring, and one more
		p.peers = []*person{r.people[(i+1)%len(r.people)], r.people[(i+len(r.people)-1)%len(r.people)]}
		if q := r.people[rng.IntN(len(r.people))]; q != p {
			p.peers = append(p.peers, q)
		}
	}
	return nil
}

// begun notes that a message is to be sent from now on.
func (r *run) begun(m *message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.msgs[msgKey{m.conv, m.from.id, m.send.ClientID}] = m
	r.open[m] = true
}

// shown notes that a user was shown a message.
func (r *run) shown(u wire.UserID, conv wire.ConvID, m *wire.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.msgs[msgKey{conv, m.From, m.ClientID}]
	if x == nil {
		return
	}
	x.seen[u] = true
	r.closeLocked(x)
}

// settle notes an answer that ends the sending of a message.
func (r *run) settle(m *message, id wire.MsgID, refused bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.done, m.id = true, id
	m.refused = m.refused || refused // the refusal of an acknowledged one may overtake its send_ack
	if !m.refused {
		if r.recent = append(r.recent, m); len(r.recent) > 512 {
			r.recent = r.recent[256:]
		}
	}
	r.closeLocked(m)
}

// refused notes that an acknowledged message will not come after all.
func (r *run) refused(from wire.UserID, conv wire.ConvID, cid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.msgs[msgKey{conv, from, cid}]; m != nil {
		m.refused = true
		r.closeLocked(m)
	}
}

// closeLocked forgets a message once it is with everybody it is surely for.
func (r *run) closeLocked(m *message) {
	if !m.done {
		return
	}
	if !m.refused {
		if m.somebody && len(m.seen) == 0 {
			return
		}
		for _, p := range m.to {
			if !m.seen[p.id] {
				return
			}
		}
	}
	delete(r.open, m)
}

// remind lets those sync whose acknowledged messages nobody has seen: a refusal
// may have found no connection of theirs.
func (r *run) remind() {
	r.mu.Lock()
	var who []*person
	for m := range r.open {
		if m.done && m.somebody {
			who = append(who, m.from)
		}
	}
	r.mu.Unlock()
	for _, p := range who {
		p.steady()[0].syncSoon()
	}
}

// remindEvery is how many times inSync and calm look before they remind.
const remindEvery = 100

// inSync waits until everything begun by now is settled and with everybody.
func (r *run) inSync(ctx context.Context) bool {
	r.mu.Lock()
	var wait []*message
	for m := range r.open {
		wait = append(wait, m)
	}
	r.mu.Unlock()
	deadline := time.Now().Add(r.cfg.Settle)
	for n := 1; ; n++ {
		left := 0
		r.mu.Lock()
		for _, m := range wait {
			if r.open[m] {
				left++
			}
		}
		r.mu.Unlock()
		if left == 0 && r.standing() {
			return true
		}
		if ctx.Err() != nil || r.life.Err() != nil || time.Now().After(deadline) {
			return false
		}
		if pause(ctx, retryPause/4); n%remindEvery == 0 {
			r.remind()
		}
	}
}

// standing says whether everybody who is not away by plan is connected.
func (r *run) standing() bool {
	for _, p := range r.people {
		for _, d := range p.devices {
			d.mu.Lock()
			ok := d.link != nil || d.away || d.slow
			d.mu.Unlock()
			if !ok {
				return false
			}
		}
	}
	return true
}
