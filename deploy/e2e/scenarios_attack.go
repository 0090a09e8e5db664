package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	starling "github.com/starling-im/starling/client/go"
	"github.com/starling-im/starling/common/wire"
)

// Cursors is the story: sync with cursors that lie, tokens of others, pages of one row over
// recalls and edits, and a device that comes back after weeks.
func Cursors(t *testing.T, s *System) {
	a, b := s.Join(t, s.Name("alice"), "d"), s.Join(t, s.Name("bob"), "d")
	conv := wire.PrivateConv(a.User, b.User)
	var ids []wire.MsgID
	for i := range 30 {
		ids = append(ids, a.Say(string(b.User), fmt.Sprint("m", i)).ID)
	}
	ctx := t.Context()
	for i := range 10 { // seq 31 to 40
		op, body := wire.OpRecall, wire.RecallBody{Conv: conv, ID: ids[i*3]}
		if i%2 == 1 {
			op, body.Content = wire.OpEdit, fmt.Sprint("edited", i*3)
		}
		if _, err := a.C.Call(ctx, op, body); err != nil {
			t.Fatalf("%s of %d: %v", op, i*3, err)
		}
	}
	convs, pages, _ := b.SyncAll(map[wire.ConvID]int64{conv: 0}, 1)
	c := convs[conv]
	if pages < 40 || c == nil || c.Upto != 40 || len(c.Messages) != 30 || len(c.Updates) != 10 {
		t.Fatalf("sync by ones: %d pages, %+v", pages, c)
	}
	var seqs []int64
	for i, m := range c.Messages {
		seqs = append(seqs, m.Seq)
		want, status := fmt.Sprint("m", i), ""
		switch {
		case i%6 == 0:
			want, status = "", wire.StatusRecalled
		case i%3 == 0:
			want, status = fmt.Sprint("edited", i), wire.StatusEdited
		}
		if m.Content != want || m.Status != status {
			t.Errorf("message %d: %q %q, want %q %q", i, m.Content, m.Status, want, status)
		}
	}
	for _, u := range c.Updates {
		seqs = append(seqs, u.Seq)
	}
	slices.Sort(seqs)
	for i, seq := range seqs {
		if seq != int64(i+1) {
			t.Fatalf("seqs %v", seqs)
		}
	}
	for _, cursor := range []int64{41, 1 << 40, math.MaxInt64} { // ahead: clamped, nothing is listed, all later comes
		if got, _, _ := b.SyncAll(map[wire.ConvID]int64{conv: cursor}, 0); got[conv] != nil {
			t.Errorf("cursor %d lists %+v", cursor, got[conv])
		}
	}
	x := s.Join(t, s.Name("eve"), "d")
	if got, _, _ := x.SyncAll(map[wire.ConvID]int64{conv: 0, "g:" + wire.ConvID(s.Name("nosuch")): 3}, 0); len(got) != 0 {
		t.Errorf("cursors of others' conversations list %v", got)
	}
	for _, bad := range []map[wire.ConvID]int64{{conv: -1}, {conv: math.MinInt64}, {"x": 1}, {"p:b:a": 1}} {
		if _, err := b.C.Sync(ctx, wire.Sync{Cursors: bad}); !hasCode(err, wire.CodeBadRequest) {
			t.Errorf("cursors %v: %v, want bad_request", bad, err)
		}
	}
	first, err := b.C.Sync(ctx, wire.Sync{Cursors: map[wire.ConvID]int64{conv: 0}, Limit: 3})
	if err != nil || !first.More || first.Token == "" {
		t.Fatalf("first page: %+v, %v", first, err)
	}
	for _, tok := range []string{first.Token, first.Token[:len(first.Token)-2], first.Token + "AA", strings.ToLower(first.Token), "AAAA"} {
		if _, err := x.C.Sync(ctx, wire.Sync{Token: tok}); !hasCode(err, wire.CodeBadRequest) {
			t.Errorf("a token of another: %v, want bad_request", err)
		}
	}
	for range 2 { // the same token twice gives the same page
		if p, err := b.C.Sync(ctx, wire.Sync{Token: first.Token}); err != nil || len(p.Conversations) != 1 || p.Conversations[0].Messages[0].Seq != 4 {
			t.Errorf("second page: %+v, %v", p, err)
		}
	}
	// An ack far ahead is clamped: what comes later is listed.
	for _, seq := range []int64{math.MaxInt64, 5, 40} {
		if err := b.C.Ack(conv, seq); err != nil {
			t.Fatal(err)
		}
	}
	if got, _, _ := b.SyncAll(nil, 0); len(got) != 0 {
		t.Errorf("acknowledged and listed: %+v", got)
	}
	a.Say(string(b.User), "later")
	b.Until("the later message", func() error {
		if ms := b.seen[conv]; len(ms) == 0 || ms[len(ms)-1].Seq != 41 {
			return fmt.Errorf("%d messages", len(ms))
		}
		return nil
	})
	for _, dev := range []string{"d", "new"} { // a new device starts after the highest ack of the others
		p := s.Join(t, string(b.User), dev)
		got, _, _ := p.SyncAll(nil, 0)
		if c := got[conv]; c == nil || len(c.Messages) != 1 || c.Messages[0].Content != "later" || c.Unread == 0 {
			t.Errorf("device %s after weeks: %+v", dev, c)
		}
	}
	for query, want := range map[string][2]int64{
		"after=0&limit=5": {1, 5}, "before=1&limit=5": {0, 0}, "after=9223372036854775807&limit=5": {0, 0},
		"after=28&before=9223372036854775807": {29, 41}, "before=3&after=0": {1, 2},
	} {
		var page struct{ Messages []wire.Msg }
		s.HTTP(t, http.MethodGet, "/v1/conversations/"+url.PathEscape(string(conv))+"/messages?"+query, b.Token, nil, &page)
		got := [2]int64{}
		if n := len(page.Messages); n > 0 {
			got = [2]int64{page.Messages[0].Seq, page.Messages[n-1].Seq}
		}
		if got != want {
			t.Errorf("history?%s: seqs %v, want %v", query, got, want)
		}
	}
}

