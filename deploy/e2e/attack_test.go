package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
)

// TestAuthTimeout: who does not log in in time has to go.
func TestAuthTimeout(t *testing.T) {
	t.Parallel()
	s := Start(t, binary, "STARLING_EDGE_AUTH_TIMEOUT=500ms")
	start := time.Now()
	c, half := s.Raw(t, ""), s.Socket(t)
	half.Bytes([]byte("GET /ws HTTP/1.1\r\nHost: x\r\n"))
	c.Put(fin|wsPing, "") // no auth either
	c.Fails2(wire.CodeUnauthenticated)
	c.Ends(wire.CloseUnauthenticated)
	if took := time.Since(start); took < 400*time.Millisecond {
		t.Errorf("closed after %v", took)
	}
	half.Gone()
}

// TestShortTimes: what takes minutes by default, with settings that are short,
// yet leave a busy machine its time to log in and to be heard.
func TestShortTimes(t *testing.T) {
	t.Parallel()
	const heartbeat = 4 * time.Second // told twice that
	s := Start(t, binary, fmt.Sprint("STARLING_EDGE_HEARTBEAT=", heartbeat), "STARLING_EDGE_AUTH_TIMEOUT=30s")
	keys, err := token.LoadOrCreate(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	mint := func(c token.Claims, ttl time.Duration) string {
		raw, err := keys.Mint(c, ttl)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	t.Run("heartbeat missed", func(t *testing.T) {
		t.Parallel()
		start := time.Now()
		c := s.RawLogin(t, "silent", "d")
		c.Ends(wire.CloseHeartbeat)
		if took := time.Since(start); took < 2*heartbeat-100*time.Millisecond {
			t.Errorf("closed after %v of silence", took)
		}
	})
	t.Run("any frame is a heartbeat", func(t *testing.T) {
		t.Parallel()
		c := s.RawLogin(t, "alive", "d")
		tick := time.NewTicker(heartbeat / 2)
		defer tick.Stop()
		for i := range 6 {
			<-tick.C
			switch i % 3 {
			case 0:
				c.Put(fin|wsPing, "x")
			case 1:
				c.Put(fin|wsPong, "x")
			case 2:
				c.Say(`{"op":"ack","body":{"conv":"p:alive:alive","seq":1}}`)
			}
		}
		c.Put(fin|wsText, `{"op":"ping","seq":3}`)
		for {
			op, p, err := c.Message()
			if err != nil || op == wsClose {
				t.Fatalf("ended: %q %v", p, err)
			}
			if op == wsText {
				break
			}
		}
	})
	t.Run("a server that is not listened to", func(t *testing.T) {
		t.Parallel()
		c := s.RawLogin(t, "half", "d")
		c.Put(wsText, `{"op":"pi`) // half a message is no sign of life for ever
		c.Ends(wire.CloseHeartbeat)
	})
	t.Run("token expires", func(t *testing.T) {
		t.Parallel()
		c := s.Raw(t, "")
		c.Login(mint(token.Claims{User: "short", Device: "d"}, 5*time.Second))
		done := make(chan struct{})
		go func() { // stays alive until the end
			defer close(done)
			for {
				if _, err := c.nc.Write(Masked(nil, fin|wsPong, "")); err != nil {
					return
				}
				time.Sleep(200 * time.Millisecond)
			}
		}()
		c.Fails2(wire.CodeUnauthenticated)
		c.Ends(wire.CloseUnauthenticated)
		_ = c.nc.Close()
		<-done
	})
	t.Run("expired and foreign tokens", func(t *testing.T) {
		t.Parallel()
		old := mint(token.Claims{User: "old", Device: "d", IssuedAt: time.Now().Add(-time.Hour)}, time.Minute)
		foreign, err := token.LoadOrCreate(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		other, err := foreign.Mint(token.Claims{User: "eve", Device: "d"}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{old, other} {
			byFrame := s.Raw(t, "")
			_, _ = byFrame.nc.Write(Masked(nil, fin|wsText, fmt.Sprintf(`{"op":"auth","body":{"token":%q}}`, bad)))
			for _, c := range []*Raw{
				s.Raw(t, "?device=d", "Authorization: Bearer "+bad), s.Raw(t, "", "Sec-WebSocket-Protocol: starling, "+bad), byFrame,
			} {
				c.Fails(0, wire.CodeUnauthenticated)
				c.Ends(wire.CloseUnauthenticated)
			}
			if code := s.HTTP(t, http.MethodGet, "/v1/conversations", bad, nil, nil); code != http.StatusUnauthorized {
				t.Errorf("HTTP %d", code)
			}
		}
	})
}

// Fails2 is Fails for what the server says by itself, between control frames.
func (c *Raw) Fails2(code wire.Code) {
	c.t.Helper()
	for {
		op, p, err := c.Message()
		if err != nil {
			c.t.Fatalf("want error %s: %v", code, err)
		}
		if op >= wsClose && op != wsClose {
			continue
		}
		if !strings.Contains(string(p), `"code":"`+string(code)+`"`) || strings.Contains(string(p), `"seq"`) {
			c.t.Fatalf("opcode %x %q, want error %s", op, p, code)
		}
		return
	}
}

// TestHostileSwarm: 200 hostile connections at a time for a while; those of
// good people notice nothing, and afterwards nothing of it is left.
func TestHostileSwarm(t *testing.T) {
	s := Start(t, binary, "STARLING_MEMORY_BALLAST_MB=0") // whose garbage, as much again, would hide what the attack keeps
	a, b := s.Join(t, s.Name("alice"), "d"), s.Join(t, s.Name("bob"), "d")
	tok := s.Token(t, s.Name("mallory"), "")
	goroutines, _ := s.goroutines(t)
	rss := s.Processes[0].rss(t)
	const enough = 2_000 // connections; 780 are usual, and each costs memory, which is bounded below
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var lives atomic.Int64
	for i := range 200 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
					s.hostile(t, tok, i, n)
					lives.Add(1)
				}
			}
		})
	}
	conv, slow := wire.PrivateConv(a.User, b.User), time.Duration(0)
	var want []string
	for i := 0; i < 100 && lives.Load() < enough; i++ {
		start := time.Now()
		text := fmt.Sprint("amid ", i)
		a.Say(string(b.User), text)
		want = append(want, text)
		slow = max(slow, time.Since(start))
		time.Sleep(30 * time.Millisecond) // spread over the attack
	}
	b.Gets(conv, want...)
	peak := s.Processes[0].rss(t)
	close(stop)
	wg.Wait()
	t.Logf("%d hostile connections; slowest send %v; RSS %d MiB before, %d MiB amid; %d goroutines before",
		lives.Load(), slow, rss>>20, peak>>20, goroutines)
	most := int64(400 << 20)
	if raceEnabled {
		most *= 2 // the race detector has a shadow of all memory
	}
	if peak > rss+most {
		t.Errorf("RSS grew from %d to %d MiB", rss>>20, peak>>20)
	}
	// What one of the ten kinds of attack leaves behind each time would be a
	// tenth; half of that is more than what is not of the attacks.
	leak := max(20, int(lives.Load()/20))
	Eventually(t, 30*time.Second, "no kind of attack leaves goroutines behind", func() error {
		if n, profile := s.goroutines(t); n > goroutines+leak {
			return fmt.Errorf("%d, %d at the start:\n%s", n, goroutines, profile)
		}
		return nil
	})
	a.Say(string(b.User), "after")
	b.Gets(conv, append(want, "after")...)
}

