package session

import (
	"fmt"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/common/wire"
)

// Whatever the frames are, too many are too many; but a ping keeps a
// connection alive.
func TestFramesOfAllKindsAreCounted(t *testing.T) {
	for name, c := range map[string]struct {
		frame string
		most  int
	}{
		"auth":         {`{"op":"auth","seq":1,"body":{"token":"x"}}`, 3},
		"bad auth":     {`{"op":"auth","seq":1,"body":[]}`, 3},
		"no op":        {`{"op":"nonsense","seq":1}`, 3},
		"undecodable":  {`{`, 3},
		"of a server":  {`{"op":"auth_ok","seq":1,"body":{}}`, 3},
		"acks":         {`{"op":"ack","seq":1,"body":{}}`, 3},
		"pings":        {`{"op":"ping","seq":1,"body":{}}`, 50},
		"what is held": {"", 3},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			l := limits.Default()
			l.FramesPerSecond, l.FrameBurst = 1, 3
			w.s.env.Rates, w.s.env.Limits.QueueBytes = limits.NewLive(l), 1<<20
			w.s.Message(true, []byte(`{"op":"auth","body":{"token":"x","device":"web"}}`))
			w.s.Identify(Identity{User: "bob", Device: "web", Conn: 7}, 0)
			if c.frame == "" {
				for range 50 {
					w.s.Message(true, []byte(`{"op":"ack","seq":1,"body":{}}`))
				}
			}
			w.s.Open(wire.AuthOK{})
			for i := 0; c.frame != "" && i < 50; i++ {
				w.s.Message(true, []byte(c.frame))
			}
			w.s.Flush()
			if got := 50 - strings.Count(w.buf.String(), fmt.Sprintf("%q", wire.CodeRateLimited)); got != c.most {
				t.Errorf("%d of 50 are let in, want %d", got, c.most)
			}
		})
	}
}
