package deliver

import (
	"github.com/starling-im/starling/common/ledger"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/wire"
)

// gone is what became of frames for edges whose lease ended. What was still held
// for one may have reached it or not.
type gone struct {
	stats              rpc.OutboxStats
	unknown, ephemeral uint64 // held at the end: with and without position
}

func (g *gone) add(s *rpc.OutboxStats) {
	g.stats.Pushed += s.Pushed
	g.stats.Confirmed += s.Confirmed
	g.stats.Lost += s.Lost
	g.stats.Released += s.Released
	g.stats.Ephemeral += s.Ephemeral
	g.stats.EphemeralSent += s.EphemeralSent
	g.stats.EphemeralDropped += s.EphemeralDropped
	g.unknown += uint64(s.Held)
	g.ephemeral += uint64(s.Frames - s.Held)
}

// absences is what became of answers "not here", by user.
type absences struct {
	answered  int
	left      int // nobody to file for: forgotten, no receiver, or other edges have yet to say so
	elsewhere int // have a session at another edge
	filed     int
	failed    int // the index did not take it: a sync brings the message
}

func (a *absences) add(answered int, of *absences) {
	a.answered += answered
	a.left += of.left
	a.elsewhere += of.elsewhere
	a.filed += of.filed
	a.failed += of.failed
}

// Ledger is the account of everything handed to the outboxes since the process
// began, and of the answers "not here"; it balances at any moment.
func (d *Deliverer) Ledger(process string) []ledger.Push {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []ledger.Push
	for _, s := range d.serversLocked() {
		st := d.edges[s].box.Stats()
		out = append(out, boxAccount(process, "to edge "+string(s), &st, 0, 0)...)
	}
	if g := &d.gone; g.stats.Pushed+g.stats.Ephemeral > 0 {
		out = append(out, boxAccount(process, "to edges that are gone", &g.stats, g.unknown, g.ephemeral)...)
	}
	a := &d.absences
	return append(out, ledger.NewPush(process, "users not here", int64(a.answered), map[string]int64{
		"nobody to file for": int64(a.left), "elsewhere": int64(a.elsewhere), "filed offline": int64(a.filed), "failed to file": int64(a.failed),
	}))
}

func boxAccount(process, what string, s *rpc.OutboxStats, unknown, ephemeral uint64) []ledger.Push {
	return []ledger.Push{
		ledger.NewPush(process, what, int64(s.Pushed), map[string]int64{
			"confirmed": int64(s.Confirmed), "held": int64(s.Held), "lost": int64(s.Lost),
			"released": int64(s.Released), "unknown (edge gone)": int64(unknown),
		}),
		ledger.NewPush(process, what+", not stored", int64(s.Ephemeral), map[string]int64{
			"sent": int64(s.EphemeralSent), "held": int64(s.Frames - s.Held),
			"dropped": int64(s.EphemeralDropped), "unknown (edge gone)": int64(ephemeral),
		}),
	}
}

// difference is by how much the frames of an outbox do not balance.
func difference(server wire.ServerID, s *rpc.OutboxStats) (n int64) {
	for _, p := range boxAccount("", string(server), s, 0, 0) {
		n += max(p.Difference, -p.Difference)
	}
	return n
}
