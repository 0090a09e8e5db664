package edge

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestIdleConnectionBudget holds 2,000 authenticated connections and checks
// what each costs: a goroutine for none, and heap far from the 20 KB and more of
// a goroutine with buffers. Its own ends of the sockets are in the number.
func TestIdleConnectionBudget(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 2,000 connections")
	}
	r := startRig(t, nil)
	const n = 2000
	before, routines := heap(), runtime.NumGoroutine()
	socks := make([]net.Conn, 0, n)
	var d net.Dialer
	reply := make([]byte, 4096)
	for i := range n {
		c, err := d.DialContext(r.ctx, "tcp", r.addrs.WS)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		socks = append(socks, c)
		tok := r.token(fmt.Sprintf("u%d", i), "web")
		if _, err := io.WriteString(c, "GET /ws HTTP/1.1\r\n"+goodHead+"Authorization: Bearer "+tok+"\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		for got := ""; !strings.Contains(got, "auth_ok"); {
			k, err := c.Read(reply)
			if err != nil {
				t.Fatal(err)
			}
			got += string(reply[:k])
		}
	}
	var per int64
	var grown int
	// Idle buffers are given back after a second.
	for end := time.Now().Add(patience); ; time.Sleep(250 * time.Millisecond) {
		per, grown = (heap()-before)/n, runtime.NumGoroutine()-routines
		if per <= 12<<10 && grown <= 5 || time.Now().After(end) {
			break
		}
	}
	t.Logf("%d connections: %d bytes of heap each (both ends of the test), %d goroutines more", len(socks), per, grown)
	if per > 12<<10 {
		t.Errorf("%d bytes a connection", per)
	}
	if grown > 5 {
		t.Errorf("%d goroutines more for %d connections", grown, n)
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}
