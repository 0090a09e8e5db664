//go:build planted

package planted

import (
	"strings"
	"testing"
)

func TestPlant(t *testing.T) {
	t.Cleanup(func() { chosen.Store(nil) })
	rest, bug, err := Plant([]string{"A=b", "STARLING_PLANTED=ids-repeat:3", "C=d"})
	if err != nil || bug != IDsRepeat || strings.Join(rest, " ") != "A=b C=d" {
		t.Fatalf("%v %q %v", rest, bug, err)
	}
	for n := 1; n <= 9; n++ {
		if Now(IDsRepeat) != (n%3 == 0) || Now(EdgeDropsPush) {
			t.Errorf("time %d", n)
		}
	}
	for _, text := range []string{"", "none-such", "ids-repeat:0", "ids-repeat:x"} {
		if _, _, err := Plant([]string{"STARLING_PLANTED=" + text}); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	if _, _, err := Plant([]string{"STARLING_PLANTED=none-such"}); !strings.Contains(err.Error(), "logic-acks-early") {
		t.Errorf("the bugs are not listed: %v", err)
	}
}
