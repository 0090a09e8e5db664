package listen

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/session"
)

// readUpTo reads messages for user, which must come in order without a hole,
// up to last.
func (c *client) readUpTo(user string, last int64, pause func(seq int64)) error {
	for seq := int64(1); seq <= last; seq++ {
		_, p, err := c.frame()
		if err != nil {
			return fmt.Errorf("message %d: %w", seq, err)
		}
		if want := fmt.Sprintf(`{"op":"msg","body":{"to":%q,"seq":%d,`, user, seq); !strings.HasPrefix(string(p), want) {
			return fmt.Errorf("message %d is %.80s", seq, p)
		}
		pause(seq)
	}
	return nil
}

// Sockets that are full now and then lose nothing, keep the order, and are
// woken each time.
func TestFullSocketsAreWokenEachTime(t *testing.T) {
	r := start(t, nil)
	const clients, messages, size = 8, 400, 20_000 // 8 MB for each, far more than the kernel takes
	var wg sync.WaitGroup
	full := make(chan struct{})
	for i := range clients {
		user := fmt.Sprintf("u%d", i)
		c := r.login(user)
		if tcp, ok := c.Conn.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(32 << 10)
		}
		wg.Go(func() {
			<-full
			err := c.readUpTo(user, messages, func(seq int64) {
				if seq%150 == 1 {
					time.Sleep(100 * time.Millisecond) // long enough for the socket to fill
				}
			})
			if err != nil {
				t.Errorf("%s: %v", user, err)
			}
		})
		s := r.hub.of(wire.UserID(user))
		wg.Go(func() {
			for seq := range int64(messages) {
				if got := s.Push(push(wire.UserID(user), seq+1, size)); got != session.Queued {
					t.Errorf("push %d to %s is %v", seq+1, user, got)
					return
				}
				if seq%3 == 0 {
					s.Flush()
				}
			}
			s.Flush()
		})
	}
	for end := time.Now().Add(patience); r.metric("write_waiting", "") < clients; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Error("not every socket was full: the test shows little")
			break
		}
	}
	close(full)
	wg.Wait()
	if got := len(r.conns()); got != clients {
		t.Errorf("%d of %d still stand", got, clients)
	}
	r.close(patience)
	if got := r.metric("write_waiting", ""); got != 0 {
		t.Errorf("%v sockets are still watched", got)
	}
}

func (r *rig) conns() (cs []*Conn) {
	for i := range r.srv.shards {
		cs = append(cs, r.srv.shards[i].list(nil)...)
	}
	return cs
}

// TestReusedDescriptors closes and opens thousands of connections, so that each
// descriptor's number is used again and again, while everybody is pushed to
// without pause from outside the loop. A byte for another user would be a write
// after the close.
func TestReusedDescriptors(t *testing.T) {
	r := start(t, nil)
	const workers, rounds = 8, 150
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var pushers, clients sync.WaitGroup
	var pushed, read atomic.Int64
	for range 3 {
		pushers.Go(func() {
			for seq := int64(1); ctx.Err() == nil; seq++ {
				for s, user := range r.hub.all() {
					if s.Push(push(user, seq, 2000)) == session.Queued {
						pushed.Add(1)
					}
					s.Flush()
				}
			}
		})
	}
	for w := range workers {
		clients.Go(func() {
			for i := range rounds {
				user := fmt.Sprintf("w%d-%d", w, i)
				if err := r.visit(user, i, &read); err != nil {
					t.Errorf("%s: %v", user, err)
					return
				}
			}
		})
	}
	clients.Wait()
	cancel()
	pushers.Wait()
	if read.Load() < workers*rounds || pushed.Load() < read.Load() {
		t.Errorf("%d frames pushed, %d read: too few to show anything", pushed.Load(), read.Load())
	}
	eventually(t, "nothing is left", func() bool { return r.srv.Live() == 0 && len(r.hub.all()) == 0 })
	if got := r.metric("write_waiting", ""); got != 0 {
		t.Errorf("%v sockets are still watched", got)
	}
}