// call sends a request with a body of any bytes.
func (s *System) call(t testing.TB, method, path, token, body string, header ...string) (status int, code wire.Code, h http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.API+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
		return 0, "", http.Header{}
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
	}
	var e struct{ Error wire.Error }
	if resp.StatusCode/100 != 2 {
		if err := json.Unmarshal(b, &e); err != nil && method != http.MethodHead {
			t.Errorf("%s %s: HTTP %d with %.100q, not an error's JSON", method, path, resp.StatusCode, b)
		}
	}
	return resp.StatusCode, e.Error.Code, resp.Header
}

// BadHTTP is the story: what the API refuses, each by the code of the table.
func BadHTTP(t *testing.T, s *System) {
	alice, bob := s.Name("alice"), s.Name("bob")
	var login struct{ Token, Refresh string }
	s.HTTP(t, http.MethodPost, "/v1/login", "", map[string]string{"user": alice, "device": "d"}, &login)
	tok, g := login.Token, s.Name("team")
	if code := s.HTTP(t, http.MethodPost, "/v1/groups", tok, map[string]any{"id": g, "name": "x", "members": []string{bob}}, nil); code != http.StatusOK {
		t.Fatalf("create: HTTP %d", code)
	}
	msg := `{"to":"` + bob + `","client_id":"x","type":"text","content":"y"}`
	many := `{"members":["u0"` + strings.Repeat(`,"u1"`, 1000) + `]}`
	for _, tc := range []struct {
		method, path, token, body string
		status                    int
		code                      wire.Code
	}{
		{"GET", "/v1/conversations", "", "", 401, wire.CodeUnauthenticated},
		{"GET", "/v1/conversations", "x", "", 401, wire.CodeUnauthenticated},
		{"GET", "/v1/conversations", login.Refresh, "", 401, wire.CodeUnauthenticated},
		{"GET", "/v1/conversations", tok[:len(tok)-1], "", 401, wire.CodeUnauthenticated},
		{"POST", "/v1/tokens/refresh", "", `{"refresh":"` + tok + `"}`, 401, wire.CodeUnauthenticated},
		{"POST", "/v1/tokens/refresh", "", `{}`, 401, wire.CodeUnauthenticated},
		{"POST", "/v1/tokens", tok, `{"user":"x"}`, 403, wire.CodeForbidden},
		{"POST", "/v1/login", "", `{"user":"a:b"}`, 400, wire.CodeBadRequest},
		{"POST", "/v1/login", "", `{"user":7}`, 400, wire.CodeBadRequest},
		{"POST", "/v1/login", "", `x`, 400, wire.CodeBadRequest},
		{"GET", "/v1/nothing", tok, "", 404, wire.CodeNotFound},
		{"GET", "/v1/nothing", "", "", 404, wire.CodeNotFound},
		{"GET", "/v1/../etc/passwd", "", "", 404, wire.CodeNotFound},
		{"GET", "/%2e%2e/%2e%2e/etc/passwd", "", "", 404, wire.CodeNotFound},
		{"PUT", "/v1/messages", tok, msg, 404, wire.CodeNotFound},
		{"DELETE", "/v1/conversations", tok, "", 404, wire.CodeNotFound},
		{"BREW", "/v1/conversations", tok, "", 404, wire.CodeNotFound},
		{"POST", "/v1/messages", "", msg, 401, wire.CodeUnauthenticated},
		{"POST", "/v1/messages", tok, "", 400, wire.CodeBadRequest},
		{"POST", "/v1/messages", tok, `[]`, 400, wire.CodeBadRequest},
		{"POST", "/v1/messages", tok, `"x"`, 400, wire.CodeBadRequest},
		{"POST", "/v1/messages", tok, msg + "x", 400, wire.CodeBadRequest},
		{"POST", "/v1/messages", tok, "{\"to\":\"\xff\"}", 400, wire.CodeBadRequest},
		{"POST", "/v1/messages", tok, nested(10_000), 400, wire.CodeBadRequest},
		{"POST", "/v1/messages", tok, `{"to":"` + bob + `","from":"` + bob + `","client_id":"x","type":"text","content":"y"}`, 403, wire.CodeForbidden},
		{"POST", "/v1/messages", tok, `{"to":"` + bob + `","client_id":"x","type":"text","content":"` + strings.Repeat("y", 16<<10+1) + `"}`, 413, wire.CodeTooLarge},
		{"POST", "/v1/messages", tok, strings.Repeat(" ", 300<<10), 413, wire.CodeTooLarge},
		{"POST", "/v1/groups", tok, `{"id":"a:b"}`, 400, wire.CodeBadRequest},
		{"POST", "/v1/groups", tok, `{"id":7}`, 400, wire.CodeBadRequest},
		{"POST", "/v1/groups", tok, `{"members":"x"}`, 400, wire.CodeBadRequest},
		{"POST", "/v1/groups", tok, many, 400, wire.CodeBadRequest},
		{"POST", "/v1/groups", tok, `{"name":"` + strings.Repeat("x", 200) + `"}`, 400, wire.CodeBadRequest},
		{"POST", "/v1/groups", tok, `{"id":"` + g + `"}`, 409, wire.CodeConflict},
		{"POST", "/v1/groups/" + g + "/members", tok, `{"members":[]}`, 400, wire.CodeBadRequest},
		{"POST", "/v1/groups/" + g + "/members", tok, `{"members":[""]}`, 400, wire.CodeBadRequest},
		{"POST", "/v1/groups/nosuch-" + g + "/members", tok, `{"members":["x"]}`, 404, wire.CodeNotFound},
		{"PUT", "/v1/groups/" + g + "/members/" + bob + "/role", tok, `{"role":"king"}`, 400, wire.CodeBadRequest},
		{"PUT", "/v1/groups/" + g + "/members/nobody/role", tok, `{"role":"admin"}`, 404, wire.CodeNotFound},
		{"PATCH", "/v1/groups/" + g, tok, `{}`, 400, wire.CodeBadRequest},
		{"POST", "/v1/groups/" + g + "/mute", tok, `{"until":-1}`, 400, wire.CodeBadRequest},
		{"GET", "/v1/groups/" + g + "/members?limit=0", tok, "", 400, wire.CodeBadRequest},
		{"GET", "/v1/groups/" + g + "/members?limit=x", tok, "", 400, wire.CodeBadRequest},
		{"GET", "/v1/conversations?limit=501", tok, "", 400, wire.CodeBadRequest},
		{"GET", "/v1/conversations?after=x", tok, "", 400, wire.CodeBadRequest},
		{"GET", "/v1/conversations/p:a:b/messages", tok, "", 403, wire.CodeNotMember},
		{"GET", "/v1/conversations/x/messages", tok, "", 400, wire.CodeBadRequest},
		{"GET", "/v1/conversations/g:" + g + "/messages?after=-1", tok, "", 400, wire.CodeBadRequest},
		{"GET", "/v1/conversations/g:" + g + "/messages?before=1e3", tok, "", 400, wire.CodeBadRequest},
		{"GET", "/v1/operations/x", tok, "", 400, wire.CodeBadRequest},
		{"GET", "/v1/operations/1", tok, "", 404, wire.CodeNotFound},
		{"GET", "/v1/operations?conv=g:" + g, tok, "", 400, wire.CodeBadRequest},
		{"GET", "/v1/users/a:b/presence", tok, "", 400, wire.CodeBadRequest},
		{"POST", "/v1/presence", tok, `{"users":[7]}`, 400, wire.CodeBadRequest},
	} {
		status, code, h := s.call(t, tc.method, tc.path, tc.token, tc.body)
		if status != tc.status || code != tc.code {
			t.Errorf("%s %.60s %.60s: HTTP %d %s, want %d %s", tc.method, tc.path, tc.body, status, code, tc.status, tc.code)
		}
		if h.Get("X-Request-Id") == "" {
			t.Errorf("%s %.60s: no request id", tc.method, tc.path)
		}
	}
	key := s.Name("key")
	for i, want := range []int{http.StatusOK, http.StatusOK, http.StatusConflict} {
		body := `{"id":"` + g + `-keyed","name":"` + map[bool]string{true: "one", false: "two"}[i < 2] + `"}`
		if status, code, _ := s.call(t, http.MethodPost, "/v1/groups", tok, body, "Idempotency-Key", key); status != want {
			t.Errorf("create %d under one key: HTTP %d %s, want %d", i, status, code, want)
		}
	}
	if status, _, _ := s.call(t, http.MethodPost, "/v1/groups", tok, `{}`, "Idempotency-Key", strings.Repeat("k", 65)); status != http.StatusBadRequest {
		t.Errorf("a key of 65: HTTP %d", status)
	}
}

