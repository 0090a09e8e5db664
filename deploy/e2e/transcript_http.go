package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// readsFollow is how far an answer by HTTP may be behind.
const readsFollow = 10 * time.Second

// http does "alice:admin POST /v1/… BODY"; "-" is nobody.
func (r *transcriptRun) http() {
	r.t.Helper()
	f := strings.SplitN(r.asked, " ", 4)
	if len(f) < 3 {
		r.fatal("want WHO METHOD PATH [BODY]")
	}
	user, role, _ := strings.Cut(f[0], ":")
	var body []byte
	if len(f) > 3 {
		body = []byte(f[3])
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), wait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, f[1], r.s.api()+f[2], bytes.NewReader(body))
	if err != nil {
		r.fatal("%v", err)
	}
	if user != "-" {
		req.Header.Set("Authorization", "Bearer "+r.s.Mint(r.t, user, role, ""))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.fatal("%v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.fatal("%v", err)
	}
	r.answer = strconv.Itoa(resp.StatusCode) + " " + string(b)
}

// answered compares the last answer. What is read may follow what was done by a
// moment: a GET is asked again until its answer is the one.
func (r *transcriptRun) answered(rest string) {
	r.t.Helper()
	got, err := r.judge(rest)
	for end := time.Now().Add(readsFollow); err != nil && strings.Contains(r.asked, " GET ") && time.Now().Before(end); {
		<-time.After(20 * time.Millisecond)
		r.http()
		got, err = r.judge(rest)
	}
	if err != nil {
		r.fatal("%v in %s", err, r.answer)
	}
	r.vars = got
}

func (r *transcriptRun) judge(rest string) (vars, error) {
	status, body, _ := strings.Cut(localise(rest, r.names), " ")
	haveStatus, haveBody, _ := strings.Cut(r.answer, " ")
	if status != haveStatus {
		return nil, fmt.Errorf("status %s, want %s", haveStatus, status)
	}
	return r.vars.match(body, haveBody, "answer")
}

// settle waits until every edge and logic knows the newest decision.
func (r *transcriptRun) settle() {
	r.t.Helper()
	Eventually(r.t, wait, "all know what was decided", func() error {
		newest, oldest := 0.0, -1.0
		for _, p := range r.s.Processes {
			for _, v := range p.controlVersions(r.t) {
				newest = max(newest, v)
				if oldest < 0 || v < oldest {
					oldest = v
				}
			}
		}
		if oldest < newest {
			return fmt.Errorf("version %v here, %v there", newest, oldest)
		}
		return nil
	})
}
