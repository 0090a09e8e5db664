package e2e

import (
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/starling-im/starling/common/wire"
)

const (
	largeGroup   = 100_000 // members
	largeOnline  = 15_000  // of them
	largeTime    = time.Second
	groupPortion = 1000 // members that a call may name
	rounds       = 5
)

// TestRealLargeGroup: a message to a group of 100,000 is one record, one row and
// one push for each of two edges, and 15,000 online members have it within a
// second; who joins and leaves meanwhile sees what is theirs, and no more.
func TestRealLargeGroup(t *testing.T) {
	servers := RealServers(t, binary)
	s := servers.Split(t, patient()...)
	s.AwaitCalm(t)
	alice := s.Join(t, s.Name("alice"), "d")
	user := func(i int) string { return fmt.Sprintf("%s-%d", alice.User, i) }
	began := time.Now()
	var first []string
	for i := range groupPortion {
		first = append(first, user(i))
	}
	group := s.Name("large")
	conv := alice.Group(group, first...)
	for at := groupPortion; at < largeGroup-1; at += groupPortion {
		var some []string
		for i := at; i < min(at+groupPortion, largeGroup-1); i++ {
			some = append(some, user(i))
		}
		if code := alice.adds(group, some...); code != http.StatusOK {
			t.Fatalf("add members from %d on: HTTP %d", at, code)
		}
	}
	var info struct{ Members int64 }
	if s.HTTP(t, http.MethodGet, "/v1/groups/"+group, alice.Token, nil, &info); info.Members != largeGroup {
		t.Fatalf("the group has %d members", info.Members)
	}
	t.Logf("%d members in %v", largeGroup, time.Since(began).Round(time.Millisecond))
	began = time.Now()
	crowd := s.Crowd(t, largeOnline, func(i int) (string, string) { return user(i), "crowd" })
	t.Logf("%d online in %v: %s", largeOnline, time.Since(began).Round(time.Millisecond), crowd.edgesOf())

	for round := range rounds {
		records, rows, pushes := s.groupRecords(t), servers.rows(t), s.Total(t, "starling_edge_push_frames_total")
		sent := time.Now()
		alice.SayGroup(group, fmt.Sprint("to all ", round))
		Eventually(t, wait, "each has it", func() error { return crowd.EachHas(int32(round + 1)) })
		took := crowd.LastMessage().Sub(sent)
		records, rows, pushes = s.groupRecords(t)-records, servers.rows(t)-rows, s.Total(t, "starling_edge_push_frames_total")-pushes
		t.Logf("message %d: %v records, %v rows, %v pushes; %d of %d members online had it after %v", round, records, rows, pushes, largeOnline, largeGroup, took.Round(time.Millisecond))
		if records != 1 || rows != 1 || pushes != 2 {
			t.Error("it must be one record, one row, one push an edge")
		}
		if took > largeTime {
			t.Errorf("it took %v", took)
		}
	}
	guests := make([]*Person, 20)
	for i := range guests {
		guests[i] = s.Join(t, s.Name("guest"), "d")
	}
	if code := alice.adds(group, string(guests[0].User)); code != http.StatusRequestEntityTooLarge {
		t.Errorf("one more than %d: HTTP %d", largeGroup, code)
	}
	for i := range guests { // room for them
		if code := alice.removes(group, user(largeGroup-2-i)); code != http.StatusOK {
			t.Fatalf("remove %s: HTTP %d", user(largeGroup-2-i), code)
		}
	}
	said := comings(t, alice, guests, group, conv)
	Eventually(t, wait, "each has what was said while guests came and went, once", func() error {
		return crowd.EachHas(int32(rounds + said))
	})
}

// groupRecords is how many records the logics' groups topic took.
func (s *System) groupRecords(t *testing.T) float64 {
	t.Helper()
	return s.Total(t, "starling_mq_producer_deliveries_total", `topic="im_group_chat"`, `result="ok"`)
}

