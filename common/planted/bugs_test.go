package planted

import (
	"testing"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// Every bug has a name of its own, a fault point that is reached, and a word for
// people.
func TestAll(t *testing.T) {
	seen := map[Bug]bool{}
	for _, in := range All() {
		if seen[in.Bug] || in.Bug == "" || in.Every < 1 || in.What == "" {
			t.Errorf("%+v", in)
		}
		seen[in.Bug] = true
	}
	if len(seen) < 24 {
		t.Errorf("%d bugs", len(seen))
	}
}

// Nothing shows in a process that was told nothing, in either build.
func TestNothingByItself(t *testing.T) {
	environ := []string{"A=b"}
	rest, bug, err := Plant(environ)
	if err != nil || bug != "" || len(rest) != 1 {
		t.Errorf("%v %q %v", rest, bug, err)
	}
	for _, in := range All() {
		for range in.Every {
			if Now(in.Bug) {
				t.Errorf("%s shows", in.Bug)
			}
		}
	}
}
