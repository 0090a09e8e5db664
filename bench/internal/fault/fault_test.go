package fault

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starling-im/starling/bench/internal/cluster"
	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func twoTargets(x card) []string { return []string{x.part + "-1", x.part + "-2"} }

func draw(seed uint64, n int) (list []string) {
	d := newDeck(catalogue(cluster.KindSplit), twoTargets, seed)
	for range n {
		list = append(list, d.next().String())
	}
	return list
}

func TestDeckIsTheSeeds(t *testing.T) {
	if a, b := draw(7, 100), draw(7, 100); !slices.Equal(a, b) {
		t.Error("one seed draws two schedules")
	}
	if a, b := draw(7, 100), draw(8, 100); slices.Equal(a, b) {
		t.Error("two seeds draw one schedule")
	}
}

// Every fault comes once before any comes again, and one of each kind at first.
func TestDeckHasAll(t *testing.T) {
	cards := catalogue(cluster.KindSplit)
	d := newDeck(cards, twoTargets, 3)
	for range 2 {
		seen, first := make(map[card]bool), make(map[string]bool)
		for i := range cards {
			f := d.next()
			if seen[f.card] {
				t.Errorf("%v comes again before all have come", f.card)
			}
			seen[f.card] = true
			if i < len(kinds()) {
				first[f.kind] = true
			}
			if least, most := bounds(f.kind); f.lasts < least || f.lasts > most {
				t.Errorf("%s is to last %v, not %v to %v", f, f.lasts, least, most)
			}
			if f.delay < 10*time.Millisecond || f.delay > 300*time.Millisecond || f.by == 0 || f.by.Abs() > time.Minute {
				t.Errorf("%s: delay %v, step %v", f, f.delay, f.by)
			}
		}
		if len(first) != len(kinds()) {
			t.Errorf("the first %d faults are of the kinds %v", len(kinds()), first)
		}
	}
}

func TestChoice(t *testing.T) {
	for faults, want := range map[string]string{
		"kill:edge,slow:mysql":     "kill:edge slow:mysql",
		"flush":                    "flush:redis",
		"disk-full":                "disk-full:mysql disk-full:kafka",
		"kill,-kill:job,kill:edge": "kill:edge kill:logic kill:redis kill:mysql kill:kafka",
		"clock , -clock:logic":     "clock:edge clock:job",
		"all,-kill,-stop,-restart,-cut,-hang,-slow,-twice,-clock": "flush:redis disk-full:mysql disk-full:kafka",
	} {
		c := Config{Faults: faults, Every: time.Second}
		got, err := c.cards(cluster.KindSplit)
		if text := strings.Join(names(got), " "); err != nil || text != want {
			t.Errorf("%s: %s (%v), want %s", faults, text, err, want)
		}
	}
	for _, bad := range []struct{ faults, of, want string }{
		{"kill", "", "add -cluster"},
		{"smash", cluster.KindSplit, "no such fault"},
		{"kill:moon", cluster.KindSplit, "no such fault"},
		{"flush", cluster.KindAll, "no such fault of -cluster all"},
		{"kill,-kill", cluster.KindSplit, "leaves nothing"},
		{"kill,", cluster.KindSplit, "no such fault"},
	} {
		c := Config{Faults: bad.faults, Every: time.Second}
		if err := c.Validate(bad.of); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%q of %q: error %v, want %q", bad.faults, bad.of, err, bad.want)
		}
	}
	if err := (&Config{Faults: "all"}).Validate(cluster.KindAll); err == nil {
		t.Error("-fault-every 0 is taken")
	}
	if err := (&Config{}).Validate(""); err != nil {
		t.Errorf("no faults: %v", err)
	}
}

func TestSmall(t *testing.T) {
	for faults, want := range map[string][]string{
		"": nil, "kill": nil, "all": {"mysql", "kafka-1"}, "disk-full:kafka": {"kafka-1"}, "all,-disk-full": nil,
	} {
		if got := (&Config{Faults: faults}).Small(cluster.KindSplit); !slices.Equal(got, want) {
			t.Errorf("%q: small disks of %v, want %v", faults, got, want)
		}
	}
}