// rows counts the messages of the store.
func (s *Servers) rows(t *testing.T) int {
	t.Helper()
	dsn, err := mysql.ParseDSN(s.setting("MYSQL_DSN"))
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := strings.Cut(dsn.Addr, ":")
	out, err := exec.CommandContext(t.Context(), "mariadb", "-h", host, "-P", port, "-u", dsn.User, "-p"+dsn.Passwd, dsn.DBName, "-N", "-e", "SELECT COUNT(*) FROM messages").Output()
	if err != nil {
		t.Fatalf("count rows: %v", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// said is a message and when it was: between sent and acked it got its place.
type said struct {
	id          wire.MsgID
	sent, acked time.Time
}

// visit is a membership: it began between asked and joined, and ended, unless
// leaving is zero, between leaving and left.
type visit struct{ asked, joined, leaving, left time.Time }

// theirs says whether a message is surely one of the visits' (must) or surely
// none of them (mustNot). What was said while somebody came or went is neither.
func theirs(m said, visits []visit) (must, mustNot bool) {
	mustNot = true
	for _, v := range visits {
		stays := v.leaving.IsZero()
		must = must || m.sent.After(v.joined) && (stays || m.acked.Before(v.leaving))
		mustNot = mustNot && (m.acked.Before(v.asked) || !stays && m.sent.After(v.left))
	}
	return must, mustNot
}

// comings has people join and leave while messages come at a rate, and returns
// how many messages that were. Each must have all that was said while they were
// members, and nothing else.
func comings(t *testing.T, alice *Person, people []*Person, group string, conv wire.ConvID) int {
	t.Helper()
	stop := make(chan struct{})
	var saying sync.WaitGroup
	var all []said
	say := func(text string) {
		sent := time.Now()
		ack, err := alice.TrySend(wire.Send{Group: wire.GroupID(group), Content: text})
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		all = append(all, said{ack.ID, sent, time.Now()})
	}
	saying.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				say(fmt.Sprint("meanwhile ", len(all)))
			}
		}
	})
	visits := make([][]visit, len(people))
	for round := range 2 {
		lasts(time.Second) // something is said while nobody of them is there
		for i, p := range people {
			v := visit{asked: time.Now()}
			if code := alice.adds(group, string(p.User)); code != http.StatusOK {
				t.Errorf("add %s: HTTP %d", p.User, code)
			}
			v.joined = time.Now()
			visits[i] = append(visits[i], v)
		}
		lasts(time.Second)
		for i, p := range people {
			if i%2 == round%2 && round > 0 {
				continue // half of them stay
			}
			v := &visits[i][round]
			v.leaving = time.Now()
			if code := alice.removes(group, string(p.User)); code != http.StatusOK {
				t.Errorf("remove %s: HTTP %d", p.User, code)
			}
			v.left = time.Now()
		}
	}
	close(stop)
	saying.Wait()
	say("the end")
	last := all[len(all)-1].id
	alice.Has(conv, last)
	for i, p := range people {
		if visits[i][1].leaving.IsZero() {
			p.Has(conv, last)
		}
	}
	for i, p := range people {
		// Whoever else is at its edge has the last message; this comes after all.
		after := alice.Say(string(p.User), "that was all")
		p.Has(after.Conv, after.ID)
		sees(t, p, conv, all, visits[i])
	}
	t.Logf("%d messages while %d people joined and left twice", len(all), len(people))
	return len(all)
}

// adds adds members to a group and returns the status of the answer.
func (p *Person) adds(group string, users ...string) int {
	p.t.Helper()
	return p.s.HTTP(p.t, http.MethodPost, "/v1/groups/"+group+"/members", p.Token, map[string]any{"members": users}, nil)
}

// removes removes a member from a group and returns the status of the answer.
func (p *Person) removes(group, user string) int {
	p.t.Helper()
	return p.s.HTTP(p.t, http.MethodDelete, "/v1/groups/"+group+"/members/"+user, p.Token, nil, nil)
}

// Has waits until a message has come.
func (p *Person) Has(conv wire.ConvID, id wire.MsgID) {
	p.t.Helper()
	p.Until("a message of "+string(conv), func() error {
		if !slices.ContainsFunc(p.seen[conv], func(m wire.Msg) bool { return m.ID == id }) {
			return fmt.Errorf("%d others", len(p.seen[conv]))
		}
		return nil
	})
}

// sees compares what a person was pushed, and is given by history and by sync,
// with what is theirs.
func sees(t *testing.T, p *Person, conv wire.ConvID, all []said, visits []visit) {
	t.Helper()
	synced := map[wire.ConvID]*wire.SyncConv{conv: {}}
	got, _, _ := p.SyncAll(map[wire.ConvID]int64{conv: 0}, 500)
	if c := got[conv]; c != nil {
		synced[conv] = c
	}
	p.mu.Lock()
	lagged := slices.ContainsFunc(p.frames, func(f wire.Frame) bool { return f.Op == wire.OpLagged })
	p.mu.Unlock()
	musts, mustNots := 0, 0
	for way, given := range map[string][]wire.Msg{"push": p.Seen(conv), "history": p.History(conv), "sync": synced[conv].Messages} {
		times := map[wire.MsgID]int{}
		for _, m := range given {
			times[m.ID]++
		}
		for i, m := range all {
			must, mustNot := theirs(m, visits)
			switch n := times[m.id]; {
			case n > 1:
				t.Errorf("%s: message %d came %d times by %s", p.User, i, n, way)
			case mustNot && n > 0:
				t.Errorf("%s: message %d came by %s, and is not theirs", p.User, i, way)
			case must && n == 0 && (way != "push" || !lagged): // who is told lagged has it by sync
				t.Errorf("%s: message %d did not come by %s", p.User, i, way)
			}
			if must {
				musts++
			}
			if mustNot {
				mustNots++
			}
		}
	}
	if musts < 3*5 || mustNots < 3*5 {
		t.Errorf("%s: only %d that must come and %d that must not, of %d in three ways", p.User, musts, mustNots, len(all))
	}
	if lagged {
		t.Logf("%s was told lagged", p.User)
	}
}

