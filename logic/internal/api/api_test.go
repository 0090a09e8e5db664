package api

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/starling-im/starling/common/idgen"
	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/block"
	"github.com/starling-im/starling/logic/internal/controller"
	"github.com/starling-im/starling/logic/internal/group"
	"github.com/starling-im/starling/logic/internal/history"
	"github.com/starling-im/starling/logic/internal/live"
	"github.com/starling-im/starling/logic/internal/logictest"
	"github.com/starling-im/starling/logic/internal/message"
	"github.com/starling-im/starling/logic/internal/presence"
)

func TestMain(m *testing.M) {
	// hertz keeps the Date header in a goroutine for the life of the process.
	testkit.VerifyMain(m, goleak.IgnoreAnyFunction("github.com/cloudwego/hertz/pkg/protocol.UpdateServerDate.func1"))
}

type fixture struct {
	t      *testing.T
	store  *memstore.Store
	reg    *memregistry.Registry
	log    *logictest.Log
	keys   *token.Keyring
	server *Server
	url    string
	client *http.Client
	ready  error
	wait   time.Duration // told to who changes something
	taken  atomic.Int64  // changes that were counted
}

// Take implements Quota.
func (f *fixture) Take(wire.UserID) time.Duration {
	f.taken.Add(1)
	return f.wait
}

func setup(t *testing.T, with ...func(*Deps)) *fixture {
	t.Helper()
	return setupWaiting(t, time.Minute, with...)
}

// setupWaiting sets up with a budget for verdicts.
func setupWaiting(t *testing.T, budget time.Duration, with ...func(*Deps)) *fixture {
	t.Helper()
	f := &fixture{t: t, store: memstore.New(), reg: memregistry.New(), client: &http.Client{Transport: &http.Transport{}}}
	f.log = logictest.New(t.Context(), f.store)
	g := idgen.New(1, 0, time.Now)
	g.Extend(time.Now().Add(time.Hour).UnixMilli())
	var cfg message.Config
	cfg.RegisterFlags(flag.NewFlagSet("t", flag.ContinueOnError), "logic.")
	cfg.LookBudget, cfg.WaitBudget = time.Minute, budget
	msgs, err1 := message.New(cfg, message.Deps{Produce: f.log, Store: f.store, Index: f.reg, IDs: g, Limits: logictest.Limits(16 << 10)})
	groups, err2 := group.New(f.store, msgs)
	hist, err3 := history.New(history.Deps{Store: f.store, Index: f.reg})
	where, err4 := presence.New(f.reg)
	blocks, err7 := block.New(f.store, msgs)
	lv, err8 := live.New(live.Deps{
		Push: live.NewPusher(f.log, nil), Store: f.store, Index: f.reg, IDs: g, LargeGroup: 500, Limits: logictest.Limits(16 << 10),
	})
	ctl, err9 := controller.New(controller.Deps{Store: f.store})
	var err5, err6 error
	f.keys, err5 = token.LoadOrCreate(t.TempDir())
	d := Deps{
		Messages: msgs, Groups: groups, Blocks: blocks, Live: lv, Control: ctl, Limits: limits.NewLive(limits.Default()), Quota: f,
		History: hist, Presence: where, Tokens: f.keys, Verifier: f.keys.Verifier(), Embedded: true,
		Ready: func() error { return f.ready },
		Page:  fstest.MapFS{"index.html": {Data: []byte("<html>")}, "app.js": {Data: []byte("1")}, "web.go": {Data: []byte("x")}},
	}
	for _, w := range with {
		w(&d)
	}
	f.server, err6 = New("127.0.0.1:0", d)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9); err != nil {
		t.Fatal(err)
	}
	if err := f.server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.url = "http://" + f.server.Addr()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = msgs.Run(ctx) })
	wg.Go(func() { _ = ctl.Run(ctx) })
	for ctl.Deny("nobody", "", time.Time{}) != nil { // until it has looked
		time.Sleep(time.Millisecond)
	}
	t.Cleanup(func() {
		if err := f.server.Stop(context.Background()); err != nil {
			t.Errorf("stop: %v", err)
		}
		f.client.CloseIdleConnections()
		cancel()
		wg.Wait()
		f.log.Close()
	})
	return f
}

