// Package swarm brings up the connections of a load: it gets a token per user
// from logic's HTTP API, finds the edges and connects, a bounded number at a
// time. A Swarm's clients belong to the caller until Close.
package swarm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/starling-im/starling/client/go"
	"github.com/starling-im/starling/common/wire"
)

// connecting bounds how many users log in at once, so that a ramp does not
// look like an attack.
const connecting = 64

// Config says where and who.
type Config struct {
	API        string // base URL of logic's HTTP API
	AdminToken string // mints tokens by POST /v1/tokens; empty: POST /v1/login
	URL        string // edge to connect to; empty: the ones of GET /v1/edges in turn
	Users      int
	Prefix     string // user names are Prefix0, Prefix1, …
	Binary     bool   // binary frames instead of JSON text
}

// User returns the name of user i.
func (c Config) User(i int) wire.UserID { return wire.UserID(fmt.Sprintf("%s%d", c.Prefix, i)) }

// Swarm is a set of connected clients, by number of user.
type Swarm struct {
	Clients []*starling.Client
}

// Connect brings up all users or fails, naming the first reason. push gets
// each client's pushes, from that client's reader.
func Connect(ctx context.Context, cfg Config, push func(user int, f wire.Frame)) (*Swarm, error) {
	s := &Swarm{Clients: make([]*starling.Client, cfg.Users)}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	slots := make(chan struct{}, connecting)
	for i := range cfg.Users {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			c, err := connect(ctx, cfg, i, func(f wire.Frame) { push(i, f) })
			if err != nil {
				cancel(fmt.Errorf("connect user %s: %w", cfg.User(i), err))
				return
			}
			s.Clients[i] = c
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close ends all connections.
func (s *Swarm) Close() {
	var wg sync.WaitGroup
	for _, c := range s.Clients {
		if c != nil {
			wg.Go(c.Close)
		}
	}
	wg.Wait()
}

func connect(ctx context.Context, cfg Config, i int, push func(wire.Frame)) (*starling.Client, error) {
	device := fmt.Sprintf("bench-%d", i)
	token, err := mint(ctx, cfg, cfg.User(i), device)
	if err != nil {
		return nil, err
	}
	url := cfg.URL
	if url == "" {
		if url, err = edge(ctx, cfg, token, i); err != nil {
			return nil, err
		}
	}
	return starling.Dial(ctx, starling.Options{
		URL: url, Token: token, Device: device, Platform: "bench", Binary: cfg.Binary, OnPush: push,
	})
}

func mint(ctx context.Context, cfg Config, u wire.UserID, device string) (string, error) {
	path, body := "/v1/login", map[string]any{"user": u, "device": device}
	if cfg.AdminToken != "" {
		path, body["roles"], body["ttl_s"] = "/v1/tokens", []string{"user"}, 86400
	}
	var answer struct{ Token string }
	if err := call(ctx, http.MethodPost, cfg.API+path, cfg.AdminToken, body, &answer); err != nil {
		return "", err
	}
	return answer.Token, nil
}

func edge(ctx context.Context, cfg Config, token string, i int) (string, error) {
	var edges []struct{ URL string }
	if err := call(ctx, http.MethodGet, cfg.API+"/v1/edges", token, nil, &edges); err != nil {
		return "", err
	}
	if len(edges) == 0 {
		return "", errors.New("no edge is up: GET /v1/edges is empty")
	}
	return edges[i%len(edges)].URL, nil
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 1 << 20

// busyTries is how often a server that says "later" is asked, busyWait apart.
const (
	busyTries = 10
	busyWait  = 500 * time.Millisecond
)

// errBusy marks an answer that asks to come again.
var errBusy = errors.New("busy")

// call does what every client must: an answer that says "later" is tried again.
func call(ctx context.Context, method, url, token string, body, into any) error {
	for try := 1; ; try++ {
		err := callOnce(ctx, method, url, token, body, into)
		if !errors.Is(err, errBusy) || try == busyTries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(busyWait):
		}
	}
}

func callOnce(ctx context.Context, method, url, token string, body, into any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode request to %s: %w", url, err)
	}
	if body == nil {
		raw = nil
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("request %s: %w", url, err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w; is the system up (make run)?", method, url, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", url, err)
	}
	if s := resp.StatusCode; s == http.StatusServiceUnavailable || s == http.StatusTooManyRequests {
		return fmt.Errorf("%s %s: HTTP %d: %w: %s", method, url, s, errBusy, strings.TrimSpace(string(answer)))
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: HTTP %d: %s", method, url, resp.StatusCode, strings.TrimSpace(string(answer)))
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("decode answer of %s: %w", url, err)
	}
	return nil
}