// TestRealOffline: 10,000 messages in 50 conversations while somebody was away
// sync whole and in order within a second.
func TestRealOffline(t *testing.T) {
	const convs, each = 50, 200
	s := RealServers(t, binary).Split(t, patient()...)
	s.AwaitCalm(t)
	bob := s.Name("bob")
	var writing sync.WaitGroup
	for range convs {
		p := s.Join(t, s.Name("friend"), "d")
		writing.Go(func() {
			for i := range each {
				if _, err := p.TrySend(wire.Send{To: wire.UserID(bob), Content: fmt.Sprint("message ", i)}); err != nil {
					t.Errorf("%s, message %d: %v", p.User, i, err)
					return
				}
			}
		})
	}
	writing.Wait()
	p := s.Join(t, bob, "d")
	Eventually(t, wait, "all is stored", func() error {
		var page struct {
			Conversations []struct {
				MaxSeq int64 `json:"max_seq"`
			}
		}
		s.HTTP(t, http.MethodGet, "/v1/conversations?limit=100", p.Token, nil, &page)
		n := int64(0)
		for _, c := range page.Conversations {
			n += c.MaxSeq
		}
		if n != convs*each {
			return fmt.Errorf("%d of %d", n, convs*each)
		}
		return nil
	})
	for range 3 {
		began := time.Now()
		got, pages, _ := p.SyncAll(nil, 500)
		took := time.Since(began)
		n := 0
		for conv, c := range got {
			n += len(c.Messages)
			if err := wholeFrom(1, c.Messages); err != nil || len(c.Messages) != each {
				t.Errorf("%s: %d messages, %v", conv, len(c.Messages), err)
			}
		}
		t.Logf("%d messages in %d conversations, %d pages: %v", n, len(got), pages, took.Round(time.Millisecond))
		if n != convs*each || took > time.Second {
			t.Errorf("want %d within a second", convs*each)
		}
	}
}

// TestRealEnds: a revocation and a ban close 5,000 sessions on two edges within a
// second.
func TestRealEnds(t *testing.T) {
	const sessions = 5000
	s := RealServers(t, binary).Split(t, append(patient(), "STARLING_LIMITS_CONNECTIONS_PER_USER=0")...)
	s.AwaitCalm(t)
	user, root := s.Name("many"), s.Mint(t, s.Name("root"), "admin", "")
	for _, end := range []struct {
		name, path string
		body       map[string]any
	}{
		{"revocation", "/v1/tokens/revoke", map[string]any{"user": user}},
		{"ban", "/v1/admin/bans", map[string]any{"user": user}},
	} {
		crowd := s.Crowd(t, sessions, func(i int) (string, string) { return user, fmt.Sprint("d", i) })
		where := crowd.edgesOf()
		began := time.Now()
		if code := s.HTTP(t, http.MethodPost, end.path, root, end.body, nil); code != http.StatusOK {
			t.Fatalf("%s: HTTP %d", end.name, code)
		}
		Eventually(t, wait, "all sessions end", func() error {
			if n := crowd.Ended.Load(); n != sessions {
				return fmt.Errorf("%d ended", n)
			}
			return nil
		})
		took := crowd.LastEnd().Sub(began)
		t.Logf("%s: %d sessions (%s) ended within %v", end.name, sessions, where, took.Round(time.Millisecond))
		if took > time.Second {
			t.Errorf("it took %v", took)
		}
		lasts(time.Second) // tokens of the same second would be void too
	}
}

// TestTheirs: what is asked of TestRealLargeGroup's guests.
func TestTheirs(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	visits := []visit{{at(10), at(20), at(30), at(40)}, {at(50), at(60), time.Time{}, time.Time{}}}
	for _, tc := range []struct {
		sent, acked   int
		must, mustNot bool
	}{
		{1, 9, false, true},
		{1, 11, false, false},
		{15, 16, false, false},
		{19, 21, false, false},
		{21, 29, true, false},
		{29, 31, false, false},
		{35, 36, false, false},
		{41, 49, false, true},
		{41, 51, false, false},
		{61, 99, true, false},
	} {
		must, mustNot := theirs(said{sent: at(tc.sent), acked: at(tc.acked)}, visits)
		if must != tc.must || mustNot != tc.mustNot {
			t.Errorf("sent %d, acked %d: must %v, must not %v", tc.sent, tc.acked, must, mustNot)
		}
	}
}