// visit logs in, reads a few frames, which must be its own, and goes, with
// bytes on their way to it.
func (r *rig) visit(user string, i int, read *atomic.Int64) error {
	c, err := r.tryDial()
	if err != nil {
		return err
	}
	defer c.Close()
	if line, err := c.upgrade(user); err != nil || !strings.Contains(line, "101") {
		return fmt.Errorf("upgrade: %q, %w", line, err)
	}
	for k := range 1 + i%5 {
		_, p, err := c.frame()
		if err != nil {
			return fmt.Errorf("frame %d: %w", k, err)
		}
		if !strings.Contains(string(p), `"`+user+`"`) {
			return fmt.Errorf("frame %d is another's: %.120s", k, p)
		}
		read.Add(1)
	}
	switch tcp, _ := c.Conn.(*net.TCPConn); i % 3 {
	case 0:
		_ = tcp.SetLinger(0) // a reset
	case 1:
		_, _ = c.Write([]byte(masked(0x88, "")))
	}
	return nil
}

// After the connection is gone nothing touches its descriptor.
func TestGoneConnectionsTouchNothing(t *testing.T) {
	r := start(t, nil)
	a := r.login("a")
	gone := r.conns()[0]
	_ = a.Close()
	eventually(t, "it is gone", func() bool { return r.srv.Live() == 0 })
	// The next connection gets the same number.
	b := r.login("b")
	if next := r.conns()[0]; next.fd != gone.fd {
		t.Logf("descriptor %d was not used again but %d: less is shown", gone.fd, next.fd)
	}
	if n, err := gone.Write([]byte("for a")); n != 0 || err != session.ErrGone { //nolint:errorlint // as it is
		t.Errorf("write: %d, %v", n, err)
	}
	if n, err := gone.Writev([][]byte{[]byte("for"), []byte("a")}); n != 0 || err != session.ErrGone { //nolint:errorlint // as it is
		t.Errorf("writev: %d, %v", n, err)
	}
	gone.NotifyWritable()
	gone.CloseWrite()
	gone.Abort()
	gone.giveBack(gone.dirty.Load())
	if got := r.metric("write_waiting", ""); got != 0 {
		t.Errorf("%v sockets are watched", got)
	}
	b.send(masked(0x89, "x"))
	if op, p, err := b.frame(); op != 10 || string(p) != "x" || err != nil {
		t.Errorf("b gets %d %q, %v", op, p, err)
	}
}

// The notifier tells once for each time it was asked, also if the socket was
// writable all along, and nothing after it was told to forget or stopped.
func TestNotifier(t *testing.T) {
	r := start(t, nil)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	n, err := newNotifier(r.srv.metrics.watched)
	if err != nil {
		t.Fatal(err)
	}
	n.start()
	w := &wakes{}
	c := &Conn{srv: r.srv, fd: fds[0]}
	c.s = session.New(r.env, w)
	stall := func() {
		w.full.Store(true)
		c.s.Raw([]byte("x")) // it asks to be told
		w.full.Store(false)
	}
	for i := range int64(100) {
		stall()
		n.watch(c)
		eventually(t, "it is told", func() bool { return w.written.Load() == i+1 })
	}
	n.forget(c)
	n.forget(c)
	if got := r.metric("write_waiting", ""); got != 0 {
		t.Errorf("%v are watched after the only one was forgotten", got)
	}
	n.stop()
	n.watch(c) // its descriptors are closed: must do nothing
	n.forget(c)
	if got := r.metric("write_waiting", ""); got != 0 {
		t.Errorf("a stopped notifier watches %v", got)
	}
}

// wakes is a socket that counts what it takes.
type wakes struct {
	full    atomic.Bool
	written atomic.Int64
}

func (w *wakes) Write(b []byte) (int, error) {
	if w.full.Load() {
		return 0, session.ErrFull
	}
	w.written.Add(1)
	return len(b), nil
}

func (w *wakes) Writev(bufs [][]byte) (int, error) { return w.Write(bufs[0]) }
func (w *wakes) NotifyWritable()                   {}
func (w *wakes) CloseWrite()                       {}
func (w *wakes) Abort()                            {}
