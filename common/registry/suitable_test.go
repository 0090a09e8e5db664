package registry_test

import (
	"testing"

	"github.com/starling-im/starling/common/registry"
)

func takes(id, region string, weight int, load int64) registry.Lease {
	return registry.Lease{Tier: registry.TierEdge, URL: id, Region: region, Weight: weight, Load: load}
}

func TestSuitable(t *testing.T) {
	draining, silent := takes("draining", "eu", 1, 0), takes("", "eu", 1, 0)
	draining.Draining = true
	edges := []registry.Lease{
		takes("us", "us", 9, 0), takes("eu1", "eu", 1, 1000), takes("eu2", "eu", 1, 0), takes("closed", "eu", 0, 0), draining, silent,
		takes("none", "", 1, 5),
	}
	for range 100 {
		got := registry.Suitable(edges, "eu")
		if len(got) != 4 || got[0].Region != "eu" || got[1].Region != "eu" {
			t.Fatalf("of eu: %+v", got)
		}
		if got := registry.Suitable(edges, "us"); len(got) != 4 || got[0].URL != "us" {
			t.Fatalf("of us: %+v", got)
		}
		if got := registry.Suitable(edges, "mars"); len(got) != 4 {
			t.Fatalf("of a region without edges: %+v", got)
		}
	}
	if got := registry.Suitable(nil, "eu"); len(got) != 0 {
		t.Errorf("of none: %+v", got)
	}
}

// TestSuitableSpreads: a thousand clients that ask at once.
func TestSuitableSpreads(t *testing.T) {
	const clients = 1000
	firsts := func(edges ...registry.Lease) map[string]int {
		n := map[string]int{}
		for range clients {
			n[registry.Suitable(edges, "")[0].URL]++
		}
		return n
	}
	// Bounds are six standard deviations and more from what is expected.
	within := func(what string, got, low, high int) {
		t.Helper()
		if got < low || got > high {
			t.Errorf("%s: %d of %d, want %d to %d", what, got, clients, low, high)
		}
	}
	n := firsts(takes("a", "", 1, 0), takes("b", "", 1, 0), takes("c", "", 1, 0), takes("d", "", 1, 0))
	for _, id := range []string{"a", "b", "c", "d"} {
		within("equals: "+id, n[id], 160, 340) // 250
	}
	n = firsts(takes("a", "", 3, 300), takes("b", "", 1, 100))
	within("three times the weight, as full", n["a"], 650, 840) // 750
	n = firsts(takes("a", "", 1, 100), takes("b", "", 1, 300))
	within("a third of the load", n["a"], 600, 800) // 700
	n = firsts(takes("new", "", 1, 0), takes("a", "", 1, 500), takes("b", "", 1, 500), takes("c", "", 1, 500))
	within("a new one among full ones", n["new"], 620, 840) // 4 : 3*0.63 = 679... to 720
	within("a full one is not left out", n["a"], 40, 180)
	// Of those that come after the first the same is true: who is refused by
	// one edge does not go to the next of everybody.
	second := map[string]int{}
	for range clients {
		second[registry.Suitable([]registry.Lease{takes("a", "", 1, 0), takes("b", "", 1, 0), takes("c", "", 1, 0)}, "")[1].URL]++
	}
	within("second of three", second["b"], 240, 430)
}
