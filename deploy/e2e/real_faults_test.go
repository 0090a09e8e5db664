package e2e

import (
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

// loadRate is the messages a second of the tests that break things.
const loadRate = 300

const loadUsers = 24

// under starts the tiers apart on real servers, and the load.
func under(t *testing.T, settings ...string) (*Servers, *System, *Load) {
	t.Helper()
	servers := RealServers(t, binary)
	s := servers.Split(t, settings...)
	l := s.StartLoad(t, loadUsers, loadRate)
	lasts(3 * time.Second)
	return servers, s, l
}

// lasts is how long a state of the world lasts: part of the story, not a wait
// for something.
func lasts(d time.Duration) { time.Sleep(d) }

// away is how long a server stays away.
func away() time.Duration {
	if long() {
		return 30 * time.Second
	}
	return 10 * time.Second
}

// long says whether to take the time that the README's figures took:
// STARLING_TEST_LONG=1.
func long() bool { return os.Getenv("STARLING_TEST_LONG") == "1" }

// TestRealFlushAll: Redis forgets everything under load, three times.
func TestRealFlushAll(t *testing.T) {
	servers, _, l := under(t)
	for range 3 {
		at := time.Now()
		redis(t, servers, "FLUSHALL")
		lasts(5 * time.Second)
		took, n := l.Worst(at.Add(-time.Second), time.Now().Add(-time.Second), time.Time{}, func(u *loadUser) bool { return u.stayed(at) })
		t.Logf("FLUSHALL: %d messages, longest to everybody %v", n, took)
		if took > 2*time.Second {
			t.Errorf("somebody online missed a message for %v", took)
		}
	}
	l.Stop()
}

func redis(t *testing.T, servers *Servers, args ...string) {
	t.Helper()
	host, port, err := net.SplitHostPort(servers.setting("REDIS_ADDRS"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("redis-cli", append([]string{"-h", host, "-p", port}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("redis-cli %v: %v\n%s", args, err, out)
	}
}

// TestRealRedisStopped: a while without Redis.
func TestRealRedisStopped(t *testing.T) {
	servers, _, l := under(t)
	gone := away()
	at := time.Now()
	servers.End(t, syscall.SIGTERM, "redis")
	lasts(gone)
	servers.Up(t)
	lasts(10 * time.Second)
	took, n := l.Worst(at.Add(-time.Second), time.Now().Add(-time.Second), time.Time{}, func(u *loadUser) bool { return u.stayed(at) })
	acked, begun := l.Acked(at, at.Add(gone))
	t.Logf("Redis away for %v: %d of %d acknowledged meanwhile; %d messages, longest to everybody online %v", gone, acked, begun, n, took)
	if took > 2*time.Second {
		t.Errorf("somebody online missed a message for %v", took)
	}
	l.Stop()
}

// TestRealMariaDBStopped: a while without the store: everything is acknowledged
// all the same, and delivered in order within 10 s after it is back.
func TestRealMariaDBStopped(t *testing.T) {
	servers, _, l := under(t)
	at := time.Now()
	servers.End(t, syscall.SIGTERM, "mariadb")
	gone := away()
	lasts(gone)
	servers.Up(t)
	back := time.Now()
	lasts(12 * time.Second)
	acked, begun := l.Acked(at.Add(time.Second), back)
	took, n := l.Worst(at, back, back, nil)
	t.Logf("MariaDB away for %v: %d of %d acknowledged meanwhile; the last of %d was with everybody %v after it was back", gone, acked, begun, n, took)
	if acked < begun*98/100 {
		t.Errorf("%d of %d sends acknowledged", acked, begun)
	}
	if took > 10*time.Second {
		t.Errorf("delivered %v after it was back", took)
	}
	l.Stop()
}

// TestRealEdgeFrozen: an edge that stands still for 10 s: its clients have
// everything within 5 s after.
func TestRealEdgeFrozen(t *testing.T) {
	_, s, l := under(t)
	p := s.Process("edge-1")
	at := time.Now()
	p.Signal(t, syscall.SIGSTOP)
	lasts(10 * time.Second)
	p.Signal(t, syscall.SIGCONT)
	thawed := time.Now()
	lasts(7 * time.Second)
	took, n := l.Worst(at, thawed, thawed, nil)
	t.Logf("edge frozen for 10 s: the last of %d messages was with everybody %v after", n, took)
	if took > 5*time.Second {
		t.Errorf("its clients had everything only %v after", took)
	}
	l.Stop()
}

// TestRealRolling: every process is restarted in turn by SIGTERM under load, as
// at an upgrade, with one more of each tier come in before: each ends with 0,
// the newcomers are found, and nobody waits for long.
func TestRealRolling(t *testing.T) {
	servers := RealServers(t, binary)
	s := servers.split(t, nil)
	var later []*Process
	for _, name := range []string{"edge-2", "logic-2", "job-2"} {
		later = append(later, s.Process(name))
	}
	s.Processes = slices.DeleteFunc(s.Processes, func(p *Process) bool { return slices.Contains(later, p) })
	edges, logics := s.WSs, s.APIs
	s.serveBy(edges[:1], logics[:1])
	s.run(t)
	l := s.StartLoad(t, loadUsers, loadRate)
	lasts(2 * time.Second)
	for _, p := range later {
		p.Start(t)
		s.Processes = append(s.Processes, p)
		p.AwaitReady(t)
	}
	s.serveBy(edges, logics)
	lasts(5 * time.Second)
	for _, name := range []string{"edge-1", "logic-1", "job-1", "edge-2", "logic-2", "job-2"} {
		p := s.Process(name)
		at := time.Now()
		p.Stop(t)
		ended := time.Since(at)
		lasts(3 * time.Second)
		p.Start(t)
		p.AwaitReady(t)
		lasts(2 * time.Second)
		took, n := l.Worst(at, time.Now().Add(-time.Second), at, nil)
		t.Logf("%s ended %v after SIGTERM; %d messages meanwhile, longest to everybody %v", name, ended.Round(time.Millisecond), n, took)
		if took > 5*time.Second {
			t.Errorf("%s: somebody waited %v", name, took)
		}
	}
	l.Stop()
}

// TestRealKill9: one of each tier in turn, and one of the brokers, dies by
// kill -9 under load and comes back: nothing acknowledged is lost, nothing
// repeated, no hole, and a killed job's partitions are taken over in time.
func TestRealKill9(t *testing.T) {
	servers, s, l := under(t)
	for _, name := range []string{"edge-1", "logic-1", "job-1", "job-2"} {
		p := s.Process(name)
		died := time.Now()
		p.Kill(t)
		lasts(10 * time.Second)
		took, n := l.Worst(died, died.Add(5*time.Second), died, nil)
		t.Logf("%s killed: everything acknowledged in the 5 s after (%d messages) was with everybody %v after the kill or its acknowledgement",
			name, n, took.Round(time.Millisecond))
		if limit := 8 * time.Second; took > limit {
			t.Errorf("%s: took %v, more than %v", name, took, limit)
		}
		p.Start(t)
		p.AwaitReady(t)
		lasts(3 * time.Second)
	}
	if brokers := servers.Kafka(t); len(brokers) >= 3 {
		died := time.Now()
		servers.End(t, syscall.SIGKILL, brokers[0])
		lasts(12 * time.Second)
		servers.Up(t)
		took, _ := l.Worst(died, died.Add(10*time.Second), died, nil)
		acked, begun := l.Acked(died, died.Add(10*time.Second))
		t.Logf("%s of %d killed: %d of %d acknowledged in the 10 s after; longest to everybody %v", brokers[0], len(brokers), acked, begun, took)
		lasts(3 * time.Second)
	}
	l.Stop()
	s.Balanced(t)
}

// TestRealKafkaStopped: without the log sends are unavailable, and every one
// that is tried again arrives once. It is the last: brokers that have just
// started are slow.
func TestRealKafkaStopped(t *testing.T) {
	servers, _, l := under(t)
	at := time.Now()
	servers.End(t, syscall.SIGTERM, servers.Kafka(t)...)
	gone := away()
	lasts(gone)
	acked, begun := l.Acked(at.Add(2*time.Second), time.Now())
	servers.Up(t)
	back := time.Now()
	lasts(15 * time.Second)
	took, _ := l.Worst(back, back.Add(10*time.Second), back, nil)
	t.Logf("Kafka away for %v: %d of %d acknowledged meanwhile; afterwards longest to everybody %v", gone, acked, begun, took)
	l.Stop()
}
