package fault

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// card is a kind of fault and what part of the cluster it breaks.
type card struct{ kind, part string }

// Fault is one that is to be made.
type Fault struct {
	card
	target string        // edge-1, redis, redis of job-2
	lasts  time.Duration // until it is put right
	delay  time.Duration // of slow
	by     time.Duration // of clock
}

// String says what is done.
func (f *Fault) String() string {
	switch text := f.kind + " " + f.target; f.kind {
	case flush:
		return text
	case slow:
		return fmt.Sprintf("%s by %v for %.1f s", text, f.delay, f.lasts.Seconds())
	case clock:
		return fmt.Sprintf("%s by %v for %.1f s", text, f.by, f.lasts.Seconds())
	default:
		return fmt.Sprintf("%s for %.1f s", text, f.lasts.Seconds())
	}
}

// deck draws faults by a seed. All cards come before any comes again, and one of
// each kind before the second of any.
type deck struct {
	cards   []card
	targets func(card) []string
	rng     *rand.Rand
	left    []card
}

func newDeck(cards []card, targets func(card) []string, seed uint64) *deck {
	return &deck{cards: cards, targets: targets, rng: rand.New(rand.NewPCG(seed, 4))} //nolint:gosec // a schedule, not a secret
}

func (d *deck) shuffle() []card {
	type place struct {
		card
		at float64
	}
	var places []place
	n := make(map[string]int)
	for _, i := range d.rng.Perm(len(d.cards)) {
		x := d.cards[i]
		places = append(places, place{x, float64(n[x.kind]) + d.rng.Float64()})
		n[x.kind]++
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.at, b.at) })
	out := make([]card, len(places))
	for i, p := range places {
		out[i] = p.card
	}
	return out
}

// next draws a fault.
func (d *deck) next() *Fault {
	if len(d.left) == 0 {
		d.left = d.shuffle()
	}
	f := &Fault{card: d.left[0]}
	d.left = d.left[1:]
	targets := d.targets(f.card)
	f.target = targets[d.rng.IntN(len(targets))]
	least, most := bounds(f.kind)
	f.lasts = d.between(least, most)
	f.delay = d.between(10*time.Millisecond, 300*time.Millisecond).Truncate(time.Millisecond)
	f.by = d.between(2*time.Second, time.Minute).Truncate(time.Second)
	if d.rng.IntN(2) == 0 {
		f.by = -f.by
	}
	return f
}

func (d *deck) between(least, most time.Duration) time.Duration {
	return least + time.Duration(d.rng.Int64N(int64(most-least)+1))
}

// bounds of how long a kind lasts. What stands still does so for shorter and for
// longer than its lease or session of 6 s.
func bounds(kind string) (least, most time.Duration) {
	switch kind {
	case flush:
		return 0, 0
	case restart:
		return 0, 2 * time.Second
	case kill:
		return 500 * time.Millisecond, 8 * time.Second
	case stop:
		return 2 * time.Second, 12 * time.Second
	default:
		return 2 * time.Second, 10 * time.Second
	}
}
