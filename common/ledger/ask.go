package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	askTime   = 10 * time.Second // of one process
	maxAnswer = 16 << 20         // bytes
)

// ParseURLs reads a comma list of admin addresses: host:port or http://host:port.
func ParseURLs(list string) ([]string, error) {
	var out []string
	for s := range strings.SplitSeq(list, ",") {
		s = strings.TrimRight(strings.TrimSpace(s), "/")
		if s == "" {
			continue
		}
		if !strings.Contains(s, "://") {
			s = "http://" + s
		}
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" {
			return nil, fmt.Errorf("%q is no address of an admin port; write host:port or http://host:port", s)
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return nil, errors.New("no address is given; name the admin ports of edges and jobs, such as 127.0.0.1:3190,127.0.0.1:3192")
	}
	return out, nil
}

// Reachable is where this machine finds what listens on an address: one that
// listens everywhere is found on loopback.
func Reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}

// Ask asks processes at their admin URLs, one after another, and adds up what
// they answer. Who does not answer is among the differences.
func Ask(ctx context.Context, urls []string) *Ledger {
	client := &http.Client{Timeout: askTime, Transport: &http.Transport{DisableKeepAlives: true}}
	var answers []Process
	var problems []string
	for _, u := range urls {
		p, err := ask(ctx, client, u)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", u, err))
			continue
		}
		answers = append(answers, p)
	}
	return Sum(answers, problems)
}

func ask(ctx context.Context, client *http.Client, base string) (p Process, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+Path, nil)
	if err != nil {
		return p, fmt.Errorf("make the request: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return p, fmt.Errorf("does not answer: %w; is the process up, and is this the admin-addr of an edge or a job?", err)
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return p, errors.New("has no ledger: name the admin ports of edges and jobs, whose binaries are as new as this one")
	default:
		return p, fmt.Errorf("answers %s", resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return p, fmt.Errorf("read the answer: %w", err)
	}
	if err := json.Unmarshal(b, &p); err != nil || p.Process == "" {
		return p, errors.Join(errors.New("answers with no ledger: is this the admin port of an edge or a job?"), err)
	}
	return p, nil
}