// hostile is one short life of a bad connection.
func (s *System) hostile(t testing.TB, tok string, i, n int) {
	c := s.Socket(t)
	defer func() { _ = c.nc.Close() }()
	put := func(b []byte) { _, _ = c.nc.Write(b) }
	upgrade := fmt.Sprintf(upgradeTo, "/ws", "x", "")
	auth := Masked([]byte(upgrade), fin|wsText, fmt.Sprintf(`{"op":"auth","body":{"token":%q,"device":"m%d"}}`, tok, i))
	drain := func(d time.Duration) {
		_ = c.nc.SetReadDeadline(time.Now().Add(d))
		for {
			if _, _, err := c.Message(); err != nil {
				return
			}
		}
	}
	switch (i + n) % 10 {
	case 0: // half an upgrade
		put([]byte(upgrade[:40]))
		drain(100 * time.Millisecond)
	case 1: // no end of head
		put([]byte("GET /ws HTTP/1.1\r\nX: " + strings.Repeat("x", 60<<10)))
		drain(100 * time.Millisecond)
	case 2: // garbage
		put([]byte(strings.Repeat("\x00\xff\x81", 5000)))
		drain(100 * time.Millisecond)
	case 3: // bad frames after log-in
		put(append(auth, "\x81\x02{}"...))
		drain(time.Second)
	case 4: // too big
		put(Masked(auth, fin|wsText, strings.Repeat("x", wire.MaxFrame+1)))
		drain(time.Second)
	case 5: // many errors, not one answer read
		b := auth
		for range 500 {
			b = Masked(b, fin|wsText, nested(100))
		}
		put(b)
	case 6: // gone in the middle of a frame
		put(Masked(auth, wsText, "{")[:len(auth)+5])
	case 7: // syncs and sends, none read
		b := auth
		for j := range 200 {
			b = Masked(b, fin|wsText, `{"op":"sync","seq":1}`)
			b = Masked(b, fin|wsText, fmt.Sprintf(`{"op":"send","seq":2,"body":%s}`, SendBody("nobody", fmt.Sprint(i, "-", n, "-", j), "x")))
		}
		put(b)
		time.Sleep(50 * time.Millisecond)
	case 8: // a reset
		put(auth)
		drain(30 * time.Millisecond)
	case 9: // fragments without end
		b := Masked(auth, wsText, "{")
		for range 2000 {
			b = Masked(b, wsCont, "")
		}
		put(b)
		drain(100 * time.Millisecond)
	}
}

