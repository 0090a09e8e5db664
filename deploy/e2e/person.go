package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	starling "github.com/starling-im/starling/client/go"
	"github.com/starling-im/starling/common/wire"
)

// wait is how long a scenario waits for what must come.
const wait = time.Minute

// Person is one device of a user: a connection and everything it was given.
type Person struct {
	t      testing.TB
	s      *System
	User   wire.UserID
	Device string
	Token  string
	C      *starling.Client

	mu     sync.Mutex
	frames []wire.Frame
	seen   map[wire.ConvID][]wire.Msg // pushed, in order of arrival
	bell   chan struct{}              // closed and replaced at each arrival
}

// Join logs user in on a device and connects.
func (s *System) Join(t testing.TB, user, device string) *Person {
	t.Helper()
	p := &Person{t: t, s: s, User: wire.UserID(user), Device: device, Token: s.Token(t, user, device)}
	p.Connect(starling.Options{})
	return p
}

// Connect connects (again), with o's Binary.
func (p *Person) Connect(o starling.Options) {
	p.t.Helper()
	p.mu.Lock()
	p.seen, p.frames, p.bell = make(map[wire.ConvID][]wire.Msg), nil, make(chan struct{})
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.t.Context(), wait)
	defer cancel()
	o.URL, o.Token, o.Device, o.Platform, o.OnPush = p.s.WS(), p.Token, p.Device, "e2e", p.take
	c, err := starling.Dial(ctx, o)
	if err != nil {
		p.t.Fatalf("connect %s: %v", p.User, err)
	}
	p.C = c
	p.t.Cleanup(c.Close)
}

func (p *Person) take(f wire.Frame) {
	f.Body = slices.Clone(f.Body)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frames = append(p.frames, f)
	if f.Op == wire.OpMsg {
		var m wire.Msg
		if err := wire.Unmarshal(f.Body, &m); err != nil {
			p.t.Errorf("msg to %s: %v in %s", p.User, err, f.Body)
		}
		p.seen[m.Conv] = append(p.seen[m.Conv], m)
	}
	close(p.bell)
	p.bell = make(chan struct{})
}

// Seen returns the messages pushed so far in a conversation, in order.
func (p *Person) Seen(conv wire.ConvID) []wire.Msg {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen[conv])
}

// Until waits until check, called with the lock held after each arrival, is
// satisfied.
func (p *Person) Until(what string, check func() error) {
	p.t.Helper()
	deadline := time.After(wait)
	for {
		p.mu.Lock()
		err, bell := check(), p.bell
		p.mu.Unlock()
		if err == nil {
			return
		}
		select {
		case <-bell:
		case <-deadline:
			p.t.Fatalf("%s (%s) waited %v: %s: %v", p.User, p.Device, wait, what, err)
		}
	}
}

// Gets waits until the contents of a conversation's messages, system messages
// left out, are as given, in this order.
func (p *Person) Gets(conv wire.ConvID, contents ...string) {
	p.t.Helper()
	p.Until("messages of "+string(conv), func() error {
		if got := texts(p.seen[conv]); !slices.Equal(got, contents) {
			return fmt.Errorf("got %q, want %q", got, contents)
		}
		return nil
	})
}

// GetsFrame waits for a frame of an operation that check accepts.
func (p *Person) GetsFrame(op wire.Op, check func(body []byte) bool) {
	p.t.Helper()
	p.Until(op.String()+" frame", func() error {
		for _, f := range p.frames {
			if f.Op == op && check(f.Body) {
				return nil
			}
		}
		return fmt.Errorf("none among %d frames", len(p.frames))
	})
}

// Say sends a text to a user and returns the acknowledgement.
func (p *Person) Say(to, text string) wire.SendAck {
	p.t.Helper()
	return p.Send(wire.Send{To: wire.UserID(to), Content: text})
}

// SayGroup sends a text to a group.
func (p *Person) SayGroup(group, text string) wire.SendAck {
	p.t.Helper()
	return p.Send(wire.Send{Group: wire.GroupID(group), Content: text})
}

// Send sends and must be acknowledged; client id and type have defaults.
func (p *Person) Send(m wire.Send) wire.SendAck {
	p.t.Helper()
	ack, err := p.TrySend(m)
	if err != nil {
		p.t.Fatalf("send of %s: %v", p.User, err)
	}
	return ack
}

