package e2e

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	starling "github.com/starling-im/starling/client/go"
	"github.com/starling-im/starling/common/wire"
)

const (
	retryPause = 100 * time.Millisecond
	dialTime   = 3 * time.Second
	answerTime = 10 * time.Second
	unanswered = 60 // sends of one connection; 64 are allowed
)

// loadUser is one device of a user: it comes back after a break, to any edge;
// syncs after each log-in, where it is told that something was left out and
// where it sees a hole; and sends again, under the same client_id, what was not
// acknowledged.
type loadUser struct {
	l      *Load
	i      int
	user   wire.UserID
	token  string
	lagged chan struct{} // holds a value when a sync is due

	mu      sync.Mutex
	c       *starling.Client // nil while there is none
	up      chan struct{}    // closed when c stands
	slots   chan struct{}    // of c
	cut     time.Time        // when a connection last broke
	cursors map[wire.ConvID]int64
	seen    map[wire.ConvID]map[int64]bool // above the cursor
	pushed  map[wire.ConvID]int64          // highest pushed on this connection
}

// live keeps a connection until ctx ends.
func (u *loadUser) live(ctx context.Context) {
	for ctx.Err() == nil {
		c, err := u.dial(ctx)
		if err != nil {
			pause(ctx, retryPause)
			continue
		}
		u.serve(ctx, c)
		c.Close()
	}
}

func (u *loadUser) dial(ctx context.Context) (*starling.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	u.mu.Lock()
	u.pushed = make(map[wire.ConvID]int64)
	u.mu.Unlock()
	return starling.Dial(ctx, starling.Options{URL: u.l.s.WS(), Token: u.token, Device: "d", Platform: "e2e", OnPush: u.push})
}

// serve is the life of one connection.
func (u *loadUser) serve(ctx context.Context, c *starling.Client) {
	u.mu.Lock()
	u.c, u.slots = c, make(chan struct{}, unanswered)
	close(u.up)
	u.mu.Unlock()
	u.syncSoon()
	for alive := true; alive; {
		select {
		case <-c.Done():
			alive = false
		case <-ctx.Done():
			alive = false
		case <-u.lagged:
			if err := u.sync(ctx, c); err != nil {
				pause(ctx, retryPause)
				u.syncSoon()
			}
		}
	}
	u.mu.Lock()
	u.c, u.up, u.cut = nil, make(chan struct{}), time.Now()
	u.mu.Unlock()
}

// client waits for a connection; nil: ctx ended.
func (u *loadUser) client(ctx context.Context) (*starling.Client, chan struct{}) {
	for {
		u.mu.Lock()
		c, slots, up := u.c, u.slots, u.up
		u.mu.Unlock()
		if c != nil {
			return c, slots
		}
		select {
		case <-up:
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// insist sends a message until it is acknowledged.
func (u *loadUser) insist(ctx context.Context, send wire.Send, m *loadMsg) {
	for ctx.Err() == nil {
		c, slots := u.client(ctx)
		if c == nil {
			return
		}
		select {
		case slots <- struct{}{}:
		case <-c.Done():
			continue
		case <-ctx.Done():
			return
		}
		once, cancel := context.WithTimeout(ctx, answerTime)
		ack, err := c.Send(once, send)
		cancel()
		<-slots
		u.l.mu.Lock()
		m.tries++
		if err == nil {
			m.acked, m.id = time.Now(), ack.ID
		}
		u.l.mu.Unlock()
		if err == nil {
			return
		}
		var e *wire.Error
		if errors.As(err, &e) && e.Code != wire.CodeUnavailable && e.Code != wire.CodeOverloaded {
			u.l.fault("%s of %s: %v", send.ClientID, u.user, err)
			return
		}
		pause(ctx, retryPause)
	}
}

func (u *loadUser) syncSoon() {
	select {
	case u.lagged <- struct{}{}:
	default:
	}
}

// sync reads from the cursors to the end.
func (u *loadUser) sync(ctx context.Context, c *starling.Client) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	u.mu.Lock()
	ask := wire.Sync{Cursors: make(map[wire.ConvID]int64, len(u.cursors)), Limit: 500}
	maps.Copy(ask.Cursors, u.cursors)
	u.mu.Unlock()
	for {
		ok, err := c.Sync(ctx, ask)
		if err != nil {
			return err
		}
		for i := range ok.Conversations {
			sc := &ok.Conversations[i]
			for j := range sc.Messages {
				sc.Messages[j].Conv = sc.Conv
				u.l.got(u, &sc.Messages[j])
			}
			u.mu.Lock()
			u.advance(sc.Conv, sc.Upto)
			u.mu.Unlock()
		}
		if !ok.More {
			return nil
		}
		ask = wire.Sync{Token: ok.Token}
	}
}

// advance moves the cursor to upto and over what was seen beyond; mu is held.
func (u *loadUser) advance(conv wire.ConvID, upto int64) {
	at := max(u.cursors[conv], upto)
	for seq := range u.seen[conv] {
		if seq <= at {
			delete(u.seen[conv], seq)
		}
	}
	for u.seen[conv][at+1] {
		at++
		delete(u.seen[conv], at)
	}
	u.cursors[conv] = at
}

// push takes what the server says by itself.
func (u *loadUser) push(f wire.Frame) {
	switch f.Op { //nolint:exhaustive // the rest is for others
	case wire.OpLagged:
		u.syncSoon()
	case wire.OpReconnect:
		u.mu.Lock()
		if c := u.c; c != nil {
			go c.Close() // ends live's turn, which waits for it too
		}
		u.mu.Unlock()
	case wire.OpMsg:
		var m wire.Msg
		if err := wire.Unmarshal(f.Body, &m); err != nil {
			u.l.fault("msg to %s: %v", u.user, err)
			return
		}
		u.take(&m)
	}
}

func (u *loadUser) take(m *wire.Msg) {
	u.l.got(u, m)
	u.mu.Lock()
	defer u.mu.Unlock()
	known := m.Seq <= u.cursors[m.Conv] || u.seen[m.Conv][m.Seq]
	if m.Seq < u.pushed[m.Conv] && !known {
		u.l.fault("%s was pushed seq %d of %s after %d", u.user, m.Seq, m.Conv, u.pushed[m.Conv])
	}
	u.pushed[m.Conv] = max(u.pushed[m.Conv], m.Seq)
	if known {
		return
	}
	if u.seen[m.Conv] == nil {
		u.seen[m.Conv] = make(map[int64]bool)
	}
	u.seen[m.Conv][m.Seq] = true
	if u.advance(m.Conv, 0); u.cursors[m.Conv] < m.Seq {
		u.syncSoon() // a hole
	}
}

// stayed says whether the user's connection has not broken since a moment.
func (u *loadUser) stayed(since time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.cut.Before(since)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
