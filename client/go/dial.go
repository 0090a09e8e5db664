package starling

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/coder/websocket"

	"github.com/starling-im/starling/common/wire"
)

// Dial connects and logs in. It returns once the server has answered auth_ok. A
// refusal is a *wire.Error. ctx bounds the dialing alone, not the connection.
func Dial(ctx context.Context, opt Options) (*Client, error) {
	conn, err := open(ctx, opt)
	if err != nil {
		return nil, err
	}
	c := &Client{
		opt: opt, conn: conn,
		done:    make(chan struct{}),
		login:   make(chan error, 1),
		waiting: make(map[int32]answer),
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	c.put = func(t websocket.MessageType, b []byte) error {
		ctx, cancel := context.WithTimeout(life, writeTimeout)
		defer cancel()
		return conn.Write(ctx, t, b)
	}
	c.lastRead.Store(time.Now().UnixMilli())
	c.wg.Go(func() { c.readLoop(life) })
	if err := c.logIn(ctx); err != nil {
		c.Abort()
		c.wg.Wait()
		return nil, fmt.Errorf("log in at %s: %w", opt.URL, err)
	}
	if hb := time.Duration(c.AuthOK().HeartbeatMS) * time.Millisecond; hb > 0 && !opt.NoHeartbeat {
		c.wg.Go(func() { c.heartbeat(hb) })
	}
	return c, nil
}

// open makes the WebSocket connection.
func open(ctx context.Context, opt Options) (*websocket.Conn, error) {
	u, err := url.Parse(opt.URL)
	if err != nil {
		return nil, fmt.Errorf("parse the edge's URL: %w", err)
	}
	header := http.Header{}
	if opt.HeaderAuth {
		header.Set("Authorization", "Bearer "+opt.Token)
		q := u.Query()
		for k, v := range map[string]string{"device": opt.Device, "platform": opt.Platform, "region": opt.Region} {
			if v != "" {
				q.Set(k, v)
			}
		}
		u.RawQuery = q.Encode()
	}
	dial, err := dialer(opt)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: dial}
	conn, _, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{ //nolint:bodyclose // coder/websocket closes it
		HTTPClient: &http.Client{Transport: transport},
		HTTPHeader: header,
	})
	if err != nil {
		transport.CloseIdleConnections()
		return nil, fmt.Errorf("connect to %s: %w", opt.URL, err)
	}
	conn.SetReadLimit(wire.MaxServerFrame)
	return conn, nil
}

func dialer(opt Options) (func(context.Context, string, string) (net.Conn, error), error) {
	if opt.NetDial != nil {
		return opt.NetDial, nil
	}
	d := new(net.Dialer)
	if opt.LocalAddr != "" {
		ip := net.ParseIP(opt.LocalAddr)
		if ip == nil {
			return nil, fmt.Errorf("local address %q is not an IP address", opt.LocalAddr)
		}
		d.LocalAddr = &net.TCPAddr{IP: ip}
	}
	return d.DialContext, nil
}

// logIn sends auth, unless the upgrade carried it, and waits for the outcome.
func (c *Client) logIn(ctx context.Context) error {
	if !c.opt.HeaderAuth {
		auth := wire.Auth{
			Token: c.opt.Token, Device: wire.DeviceID(c.opt.Device),
			Platform: c.opt.Platform, Region: c.opt.Region, V: 1,
		}
		// readLoop sees the answer first and tells it through c.login.
		if _, err := c.request(wire.OpAuth, auth, answer{done: func(wire.Frame, error) {}}); err != nil {
			return err
		}
	}
	select {
	case err := <-c.login:
		return err
	case <-c.done:
		select {
		case err := <-c.login: // it came just before the end
			return err
		default:
			return c.Err()
		}
	case <-ctx.Done():
		return fmt.Errorf("wait for auth_ok: %w", ctx.Err())
	}
}

