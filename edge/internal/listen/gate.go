package listen

import (
	"net/netip"
	"sync"
)

// wholeNet is how much of an IPv6 address counts as one place: less is for its
// owner to choose.
const wholeNet = 64

// Gate counts the connections of one edge, at all its addresses. It is safe for
// concurrent use.
type Gate struct {
	max   int
	maxIP func() int

	mu    sync.Mutex
	live  int
	perIP map[netip.Addr]int
}

// NewGate lets so many connections in (0: no limit), and from one address as
// many as perIP says at the time (0: no limit; nil: never one).
func NewGate(most int, perIP func() int) *Gate {
	if perIP == nil {
		perIP = func() int { return 0 }
	}
	return &Gate{max: most, maxIP: perIP, perIP: map[netip.Addr]int{}}
}

// placeOf is what the limit by address counts.
func placeOf(ip netip.Addr) netip.Addr {
	if ip.Is6() {
		if p, err := ip.Prefix(wholeNet); err == nil {
			return p.Addr()
		}
	}
	return ip
}

// admit counts a connection in, or says which limit it meets.
func (g *Gate) admit(ip netip.Addr) string {
	ip = placeOf(ip)
	perIP := g.maxIP()
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.max > 0 && g.live >= g.max:
		return "max_connections"
	case perIP > 0 && g.perIP[ip] >= perIP:
		return "max_per_ip"
	}
	g.live++
	g.perIP[ip]++ // also without a limit: there may be one later
	return ""
}

// leave counts a connection out.
func (g *Gate) leave(ip netip.Addr) {
	ip = placeOf(ip)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.live--
	if g.perIP[ip]--; g.perIP[ip] <= 0 {
		delete(g.perIP, ip)
	}
}
