package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	starling "github.com/starling-im/starling/client/go"
	"github.com/starling-im/starling/common/wire"
)

// TestKill9 ends the process with SIGKILL in the middle of 10,000 sends, four
// times (ten, if it may take long) on the same data. What was acknowledged must be there once, every seq
// from 1 without a hole, in the order of each connection, and sync must bring
// all of it.
func TestKill9(t *testing.T) {
	rounds, sends := 4, 10_000
	switch {
	case long():
		rounds = 10
	case raceEnabled:
		rounds, sends = 3, 2_000 // the same code, five times slower
	}
	s := Start(t, binary, "STARLING_LIMITS_MESSAGES_PER_SECOND=0") // a user sends more at once than a person would
	rng := rand.New(rand.NewPCG(7, 7))
	crowd := newCrowd(t, s, 8)
	for round := range rounds {
		killAt := int64(rng.IntN(sends * 8 / 10))
		before := crowd.acked.Load()
		var wg sync.WaitGroup
		wg.Go(func() { crowd.send(round, sends) })
		Eventually(t, time.Minute, "enough acknowledgements to kill it amid", func() error {
			if n := crowd.acked.Load() - before; n < killAt {
				return fmt.Errorf("%d of %d", n, killAt)
			}
			return nil
		})
		s.Kill(t)
		died := crowd.acked.Load() - before
		up := time.Now()
		s.Up(t)
		t.Logf("round %d: killed after %d acknowledgements, ready again in %v", round, died, time.Since(up).Round(time.Millisecond))
		close(crowd.revived)
		wg.Wait()
		crowd.revived = make(chan struct{})
		crowd.check()
		s.Balanced(t)
	}
}

// crowd is users who all write to one group and to their neighbour.
type crowd struct {
	t       *testing.T
	s       *System
	users   []string
	tokens  []string
	group   string
	revived chan struct{} // closed when the system is up again
	acked   atomic.Int64

	mu        sync.Mutex
	acks      map[wire.ConvID]map[string]wire.MsgID // client_id -> id of the answer
	corrected map[string]wire.MsgID                 // client_id -> id of a second send_ack
	fifos     [][]string                            // client ids acknowledged on one connection, per conversation, in order
}

func newCrowd(t *testing.T, s *System, n int) *crowd {
	c := &crowd{t: t, s: s, revived: make(chan struct{}), acks: make(map[wire.ConvID]map[string]wire.MsgID)}
	for range n {
		u := s.Name("crowd")
		c.users = append(c.users, u)
		c.tokens = append(c.tokens, s.Token(t, u, "d"))
	}
	c.group = s.Name("crowd-group")
	s.Join(t, c.users[0], "maker").Group(c.group, c.users[1:]...)
	return c
}

// send has every user send its share; what has no answer when the connection
// breaks is sent again, under the same client_id, once the system is back.
func (c *crowd) send(round, total int) {
	var wg sync.WaitGroup
	for i := range c.users {
		wg.Go(func() {
			var todo []wire.Send
			for n := range total / len(c.users) {
				m := wire.Send{ClientID: fmt.Sprintf("r%d-u%d-%d", round, i, n), Type: wire.TypeText, Content: fmt.Sprint(n)}
				if n%2 == 0 {
					m.Group = wire.GroupID(c.group)
				} else {
					m.To = wire.UserID(c.users[(i+1)%len(c.users)])
				}
				todo = append(todo, m)
			}
			refused := false
			for attempts := 0; len(todo) > 0; {
				if attempts > 100 {
					c.t.Errorf("%s: %d sends unanswered after %d connections", c.users[i], len(todo), attempts)
					return
				}
				todo = c.connection(i, todo, &refused)
				select {
				case <-c.revived:
					attempts++
				default: // it may be down for as long as its start takes
				}
			}
		})
	}
	wg.Wait()
}

// connection sends todo over one connection and returns what got no answer.
// refused says whether an error was among the answers of this or an earlier one.
func (c *crowd) connection(i int, todo []wire.Send, refused *bool) (left []wire.Send) {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	cl, err := starling.Dial(ctx, starling.Options{URL: c.s.WS(), Token: c.tokens[i], Device: "d", Platform: "e2e", OnPush: c.push})
	if err != nil {
		select {
		case <-c.revived:
			time.Sleep(20 * time.Millisecond) // a pause between attempts, not a wait for a condition
		case <-time.After(2 * startTimeout):
			c.t.Errorf("%s: the system is not back: %v", c.users[i], err)
			return nil
		}
		return todo
	}
	c.t.Cleanup(cl.Close) // stays open: a corrected send_ack may follow the answers
	inFlight := make(chan struct{}, 60)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, m := range todo {
		inFlight <- struct{}{}
		wg.Add(1)
		done := func(ack wire.SendAck, err error) {
			defer wg.Done()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				left = append(left, m)
				if _, ok := errors.AsType[*wire.Error](err); ok {
					*refused = true
				}
			} else {
				c.ack(ack, true)
			}
			<-inFlight
		}
		if err := cl.SendAsync(m, done); err != nil {
			done(wire.SendAck{}, err)
		}
	}
	wg.Wait()
	switch {
	case *refused:
		// What came after the refused one may stand already: no order is promised.
		time.Sleep(20 * time.Millisecond) // a pause between attempts, not a wait for a condition
	case len(left) == 0:
		c.keepOrder(i, todo)
	}
	slices.SortStableFunc(left, func(a, b wire.Send) int { return slices.IndexFunc(todo, same(a)) - slices.IndexFunc(todo, same(b)) })
	return left
}