// goroutines of the process, by its profile.
func (s *System) goroutines(t testing.TB) (n int, profile string) {
	t.Helper()
	resp, err := http.Get("http://" + s.Processes[0].setting("EDGE_ADMIN_ADDR") + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	// The embedded Kafka and Redis have some for each connection of the bounded
	// pools of their clients, which fill under load and stay.
	for stack := range strings.SplitSeq(string(b), "\n\n") {
		if m := regexp.MustCompile(`(?m)^(\d+) @`).FindStringSubmatch(stack); m != nil &&
			!strings.Contains(stack, "miniredis") && !strings.Contains(stack, "kfake") {
			count, _ := strconv.Atoi(m[1])
			n += count
		}
	}
	if n == 0 {
		t.Fatalf("profile is %.100q", b)
	}
	return n, string(b)
}

// TestRetriesOverKill: a client_id repeated after the index was lost is still
// one message, with the id that stands.
func TestRetriesOverKill(t *testing.T) {
	t.Parallel()
	s := Start(t, binary)
	r := newRetrier(t, s)
	for i := range 4 {
		r.all(i)
	}
	s.Kill(t)
	s.Up(t)
	for i := range 6 {
		r.all(i)
	}
	r.check(6)
}

// TestRefusesToStart: what is wrong is said in one line (or one per setting),
// with exit code 2 for settings, 1 for the rest.
func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	s := Start(t, binary)
	run := func(env []string, args ...string) (code int, out string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), binary, args...)
		cmd.Env = append(os.Environ(), env...)
		b, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(b)
	}
	oneLine := func(what string, code int, out string, want ...string) {
		t.Helper()
		if code != 1 || strings.Count(out, "\n") != 1 {
			t.Errorf("%s: exit %d, want 1 and one line:\n%s", what, code, out)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s: %q does not say %q", what, out, w)
			}
		}
	}
	quiet := "STARLING_LOG_LEVEL=error"
	free := func() []string {
		env, _ := addresses(t, "LOGIC_HTTP", "EDGE_LISTEN", "EDGE_TCP", "LOGIC_GRPC", "EDGE_GRPC", "LOGIC_ADMIN", "EDGE_ADMIN", "JOB_ADMIN")
		return append(env, quiet)
	}
	code, out := run(free(), "-data", s.Dir)
	oneLine("data folder in use", code, out, s.Dir, strconv.Itoa(s.Processes[0].Pid()))
	for _, key := range []string{"LOGIC_HTTP_ADDR", "EDGE_LISTEN_ADDR", "LOGIC_GRPC_ADDR", "EDGE_GRPC_ADDR", "EDGE_ADMIN_ADDR"} {
		addr := s.Processes[0].setting(key)
		code, out = run(append(free(), "STARLING_"+key+"="+addr), "-data", t.TempDir())
		oneLine("port of "+key+" in use", code, out, addr)
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/version", []byte("starling data folder, version 99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out = run(free(), "-data", dir)
	oneLine("a newer data folder", code, out, "99")
	code, out = run([]string{"STARLING_EDGE_HEARTBEAT=1ms", "STARLING_NO_SUCH=1", "STARLING_LIMITS_MAX_CONTENT=x"}, "-edge.weight=-1", "-edge.listen-addr=nowhere")
	for _, key := range []string{"edge.heartbeat", "NO_SUCH", "limits.max-content", "edge.weight", "edge.listen-addr"} {
		if code != 2 || !strings.Contains(strings.ToLower(out), strings.ToLower(key)) {
			t.Errorf("settings: exit %d, want 2 and a word on %s:\n%s", code, key, out)
		}
	}
}