// AwaitCalm waits until nobody is told lagged any more: right after a start the
// index has holes, and a job's streams begin anew, which all are told of by
// lagged, instead of being pushed what they would have to sync.
func (s *System) AwaitCalm(t testing.TB) {
	t.Helper()
	Eventually(t, wait, "nobody is told lagged", func() error {
		for range s.WSs { // they take turns
			p := s.Join(t, s.Name("early"), "d")
			p.Say(string(p.User), "anybody there?")
			told := false
			p.Until("its own message, or lagged", func() error {
				told = slices.ContainsFunc(p.frames, func(f wire.Frame) bool { return f.Op == wire.OpLagged })
				if !told && len(p.seen) == 0 {
					return errors.New("neither")
				}
				return nil
			})
			p.C.Close()
			if told {
				return fmt.Errorf("%s was", p.User)
			}
		}
		return nil
	})
}

// TrySend sends and returns what came of it.
func (p *Person) TrySend(m wire.Send) (wire.SendAck, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), wait)
	defer cancel()
	m.ClientID = cmp.Or(m.ClientID, p.s.Name("c"))
	m.Type = cmp.Or(m.Type, wire.TypeText)
	return p.C.Send(ctx, m)
}

// SyncAll follows sync over all its pages from the given cursors and returns
// the conversations joined, the number of pages, and what was refused.
func (p *Person) SyncAll(cursors map[wire.ConvID]int64, limit int) (convs map[wire.ConvID]*wire.SyncConv, pages int, refused []wire.Refused) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), wait)
	defer cancel()
	convs = make(map[wire.ConvID]*wire.SyncConv)
	ask := wire.Sync{Cursors: cursors, Limit: limit}
	for {
		ok, err := p.C.Sync(ctx, ask)
		if err != nil {
			p.t.Fatalf("sync of %s, page %d: %v", p.User, pages+1, err)
		}
		pages++
		refused = append(refused, ok.Refused...)
		for i := range ok.Conversations {
			c := &ok.Conversations[i]
			if had := convs[c.Conv]; had != nil {
				had.Messages = append(had.Messages, c.Messages...)
				had.Updates = append(had.Updates, c.Updates...)
				had.Upto, had.Unread, had.MaxSeq, had.More = c.Upto, c.Unread, c.MaxSeq, c.More
			} else {
				convs[c.Conv] = c
			}
		}
		if !ok.More {
			return convs, pages, refused
		}
		ask = wire.Sync{Token: ok.Token}
	}
}

// History reads all of a conversation over HTTP, oldest first.
func (p *Person) History(conv wire.ConvID) []wire.Msg {
	p.t.Helper()
	var all []wire.Msg
	before := ""
	for {
		var page struct{ Messages []wire.Msg }
		path := "/v1/conversations/" + url.PathEscape(string(conv)) + "/messages?limit=100" + before
		if code := p.s.HTTP(p.t, http.MethodGet, path, p.Token, nil, &page); code != http.StatusOK {
			p.t.Fatalf("history of %s for %s: HTTP %d", conv, p.User, code)
		}
		all = append(page.Messages, all...)
		if len(page.Messages) < 100 {
			return all
		}
		before = fmt.Sprintf("&before=%d", page.Messages[0].Seq)
	}
}

// Group makes a group with members and waits until it is applied.
func (p *Person) Group(id string, members ...string) wire.ConvID {
	p.t.Helper()
	body := map[string]any{"id": id, "name": "group " + id, "members": members}
	switch code := p.s.HTTP(p.t, http.MethodPost, "/v1/groups", p.Token, body, nil); code {
	case http.StatusOK:
	case http.StatusAccepted: // its outcome takes longer than logic waits
		Eventually(p.t, wait, "group "+id+" is made", func() error {
			if code := p.s.HTTP(p.t, http.MethodGet, "/v1/groups/"+id, p.Token, nil, nil); code != http.StatusOK {
				return fmt.Errorf("HTTP %d", code)
			}
			return nil
		})
	default:
		p.t.Fatalf("create group %s: HTTP %d", id, code)
	}
	return wire.GroupConv(wire.GroupID(id))
}

// texts leaves system messages out.
func texts(ms []wire.Msg) []string {
	var out []string
	for _, m := range ms {
		if m.Type != wire.TypeSystem {
			out = append(out, m.Content)
		}
	}
	return out
}

// wholeFrom says whether rows are seq from, from+1, … without a hole.
func wholeFrom(from int64, rows []wire.Msg) error {
	for i, m := range rows {
		if m.Seq != from+int64(i) {
			return fmt.Errorf("row %d has seq %d, want %d", i, m.Seq, from+int64(i))
		}
	}
	return nil
}

// closeCode returns the code a connection was closed with, 0 for none.
func closeCode(err error) int {
	if e, ok := errors.AsType[*starling.CloseError](err); ok {
		return e.Code
	}
	return 0
}

// hasCode says whether err is an answer with a code.
func hasCode(err error, code wire.Code) bool {
	var e *wire.Error
	return errors.As(err, &e) && e.Code == code
}
