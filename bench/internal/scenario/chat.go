// Package scenario holds the loads that the bench tool can run. Each returns a
// report.Report that counts what was lost, repeated or out of order beside how
// long it took.
package scenario

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/starling-im/starling/bench/internal/report"
	"github.com/starling-im/starling/bench/internal/swarm"
	"github.com/starling-im/starling/common/wire"
)

// Chat sends private messages between random pairs at a fixed rate.
type Chat struct {
	Swarm    swarm.Config
	Rate     float64       // sends a second, over all connections
	Duration time.Duration // measured part
	Warmup   time.Duration // sent before it, not in the percentiles
	Settle   time.Duration // how long to wait for the last deliveries
	Size     int           // bytes of content
	Seed     uint64
}

// RegisterFlags declares the flags of `bench chat`.
func (c *Chat) RegisterFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.Swarm.API, "api", "http://127.0.0.1:3111", "base `URL` of logic's HTTP API")
	fs.StringVar(&c.Swarm.AdminToken, "admin-token", "", "mint tokens with this admin or service `token` instead of POST /v1/login")
	fs.StringVar(&c.Swarm.URL, "url", "", "connect to this edge `URL` instead of those of GET /v1/edges")
	fs.BoolVar(&c.Swarm.Binary, "binary", false, "use binary frames instead of JSON text")
	fs.StringVar(&c.Swarm.Prefix, "prefix", "bench-", "users are this and a number")
	fs.IntVar(&c.Swarm.Users, "connections", 200, "connections, one user each (2 or more)")
	fs.Float64Var(&c.Rate, "rate", 500, "messages a second, over all connections, on an open-loop schedule")
	fs.DurationVar(&c.Duration, "duration", 30*time.Second, "measured time")
	fs.DurationVar(&c.Warmup, "warmup", 5*time.Second, "time before it, not measured")
	fs.DurationVar(&c.Settle, "settle", 5*time.Second, "how long to wait for the last deliveries")
	fs.IntVar(&c.Size, "size", 128, "bytes of content (0–16384)")
	fs.Uint64Var(&c.Seed, "seed", 1, "seed of the pairs")
}

// Validate returns every bad flag at once.
func (c *Chat) Validate() error {
	var errs []error
	if c.Swarm.Users < 2 {
		errs = append(errs, errors.New("-connections: a chat needs at least 2"))
	}
	if c.Rate <= 0 || c.Rate > 1e6 {
		errs = append(errs, errors.New("-rate: must be over 0 and at most 1000000"))
	}
	if c.Duration <= 0 || c.Warmup < 0 || c.Settle < 0 {
		errs = append(errs, errors.New("-duration, -warmup, -settle: must not be negative, and -duration not zero"))
	}
	if c.Size < 0 || c.Size > 16<<10 {
		errs = append(errs, errors.New("-size: must be 0 to 16384 bytes"))
	}
	if !wire.ValidID(c.Swarm.Prefix + "0") {
		errs = append(errs, errors.New("-prefix: only letters, digits and . _ @ -"))
	}
	return errors.Join(errs...)
}

// Run connects, sends on schedule whatever the answers do, waits for what is
// due, and reports. An error means that nothing can be said of the system.
func (c *Chat) Run(ctx context.Context) (*report.Report, error) {
	planned := int(c.Rate * (c.Warmup + c.Duration).Seconds())
	rng := rand.New(rand.NewPCG(c.Seed, 0)) //nolint:gosec // a load, not a secret
	t := newTracker(fmt.Sprintf("b%x", time.Now().UnixNano()), c.Swarm.Users, planned, c.Warmup)
	for i := range t.sends {
		s := &t.sends[i]
		s.from = rng.IntN(c.Swarm.Users)
		s.to = (s.from + 1 + rng.IntN(c.Swarm.Users-1)) % c.Swarm.Users
		s.due = time.Duration(float64(i) / c.Rate * float64(time.Second))
	}
	connectStart := time.Now()
	sw, err := swarm.Connect(ctx, c.Swarm, t.push)
	if err != nil {
		return nil, err
	}
	defer sw.Close()
	connected := time.Since(connectStart)
	t.start = time.Now()
	late := c.send(ctx, sw, t)
	c.settle(ctx, t)
	return c.report(t, connected, late), nil
}

// send follows the schedule and returns how far it fell behind at worst: a
// tool that is late measures itself.
func (c *Chat) send(ctx context.Context, sw *swarm.Swarm, t *tracker) (late time.Duration) {
	content := strings.Repeat("x", c.Size)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := range t.sends {
		s := &t.sends[i]
		if wait := s.due - time.Since(t.start); wait > 0 {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return late
			case <-timer.C:
			}
		} else if s.due > c.Warmup {
			late = max(late, -wait)
		}
		body := wire.Send{To: c.Swarm.User(s.to), ClientID: t.clientID(i), Type: wire.TypeText, Content: content}
		if err := sw.Clients[s.from].SendAsync(body, func(_ wire.SendAck, err error) { t.acked(i, err) }); err != nil {
			t.acked(i, err)
		}
	}
	return late
}

// settle waits until everything sent is answered and delivered, or time is up.
func (c *Chat) settle(ctx context.Context, t *tracker) {
	deadline := time.NewTimer(c.Settle)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if acked, failed, missing := t.missing(); missing == 0 && acked+failed == int64(len(t.sends)) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-deadline.C:
			return
		case <-tick.C:
		}
	}
}

func (c *Chat) report(t *tracker, connected, late time.Duration) *report.Report {
	acked, failed, missing := t.missing()
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &report.Report{
		Scenario: "chat", Connections: c.Swarm.Users, Rate: c.Rate, Seconds: c.Duration.Seconds(),
		ConnectSeconds: connected.Seconds(), Sent: int64(len(t.sends)), Acked: acked, Failed: failed,
		Unanswered: int64(len(t.sends)) - acked - failed,
		Lost:       missing, Repeated: t.repeats.Load(), Holes: t.holes.Load(),
		Reordered: t.reordered.Load() - t.repeats.Load(), FIFO: t.fifo.Load(), Lagged: t.lagged.Load(),
		Refused: t.refused.Load(), Frames: t.frames.Load(), Late: late.Seconds() * 1000,
		Delivery: report.Latencies(t.delivery), Ack: report.Latencies(t.ack),
	}
	for i := range t.sends {
		if text := t.sends[i].failed.Load(); text != nil {
			r.FirstFailure = *text
			break
		}
	}
	return r
}
