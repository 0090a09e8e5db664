// Package starling is the Go client of Starling: one WebSocket connection of
// one device, after docs/protocol.md.
//
// All methods of a Client may be called concurrently. Pushes come in order of
// arrival, one at a time, to Options.OnPush in the goroutine that reads: while
// it runs nothing else arrives, so it must not wait for an answer of the same
// client (Send, Call, Sync, Close) — hand the frame on instead. Callbacks of
// SendAsync run there too.
//
// A Client is one connection. It keeps no cursors and does not come back by
// itself: when Done is closed, Err says whether to dial again (CloseError), and
// Sync gets what was missed. What it holds is bounded by the answers awaited.
package starling

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/starling-im/starling/common/wire"
)

// writeTimeout is how long the socket may refuse a frame before the connection
// is given up.
const writeTimeout = 10 * time.Second

// Options say where to connect and as whom.
type Options struct {
	// URL of an edge: ws://host:3102/ws.
	URL string
	// Token is the JWT to log in with.
	Token string
	// Device may be empty if the token names one.
	Device   string
	Platform string
	Region   string
	// Binary chooses the binary framing for what this client sends, and so for
	// what the server answers.
	Binary bool
	// HeaderAuth logs in with the upgrade request instead of an auth frame.
	HeaderAuth bool
	// OnPush gets every frame that answers none of this client's calls. The
	// frame is the callee's. Nil drops them.
	OnPush func(wire.Frame)
	// LocalAddr is the IP address to connect from; empty lets the system choose.
	LocalAddr string
	// NetDial replaces the TCP dialer; LocalAddr is then ignored.
	NetDial func(ctx context.Context, network, addr string) (net.Conn, error)
	// NoHeartbeat leaves sending often enough to the caller.
	NoHeartbeat bool
}

// CloseError says how a connection ended.
type CloseError struct {
	Code   int    // close code; 1006 where the connection broke without one
	Reason string // from the other side, or why this one ended it
	Err    error  // what the network said, if anything
}

// closeAbnormal stands for a connection that ended without a close frame.
const closeAbnormal = 1006

// Error returns code, name and reason.
func (e *CloseError) Error() string {
	return fmt.Sprintf("connection closed: %d %s %q", e.Code, wire.CloseInfoOf(e.Code).Name, e.Reason)
}

// Unwrap returns what the network said.
func (e *CloseError) Unwrap() error { return e.Err }

// StayAway says that a client must not come back by itself.
func (e *CloseError) StayAway() bool { return wire.CloseInfoOf(e.Code).Reaction == wire.StayAway }

// answer is called once with the reply to a request, or with why none comes.
type answer struct {
	clientID string // of a send: some errors name it instead of the seq
	done     func(wire.Frame, error)
}

// Client is one authenticated connection.
type Client struct {
	opt    Options
	conn   *websocket.Conn
	cancel context.CancelFunc // ends the connection's own context
	// put writes one message under the connection's context, not the caller's:
	// a write cut short costs the connection.
	put  func(websocket.MessageType, []byte) error
	wg   sync.WaitGroup
	done chan struct{} // closed after the last push and the last answer

	authOK    atomic.Pointer[wire.AuthOK]
	login     chan error   // gets one value: how the log-in went
	lastWrite atomic.Int64 // Unix ms
	lastRead  atomic.Int64 // Unix ms

	mu      sync.Mutex
	seq     int32
	waiting map[int32]answer // nil once the connection has ended
	err     *CloseError
}

// AuthOK returns what the server said at log-in.
func (c *Client) AuthOK() wire.AuthOK { return *c.authOK.Load() }

// Done is closed when the connection has ended and OnPush will not be called
// any more.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns nil while the connection stands, then a *CloseError.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return nil
	}
	return c.err
}

// Send sends a message and waits until the server has made it durable. A
// refusal is a *wire.Error. An empty ClientID is filled in; set it yourself to
// repeat a send whose answer did not come.
func (c *Client) Send(ctx context.Context, s wire.Send) (wire.SendAck, error) {
	type result struct {
		ack wire.SendAck
		err error
	}
	got := make(chan result, 1)
	seq, err := c.send(s, func(ack wire.SendAck, err error) { got <- result{ack, err} })
	if err != nil {
		return wire.SendAck{}, err
	}
	select {
	case r := <-got:
		return r.ack, r.err
	case <-ctx.Done():
		c.forget(seq)
		return wire.SendAck{}, fmt.Errorf("wait for send_ack: %w", ctx.Err())
	}
}

// SendAsync sends a message and returns. If it returns nil, done is called
// once, in the reading goroutine; else never.
func (c *Client) SendAsync(s wire.Send, done func(wire.SendAck, error)) error {
	_, err := c.send(s, done)
	return err
}

func (c *Client) send(s wire.Send, done func(wire.SendAck, error)) (int32, error) {
	if s.ClientID == "" {
		s.ClientID = rand.Text()
	}
	return c.request(wire.OpSend, s, answer{clientID: s.ClientID, done: func(f wire.Frame, err error) {
		var ack wire.SendAck
		if err == nil {
			err = expect(f, wire.OpSendAck, &ack)
		}
		done(ack, err)
	}})
}

// Call sends a request and returns its reply. An error reply is a *wire.Error.
// body is encoded as JSON; nil is {}.
func (c *Client) Call(ctx context.Context, op wire.Op, body any) (wire.Frame, error) {
	type result struct {
		frame wire.Frame
		err   error
	}
	got := make(chan result, 1)
	seq, err := c.request(op, body, answer{done: func(f wire.Frame, err error) { got <- result{f, err} }})
	if err != nil {
		return wire.Frame{}, err
	}
	select {
	case r := <-got:
		return r.frame, r.err
	case <-ctx.Done():
		c.forget(seq)
		return wire.Frame{}, fmt.Errorf("wait for the answer to %s: %w", op, ctx.Err())
	}
}

