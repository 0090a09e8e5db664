package shards

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/starling-im/starling/common/record"
)

// Topics returns the topics whose partitions are divided among the shards.
func Topics() []string { return []string{record.TopicMessages, record.TopicGroups} }

// maxPartitions is what a topic may have, as in kafka.partitions.
const maxPartitions = 10_000

// Numbers are the numbers of some partitions of a topic, ascending, each once.
type Numbers []int32

// ParseNumbers reads ranges and single numbers separated by commas: 0-3,7.
func ParseNumbers(s string) (Numbers, error) {
	var out Numbers
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		from, ferr := strconv.ParseUint(first, 10, 31)
		to, lerr := strconv.ParseUint(last, 10, 31)
		if ferr != nil || lerr != nil || from > to || to >= maxPartitions {
			return nil, fmt.Errorf("%q is no range of partitions; write for example 0-3 or 0-3,7", part)
		}
		for n := from; n <= to; n++ {
			out = append(out, int32(n))
		}
	}
	slices.Sort(out)
	if len(slices.Compact(slices.Clone(out))) < len(out) {
		return nil, fmt.Errorf("%q names a partition twice", s)
	}
	return out, nil
}

// String is what ParseNumbers reads, the shortest.
func (ns Numbers) String() string {
	var out []string
	for i := 0; i < len(ns); {
		j := i
		for j+1 < len(ns) && ns[j+1] == ns[j]+1 {
			j++
		}
		if i == j {
			out = append(out, strconv.Itoa(int(ns[i])))
		} else {
			out = append(out, fmt.Sprintf("%d-%d", ns[i], ns[j]))
		}
		i = j + 1
	}
	return strings.Join(out, ",")
}

// Partitions are those that a shard holds, by topic. nil: all.
type Partitions map[string]Numbers

// Has says whether a partition is among them.
func (ps Partitions) Has(p record.PartitionID) bool {
	if ps == nil {
		return true
	}
	_, ok := slices.BinarySearch(ps[p.Topic], p.Number)
	return ok
}

// all returns every partition, as Partitions of a single shard.
func all(counts map[string]int32) Partitions {
	out := make(Partitions)
	for _, topic := range Topics() {
		for n := range counts[topic] {
			out[topic] = append(out[topic], n)
		}
	}
	return out
}

// CheckMap says everything that is wrong with a division of the partitions
// among shards: counts is how many there are of each of Topics. Every
// partition has to be in exactly one shard.
func CheckMap(list []Shard, counts map[string]int32) error {
	var errs []error
	holders := make(map[record.PartitionID][]string)
	names := make(map[string]bool)
	for _, s := range list {
		if err := checkName(s.Name); err != nil {
			errs = append(errs, err)
		}
		if names[s.Name] {
			errs = append(errs, fmt.Errorf("shard %s: there are two of this name; give each its own", s.Name))
		}
		names[s.Name] = true
		errs = append(errs, checkTopics(s))
		held := s.Holds
		if held == nil {
			held = all(counts)
		}
		for topic, ns := range held {
			for _, n := range ns {
				p := record.PartitionID{Topic: topic, Number: n}
				holders[p] = append(holders[p], s.Name)
			}
		}
	}
	for _, topic := range Topics() {
		errs = append(errs, checkTopic(topic, counts[topic], holders))
	}
	return errors.Join(errs...)
}

func checkTopics(s Shard) error {
	var errs []error
	for _, topic := range slices.Sorted(maps.Keys(s.Holds)) {
		if !slices.Contains(Topics(), topic) {
			errs = append(errs, fmt.Errorf("shard %s: topic %q is not divided among shards; name partitions of %s alone",
				s.Name, topic, strings.Join(Topics(), " and ")))
		}
	}
	return errors.Join(errs...)
}

// checkTopic names the partitions of a topic that are in no shard, in several,
// or do not exist.
func checkTopic(topic string, count int32, holders map[record.PartitionID][]string) error {
	if count < 1 {
		return fmt.Errorf("topic %s has %d partitions; set kafka.partitions to what it has", topic, count)
	}
	var errs []error
	var missing, beyond Numbers
	for n := range count {
		switch names := holders[record.PartitionID{Topic: topic, Number: n}]; len(names) {
		case 0:
			missing = append(missing, n)
		case 1:
		default:
			errs = append(errs, fmt.Errorf("partition %d of %s is in shards %s; leave it in one", n, topic, strings.Join(names, " and ")))
		}
	}
	for p := range holders {
		if p.Topic == topic && p.Number >= count {
			beyond = append(beyond, p.Number)
		}
	}
	slices.Sort(beyond)
	if len(missing) > 0 {
		errs = append(errs, fmt.Errorf("partitions %v of %s are in no shard; add them to one", missing, topic))
	}
	if len(beyond) > 0 {
		errs = append(errs, fmt.Errorf("partitions %v of %s do not exist, there are %d; take them out, or set kafka.partitions to what the topic has", beyond, topic, count))
	}
	return errors.Join(errs...)
}
