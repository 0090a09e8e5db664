package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

const (
	askTime    = 5 * time.Second // for one answer
	retryPause = 100 * time.Millisecond
	maxAnswer  = 16 << 20 // bytes
)

// api asks the logics in turn: one that does not answer is passed over the next
// time.
type api struct {
	bases  []string
	client *http.Client

	mu   sync.Mutex
	next int
	urls []string // of edges, as last told
}

func newAPI(bases []string) *api {
	return &api{bases: bases, client: &http.Client{Timeout: askTime, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
}

// refusal is an answer that says no.
type refusal struct {
	status int
	err    wire.Error
}

func (r *refusal) Error() string { return fmt.Sprintf("HTTP %d: %v", r.status, &r.err) }

// later says whether the same may be asked again.
func later(err error) bool {
	var r *refusal
	if !errors.As(err, &r) {
		return true // no answer
	}
	return r.status == http.StatusAccepted || r.status == http.StatusServiceUnavailable || r.status == http.StatusTooManyRequests || r.status == http.StatusInternalServerError
}

// ask asks one logic once. The error is a *refusal if it answered.
func (a *api) ask(ctx context.Context, method, path, token string, body, into any, header ...string) error {
	a.mu.Lock()
	base := a.bases[a.next%len(a.bases)]
	a.next++
	a.mu.Unlock()
	var raw io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode the request to %s: %w", path, err)
		}
		raw = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, raw)
	if err != nil {
		return fmt.Errorf("request %s: %w", path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return fmt.Errorf("ask: %w; is the system up (make run)?", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer to %s: %w", path, err)
	}
	if resp.StatusCode/100 != 2 || resp.StatusCode == http.StatusAccepted { // accepted: not decided yet
		var e struct{ Error wire.Error }
		_ = json.Unmarshal(answer, &e) // the status says enough
		return &refusal{resp.StatusCode, e.Error}
	}
	if into == nil || len(answer) == 0 {
		return nil
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("decode the answer to %s: %w", path, err)
	}
	return nil
}

// answers returns what is wrong where none of the logics answers anything.
func (a *api) answers(ctx context.Context) (err error) {
	for range a.bases {
		var r *refusal
		if err = a.ask(ctx, http.MethodGet, "/v1/edges", "", nil, nil); err == nil || errors.As(err, &r) {
			return nil
		}
	}
	return err
}

// insist asks until an answer settles it.
func (a *api) insist(ctx context.Context, method, path, token string, body, into any, header ...string) error {
	for {
		err := a.ask(ctx, method, path, token, body, into, header...)
		if err == nil || !later(err) {
			return err
		}
		if ctx.Err() != nil {
			return err
		}
		pause(ctx, retryPause)
	}
}

// mint gets the token of a device.
func (a *api) mint(ctx context.Context, admin string, u wire.UserID, d wire.DeviceID) (string, error) {
	path, body := "/v1/login", map[string]any{"user": u, "device": d}
	if admin != "" {
		path, body["roles"], body["ttl_s"] = "/v1/tokens", []string{"user"}, 86400
	}
	var out struct{ Token string }
	if err := a.insist(ctx, http.MethodPost, path, admin, body, &out); err != nil {
		return "", fmt.Errorf("token of %s: %w", u, err)
	}
	return out.Token, nil
}

// edges are where to connect, the best first; as last told while nobody answers.
func (a *api) edges(ctx context.Context, token string) []string {
	var list []struct{ URL string }
	if err := a.ask(ctx, http.MethodGet, "/v1/edges", token, nil, &list); err == nil && len(list) > 0 {
		urls := make([]string, len(list))
		for i := range list {
			urls[i] = list[i].URL
		}
		a.mu.Lock()
		a.urls = urls
		a.mu.Unlock()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.urls
}

// codeOf is what Return and Fail say of an error.
func codeOf(err error) string {
	var r *refusal
	var e *wire.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &r) && r.err.Code != "":
		return string(r.err.Code)
	case errors.As(err, &e):
		return string(e.Code)
	}
	return trace.NoAnswer
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