// HugeHTTP is the story: bodies without end and heads without end end with an error, not in memory.
func HugeHTTP(t *testing.T, s *System) {
	tok := s.Token(t, s.Name("alice"), "d")
	for _, size := range []int64{2 << 20, 64 << 20} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.API+"/v1/messages", io.LimitReader(zeros{}, size))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tok)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue // cut off while writing
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("a body of %d: HTTP %d", size, resp.StatusCode)
		}
	}
	resp, err := http.DefaultClient.Do(&http.Request{Method: http.MethodGet, URL: mustURL(t, s.API+"/v1/edges"), Header: http.Header{"X-Long": {strings.Repeat("x", 1<<20)}}})
	if err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode/100 == 2 {
			t.Errorf("a head of 1 MiB: HTTP %d", resp.StatusCode)
		}
	}
	if code := s.HTTP(t, http.MethodGet, "/v1/edges", tok, nil, nil); code != http.StatusOK {
		t.Errorf("afterwards: HTTP %d", code)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return copy(b, bytes.Repeat([]byte{' '}, len(b))), nil }

func mustURL(t testing.TB, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// LargeGroup is the story: beyond 500 members joins take no seq, and messages still reach
// who is there, and those who join.
func LargeGroup(t *testing.T, s *System) {
	owner, late := s.Join(t, s.Name("owner"), "d"), s.Join(t, s.Name("late"), "d")
	g := s.Name("large")
	var members []string
	for i := range 500 {
		members = append(members, fmt.Sprintf("%s-m%d", g, i))
	}
	conv := owner.Group(g, members...)
	first := owner.SayGroup(g, "one")
	owner.Gets(conv, "one")
	if m := owner.Seen(conv); m[len(m)-1].Seq != 2 || m[len(m)-1].ID != first.ID {
		t.Errorf("creation and one message: %+v", m)
	}
	path := "/v1/groups/" + g + "/members"
	if code := s.HTTP(t, http.MethodPost, path, owner.Token, map[string]any{"members": []string{string(late.User)}}, nil); code != http.StatusOK {
		t.Fatalf("join: HTTP %d", code)
	}
	owner.SayGroup(g, "two")
	owner.Gets(conv, "one", "two")
	late.Gets(conv, "two")
	if code := s.HTTP(t, http.MethodDelete, path+"/"+string(late.User), late.Token, nil, nil); code != http.StatusOK {
		t.Fatalf("leave: HTTP %d", code)
	}
	owner.SayGroup(g, "three")
	owner.Gets(conv, "one", "two", "three")
	if ms := owner.Seen(conv); ms[len(ms)-1].Seq != 4 {
		t.Errorf("joins of a large group have taken seqs: %d", ms[len(ms)-1].Seq)
	}
	late.Gets(conv, "two")
	if got := texts(late.History(conv)); !slices.Equal(got, []string{"two"}) {
		t.Errorf("history of who joined and left: %q", got)
	}
	got, _, _ := late.SyncAll(map[wire.ConvID]int64{conv: 0}, 0)
	if c := got[conv]; c == nil || !slices.Equal(texts(c.Messages), []string{"two"}) {
		t.Errorf("sync of who joined and left: %+v", c)
	}
	count, after := 0, ""
	for {
		var page struct {
			Members []struct{ User string }
			Next    string
		}
		if code := s.HTTP(t, http.MethodGet, path+"?limit=200&after="+after, owner.Token, nil, &page); code != http.StatusOK {
			t.Fatalf("members: HTTP %d", code)
		}
		count += len(page.Members)
		if after = page.Next; after == "" {
			break
		}
	}
	if count != 501 {
		t.Errorf("%d members, want 501", count)
	}
}

// RetryEverywhere is the story: the same send from several connections and HTTP at once is
// one message.
func RetryEverywhere(t *testing.T, s *System) {
	r := newRetrier(t, s)
	for i := range 5 {
		r.all(i)
	}
	r.check(5)
}

// retrier repeats sends from everywhere at once.
type retrier struct {
	t    testing.TB
	s    *System
	user string
	bob  string
	tok  []string
	run  string

	mu   sync.Mutex
	last map[string]wire.MsgID // by the last send_ack of each client_id
}

func newRetrier(t testing.TB, s *System) *retrier {
	r := &retrier{t: t, s: s, user: s.Name("alice"), bob: s.Name("bob"), last: map[string]wire.MsgID{}, run: s.Name("run")}
	for i := range 4 {
		r.tok = append(r.tok, s.Token(t, r.user, fmt.Sprint("d", i)))
	}
	return r
}

// all sends number i over four connections and two HTTP calls at once.
func (r *retrier) all(i int) {
	r.t.Helper()
	m := wire.Send{To: wire.UserID(r.bob), ClientID: fmt.Sprint(r.run, "-", i), Type: wire.TypeText, Content: fmt.Sprint("n", i)}
	var people []*Person
	for d, tok := range r.tok {
		p := &Person{t: r.t, s: r.s, User: wire.UserID(r.user), Device: fmt.Sprint("d", d), Token: tok}
		p.Connect(starling.Options{})
		people = append(people, p)
	}
	var wg sync.WaitGroup
	ids, httpIDs := make(chan wire.MsgID, 20), make(chan wire.MsgID, 2)
	for _, p := range people {
		for range 3 {
			wg.Go(func() {
				ack, err := p.TrySend(m)
				if err != nil {
					r.t.Errorf("send %d on %s: %v", i, p.Device, err)
				}
				ids <- ack.ID
			})
		}
	}
	for range 2 {
		wg.Go(func() {
			var ack wire.SendAck
			if code := r.s.HTTP(r.t, http.MethodPost, "/v1/messages", r.tok[0], m, &ack); code != http.StatusOK {
				r.t.Errorf("send %d by HTTP: %d", i, code)
			}
			httpIDs <- ack.ID
		})
	}
	wg.Wait()
	close(ids)
	close(httpIDs)
	all := map[wire.MsgID]int{}
	for id := range ids {
		all[id]++
	}
	// A second send_ack corrects the first where the index did not know.
	conv := wire.PrivateConv(wire.UserID(r.user), wire.UserID(r.bob))
	var stands wire.MsgID
	Eventually(r.t, wait, "it stands in history", func() error {
		for _, h := range people[0].History(conv) {
			if h.ClientID == m.ClientID {
				stands = h.ID
				return nil
			}
		}
		return fmt.Errorf("no %s", m.ClientID)
	})
	for id, n := range all {
		if id == stands {
			continue
		}
		r.t.Logf("%s: %d answers named %s, history has %s", m.ClientID, n, id, stands)
		found := false
		deadline := time.Now().Add(wait)
		for !found && time.Now().Before(deadline) {
			for _, p := range people {
				p.mu.Lock()
				for _, f := range p.frames {
					var a wire.SendAck
					if f.Op == wire.OpSendAck && wire.Unmarshal(f.Body, &a) == nil && a.ClientID == m.ClientID && a.ID == stands {
						found = true
					}
				}
				p.mu.Unlock()
			}
			time.Sleep(20 * time.Millisecond)
		}
		if !found {
			r.t.Errorf("%s: answered with %s, and no second send_ack named %s", m.ClientID, id, stands)
		}
	}
	for id := range httpIDs { // has no connection that a correction could come by
		if id != stands {
			r.t.Logf("%s: HTTP named %s, history has %s", m.ClientID, id, stands)
		}
		var op struct {
			ID wire.MsgID `json:"operation"`
		}
		path := "/v1/operations?conv=" + url.QueryEscape(string(conv)) + "&client_id=" + m.ClientID
		if code := r.s.HTTP(r.t, http.MethodGet, path, r.tok[0], nil, &op); code != http.StatusOK || op.ID != stands {
			r.t.Errorf("the outcome of %s: HTTP %d, id %s, want %s", m.ClientID, code, op.ID, stands)
		}
	}
	r.mu.Lock()
	if first, ok := r.last[m.ClientID]; ok && first != stands {
		r.t.Errorf("%s stood as %s, now as %s", m.ClientID, first, stands)
	}
	r.last[m.ClientID] = stands
	r.mu.Unlock()
	for _, p := range people {
		p.C.Close()
	}
}

// check: n messages in all, each once.
func (r *retrier) check(n int) {
	r.t.Helper()
	b := r.s.Join(r.t, r.bob, "d")
	conv := wire.PrivateConv(wire.UserID(r.user), wire.UserID(r.bob))
	if got := b.History(conv); len(got) != n || wholeFrom(1, got) != nil {
		r.t.Errorf("%d messages after retries of %d: %q", len(got), n, texts(got))
	}
}