// TestSIGTERMUnderLoad: the process ends with 0 and nothing acknowledged is
// lost; a second signal ends it at once.
func TestSIGTERMUnderLoad(t *testing.T) {
	t.Parallel()
	s := Start(t, binary)
	c := newCrowd(t, s, 4)
	sends := 4_000
	var wg sync.WaitGroup
	wg.Go(func() { c.send(0, sends) })
	Eventually(t, time.Minute, "load", func() error {
		if n := c.acked.Load(); n < 500 {
			return fmt.Errorf("%d acknowledged", n)
		}
		return nil
	})
	start := time.Now()
	s.Stop(t)
	t.Logf("ended %v after SIGTERM, %d of %d acknowledged", time.Since(start).Round(time.Millisecond), c.acked.Load(), sends)
	s.Up(t)
	close(c.revived)
	wg.Wait()
	c.check()

	s.twoSignals(t)
	s.Up(t)
	c.check()
}

// twoSignals ends the process by a second SIGTERM while it obeys the first.
func (s *System) twoSignals(t *testing.T) {
	t.Helper()
	s.Stop(t)
	p := s.Processes[0]
	env := p.env
	p.env = append(slices.Clone(env), "STARLING_APP_READY_DELAY=1h")
	s.Up(t)
	p.env = env
	p.Signal(t, syscall.SIGTERM)
	Eventually(t, startTimeout, "the first signal is obeyed", func() error { // else the kernel merges the two
		for _, url := range p.Ready {
			if answers(url) == nil {
				return errors.New("still ready")
			}
		}
		return nil
	})
	p.Signal(t, syscall.SIGTERM)
	select {
	case err := <-p.ended:
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
			t.Errorf("ended by the second signal: %v, want exit code 1", err)
		}
	case <-time.After(startTimeout):
		t.Fatal("still there after the second signal")
	}
	p.end()
}