func (f *fixture) token(user string, roles ...string) string {
	f.t.Helper()
	s, err := f.keys.Mint(token.Claims{User: wire.UserID(user), Device: "web", Roles: roles}, time.Hour)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

type answer struct {
	status int
	header http.Header
	body   string
}

// code is the error's code, "" if it is none.
func (a answer) code() wire.Code {
	var e struct{ Error wire.Error }
	_ = wire.Unmarshal([]byte(a.body), &e)
	return e.Error.Code
}

func (f *fixture) call(tok, method, path, body string, headers ...string) answer {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	if tok != "" {
		req.Header.Set("Authorization", "Bearer "+tok)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := f.client.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	f.described(method, path, resp.StatusCode, b)
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// as calls as a user and wants a status.
func (f *fixture) as(user string, status int, method, path, body string, headers ...string) answer {
	f.t.Helper()
	a := f.call(f.token(user), method, path, body, headers...)
	if a.status != status {
		f.t.Fatalf("%s %s as %s: %d %s, want %d", method, path, user, a.status, a.body, status)
	}
	_ = f.log.Flush(f.t.Context())
	return a
}

// shortBudget is for commands without a verdict. Others may miss theirs, too,
// and want decided.
const shortBudget = 50 * time.Millisecond

// decided repeats a command under its key until there is a verdict, 200.
func (f *fixture) decided(user, method, path, body, key string) {
	f.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	a := f.call(f.token(user), method, path, body, "Idempotency-Key", key)
	for a.status == http.StatusAccepted && time.Now().Before(deadline) {
		a = f.call(f.token(user), method, path, body, "Idempotency-Key", key)
	}
	if a.status != http.StatusOK {
		f.t.Fatalf("%s %s as %s: %d %s", method, path, user, a.status, a.body)
	}
	_ = f.log.Flush(f.t.Context())
}

func get[T any](t *testing.T, a answer) T {
	t.Helper()
	var v T
	if err := wire.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
	return v
}

// fill puts ids into a route's pattern.
func fill(path string) string {
	return strings.NewReplacer(":conv", "p:alice:bob", ":group", "team", ":user", "bob", ":id", "5").Replace(path)
}

// Every route: open ones answer anyone, all others want a token, a valid one,
// and of a role of the table.
func TestPolicy(t *testing.T) {
	f := setup(t)
	old, err := f.keys.Mint(token.Claims{User: "alice", IssuedAt: time.Now().Add(-2 * time.Hour)}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	refresh, err := f.keys.Mint(token.Claims{User: "alice", Use: token.UseRefresh}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]bool{"/v1/login": true, "/v1/tokens/refresh": true, "/healthz": true, "/readyz": true, "/openapi.json": true}
	// Who may: all but where it is said here.
	only := map[string]string{
		"POST /v1/tokens": "admin service", "POST /v1/admin/bans": "admin", "DELETE /v1/admin/bans/:user": "admin", "POST /v1/admin/kick": "admin",
		"POST /v1/admin/broadcast": "admin", "PUT /v1/admin/settings": "admin", "GET /v1/admin/bans": "operator admin", "GET /v1/admin/stats": "operator admin",
		"GET /v1/admin/nodes": "operator admin", "POST /v1/admin/nodes/:id/drain": "operator admin", "GET /v1/admin/settings": "operator admin",
	}
	for _, r := range routes() {
		t.Run(r.method+" "+r.path, func(t *testing.T) {
			path := fill(r.path)
			for what, tok := range map[string]string{"none": "", "nonsense": "abc", "expired": old, "refresh": refresh} {
				a := f.call(tok, r.method, path, "{}")
				denied := a.status == http.StatusUnauthorized && a.header.Get("WWW-Authenticate") != ""
				if r.path == "/v1/tokens/refresh" {
					continue // its body is the credential
				}
				if denied == open[r.path] {
					t.Errorf("token %s: %d %s", what, a.status, a.body)
				}
			}
			for _, role := range []string{token.RoleUser, token.RoleOperator, token.RoleAdmin, token.RoleService} {
				a := f.call(f.token("alice", role), r.method, path, "{}")
				roles, some := only[r.method+" "+r.path]
				may := !some || slices.Contains(strings.Fields(roles), role)
				if forbidden := strings.Contains(a.body, "roles do not allow"); forbidden == may {
					t.Errorf("role %s: %d %s", role, a.status, a.body)
				}
			}
		})
	}
	closed := route{do: (*Server).healthz}
	if closed.allowed(token.Claims{Roles: []string{token.RoleAdmin}}) {
		t.Error("a route without roles is open")
	}
}

// TestCounted: what changes something for a user counts toward its limit, by
// whatever route, unless a service does it.
func TestCounted(t *testing.T) {
	f := setup(t)
	elsewhere := []string{
		"/v1/messages",                                  // by its use case, with those of sockets
		"/v1/presence",                                  // changes nothing
		"/v1/login", "/v1/tokens", "/v1/tokens/refresh", // for nobody yet
	}
	for i, r := range routes() {
		if r.method == http.MethodGet || slices.Contains(elsewhere, r.path) || strings.HasPrefix(r.path, "/v1/admin/") {
			continue
		}
		t.Run(r.method+" "+r.path, func(t *testing.T) {
			f.wait = 1500 * time.Millisecond
			user := "u" + strconv.Itoa(i) // what one does may end another's tokens
			a := f.call(f.token(user), r.method, fill(r.path), "{}")
			if a.status != http.StatusTooManyRequests || a.code() != wire.CodeRateLimited || !strings.Contains(a.body, `"retry_after_ms":1501`) {
				t.Errorf("over the limit: %d %s", a.status, a.body)
			}
			f.wait = 0
			n := f.taken.Load()
			f.call(f.token(user), r.method, fill(r.path), "{}")
			if got := f.taken.Load() - n; got != 1 {
				t.Errorf("counted %d times", got)
			}
			f.wait = time.Second
			if a := f.call(f.token("bot", token.RoleService), r.method, fill(r.path), "{}"); a.code() == wire.CodeRateLimited {
				t.Errorf("a service: %d %s", a.status, a.body)
			}
		})
	}
}

func TestUnknownRoutes(t *testing.T) {
	f := setup(t)
	for _, r := range [][2]string{{"GET", "/v1/nothing"}, {"POST", "/v1/edges"}, {"DELETE", "/v1/messages"}, {"POST", "/"}, {"GET", "/web.go"}, {"GET", "/../../etc/passwd"}} {
		if a := f.call(f.token("alice"), r[0], r[1], ""); a.status != http.StatusNotFound || a.code() != wire.CodeNotFound {
			t.Errorf("%v: %d %s", r, a.status, a.body)
		}
	}
}

func TestLoginAndTokens(t *testing.T) {
	f := setup(t)
	got := get[issued](t, f.call("", "POST", "/v1/login", `{"user":"alice","device":"web-1","roles":["admin"]}`))
	c, err := f.keys.Verifier().Verify(got.Token, time.Now())
	if err != nil || c.User != "alice" || c.Device != "web-1" || cmp.Diff([]string{"user"}, c.Roles) != "" {
		t.Errorf("claims %+v %v", c, err)
	}
	if d := time.Until(time.UnixMilli(got.Expires)); d < 23*time.Hour || d > 25*time.Hour {
		t.Errorf("expires in %v", d)
	}
	again := get[issued](t, f.call("", "POST", "/v1/tokens/refresh", `{"refresh":"`+got.Refresh+`"}`))
	if c, err := f.keys.Verifier().Verify(again.Token, time.Now()); err != nil || c.User != "alice" || c.Device != "web-1" {
		t.Errorf("refreshed %+v %v", c, err)
	}
	for body, code := range map[string]wire.Code{
		`{"refresh":"` + got.Token + `"}`: wire.CodeUnauthenticated, `{}`: wire.CodeUnauthenticated, `{"refresh":5}`: wire.CodeBadRequest,
	} {
		if a := f.call("", "POST", "/v1/tokens/refresh", body); a.code() != code {
			t.Errorf("refresh %s: %s", body, a.body)
		}
	}
	for _, body := range []string{`{}`, `{"user":"a:b"}`, `{"user":5}`, `{"user":"a","device":"b c"}`, `nonsense`} {
		if a := f.call("", "POST", "/v1/login", body); a.code() != wire.CodeBadRequest {
			t.Errorf("login %s: %d %s", body, a.status, a.body)
		}
	}
}

func TestMinting(t *testing.T) {
	f := setup(t)
	service, admin := f.token("backend", token.RoleService), f.token("root", token.RoleAdmin)
	got := get[issued](t, f.call(service, "POST", "/v1/tokens", `{"user":"alice","device":"d","ttl_s":60}`))
	if c, err := f.keys.Verifier().Verify(got.Token, time.Now()); err != nil || c.User != "alice" || time.Until(c.Expires) > 61*time.Second {
		t.Errorf("minted %+v %v", c, err)
	}
	for _, c := range []struct {
		tok, body string
		code      wire.Code
	}{
		{service, `{"user":"alice","roles":["admin"]}`, wire.CodeForbidden},
		{admin, `{"user":"alice","roles":["service"]}`, ""},
		{admin, `{"user":"alice","roles":["god"]}`, wire.CodeBadRequest},
		{admin, `{"user":"alice","ttl_s":-1}`, wire.CodeBadRequest},
		{admin, `{"user":"alice","ttl_s":99999999999}`, wire.CodeBadRequest},
		{admin, `{"user":""}`, wire.CodeBadRequest},
		{admin, `{"user":"alice","ttl_s":"60"}`, wire.CodeBadRequest},
		{admin, `{"user":"alice","roles":["user"` + strings.Repeat(`,"user"`, 40) + `]}`, wire.CodeBadRequest},
	} {
		if a := f.call(c.tok, "POST", "/v1/tokens", c.body); a.code() != c.code {
			t.Errorf("%s: %d %s", c.body, a.status, a.body)
		}
	}
}

func TestNotEmbedded(t *testing.T) {
	f := setup(t, func(d *Deps) { d.Embedded, d.Tokens = false, nil })
	if a := f.call("", "POST", "/v1/login", `{"user":"alice","device":"d"}`); a.status != http.StatusNotFound {
		t.Errorf("login: %d", a.status)
	}
	if a := f.call(f.token("root", token.RoleAdmin), "POST", "/v1/tokens", `{"user":"alice"}`); a.status != http.StatusNotFound {
		t.Errorf("tokens without a key: %d", a.status)
	}
}

func TestSend(t *testing.T) {
	f := setup(t)
	const body = `{"to":"bob","client_id":"c1","type":"text","content":"hi","unknown":[1]}`
	first := get[wire.SendAck](t, f.as("alice", 200, "POST", "/v1/messages", body))
	if again := get[wire.SendAck](t, f.as("alice", 200, "POST", "/v1/messages", body)); again.ID != first.ID {
		t.Errorf("a repeat got another id")
	}
	for _, c := range []struct {
		tok, body string
		code      wire.Code
	}{
		{f.token("alice"), `{"to":"bob","client_id":"c1","type":"text","content":"other"}`, wire.CodeConflict},
		{f.token("alice"), `{"to":"bob","client_id":"c2","type":"text","content":"x","from":"eve"}`, wire.CodeForbidden},
		{f.token("alice"), `{"to":"bob","client_id":"c3","type":"text","content":"x","from":"alice"}`, ""},
		{f.token("svc", token.RoleService), `{"to":"bob","client_id":"c4","type":"text","content":"x","from":"carl"}`, ""},
		{f.token("svc", token.RoleService), `{"to":"bob","client_id":"c5","type":"text","content":"x","from":"a:b"}`, wire.CodeBadRequest},
		{f.token("alice"), `{"group":"none","client_id":"c6","type":"text","content":"x"}`, wire.CodeNotFound},
		{f.token("alice"), `{"to":"bob","client_id":"c7","type":"text","content":"` + strings.Repeat("x", 17<<10) + `"}`, wire.CodeTooLarge},
		{f.token("alice"), `{"to":"bob","client_id":"c8","type":"text","content":"` + strings.Repeat("x", 300<<10) + `"}`, wire.CodeTooLarge},
		{f.token("alice"), `{"to":"bob"`, wire.CodeBadRequest},
		{f.token("alice"), ``, wire.CodeBadRequest},
		{f.token("alice"), `{"to":["bob"],"client_id":"c9","type":"text"}`, wire.CodeBadRequest},
	} {
		if a := f.call(c.tok, "POST", "/v1/messages", c.body); a.code() != c.code || a.status != c.code.Info().HTTP && c.code != "" {
			t.Errorf("%.80s: %d %s", c.body, a.status, a.body)
		}
	}
	_ = f.log.Flush(t.Context())
	if c, err := f.store.Conversation(t.Context(), "p:bob:carl"); err != nil || c.MaxSeq != 1 {
		t.Errorf("sent for carl: %v %v", c, err)
	}
	// A service asks for the outcome of what it sent in another's name.
	const path = "/v1/operations?conv=p:bob:carl&client_id=c4"
	svc := f.token("svc", token.RoleService)
	if a := f.call(svc, "GET", path+"&from=carl", ""); a.status != 200 || !get[message.Operation](t, a).Done {
		t.Errorf("the service is told %d %s", a.status, a.body)
	}
	for _, c := range []struct {
		tok, path string
		code      wire.Code
	}{
		{svc, path, wire.CodeNotFound},
		{svc, path + "&from=a:b", wire.CodeBadRequest},
		{f.token("alice"), path + "&from=carl", wire.CodeForbidden},
	} {
		if a := f.call(c.tok, "GET", c.path, ""); a.code() != c.code {
			t.Errorf("%s: %d %s", c.path, a.status, a.body)
		}
	}
	f.log.SetDown(errors.New("no broker"))
	a := f.call(f.token("alice"), "POST", "/v1/messages", `{"to":"bob","client_id":"c10","type":"text","content":"x"}`)
	if a.status != 503 || a.code() != wire.CodeUnavailable || a.header.Get("Retry-After") != "1" {
		t.Errorf("without the log: %d %v %s", a.status, a.header, a.body)
	}
}

func TestConversationsAndHistory(t *testing.T) {
	f := setup(t)
	for i, to := range []string{"bob", "bob", "bob", "bob", "bob", "carl", "dora"} {
		f.as("alice", 200, "POST", "/v1/messages", `{"to":"`+to+`","client_id":"c`+string(rune('0'+i))+`","type":"text","content":"m`+string(rune('0'+i))+`"}`)
	}
	var convs []string
	after := ""
	for {
		p := get[history.Conversations](t, f.as("alice", 200, "GET", "/v1/conversations?limit=2&after="+after, ""))
		for _, c := range p.Conversations {
			convs = append(convs, string(c.Conv))
			if c.Last == nil || c.Last.Seq != c.MaxSeq {
				t.Errorf("last of %s: %+v", c.Conv, c.Last)
			}
		}
		if after = p.Next; after == "" {
			break
		}
	}
	if diff := cmp.Diff([]string{"p:alice:bob", "p:alice:carl", "p:alice:dora"}, convs); diff != "" {
		t.Error(diff)
	}
	if c := get[history.Conversations](t, f.as("bob", 200, "GET", "/v1/conversations", "")).Conversations[0]; c.Unread != 5 || c.MaxSeq != 5 {
		t.Errorf("bob's: %+v", c)
	}
	for query, want := range map[string]string{
		"": "1 2 3 4 5", "?limit=2": "4 5 next 4", "?limit=2&before=4": "2 3 next 2", "?limit=2&before=2": "1",
		"?limit=2&after=1": "2 3 next 3", "?limit=2&after=3": "4 5", "?after=1&before=4": "2 3", "?after=5": "",
		"?limit=2&after=0": "1 2 next 2", "?after=0&before=3": "1 2",
	} {
		p := get[history.Messages](t, f.as("bob", 200, "GET", "/v1/conversations/p%3Aalice%3Abob/messages"+query, ""))
		var got []string
		for _, m := range p.Messages {
			got = append(got, string(rune('0'+m.Seq)))
		}
		if p.Next > 0 {
			got = append(got, "next", string(rune('0'+p.Next)))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", query, got, want)
		}
	}
	for path, code := range map[string]wire.Code{
		"/v1/conversations?limit=0": wire.CodeBadRequest, "/v1/conversations?limit=x": wire.CodeBadRequest, "/v1/conversations?after=zz": wire.CodeBadRequest,
		"/v1/conversations/p:bob:carl/messages": wire.CodeNotMember, "/v1/conversations/zz/messages": wire.CodeBadRequest,
		"/v1/conversations/g:none/messages": wire.CodeNotFound, "/v1/conversations/p:alice:bob/messages?before=-1": wire.CodeBadRequest,
		"/v1/conversations/p:alice:bob/messages?limit=501": wire.CodeBadRequest, "/v1/conversations/p:bob:carl/receipts": wire.CodeNotMember,
		"/v1/conversations/p:alice:bob/receipts?seq=x": wire.CodeBadRequest,
	} {
		if a := f.call(f.token("alice"), "GET", path, ""); a.code() != code {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	_, err := f.store.MoveCursors(t.Context(), moves("bob", "p:alice:bob", 3, 2))
	if err != nil {
		t.Fatal(err)
	}
	got := get[history.Receipts](t, f.as("alice", 200, "GET", "/v1/conversations/p:alice:bob/receipts?seq=3", ""))
	want := history.Receipts{Receipts: []history.MemberReceipt{{User: "alice"}, {User: "bob", Delivered: 3, Read: 2}}, HaveIt: []wire.UserID{"bob"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPresenceSessionsEdges(t *testing.T) {
	f := setup(t)
	ctx := t.Context()
	for _, l := range []registry.Lease{
		{Tier: registry.TierEdge, Server: "e1", Epoch: 1, URL: "ws://e1", Region: "eu", Weight: 1, Load: 50},
		{Tier: registry.TierEdge, Server: "e2", Epoch: 1, URL: "ws://e2", Region: "eu", Weight: 10, Load: 100},
		{Tier: registry.TierEdge, Server: "e3", Epoch: 1, URL: "ws://e3", Region: "us", Weight: 1},
		{Tier: registry.TierEdge, Server: "e4", Epoch: 1, URL: "ws://e4", Region: "eu", Draining: true},
	} {
		if _, err := f.reg.Renew(ctx, l, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	f.reg.SetKnown(true)
	_, err := f.reg.PutRoutes(ctx, map[wire.UserID][]registry.Route{"bob": {{Conn: 1 << 60, Server: "e1", Epoch: 1, Device: "web", Platform: "web", Since: 5}}})
	if err := errors.Join(err, f.reg.SetLastSeen(ctx, "carl", 77)); err != nil {
		t.Fatal(err)
	}
	// Which of the equally near comes first is left to chance (registry.Suitable).
	for query, want := range map[string]string{"?region=eu": "[eu eu us]", "": "[eu eu us]", "?region=us": "[us eu eu]"} {
		var regions []string
		for _, e := range get[[]presence.Edge](t, f.as("alice", 200, "GET", "/v1/edges"+query, "")) {
			regions = append(regions, e.Region)
		}
		if query == "" {
			slices.Sort(regions)
		}
		if got := fmt.Sprint(regions); got != want {
			t.Errorf("edges%s: %s, want %s", query, got, want)
		}
	}
	bob := get[wire.Presence](t, f.as("alice", 200, "GET", "/v1/users/bob/presence", ""))
	if diff := cmp.Diff(wire.Presence{User: "bob", Online: true, Platforms: []string{"web"}}, bob); diff != "" {
		t.Error(diff)
	}
	many := get[struct{ Users []wire.Presence }](t, f.as("alice", 200, "POST", "/v1/presence", `{"users":["carl","bob"]}`)).Users
	if len(many) != 2 || many[0].Online || many[0].LastSeen != 77 || !many[1].Online {
		t.Errorf("%+v", many)
	}
	f.as("alice", 413, "POST", "/v1/presence", `{"users":["`+strings.Repeat(`a","`, 200)+`b"]}`)
	f.as("alice", 400, "POST", "/v1/presence", `{"users":["a:b"]}`)
	f.as("alice", 400, "POST", "/v1/presence", `{"users":"bob"}`)
	ss := get[struct{ Sessions []presence.Session }](t, f.as("bob", 200, "GET", "/v1/sessions", "")).Sessions
	if len(ss) != 1 || ss[0].Conn != "1152921504606846976" || ss[0].Device != "web" {
		t.Errorf("%+v", ss)
	}
	f.reg.SetAway(true)
	for _, path := range []string{"/v1/edges", "/v1/sessions", "/v1/users/bob/presence"} {
		f.as("alice", 503, "GET", path, "")
	}
}

func TestHealth(t *testing.T) {
	f := setup(t)
	if a := f.call("", "GET", "/readyz", ""); a.status != 200 {
		t.Errorf("ready: %d", a.status)
	}
	f.ready = errors.New("store: gone")
	if a := f.call("", "GET", "/readyz", ""); a.status != 503 || !strings.Contains(a.body, "store: gone") {
		t.Errorf("not ready: %d %s", a.status, a.body)
	}
	if a := f.call("", "GET", "/healthz", ""); a.status != 200 {
		t.Errorf("healthy: %d", a.status)
	}
}

func TestPage(t *testing.T) {
	f := setup(t)
	a := f.call("", "GET", "/", "")
	csp := a.header.Get("Content-Security-Policy")
	if a.status != 200 || a.body != "<html>" || !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") ||
		!strings.Contains(csp, "connect-src 'self' ws: wss:") || a.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("page: %d %v %s", a.status, a.header, a.body)
	}
	if a := f.call("", "GET", "/", "", "If-None-Match", a.header.Get("ETag")); a.status != 304 || a.body != "" {
		t.Errorf("unchanged: %d %q", a.status, a.body)
	}
	if a := f.call("", "GET", "/app.js", ""); a.status != 200 || !strings.Contains(a.header.Get("Content-Type"), "javascript") {
		t.Errorf("script: %d %v", a.status, a.header)
	}
	if a := f.call("", "HEAD", "/", ""); a.status != 200 {
		t.Errorf("head: %d", a.status)
	}
}

func TestRequestIDs(t *testing.T) {
	f := setup(t)
	if a := f.call("", "GET", "/healthz", "", "X-Request-Id", "mine"); a.header.Get("X-Request-Id") != "mine" {
		t.Errorf("id %q", a.header.Get("X-Request-Id"))
	}
	a, b := f.call("", "GET", "/healthz", ""), f.call("", "GET", "/nothing", "", "X-Request-Id", "with space")
	if a.header.Get("X-Request-Id") == "" || b.header.Get("X-Request-Id") == "" || b.header.Get("X-Request-Id") == "with space" {
		t.Errorf("ids %v %v", a.header, b.header)
	}
}

func TestStoreAwayIsUnavailable(t *testing.T) {
	f := setup(t, func(d *Deps) {
		h, err := history.New(history.Deps{Store: brokenStore{}, Index: memregistry.New()})
		if err != nil {
			t.Fatal(err)
		}
		d.History = h
	})
	a := f.call(f.token("alice"), "GET", "/v1/conversations/g:team/messages", "")
	if a.status != 503 || a.code() != wire.CodeUnavailable || a.header.Get("Retry-After") == "" || strings.Contains(a.body, "secret") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := f.call(f.token("alice"), "GET", "/v1/conversations", ""); a.status != 500 || a.code() != wire.CodeInternal {
		t.Errorf("a panic: %d %s", a.status, a.body)
	}
}

// A connection that stood before the server was drained may bring one more call.
func TestCallAfterDrain(t *testing.T) {
	f := setup(t)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	call := func() (closing bool) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+"/v1/edges", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+f.token("alice"))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("status %d", resp.StatusCode)
		}
		return resp.Close
	}
	if call() {
		t.Fatal("the connection does not stay")
	}
	if err := f.server.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !call() {
		t.Error("the connection is to be used again")
	}
}

// Draining lets the call in hand finish and takes no new one.
func TestDrain(t *testing.T) {
	f := setup(t)
	f.log.Hold(true)
	got := make(chan answer, 1)
	tok := f.token("alice")
	go func() {
		got <- f.call(tok, "POST", "/v1/messages", `{"to":"bob","client_id":"c1","type":"text","content":"hi"}`)
	}()
	for f.log.Waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	drained := make(chan error, 1)
	go func() { drained <- f.server.Drain(context.Background()) }()
	for {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+"/healthz", bytes.NewReader(nil))
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			break
		}
		_ = resp.Body.Close()
	}
	select {
	case err := <-drained:
		t.Fatalf("drained with a call in hand: %v", err)
	default:
	}
	f.log.Hold(false)
	if a := <-got; a.status != 200 {
		t.Errorf("the call in hand: %d %s", a.status, a.body)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}