// readLoop reads until the connection ends, then tells all who wait.
func (c *Client) readLoop(ctx context.Context) {
	defer close(c.done)
	defer c.cancel()
	for {
		t, b, err := c.conn.Read(ctx)
		if err == nil {
			c.lastRead.Store(time.Now().UnixMilli())
			err = c.message(t, b)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// fail ends the connection for an error of reading.
func (c *Client) fail(err error) {
	e := &CloseError{Code: closeAbnormal, Reason: "connection broke", Err: err}
	if closed, ok := errors.AsType[websocket.CloseError](err); ok {
		e.Code, e.Reason = int(closed.Code), closed.Reason
	}
	c.end(e)
	_ = c.conn.CloseNow() // it is broken or closed already
	c.mu.Lock()
	waiting := c.waiting
	c.waiting = nil
	ended := c.err
	c.mu.Unlock()
	for _, a := range waiting {
		a.done(wire.Frame{}, ended)
	}
}

// end records why the connection ends; the first reason stands.
func (c *Client) end(e *CloseError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = e
	}
}

// message takes one WebSocket message apart.
func (c *Client) message(t websocket.MessageType, b []byte) error {
	if t == websocket.MessageText {
		f, err := wire.DecodeServerText(b)
		if err != nil {
			return fmt.Errorf("decode a text message: %w", err)
		}
		c.dispatch(f)
		return nil
	}
	for f, err := range wire.ServerFrames(b) {
		if err != nil {
			return fmt.Errorf("decode a binary message: %w", err)
		}
		c.dispatch(f)
	}
	return nil
}

// dispatch hands a frame to who waits for it, else to OnPush.
func (c *Client) dispatch(f wire.Frame) {
	if c.authOK.Load() == nil && (f.Op == wire.OpAuthOK || f.Op == wire.OpError) {
		c.loggedIn(f)
		return
	}
	if a, ok := c.takeAnswer(f); ok {
		if f.Op == wire.OpError {
			a.done(wire.Frame{}, asError(f))
			return
		}
		a.done(f, nil)
		return
	}
	if c.opt.OnPush != nil && f.Op.String() != "" {
		c.opt.OnPush(f)
	}
}

// loggedIn takes the outcome of the log-in.
func (c *Client) loggedIn(f wire.Frame) {
	c.forget(f.Seq)
	var err error
	if f.Op == wire.OpError {
		err = asError(f)
	} else {
		ok := new(wire.AuthOK)
		if err = expect(f, wire.OpAuthOK, ok); err == nil {
			c.authOK.Store(ok)
		}
	}
	select {
	case c.login <- err:
	default: // an error after the first one, before the close
	}
}

// takeAnswer finds who waits for a frame: by seq, or for an error without one
// by the client_id that it names.
func (c *Client) takeAnswer(f wire.Frame) (answer, bool) {
	if f.Seq != 0 {
		return c.take(f.Seq)
	}
	if f.Op != wire.OpError {
		return answer{}, false
	}
	return c.takeSend(asError(f).ClientID)
}

// heartbeat sends a ping whenever nothing was sent for most of the interval,
// and gives up a server that answers none.
func (c *Client) heartbeat(interval time.Duration) {
	quiet := interval * 4 / 5
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-timer.C:
		}
		now := time.Now()
		if now.Sub(time.UnixMilli(c.lastRead.Load())) > 2*interval {
			c.end(&CloseError{Code: closeAbnormal, Reason: errSilent.Error(), Err: errSilent})
			_ = c.conn.CloseNow() // wakes the reader, which tells the rest
			return
		}
		next := time.UnixMilli(c.lastWrite.Load()).Add(quiet)
		if !next.After(now) {
			if _, err := c.request(wire.OpPing, nil, answer{done: func(wire.Frame, error) {}}); err != nil {
				return // the reader sees it as well
			}
			next = now.Add(quiet)
		}
		timer.Reset(next.Sub(now))
	}
}
