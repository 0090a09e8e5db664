package sim

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// steps is the length of a schedule before its faults end.
const steps = 1500

func envInt(t *testing.T, name string, or int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return or
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestSchedules runs many seeds; every promise must hold after each.
func TestSchedules(t *testing.T) {
	t.Parallel()
	if seed := envInt(t, "STARLING_SIM_SEED", -1); seed >= 0 {
		if err := run(uint64(seed), options{steps: steps}); err != nil {
			t.Fatal(err)
		}
		return
	}
	n := envInt(t, "STARLING_SIM_SCHEDULES", defaultSchedules)
	if testing.Short() {
		n /= 10
	}
	var seed, failed atomic.Int64
	var wg sync.WaitGroup
	for range min(2, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for {
				s := seed.Add(1)
				if s > int64(n) || failed.Load() > 2 {
					return
				}
				if err := run(uint64(s), options{steps: steps}); err != nil {
					failed.Add(1)
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestPlantedBugs plants each bug alone: some seed must find it.
func TestPlantedBugs(t *testing.T) {
	t.Parallel()
	const within = 2000
	bugs := planted()
	order := make([]bug, 0, len(bugs))
	for b := range bugs {
		order = append(order, b)
	}
	slices.Sort(order)
	for _, b := range order {
		t.Run(bugs[b], func(t *testing.T) {
			for seed := uint64(1); seed <= within; seed++ {
				if err := run(seed, options{steps: steps, bug: b}); err != nil {
					t.Logf("seed %d: %.300s", seed, err)
					return
				}
			}
			t.Errorf("not found within %d seeds", within)
		})
	}
}

// TestSameSeed: a seed brings the same schedule again, to the last word.
func TestSameSeed(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		story := func() string {
			w := newWorld(seed, options{})
			for range steps {
				w.step()
			}
			w.settle()
			return fmt.Sprint(w.story, w.committed)
		}
		if one, two := story(), story(); one != two {
			t.Errorf("two runs of seed %d differ", seed)
		}
	}
}

// TestReach: the schedules come to all that they are to try.
func TestReach(t *testing.T) {
	t.Parallel()
	seen := make(map[string]int)
	for seed := range uint64(60) {
		w := newWorld(seed, options{})
		for i := 0; i < steps && w.err == nil; i++ {
			w.step()
		}
		w.settle()
		for _, line := range w.story {
			for _, what := range []string{
				"crashes", "is killed", "is fenced out", "is on its way", "turn failed", "was told lost", "index is emptied", "index is stale",
				"lease of", "is cut", "recalled", "edited", "ADD", "REMOVE", "disconnects", "is a replay of",
			} {
				if strings.Contains(line, what) {
					seen[what]++
				}
			}
		}
		for _, p := range w.parts {
			if st, err := w.st.State(t.Context(), p); err == nil {
				seen["stored"] += int(st.Stored)
				seen["updates"] += int(st.Updates)
				seen["commands"] += int(st.Commands)
				seen["repeats"] += int(st.Repeats)
				seen["refused"] += int(st.Refused)
				seen["set aside"] += int(st.SetAside)
			}
		}
		for _, j := range w.jobs {
			j.stop()
		}
	}
	for _, what := range []string{
		"crashes", "is killed", "is fenced out", "is on its way", "turn failed", "was told lost", "index is emptied", "index is stale",
		"lease of", "is cut", "recalled", "edited", "ADD", "REMOVE", "disconnects", "is a replay of",
		"stored", "updates", "commands", "repeats", "refused", "set aside",
	} {
		if seen[what] < 10 {
			t.Errorf("%q came %d times in 60 schedules", what, seen[what])
		}
	}
	t.Log(seen)
}