func same(a wire.Send) func(wire.Send) bool {
	return func(b wire.Send) bool { return a.ClientID == b.ClientID }
}

// push takes the second send_ack that follows where the index was lost and a
// retry got another id than the first: the last one counts.
func (c *crowd) push(f wire.Frame) {
	if f.Op != wire.OpSendAck {
		return
	}
	var a wire.SendAck
	if err := wire.Unmarshal(f.Body, &a); err != nil {
		c.t.Errorf("send_ack: %v", err)
		return
	}
	c.ack(a, false)
}

func (c *crowd) ack(a wire.SendAck, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !first {
		if c.corrected == nil {
			c.corrected = make(map[string]wire.MsgID)
		}
		c.corrected[a.ClientID] = a.ID
		return
	}
	if c.acks[a.Conv] == nil {
		c.acks[a.Conv] = make(map[string]wire.MsgID)
	}
	c.acks[a.Conv][a.ClientID] = a.ID
	c.acked.Add(1)
}

// keepOrder remembers what one connection had acknowledged without a failure:
// its order is promised.
func (c *crowd) keepOrder(i int, sent []wire.Send) {
	byConv := make(map[wire.ConvID][]string)
	for _, m := range sent {
		conv := wire.GroupConv(m.Group)
		if m.Group == "" {
			conv = wire.PrivateConv(wire.UserID(c.users[i]), m.To)
		}
		byConv[conv] = append(byConv[conv], m.ClientID)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ids := range byConv {
		c.fifos = append(c.fifos, ids)
	}
}

// check compares history and sync with the acknowledgements.
func (c *crowd) check() {
	c.t.Helper()
	at := make(map[string]int64) // client_id -> seq
	for i, user := range c.users {
		p := c.s.Join(c.t, user, "checker")
		convs := []wire.ConvID{wire.PrivateConv(p.User, wire.UserID(c.users[(i+1)%len(c.users)]))}
		if i == 0 {
			convs = append(convs, wire.GroupConv(wire.GroupID(c.group)))
		}
		for _, conv := range convs {
			c.checkHistory(p, conv, at)
		}
		c.checkSync(p)
		p.C.Close()
	}
	for _, ids := range c.fifos {
		for j := 1; j < len(ids); j++ {
			if at[ids[j-1]] >= at[ids[j]] {
				c.t.Errorf("%s (seq %d) was sent before %s (seq %d)", ids[j-1], at[ids[j-1]], ids[j], at[ids[j]])
			}
		}
	}
}

func (c *crowd) checkHistory(p *Person, conv wire.ConvID, at map[string]int64) {
	c.t.Helper()
	Eventually(c.t, time.Minute, "history of "+string(conv)+" holds what was acknowledged", func() error {
		all := p.History(conv)
		if err := wholeFrom(1, all); err != nil {
			return err
		}
		found := make(map[string]wire.MsgID, len(all))
		for _, m := range all {
			if _, twice := found[m.ClientID]; twice && m.Type != wire.TypeSystem {
				c.t.Fatalf("%s stands twice in %s", m.ClientID, conv)
			}
			found[m.ClientID] = m.ID
			at[m.ClientID] = m.Seq
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for id, want := range c.acks[conv] {
			if second, ok := c.corrected[id]; ok {
				want = second
			}
			if found[id] != want {
				return fmt.Errorf("%s was acknowledged as %s, history has %s", id, want, found[id])
			}
		}
		return nil
	})
}

// checkSync: a device that starts at zero is given every seq.
func (c *crowd) checkSync(p *Person) {
	c.t.Helper()
	cursors := map[wire.ConvID]int64{wire.GroupConv(wire.GroupID(c.group)): 0}
	for _, u := range c.users {
		cursors[wire.PrivateConv(p.User, wire.UserID(u))] = 0
	}
	convs, _, _ := p.SyncAll(cursors, 500)
	for conv, sc := range convs {
		if err := wholeFrom(1, sc.Messages); err != nil || sc.Upto != sc.MaxSeq || int64(len(sc.Messages)) != sc.MaxSeq {
			c.t.Errorf("sync of %s: %d rows to %d of %d: %v", conv, len(sc.Messages), sc.Upto, sc.MaxSeq, err)
		}
		c.mu.Lock()
		if len(sc.Messages) < len(c.acks[conv]) {
			c.t.Errorf("sync of %s has %d rows for %d acknowledged", conv, len(sc.Messages), len(c.acks[conv]))
		}
		c.mu.Unlock()
	}
}
