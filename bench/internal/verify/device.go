package verify

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/starling-im/starling/bench/internal/trace"
	starling "github.com/starling-im/starling/client/go"
	"github.com/starling-im/starling/common/wire"
)

const (
	dialTime   = 3 * time.Second
	answerTime = 10 * time.Second
	cursorTime = 300 * time.Millisecond // between two times that cursors are said
	inFlight   = 60                     // sends of one connection; 64 are allowed
)

// device is one client of a user, over all its connections.
type device struct {
	r      *run
	p      *person
	id     wire.DeviceID
	token  string
	slow   bool // reads with long pauses
	late   bool // comes for the first time when half of the work is done
	binary bool
	inbox  *inbox
	due    chan struct{} // holds a value when a sync is due

	mu   sync.Mutex
	link *link         // nil while there is none
	up   chan struct{} // closed when link stands
	away bool          // stays away for a while, by plan
	idle int           // syncs that are due or under way
}

// link is one connection.
type link struct {
	no     int64
	client *starling.Client
	slots  chan struct{}
	write  sync.Mutex // held while an attempt is noted and written, so that both have one order

	opened chan struct{} // closed once Open is noted, or never will be
	failed bool
	left   bool // by plan; guarded by the device's mu
}

func (d *device) event(l *link, e trace.Event) {
	e.Conn, e.User, e.Device = l.no, d.p.id, d.id
	d.r.trace.Add(&e)
}

// live keeps a connection until ctx ends.
func (d *device) live(ctx context.Context) {
	since := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		d.mu.Lock()
		away := d.away
		d.mu.Unlock()
		if away {
			pause(ctx, retryPause/4)
			since = time.Now()
			continue
		}
		l, err := d.dial(ctx, n, since)
		if err != nil {
			pause(ctx, retryPause)
			continue
		}
		d.serve(ctx, l)
		since = time.Now()
	}
}

func (d *device) dial(ctx context.Context, n int, since time.Time) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	urls := d.r.api.edges(ctx, d.token)
	if len(urls) == 0 {
		return nil, errors.New("no edge is known")
	}
	l := &link{no: d.r.conns.Add(1), slots: make(chan struct{}, inFlight), opened: make(chan struct{})}
	opt := starling.Options{
		URL: urls[n%len(urls)], Token: d.token, Device: string(d.id), Platform: "bench", Binary: d.binary,
		OnPush: func(f wire.Frame) { d.push(l, f) },
	}
	if d.slow {
		opt.NetDial = d.r.slowDial
	}
	c, err := starling.Dial(ctx, opt)
	if err != nil {
		l.failed = true
		close(l.opened)
		return nil, err //nolint:wrapcheck // tried again
	}
	l.client = c
	d.event(l, trace.Event{Kind: trace.Open, At: d.r.trace.At(since), Server: c.AuthOK().Server})
	close(l.opened)
	return l, nil
}

// serve is the life of one connection.
func (d *device) serve(ctx context.Context, l *link) {
	d.mu.Lock()
	d.link = l
	close(d.up)
	d.mu.Unlock()
	d.inbox.sayAgain()
	d.syncSoon()
	cursors := time.NewTicker(cursorTime)
	defer cursors.Stop()
	for alive := true; alive; {
		select {
		case <-l.client.Done():
			alive = false
		case <-ctx.Done():
			alive = false
		case <-cursors.C:
			d.sayCursors(l)
		case <-d.due:
			if err := d.sync(ctx, l, d.inbox.all(), 500); err != nil {
				pause(ctx, retryPause)
				d.syncSoon()
			}
			d.synced()
		}
	}
	d.mu.Lock()
	d.link, d.up = nil, make(chan struct{})
	e := trace.Event{Kind: trace.Close}
	if l.left {
		e.Op = trace.OpLeave
	}
	d.mu.Unlock()
	l.client.Close()
	<-l.client.Done()
	if ce, ok := errors.AsType[*starling.CloseError](l.client.Err()); ok {
		e.Close, e.Text = ce.Code, ce.Reason
	}
	d.event(l, e)
}

// standing waits for a connection; nil: ctx ended.
func (d *device) standing(ctx context.Context) *link {
	for {
		d.mu.Lock()
		l, up := d.link, d.up
		d.mu.Unlock()
		if l != nil {
			return l
		}
		select {
		case <-up:
		case <-ctx.Done():
			return nil
		}
	}
}

// leave breaks the connection, with or without a word, and stays away.
func (d *device) leave(ctx context.Context, silent bool, away time.Duration) {
	d.mu.Lock()
	l := d.link
	if d.away { // or has never come
		d.mu.Unlock()
		return
	}
	if d.away = true; l != nil {
		l.left = true
	}
	d.mu.Unlock()
	if l != nil && silent {
		l.client.Abort()
	} else if l != nil {
		l.client.Close()
	}
	pause(ctx, away)
	d.mu.Lock()
	d.away = false
	d.mu.Unlock()
}

func (d *device) syncSoon() {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case d.due <- struct{}{}:
		d.idle++
	default:
	}
}

func (d *device) synced() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle--
}

// quiet says that it stands and no sync is due.
func (d *device) quiet() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.link != nil && d.idle == 0
}

// sync reads from cursors to the end.
func (d *device) sync(ctx context.Context, l *link, cursors map[wire.ConvID]int64, limit int) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	call := d.r.calls.Add(1)
	d.event(l, trace.Event{Kind: trace.Sync, Call: call, Cursors: cursors})
	ask := wire.Sync{Cursors: cursors, Limit: limit}
	for {
		ok, err := l.client.Sync(ctx, ask)
		if err != nil {
			d.event(l, trace.Event{Kind: trace.Return, Call: call, Code: codeOf(err)})
			return err //nolint:wrapcheck // tried again
		}
		d.event(l, trace.Event{Kind: trace.Page, Call: call, Page: &ok})
		for i := range ok.Conversations {
			d.take(&ok.Conversations[i])
		}
		for _, f := range ok.Refused {
			d.r.refused(d.p.id, f.Conv, f.ClientID)
		}
		if !ok.More {
			break
		}
		ask = wire.Sync{Token: ok.Token}
	}
	d.event(l, trace.Event{Kind: trace.Return, Call: call})
	return nil
}

func (d *device) take(sc *wire.SyncConv) {
	for i := range sc.Messages {
		d.inbox.take(sc.Conv, sc.Messages[i].Seq)
		d.r.shown(d.p.id, sc.Conv, &sc.Messages[i])
	}
	for i := range sc.Updates {
		d.inbox.take(sc.Conv, sc.Updates[i].Seq)
	}
	d.inbox.upto(sc.Conv, sc.Upto)
}

// sayCursors acknowledges what came, and reads every other conversation of it.
func (d *device) sayCursors(l *link) {
	for conv, seq := range d.inbox.moved() {
		read := (uint64(seq)^d.r.cfg.Seed)%2 == 0
		op, say := trace.OpAck, l.client.Ack
		if read {
			op, say = trace.OpRead, l.client.Read
		}
		d.event(l, trace.Event{Kind: trace.Cursor, Conv: conv, Seq: seq, Op: op})
		_ = say(conv, seq) // a connection that broke says it again
	}
}
