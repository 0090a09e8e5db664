package server

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Targets of the composed binary: all, or one tier.
const (
	TargetAll   = "all"
	TargetEdge  = "edge"
	TargetLogic = "logic"
	TargetJob   = "job"
)

// tiers in the order in which a process starts them.
var tiers = []string{TargetLogic, TargetJob, TargetEdge} //nolint:gochecknoglobals // a constant table

// backends says which addresses were given.
type backends struct{ kafka, redis, mysql bool }

func (b backends) missing(need backends) (keys []string) {
	for _, k := range []struct {
		needed, given bool
		key           string
	}{
		{need.kafka, b.kafka, "kafka.brokers"},
		{need.redis, b.redis, "redis.addrs"},
		{need.mysql, b.mysql, "mysql.dsn"},
	} {
		if k.needed && !k.given {
			keys = append(keys, k.key)
		}
	}
	return keys
}

// plan is what a target means with the addresses given.
type plan struct {
	embedded bool
	tiers    []string
	need     backends
}

func (p plan) runs(tier string) bool { return slices.Contains(p.tiers, tier) }

// decide says what to run. Embedded is for target all without any address:
// half an installation is a mistake, not a wish.
func decide(target string, given backends) (plan, error) {
	p := plan{tiers: []string{target}, need: backends{kafka: true, redis: true, mysql: true}}
	switch target {
	case TargetAll:
		p.tiers = tiers
		if given == (backends{}) {
			p.embedded = true
			return p, nil
		}
	case TargetEdge:
		p.need = backends{redis: true}
	case TargetLogic, TargetJob:
	default:
		return p, fmt.Errorf("target: %q is none; use all, edge, logic or job", target)
	}
	var errs []error
	for _, key := range given.missing(p.need) {
		remedy := "give its address"
		if key == "mysql.dsn" {
			remedy += " (or mysql.shards)"
		}
		if target == TargetAll {
			remedy += ", or take the other addresses away to run with embedded services"
		}
		errs = append(errs, fmt.Errorf("%s: not set, but target %s needs it; %s", key, target, remedy))
	}
	return p, errors.Join(errs...)
}

// listTargets is the text of -list-targets.
func listTargets() string {
	return strings.Join([]string{
		"all    logic, job and edge in one process; embedded services if no address of Kafka, Redis or MySQL is set",
		"edge   holds the clients' connections; needs Redis",
		"logic  decides and serves the HTTP API; needs Redis, Kafka and MySQL",
		"job    orders, stores and delivers; needs Redis, Kafka and MySQL",
		"",
	}, "\n")
}