// Sync asks for what came after the cursors. More in the answer: ask again with
// its Token alone.
func (c *Client) Sync(ctx context.Context, s wire.Sync) (wire.SyncOK, error) {
	var ok wire.SyncOK
	f, err := c.Call(ctx, wire.OpSync, s)
	if err != nil {
		return ok, err
	}
	return ok, expect(f, wire.OpSyncOK, &ok)
}

// Ping asks the server for its clock.
func (c *Client) Ping(ctx context.Context) (wire.Pong, error) {
	var pong wire.Pong
	f, err := c.Call(ctx, wire.OpPing, nil)
	if err != nil {
		return pong, err
	}
	return pong, expect(f, wire.OpPong, &pong)
}

// Ack says that this device has all of a conversation up to seq. There is no
// answer.
func (c *Client) Ack(conv wire.ConvID, seq int64) error {
	return c.post(wire.OpAck, wire.Cursor{Conv: conv, Seq: seq})
}

// Read says that the user has read a conversation up to seq. There is no
// answer.
func (c *Client) Read(conv wire.ConvID, seq int64) error {
	return c.post(wire.OpRead, wire.Cursor{Conv: conv, Seq: seq})
}

// WriteRaw sends one WebSocket message as it is, for tests of a server. Answers
// to what it holds go to OnPush.
func (c *Client) WriteRaw(ctx context.Context, t websocket.MessageType, b []byte) error {
	if err := c.conn.Write(ctx, t, b); err != nil {
		return fmt.Errorf("write raw message: %w", err)
	}
	return nil
}

// Close says good-bye, waits for the server's close frame (a few seconds at
// most) and for the goroutines of the client. Not to be called from OnPush.
func (c *Client) Close() {
	c.end(&CloseError{Code: wire.CloseBye, Reason: "closed by this side"})
	_ = c.conn.Close(websocket.StatusNormalClosure, "") // Err tells how it ended
	c.cancel()
	c.wg.Wait()
}

// Abort drops the connection without a word, as a lost network does. Done tells
// when its goroutines have ended.
func (c *Client) Abort() {
	c.end(&CloseError{Code: closeAbnormal, Reason: "aborted by this side"})
	c.cancel()
	_ = c.conn.CloseNow() // nobody is left to tell
}

// post sends a frame that has no answer.
func (c *Client) post(op wire.Op, body any) error {
	b, err := wire.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode %s: %w", op, err)
	}
	return c.write(wire.Frame{Op: op, Body: b})
}

// request sends a frame under a new seq. If it returns nil, a.done is called
// once; else never.
func (c *Client) request(op wire.Op, body any, a answer) (int32, error) {
	f := wire.Frame{Op: op}
	if body != nil {
		b, err := wire.Marshal(body)
		if err != nil {
			return 0, fmt.Errorf("encode %s: %w", op, err)
		}
		f.Body = b
	}
	seq, err := c.await(a)
	if err != nil {
		return 0, err
	}
	f.Seq = seq
	if err := c.write(f); err != nil && c.forget(seq) {
		return 0, err
	}
	// A failed write whose answer is gone already has had its callback.
	return seq, nil
}

// await registers an answer and returns the seq it will come under.
func (c *Client) await(a answer) (int32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		return 0, c.err
	}
	for {
		c.seq = max(1, c.seq+1) // after the greatest int32 comes 1
		if _, taken := c.waiting[c.seq]; !taken {
			c.waiting[c.seq] = a
			return c.seq, nil
		}
	}
}

// forget drops an awaited answer and says whether it was still awaited.
func (c *Client) forget(seq int32) bool {
	_, ok := c.take(seq)
	return ok
}

// take removes and returns an awaited answer.
func (c *Client) take(seq int32) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.waiting[seq]
	delete(c.waiting, seq)
	return a, ok
}

// takeSend removes and returns the awaited answer to a send. Errors that name
// no seq are rare and sends in flight few, so it looks at all.
func (c *Client) takeSend(clientID string) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for seq, a := range c.waiting {
		if clientID != "" && a.clientID == clientID {
			delete(c.waiting, seq)
			return a, true
		}
	}
	return answer{}, false
}

func (c *Client) write(f wire.Frame) error {
	t, b := websocket.MessageText, make([]byte, 0, len(f.Body)+64)
	if c.opt.Binary {
		t, b = websocket.MessageBinary, wire.AppendBinary(b, f)
	} else {
		b = wire.AppendText(b, f)
	}
	if err := c.put(t, b); err != nil {
		if ended := c.Err(); ended != nil {
			return ended
		}
		return fmt.Errorf("write %s: %w", f.Op, err)
	}
	c.lastWrite.Store(time.Now().UnixMilli())
	return nil
}

// expect decodes the reply of an operation into v.
func expect(f wire.Frame, op wire.Op, v any) error {
	if f.Op != op {
		return fmt.Errorf("answer is %q, not %q", f.Op, op)
	}
	if err := wire.Unmarshal(f.Body, v); err != nil {
		return fmt.Errorf("decode %s: %w", op, err)
	}
	return nil
}

// asError returns the error that an error frame carries.
func asError(f wire.Frame) *wire.Error {
	e := new(wire.Error)
	if err := wire.Decode(f.Body, e); err != nil || e.Code == "" {
		return wire.Errorf(wire.CodeInternal, "server sent an error that cannot be read")
	}
	return e
}

// errSilent ends a connection whose server has gone without a word.
var errSilent = errors.New("nothing came for two heartbeats")
