package session

import (
	"fmt"
	"strings"
	"testing"
)

// All typing of an edge shares one way: no connection may fill it.
func TestTypingIsThinnedOut(t *testing.T) {
	w := opened(t)
	says := func(what string, want int, targets ...string) {
		t.Helper()
		w.out.Reset()
		for _, to := range targets {
			w.s.Message(true, fmt.Appendf(nil, `{"op":"typing","body":{"to":%q}}`, to))
		}
		if got := strings.Count(w.out.String(), "up typing"); got != want {
			t.Errorf("%s: %d go on, want %d", what, got, want)
		}
	}
	says("two targets, again and again", 2, "eve", "dan", "eve", "dan", "eve")
	w.now += typingEvery - 1
	says("within the second", 0, "eve", "dan")
	w.now++
	says("a second later", 2, "eve", "dan", "eve")
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprint("u", i))
	}
	says("the rest of the places", maxTyping-2, many...)
	w.now += typingEvery
	says("a second later", maxTyping, many...)
	says("nobody is told of it", 0)
	if w.s.Flush(); w.buf.Len() > 0 {
		t.Errorf("answered %s", w.buf.String())
	}
}
