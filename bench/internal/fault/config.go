// Package fault breaks a cluster while it is under load, one fault at a time, as a
// seed draws them: kills, halts and restarts of processes and servers, an emptied
// Redis, ways that are cut, hang, are slow or lose answers, full disks, and clocks
// that step.
//
// Each fault begins, lasts, and is put right; the next one begins when everything
// is in sync again, at a fixed pace at most. A Driver belongs to one goroutine.
// Whatever becomes of a run, its end leaves the cluster whole.
package fault

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/starling-im/starling/bench/internal/cluster"
)

// Config says which faults are made.
type Config struct {
	Faults string // as the flag; empty: none
	Every  time.Duration
	Seed   uint64
}

// RegisterFlags declares the flags.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.Faults, "faults", "", "break the cluster meanwhile: all, or a comma list of kinds or kind:part, such as kill,slow:mysql; -kind leaves out. Kinds: "+strings.Join(kinds(), " "))
	fs.DurationVar(&c.Every, "fault-every", 15*time.Second, "a fault begins this long after the one before, if all is in sync")
}

// Validate returns every bad flag at once; of is the kind of the cluster.
func (c *Config) Validate(of string) error {
	if c.Faults == "" {
		return nil
	}
	var errs []error
	if of == "" {
		errs = append(errs, errors.New("-faults: only a system that bench has started is broken; add -cluster all or split"))
	} else {
		_, err := c.cards(of)
		errs = append(errs, err)
	}
	if c.Every <= 0 {
		errs = append(errs, errors.New("-fault-every: must be over 0"))
	}
	return errors.Join(errs...)
}

// Small names the servers whose disks are to be filled, which need small ones.
func (c *Config) Small(of string) (names []string) {
	cards, err := c.cards(of)
	if err != nil || c.Faults == "" {
		return nil
	}
	for _, x := range cards {
		if x.kind == diskFull {
			names = append(names, smallOf[x.part])
		}
	}
	return names
}

// cards are those that Faults chooses.
func (c *Config) cards(of string) ([]card, error) {
	all := catalogue(of)
	var chosen []card
	for word := range strings.SplitSeq(c.Faults, ",") {
		word = strings.TrimSpace(word)
		name, out := strings.CutPrefix(word, "-")
		match := func(x card) bool { return name == "all" || name == x.kind || name == x.kind+":"+x.part }
		if !slices.ContainsFunc(all, match) {
			return nil, fmt.Errorf("-faults %s: no such fault of -cluster %s; there are: all %s", word, of, strings.Join(names(all), " "))
		}
		for _, x := range all {
			has := slices.Contains(chosen, x)
			switch {
			case !match(x):
			case out && has:
				chosen = slices.DeleteFunc(chosen, func(y card) bool { return y == x })
			case !out && !has:
				chosen = append(chosen, x)
			}
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("-faults %s: leaves nothing", c.Faults)
	}
	return chosen, nil
}

func names(cards []card) (list []string) {
	for _, x := range cards {
		list = append(list, x.kind+":"+x.part)
	}
	return list
}

// Kinds of faults.
const (
	kill     = "kill"      // SIGKILL; started again
	stop     = "stop"      // SIGSTOP, then SIGCONT
	restart  = "restart"   // SIGTERM; started again
	flush    = "flush"     // FLUSHALL
	cut      = "cut"       // connections are reset, new ones too
	hang     = "hang"      // bytes go nowhere, connections stay
	slow     = "slow"      // every chunk comes later
	twice    = "twice"     // answers are lost after what was asked is done
	diskFull = "disk-full" // no room for another byte
	clock    = "clock"     // the wall clock of a process is another
)

func kinds() []string {
	return []string{kill, stop, restart, flush, cut, hang, slow, twice, diskFull, clock}
}

// smallOf names which server of a part gets a small disk.
var smallOf = map[string]string{"mysql": "mysql", "kafka": "kafka-1"} //nolint:gochecknoglobals // a constant

// catalogue lists every fault of a kind of cluster.
func catalogue(of string) (cards []card) {
	processes := []string{"edge", "logic", "job"}
	servers, links, redis, disks := []string{"redis", "mysql", "kafka"}, []string{"edge", "logic", "redis", "mysql"}, []string{"redis"}, []string{"mysql", "kafka"}
	if of != cluster.KindSplit {
		processes, servers, links, redis, disks = []string{"all"}, nil, nil, nil, nil
	}
	both := slices.Concat(processes, servers)
	for _, x := range []struct {
		parts []string
		kinds []string
	}{
		{both, []string{kill, stop, restart}},
		{redis, []string{flush}},
		{links, []string{cut, hang, slow, twice}},
		{disks, []string{diskFull}},
		{processes, []string{clock}},
	} {
		for _, k := range x.kinds {
			for _, p := range x.parts {
				cards = append(cards, card{k, p})
			}
		}
	}
	return cards
}
